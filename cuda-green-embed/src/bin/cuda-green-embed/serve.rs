//! `cuda-green-embed serve`: a model behind HTTP, from the start to the end of the process.

mod app;
mod ask;
mod body;
mod connections;
mod figures;
mod limits;
mod log;
mod model;
mod refusal;
#[cfg(test)]
mod tests;
mod work;

use std::{
    io::Write,
    sync::{Arc, Weak},
    time::Duration,
};

use anyhow::{Context, ensure};
use app::App;
use cuda_green::{
    ContextId, ContextPolicy, CudaDevice, SmPartitionManager, planner::PartitionRequest,
};
use cuda_green_embed::{
    BertModel, ElasticOptions, Embedder, EncoderOptions, InferencePrecision, Lane, ModelFolder,
};
use figures::Figures;
use indicatif::ProgressBar;
use limits::Limits;
pub use model::NamedFolder;
use model::{Model, Models, Texts, mode};
use tokio::{
    net::TcpListener,
    sync::oneshot,
    task::{JoinHandle, spawn_blocking},
};

use crate::{
    args::Serve,
    failure::{YELLOW, printable},
};

/// The time that requests have to end, once the server is told to.
const DRAIN: Duration = Duration::from_secs(30);

pub fn run(options: &Serve) -> anyhow::Result<()> {
    log::install();
    // What is cheap to find wrong comes first.
    let folder = ModelFolder::open(&options.model.path)?;
    let length = folder.max_length();
    let batch = options.batch_tokens;
    ensure!(
        batch as usize >= length,
        "--batch-tokens {batch} has no room for a text of {length} tokens"
    );
    let texts = Texts::new(&folder, options.prompt.as_deref(), options.auto_truncate)?;
    let device = options.place.device()?;
    BertModel::ensure_supported(folder.config(), &device)?;
    if device.driver().is_simulated() {
        tell(&format!(
            "{YELLOW}SIMULATED: no GPU is behind this; the CPU computes{YELLOW:#}"
        ))?;
    }
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .context("cannot start the threads of the server")?;
    let done = runtime.block_on(serve(options, folder, texts, device));
    // A model that is still being loaded is not waited for.
    runtime.shutdown_background();
    done
}

async fn serve(
    options: &Serve,
    folder: ModelFolder,
    texts: Texts,
    device: CudaDevice,
) -> anyhow::Result<()> {
    let bind = options.bind;
    let listener = TcpListener::bind(bind).await;
    let listener = listener.with_context(|| format!("cannot listen on {bind}"))?;
    let address = listener.local_addr()?;
    if !address.ip().is_loopback() {
        tell(&format!(
            "{YELLOW}warning:{YELLOW:#} whoever reaches {address} can use it: there is no TLS and no key; put a proxy before it"
        ))?;
    }
    let name = printable(&options.model.path.display().to_string());
    tell(&format!("listening on http://{address}, loading {name}"))?;

    let manager = Arc::new(manager(&device, options)?);
    let figures = Figures::install()?;
    let app = Arc::new(App::new(
        limits(options),
        figures,
        Some(Arc::clone(&manager)),
    ));
    let upkeep = tokio::spawn(upkeep(Arc::downgrade(&app)));
    let (end, ended) = oneshot::channel::<()>();
    let served: JoinHandle<()> = {
        let (router, limits) = (app::router(Arc::clone(&app)), app.limits.clone());
        tokio::spawn(async move {
            let end = async { drop(ended.await) };
            connections::serve(listener, router, &limits, end, DRAIN).await;
        })
    };
    let told = signal();
    tokio::pin!(told);
    let loading = load(options, folder, texts, manager);
    let loaded = tokio::select! {
        loaded = loading => Some(loaded?),
        () = &mut told => None,
    };
    if let Some(model) = loaded {
        let line = ready(&model, &device, &format!("http://{address}"));
        app.ready(Models::new(model));
        // Whoever reads it may ask at once.
        tell(&line)?;
        told.await;
    }
    app.close();
    // Whoever asks a second time does not want to wait.
    tokio::spawn(async {
        signal().await;
        std::process::exit(130);
    });
    drop(end);
    let served = served.await;
    upkeep.abort();
    // Aborted tasks give up what they hold when they are next looked at.
    drop(upkeep.await);
    if let Some(models) = Arc::into_inner(app).and_then(App::into_models) {
        spawn_blocking(|| models.shutdown()).await?;
    }
    served.context("the server ended early")
}

fn limits(options: &Serve) -> Limits {
    let default = Limits::default();
    let body = (options.max_body as usize) << 20;
    Limits {
        body,
        bodies: default.bodies.max(body),
        texts: options.max_texts as usize,
        connections: options.max_connections as usize,
        time: Duration::from_secs(options.timeout.into()),
        interactive_texts: options.interactive_texts,
        ..default
    }
}

/// Splits the device between the two lanes, unless they are elastic: then the service does.
fn manager(device: &CudaDevice, options: &Serve) -> cuda_green::Result<SmPartitionManager> {
    let manager = SmPartitionManager::on(device)?;
    if !options.elastic {
        let queries = options.interactive_sms;
        let queries = queries.map_or(PartitionRequest::percent(25), PartitionRequest::target);
        let policy = ContextPolicy::default();
        manager.create_partitions(&[
            (ContextId::Embedding, queries, policy),
            (ContextId::Dream, PartitionRequest::rest(), policy),
        ])?;
    }
    Ok(manager)
}

/// Loads the model, on a thread that may block.
async fn load(
    options: &Serve,
    folder: ModelFolder,
    texts: Texts,
    manager: Arc<SmPartitionManager>,
) -> anyhow::Result<Model> {
    let named = options.model.clone();
    let tokens = options.batch_tokens;
    let elastic = options.elastic.then(|| {
        let elastic = ElasticOptions::default();
        match options.interactive_sms {
            Some(sms) => elastic.interactive_sms(sms),
            None => elastic,
        }
    });
    let precision = options
        .precision
        .named()
        .unwrap_or_else(|| InferencePrecision::detect_optimal(manager.device()).precision);
    // Shows itself on a terminal only.
    let progress = ProgressBar::new_spinner().with_message(format!("loading {}", folder.name()));
    progress.enable_steady_tick(Duration::from_millis(200));
    let loaded = spawn_blocking(move || -> anyhow::Result<Model> {
        let sizes = |most: u32| EncoderOptions::default().max_tokens(most);
        let mut builder = Embedder::builder()
            .precision(precision)
            .encoder(Lane::Interactive, sizes(tokens.min(4096)))
            .encoder(Lane::Bulk, sizes(tokens));
        if let Some(elastic) = elastic {
            builder = builder.elastic(elastic);
        }
        let embedder = builder.load(folder.path(), manager)?;
        Ok(Model::new(&named, &folder, texts, precision, embedder))
    });
    let loaded = loaded.await;
    progress.finish_and_clear();
    loaded.context("the thread that loads panicked")?
}

/// Returns the line that says what runs where.
fn ready(model: &Model, device: &CudaDevice, address: &str) -> String {
    let status = model.embedder.status();
    let sms = |lane| match status.lane(lane).sms {
        Some(sms) => format!("{sms} SMs"),
        None => "an unknown number of SMs".to_owned(),
    };
    let elastic = match &status.elastic {
        Some(elastic) => format!("; {elastic}"),
        None => String::new(),
    };
    let text = format!(
        "serving {} at {address}: {} values in {}, up to {} tokens a text, on {}; interactive on {}, bulk on {}; {}{elastic}",
        model.name,
        model.embedder.dimension(),
        model.precision.name(),
        model.texts.max_length,
        device.name(),
        sms(Lane::Interactive),
        sms(Lane::Bulk),
        mode(&status),
    );
    printable(&text)
}

async fn upkeep(app: Weak<App>) {
    let mut times = tokio::time::interval(app::UPKEEP);
    loop {
        times.tick().await;
        match app.upgrade() {
            Some(app) => app.figures.upkeep(),
            None => return,
        }
    }
}

/// Waits until somebody wants the process to end.
async fn signal() {
    let interrupted = tokio::signal::ctrl_c();
    #[cfg(unix)]
    {
        use tokio::signal::unix::{SignalKind, signal};

        if let Ok(mut terminated) = signal(SignalKind::terminate()) {
            tokio::select! {
                _ = interrupted => {}
                _ = terminated.recv() => {}
            }
            return;
        }
    }
    // Where it cannot be listened for, the system ends the process as it does others.
    if interrupted.await.is_err() {
        std::future::pending::<()>().await;
    }
}

fn tell(line: &str) -> anyhow::Result<()> {
    writeln!(anstream::stderr(), "{line}").context("cannot write to standard error")
}

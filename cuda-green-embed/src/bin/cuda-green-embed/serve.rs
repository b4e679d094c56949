//! `cuda-green-embed serve`: models behind HTTP, from the start to the end of the process.

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

use anyhow::{Context, anyhow, ensure};
use app::App;
use cuda_green::{
    ContextId, ContextPolicy, CudaDevice, SmPartitionManager, planner::PartitionRequest,
};
use cuda_green_embed::{
    BertModel, ElasticOptions, Embedder, EncoderOptions, InferencePrecision, Lane, ModelFolder,
    ModelLibrary, ModelSpec,
};
use figures::Figures;
use indicatif::ProgressBar;
use limits::Limits;
pub use model::NamedFolder;
use model::{Facts, Model, Models, Texts, mode};
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
    let mut named = Vec::new();
    for one in &options.model {
        let folder = ModelFolder::open(&one.path)?;
        let name = one.name.clone().unwrap_or_else(|| folder.name());
        let length = folder.max_length();
        let batch = options.batch_tokens;
        ensure!(
            batch as usize >= length,
            "--batch-tokens {batch} has no room for a text of {length} tokens"
        );
        let texts = Texts::new(&folder, options.prompt.as_deref(), options.auto_truncate)?;
        named.push((name, folder, texts));
    }
    for pinned in &options.pin {
        let mut names = named.iter().map(|(name, ..)| name);
        ensure!(
            names.any(|name| name == pinned),
            "--pin {pinned}: there is no model of that name"
        );
    }
    ensure!(
        !options.elastic || named.len() == 1,
        "--elastic is for one model: two would move the same SMs"
    );
    let device = options.place.device()?;
    for (_, folder, _) in &named {
        BertModel::ensure_supported(folder.config(), &device)?;
    }
    if device.driver().is_simulated() {
        tell(&format!(
            "{YELLOW}SIMULATED: no GPU is behind this; the CPU computes{YELLOW:#}"
        ))?;
    }
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .context("cannot start the threads of the server")?;
    let done = runtime.block_on(serve(options, named, device));
    // A model that is still being loaded is not waited for.
    runtime.shutdown_background();
    done
}

/// A model's name, its folder and its tokenisers.
type Named = (String, ModelFolder, Texts);

async fn serve(options: &Serve, named: Vec<Named>, device: CudaDevice) -> anyhow::Result<()> {
    let bind = options.bind;
    let listener = TcpListener::bind(bind).await;
    let listener = listener.with_context(|| format!("cannot listen on {bind}"))?;
    let address = listener.local_addr()?;
    if !address.ip().is_loopback() {
        tell(&format!(
            "{YELLOW}warning:{YELLOW:#} whoever reaches {address} can use it: there is no TLS and no key; put a proxy before it"
        ))?;
    }
    let first = named.first().map_or("", |(name, ..)| name);
    let loading = [first]
        .into_iter()
        .chain(options.pin.iter().map(String::as_str));
    let loading: Vec<_> = loading.collect();
    tell(&printable(&format!(
        "listening on http://{address}, loading {}",
        loading.join(", ")
    )))?;

    let manager = Arc::new(manager(&device, options)?);
    let figures = Figures::install()?;
    let app = Arc::new(App::new(
        limits(options),
        figures,
        Some(Arc::clone(&manager)),
    ));
    let upkeep = tokio::spawn(upkeep(Arc::downgrade(&app)));
    let (end, ended) = oneshot::channel::<()>();
    // Dropped when nothing accepts connections any more, however that comes.
    let (accepting, gone) = oneshot::channel::<()>();
    let served: JoinHandle<()> = {
        let (router, limits) = (app::router(Arc::clone(&app)), app.limits.clone());
        tokio::spawn(async move {
            let _accepting = accepting;
            let end = async { drop(ended.await) };
            connections::serve(listener, router, &limits, end, DRAIN).await;
        })
    };
    let told = async {
        tokio::select! {
            () = signal() => {}
            _ = gone => {}
        }
    };
    tokio::pin!(told);
    let loading = load(options, named, manager);
    let loaded = tokio::select! {
        loaded = loading => Some(loaded?),
        () = &mut told => None,
    };
    if let Some((models, first)) = loaded {
        let line = ready(&models, &first, &device, &format!("http://{address}"));
        drop(first);
        app.ready(Arc::new(models));
        // Whoever reads it may ask at once. If nobody reads it any more, the requests are answered all the same.
        let _ = tell(&line);
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
    // All requests are answered. The models end on a thread that may wait for the GPU.
    spawn_blocking(|| drop(app)).await?;
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

/// Loads the first model and those that are pinned, on a thread that may block. Returns the first.
async fn load(
    options: &Serve,
    named: Vec<Named>,
    manager: Arc<SmPartitionManager>,
) -> anyhow::Result<(Models, Model)> {
    let precision = options
        .precision
        .named()
        .unwrap_or_else(|| InferencePrecision::detect_optimal(manager.device()).precision);
    let sizes = |most: u32| EncoderOptions::default().max_tokens(most);
    let tokens = options.batch_tokens;
    let mut builder = Embedder::builder()
        .precision(precision)
        .encoder(Lane::Interactive, sizes(tokens.min(4096)))
        .encoder(Lane::Bulk, sizes(tokens));
    if options.elastic {
        let elastic = ElasticOptions::default();
        builder = builder.elastic(match options.interactive_sms {
            Some(sms) => elastic.interactive_sms(sms),
            None => elastic,
        });
    }
    let mut library = ModelLibrary::builder(manager).budget(u64::from(options.memory) << 20);
    let mut facts = Vec::new();
    for (name, folder, texts) in named {
        let spec = ModelSpec::new(&name, folder.path()).options(builder.clone());
        library = library.model(spec);
        facts.push(Facts::new(
            &name,
            &folder,
            texts,
            precision,
            tokens as usize,
        ));
    }
    let answers_to_all = matches!(&options.model[..], [only] if only.name.is_none());
    let pinned = options.pin.clone();
    // Shows itself on a terminal only.
    let progress = ProgressBar::new_spinner().with_message("loading");
    progress.enable_steady_tick(Duration::from_millis(200));
    let loaded = spawn_blocking(move || -> anyhow::Result<_> {
        let library = library.build()?;
        library.get(None)?;
        for name in pinned {
            library.pin(&name)?;
        }
        let models = Models::new(library, facts, answers_to_all);
        let first = models.find(None).and_then(|first| models.load(first));
        let first = first.map_err(|refusal| anyhow!(refusal.message))?;
        Ok((models, first))
    });
    let loaded = loaded.await;
    progress.finish_and_clear();
    loaded.context("the thread that loads panicked")?
}

/// Returns the line that says what runs where.
fn ready(models: &Models, first: &Model, device: &CudaDevice, address: &str) -> String {
    let status = first.status();
    let sms = |lane| match status.lane(lane).sms {
        Some(sms) => format!("{sms} SMs"),
        None => "an unknown number of SMs".to_owned(),
    };
    let elastic = match &status.elastic {
        Some(elastic) => format!("; {elastic}"),
        None => String::new(),
    };
    let more = match models.all().count() {
        1 => String::new(),
        all => format!(" and {} more models when they are asked for", all - 1),
    };
    let facts = &first.facts;
    let text = format!(
        "serving {}{more} at {address}: {} values in {}, up to {} tokens a text, on {}; interactive on {}, bulk on {}; {}{elastic}",
        facts.name,
        facts.dimension,
        facts.precision.name(),
        facts.texts.max_length,
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

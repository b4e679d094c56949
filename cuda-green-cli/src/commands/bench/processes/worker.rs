//! The process of a request or of a flood.

use std::{
    path::PathBuf,
    sync::Arc,
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use anyhow::{Context, bail};
use cuda_green::{
    ContextPolicy, CudaDevice, GreenContext, GreenContextConfig, SmPartitionManager, SmSplit,
    Stream,
};

#[cfg(feature = "embed")]
use super::matrix::Matrix;
use super::{
    placements::Home,
    protocol::{self, Answer, FloodKind, Order},
};
use crate::{
    args::Global,
    commands::bench::{
        load::{self, Load, Request},
        progress::Progress,
    },
};

/// One request of 256 blocks of 256 threads.
pub const REQUEST: Request = Request {
    kernels: 1,
    blocks: 256,
    threads: 256,
    rounds: 8_000,
};

/// Blocks that hold an SM for about 2 ms at a time, four times as many as the SMs hold at once.
pub const BLOCKS: load::Flood = load::Flood {
    name: "blocks of 2 ms",
    kind: load::FloodKind::Waves {
        waves: 4,
        rounds: 217_000,
    },
};

/// The time between an answer and the next request.
pub const PAUSE: Duration = Duration::from_micros(300);
/// Requests that are not counted: the first ones find cold caches.
const WARM_UP: usize = 5;

/// What a process needs for all that comes.
struct Worker {
    device: CudaDevice,
    folder: PathBuf,
    request_sms: u32,
    load: Arc<Load>,
    #[cfg(feature = "embed")]
    matrix: Option<Matrix>,
    place: Place,
    flood: Option<Running>,
}

/// The SMs on which the process runs.
enum Place {
    Whole(GreenContext),
    Named {
        context: GreenContext,
        /// Keeps the plan joined.
        _manager: SmPartitionManager<String>,
    },
}

/// A flood that runs until this is dropped.
struct Running {
    progress: Arc<Progress>,
    since: Instant,
    thread: Option<JoinHandle<anyhow::Result<()>>>,
}

pub fn run(global: &Global) -> anyhow::Result<()> {
    let mut worker: Option<Worker> = None;
    protocol::serve(|order| match (order, &mut worker) {
        (
            Order::Open {
                folder,
                request_sms,
                with_matrix,
            },
            None,
        ) => {
            let (opened, answer) =
                Worker::open(global.device()?, folder, request_sms, with_matrix)?;
            worker = Some(opened);
            Ok(answer)
        }
        (order, Some(worker)) => worker.obey(order),
        (order, None) => bail!("no device is open for {order:?}"),
    })
}

impl Worker {
    fn open(
        device: CudaDevice,
        folder: PathBuf,
        request_sms: u32,
        with_matrix: bool,
    ) -> anyhow::Result<(Self, Answer)> {
        let whole = GreenContext::primary(&device, ContextPolicy::default())?;
        let load = Arc::new(Load::of(&device, 0, Duration::ZERO)?);
        let mut no_matrix = None;
        #[cfg(feature = "embed")]
        let matrix = match with_matrix.then(|| Matrix::new(&device)) {
            Some(Ok(matrix)) => Some(matrix),
            Some(Err(error)) => {
                no_matrix = Some(format!("{error:#}"));
                None
            }
            None => None,
        };
        #[cfg(not(feature = "embed"))]
        if with_matrix {
            no_matrix = Some("this program was built without the feature `embed`".to_owned());
        }
        let answer = Answer::Opened {
            under_mps: device.is_under_mps(),
            no_matrix,
            #[cfg(feature = "embed")]
            matrix: matrix.as_ref().map(Matrix::describe),
            #[cfg(not(feature = "embed"))]
            matrix: None,
        };
        let worker = Self {
            device,
            folder,
            request_sms,
            load,
            #[cfg(feature = "embed")]
            matrix,
            place: Place::Whole(whole),
            flood: None,
        };
        Ok((worker, answer))
    }

    fn obey(&mut self, order: Order) -> anyhow::Result<Answer> {
        match order {
            Order::Settle(home) => {
                self.settle(home)?;
                let sm_count = self.context().sm_count();
                Ok(Answer::Settled { sm_count })
            }
            Order::Request { most, limit_ms } => {
                let limit = Duration::from_millis(limit_ms);
                Ok(Answer::Times(self.requests(most, limit)?))
            }
            Order::Flood(kind) => {
                self.flood = None;
                self.flood = Some(self.begin(kind)?);
                Ok(Answer::Flooding)
            }
            Order::Count => {
                let flood = self.flood.as_mut().context("there is no flood")?;
                flood.must_run()?;
                Ok(Answer::Counted {
                    done: flood.progress.done(),
                    nanoseconds: flood.since.elapsed().as_nanos() as u64,
                })
            }
            Order::Stop => {
                if let Some(mut flood) = self.flood.take() {
                    flood.end()?;
                }
                Ok(Answer::Stopped)
            }
            Order::Join { rounds } => self.joins(rounds),
            Order::Open { .. } | Order::Keep { .. } => bail!("a worker cannot obey {order:?}"),
        }
    }

    fn context(&self) -> &GreenContext {
        match &self.place {
            Place::Whole(context) | Place::Named { context, .. } => context,
        }
    }

    fn settle(&mut self, home: Home) -> anyhow::Result<()> {
        let whole = GreenContext::primary(&self.device, ContextPolicy::default())?;
        // A process has one manager at a time.
        self.place = Place::Whole(whole);
        if home.plan(&self.folder, self.request_sms).is_some() {
            let (manager, context) = self.join(home)?;
            self.place = Place::Named {
                context,
                _manager: manager,
            };
        }
        Ok(())
    }

    fn join(&self, home: Home) -> anyhow::Result<(SmPartitionManager<String>, GreenContext)> {
        let plan = home.plan(&self.folder, self.request_sms);
        let (plan, name) = plan.context("the primary context is of no plan")?;
        let claims = [(name, ContextPolicy::default())];
        let manager = SmPartitionManager::join(&self.device, &plan, &claims)?;
        let context = manager.get_context(name)?;
        Ok((manager, context))
    }

    /// Returns the microseconds of requests one after another.
    fn requests(&self, most: usize, limit: Duration) -> anyhow::Result<Vec<f64>> {
        let stream = self.context().create_stream()?;
        for _ in 0..WARM_UP {
            self.load.answer(REQUEST, &stream)?;
        }
        let begin = Instant::now();
        let mut times = Vec::with_capacity(most);
        while times.len() < most && (times.is_empty() || begin.elapsed() < limit) {
            thread::sleep(PAUSE);
            let start = Instant::now();
            self.load.answer(REQUEST, &stream)?;
            times.push(start.elapsed().as_nanos() as f64 / 1e3);
        }
        Ok(times)
    }

    /// Prepares a flood, and starts it.
    fn begin(&self, kind: FloodKind) -> anyhow::Result<Running> {
        let stream = self.context().create_stream()?;
        match kind {
            FloodKind::Blocks => {
                let load = Arc::clone(&self.load);
                Running::start(move |progress| load.flood(BLOCKS, &stream, progress))
            }
            FloodKind::Matrix => self.begin_matrix(stream),
        }
    }

    #[cfg(feature = "embed")]
    fn begin_matrix(&self, stream: Stream) -> anyhow::Result<Running> {
        let matrix = self.matrix.as_ref().context("there are no products")?;
        let flood = matrix.flood(stream)?;
        Running::start(move |progress| flood.run(progress))
    }

    #[cfg(not(feature = "embed"))]
    fn begin_matrix(&self, _: Stream) -> anyhow::Result<Running> {
        bail!("there are no products")
    }

    /// Times joins beside a plan in force, and, in turn, creations of a context over as many SMs.
    fn joins(&mut self, rounds: usize) -> anyhow::Result<Answer> {
        self.settle(Home::Whole)?;
        let parts = self.device.sm_resource()?;
        let parts = parts.split(&SmSplit::equal(1, self.request_sms))?;
        let (mut join, mut create) = (Vec::new(), Vec::new());
        for _ in 0..rounds {
            let start = Instant::now();
            let joined = self.join(Home::Request)?;
            join.push(start.elapsed().as_nanos() as f64);
            drop(joined);
            let start = Instant::now();
            let created =
                GreenContext::from_resources(&parts.groups, None, GreenContextConfig::default())?;
            create.push(start.elapsed().as_nanos() as f64);
            drop(created);
        }
        Ok(Answer::Joined { join, create })
    }
}

impl Running {
    fn start(
        flood: impl FnOnce(&Progress) -> anyhow::Result<()> + Send + 'static,
    ) -> anyhow::Result<Self> {
        let progress = Arc::new(Progress::default());
        let shared = Arc::clone(&progress);
        let since = Instant::now();
        let thread = thread::Builder::new().spawn(move || flood(&shared))?;
        Ok(Self {
            progress,
            since,
            thread: Some(thread),
        })
    }

    /// Fails if the flood has ended.
    fn must_run(&mut self) -> anyhow::Result<()> {
        if self.thread.as_ref().is_some_and(JoinHandle::is_finished) {
            self.end()?;
            bail!("the flood ended by itself");
        }
        Ok(())
    }

    /// Stops the flood, and waits for its work.
    fn end(&mut self) -> anyhow::Result<()> {
        self.progress.stop();
        match self.thread.take().map(JoinHandle::join) {
            Some(Ok(ended)) => ended,
            Some(Err(_)) => bail!("the flood's thread panicked"),
            None => Ok(()),
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // Whoever wants to know how it ended calls `end`.
        let _ = self.end();
    }
}

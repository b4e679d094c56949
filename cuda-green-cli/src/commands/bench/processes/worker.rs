//! The process of a request or of a flood.

use std::{
    path::PathBuf,
    sync::Arc,
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use anyhow::{Context, bail, ensure};
use cuda_green::{
    ContextPolicy, CudaDevice, GreenContext, GreenContextConfig, SmPartitionManager, SmSplit,
    Stream, planner::SmRequest,
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
/// The longest time that a change of the plan takes, and the time between two looks.
const FOLLOWED: Duration = Duration::from_secs(5);
const LOOK: Duration = Duration::from_micros(50);
/// Requests that are not counted: the first ones find cold caches.
const WARM_UP: usize = 5;

/// What a process needs for all that comes.
struct Worker {
    /// Dropped first: it uses all that follows.
    flood: Option<Running>,
    device: CudaDevice,
    folder: PathBuf,
    request_sms: u32,
    load: Arc<Load>,
    #[cfg(feature = "embed")]
    matrix: Option<Matrix>,
    place: Place,
}

/// The SMs on which the process runs.
struct Place {
    context: GreenContext,
    /// The plan whose partition it is, and its name.
    joined: Option<(SmPartitionManager<String>, &'static str)>,
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
        let place = Place::whole(&device)?;
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
            flood: None,
            device,
            folder,
            request_sms,
            load,
            #[cfg(feature = "embed")]
            matrix,
            place,
        };
        Ok((worker, answer))
    }

    fn obey(&mut self, order: Order) -> anyhow::Result<Answer> {
        match order {
            Order::Settle(home) => {
                self.settle(home)?;
                let sm_count = self.place.context.sm_count();
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
            Order::Change { sm_count } => {
                let (manager, name) = self.vacate()?;
                manager.set_shares(&[(name, SmRequest::AtLeast(sm_count))])?;
                self.follow(sm_count)
            }
            Order::Follow { sm_count } => {
                self.vacate()?;
                self.follow(sm_count)
            }
            Order::Join { rounds } => self.joins(rounds),
            Order::Open { .. } | Order::Keep { .. } => bail!("a worker cannot obey {order:?}"),
        }
    }

    fn settle(&mut self, home: Home) -> anyhow::Result<()> {
        // A process has one manager at a time.
        self.place = Place::whole(&self.device)?;
        if home.plan(&self.folder, self.request_sms).is_some() {
            self.place = self.join(home)?;
        }
        Ok(())
    }

    fn join(&self, home: Home) -> anyhow::Result<Place> {
        let plan = home.plan(&self.folder, self.request_sms);
        let (plan, name) = plan.context("the primary context is of no plan")?;
        let claims = [(name, ContextPolicy::default())];
        let manager = SmPartitionManager::join(&self.device, &plan, &claims)?;
        Ok(Place {
            context: manager.get_context(name)?,
            joined: Some((manager, name)),
        })
    }

    /// Lets go of the context, which would keep its SMs from being left.
    fn vacate(&mut self) -> anyhow::Result<(&SmPartitionManager<String>, &'static str)> {
        self.place.context = Place::whole(&self.device)?.context;
        let joined = self.place.joined.as_ref();
        let (manager, name) = joined.context("no plan is joined")?;
        Ok((manager, name))
    }

    /// Waits until the name has so many SMs, and runs a request there.
    fn follow(&mut self, sm_count: u32) -> anyhow::Result<Answer> {
        let (manager, name) = self.place.joined.as_ref().context("no plan is joined")?;
        let end = Instant::now() + FOLLOWED;
        let context = loop {
            let context = manager.get_context(*name)?;
            if context.sm_count() == sm_count {
                break context;
            }
            drop(context);
            ensure!(Instant::now() < end, "no change came within {FOLLOWED:?}");
            thread::sleep(LOOK);
        };
        self.load.answer(REQUEST, &context.create_stream()?)?;
        self.place.context = context;
        Ok(Answer::Settled { sm_count })
    }

    /// Returns the microseconds of requests one after another.
    fn requests(&self, most: usize, limit: Duration) -> anyhow::Result<Vec<f64>> {
        let stream = self.place.context.create_stream()?;
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
        let stream = self.place.context.create_stream()?;
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

impl Place {
    fn whole(device: &CudaDevice) -> anyhow::Result<Self> {
        Ok(Self {
            context: GreenContext::primary(device, ContextPolicy::default())?,
            joined: None,
        })
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

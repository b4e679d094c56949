//! Graphs that follow a name: captured once for each context that the name has had.

use std::{fmt, sync::Arc};

use crate::{
    error::Result,
    graph::{Capture, CaptureMode, GraphExec},
    names::PartitionStream,
    partition::{DropLater, Follower, GreenContext},
    stream::Stream,
    sync::{Mutex, MutexGuard},
};

type Record = dyn Fn(&Capture<'_>) -> Result<()> + Send + Sync;

/// A graph of a name rather than of a context: after a rebalance, it runs on the name's new SMs.
///
/// A captured kernel stays on the SMs of its capture. So this holds one instantiation for each context in
/// which it was launched, captured at the first launch there, and launches that of the stream's context.
/// Those of earlier contexts stay, since a rebalance may bring their context back; they keep it alive
/// until the manager asks for it ([`release_retired`](crate::SmPartitionManager::release_retired), a limit of
/// contexts), which then waits for their last launch.
///
/// ```
/// use cuda_green::{ContextId, Driver, LaunchConfig, Module, PartitionGraph, SmPartitionManager};
///
/// # const PTX: &str = ".version 7.0\n.target sm_70\n.address_size 64\n.visible .entry step() { ret; }\n";
/// # fn main() -> cuda_green::Result<()> {
/// let device = Driver::open(&"sim:h200@13.0".parse()?)?.device(0)?;
/// let manager = SmPartitionManager::on(&device)?;
/// manager.init_quad_partition()?;
/// let kernel = Module::load_ptx(&device, PTX)?.kernel("step")?;
/// let graph = PartitionGraph::new(move |capture| {
///     for _ in 0..100 {
///         // SAFETY: the kernel takes no arguments.
///         unsafe { capture.launch(&kernel, &LaunchConfig::linear(4, 256), &[])? };
///     }
///     Ok(())
/// });
/// let stream = manager.create_stream(ContextId::Training)?;
/// // SAFETY: the kernels use no memory.
/// unsafe { graph.launch(&stream)? };
/// stream.synchronize()
/// # }
/// ```
pub struct PartitionGraph {
    record: Box<Record>,
    mode: CaptureMode,
    /// Shared with the contexts of its instantiations, which ask it to give the instantiations up.
    made: Arc<Instantiations>,
}

#[derive(Default)]
struct Instantiations(Mutex<Vec<Instantiation>>);

/// The instantiation of a context.
struct Instantiation {
    context: GreenContext,
    exec: Arc<GraphExec>,
}

impl PartitionGraph {
    /// Returns a graph of the work that the closure puts into [`Capture::stream`]. The closure is called once for each
    /// context, so it must do the same each time.
    ///
    /// It runs inside [`PartitionStream::with`], with the same calls refused. Make a stream of another name to
    /// [`fork`](Capture::fork) to before.
    pub fn new(record: impl Fn(&Capture<'_>) -> Result<()> + Send + Sync + 'static) -> Self {
        Self::with_mode(CaptureMode::default(), record)
    }

    /// Returns such a graph with a given mode for the captures.
    pub fn with_mode(
        mode: CaptureMode,
        record: impl Fn(&Capture<'_>) -> Result<()> + Send + Sync + 'static,
    ) -> Self {
        Self {
            record: Box::new(record),
            mode,
            made: Arc::default(),
        }
    }

    /// Launches it on the SMs that the stream's name has now. If it was not launched on these before,
    /// it is captured and instantiated first, and a rebalance waits for that;
    /// [`prepare`](Self::prepare) does it ahead.
    ///
    /// # Errors
    /// Those of the closure, of [`Stream::capture`], and of [`GraphExec::launch`].
    ///
    /// # Safety
    /// As [`GraphExec::launch`].
    pub unsafe fn launch(&self, stream: &PartitionStream) -> Result<()> {
        stream.with(|of_now| {
            let exec = self.exec(of_now)?;
            // SAFETY: the caller's promise is the one asked for.
            unsafe { exec.launch(of_now) }
        })
    }

    /// Launches it in a stream of one context.
    ///
    /// # Errors
    /// As [`launch`](Self::launch).
    ///
    /// # Safety
    /// As [`GraphExec::launch`].
    pub unsafe fn launch_in(&self, stream: &Stream) -> Result<()> {
        let exec = self.exec(stream)?;
        // SAFETY: the caller's promise is the one asked for.
        unsafe { exec.launch(stream) }
    }

    /// Captures and instantiates it for the SMs that the stream's name has now, unless that was done before.
    ///
    /// # Errors
    /// Those of the closure, and of [`Stream::capture`].
    pub fn prepare(&self, stream: &PartitionStream) -> Result<()> {
        stream.with(|of_now| self.exec(of_now).map(drop))
    }

    /// Returns the number of contexts that it was captured for.
    pub fn instantiations(&self) -> usize {
        self.made.lock().len()
    }

    /// Gives up all instantiations, once their launches are done, and with them the contexts that they
    /// keep alive. The next launch captures again.
    pub fn clear(&self) {
        let made = std::mem::take(&mut *self.made.lock());
        // Dropped without the lock, since that waits.
        drop(made);
    }

    /// Returns the instantiation for this stream's context. Makes one if there is none, and registers with the context,
    /// which asks for it to be given up when the context is to end.
    fn exec(&self, stream: &Stream) -> Result<Arc<GraphExec>> {
        let find = |made: &[Instantiation]| {
            let made = made.iter().find(|made| made.is_of(stream.context()));
            made.map(|made| Arc::clone(&made.exec))
        };
        if let Some(exec) = find(&self.made.lock()) {
            return Ok(exec);
        }
        // Without the lock, since the closure is the client's. If two threads get here at the same time, the first
        // instantiation stays.
        let graph = stream.capture(self.mode, &self.record)?;
        let exec = Arc::new(graph.instantiate()?);
        let mut made = self.made.lock();
        if let Some(first) = find(&made) {
            return Ok(first);
        }
        made.push(Instantiation {
            context: stream.context().clone(),
            exec: Arc::clone(&exec),
        });
        drop(made);
        let follower = Arc::downgrade(&self.made);
        stream.context().follow(follower);
        Ok(exec)
    }
}

impl Instantiation {
    fn is_of(&self, context: &GreenContext) -> bool {
        Arc::ptr_eq(&self.context.inner, &context.inner)
    }
}

impl Instantiations {
    fn lock(&self) -> MutexGuard<'_, Vec<Instantiation>> {
        self.0.lock()
    }
}

impl Follower<GreenContext> for Instantiations {
    fn release(&self, context: &GreenContext, later: &mut DropLater) -> Result<bool> {
        let mut made = self.lock();
        let Some(index) = made.iter().position(|made| made.is_of(context)) else {
            return Ok(false);
        };
        // Dropping it waits for its last launch, and drops what the client had it keep.
        later.push(Box::new(made.swap_remove(index)));
        Ok(true)
    }
}

impl fmt::Debug for PartitionGraph {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PartitionGraph")
            .field("mode", &self.mode)
            .field("instantiations", &self.instantiations())
            .finish_non_exhaustive()
    }
}

//! A graph that can be launched: its launches, and its end after the last of them.

use std::{fmt, sync::Arc};

use cuda_green_sys::{CUgraph, CUgraphExec};

use super::resources::GraphResources;
use crate::{
    device::{CudaDevice, retry_ends},
    driver::Driver,
    error::{Error, Result},
    event::Event,
    stream::Stream,
    sync::{Mutex, MutexGuard},
};

struct RawExec {
    raw: CUgraphExec,
    /// Whether it may be running without a way to learn when it ends.
    end_is_unknown: bool,
}

// SAFETY: the handle is an opaque token that the driver accepts from every thread, one at a time; it lies in
// a mutex.
unsafe impl Send for RawExec {}

/// A graph that can be launched, from [`Graph::instantiate`](crate::Graph::instantiate).
///
/// Its launches run one after another, whatever streams they are in. It keeps alive everything that its graph keeps
/// alive. Dropping it waits for its last launch, so that nothing is released too early.
pub struct GraphExec {
    exec: Arc<ExecInner>,
}

/// An instantiated graph with everything that it needs until its last launch is done. It is shared with the deferred
/// destruction.
struct ExecInner {
    device: CudaDevice,
    raw: Mutex<RawExec>,
    /// The end of the last launch.
    done: Event,
    _resources: Arc<GraphResources>,
}

impl GraphExec {
    /// Instantiates a graph of the device, which no other thread uses meanwhile.
    pub(super) fn instantiate(
        device: &CudaDevice,
        graph: CUgraph,
        resources: &Arc<GraphResources>,
    ) -> Result<Self> {
        let driver = device.driver();
        let _allowed = driver.beside_captures();
        retry_ends();
        let done = Event::new(device)?;
        let mut raw = std::ptr::null_mut();
        device.with_primary(|| {
            // SAFETY: the caller has the graph, which is live and not used by another thread; the output is valid; 0
            // means no flags.
            unsafe { driver.cuGraphInstantiateWithFlags(&mut raw, graph, 0) }
        })?;
        let exec = ExecInner {
            device: device.clone(),
            raw: Mutex::new(RawExec {
                raw,
                end_is_unknown: false,
            }),
            done,
            _resources: Arc::clone(resources),
        };
        Ok(Self {
            exec: Arc::new(exec),
        })
    }

    /// Launches the graph. The launch waits for earlier work in the stream and for the previous launch of this graph;
    /// later work in the stream waits for all of it. Kernels run on the SMs of the contexts that they were captured
    /// in, with the priority of this stream. Besides the launch this records one event, which marks its end.
    ///
    /// ```no_run
    /// # fn main() -> cuda_green::Result<()> {
    /// # let (stream, kernel, buffer): (cuda_green::Stream, cuda_green::Kernel, cuda_green::GpuBuffer) = unimplemented!();
    /// use cuda_green::{CaptureMode, LaunchConfig};
    ///
    /// let graph = stream.capture(CaptureMode::default(), |capture| {
    ///     for step in 0..100u32 {
    ///         // SAFETY: the kernel takes a pointer and a number.
    ///         unsafe { capture.launch(&kernel, &LaunchConfig::linear(4, 256), &[&buffer.address(), &step])? };
    ///     }
    ///     Ok(())
    /// })?;
    /// let exec = graph.instantiate()?;
    /// // SAFETY: the buffer lives until the wait for the stream has returned.
    /// unsafe { exec.launch(&stream)? }; // a hundred kernels in one launch
    /// stream.synchronize()?;
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// [`Error::ForeignDevice`] for a stream of another device; [`Error::Driver`], also for an earlier fault. If the
    /// graph runs and its end can be neither recorded nor waited for, everything it keeps alive stays alive until a
    /// later launch succeeds.
    ///
    /// # Safety
    /// Everything that the captured work points to is valid until the launch has ended: device memory, host memory of
    /// copies, memory that arguments point to, and kernels that were not captured by
    /// [`Capture::launch`](crate::Capture::launch). The stream is in no capture.
    #[doc(alias = "cuGraphLaunch")]
    pub unsafe fn launch(&self, stream: &Stream) -> Result<()> {
        self.check_stream(stream)?;
        let driver = self.driver();
        let mut exec = self.exec.lock();
        // SAFETY: both are live, and the lock keeps other threads out; the caller vouches for what the
        // nodes use.
        unsafe { driver.cuGraphLaunch(exec.raw, stream.raw()) }?;
        // It runs. If its end cannot be recorded, wait for it here.
        let known = stream.record(&self.exec.done).or_else(|error| {
            stream.synchronize_beside_captures().map_err(|refusal| {
                log::error!("waiting for a graph whose end could not be recorded: {refusal}");
                error
            })
        });
        // Launches run one after another, so the end of this one is that of those before.
        exec.end_is_unknown = known.is_err();
        known
    }

    /// Uploads the graph to the device, which makes its first launch faster.
    ///
    /// # Errors
    /// As [`launch`](Self::launch).
    #[doc(alias = "cuGraphUpload")]
    pub fn upload(&self, stream: &Stream) -> Result<()> {
        self.check_stream(stream)?;
        let raw = self.exec.lock();
        // SAFETY: both are live, and the lock keeps other threads out.
        unsafe { self.driver().cuGraphUpload(raw.raw, stream.raw()) }
    }

    /// Returns whether the last launch is done; true if there was none.
    ///
    /// # Errors
    /// [`Error::Driver`], also for a fault of the work itself; [`Error::EndUnknown`] after a launch whose end could be
    /// neither recorded nor waited for, until a later launch succeeds.
    pub fn is_done(&self) -> Result<bool> {
        // This object recorded the event itself, outside of captures.
        let _allowed = self.driver().beside_captures();
        self.exec.lock().known_end()?;
        self.exec.done.is_done()
    }

    fn check_stream(&self, stream: &Stream) -> Result<()> {
        let device = &self.exec.device;
        device.check_own("the stream", stream.device())
    }

    fn driver(&self) -> &Driver {
        self.exec.device.driver()
    }
}

impl RawExec {
    /// Returns an error if the end of the last launch is unknown.
    fn known_end(&self) -> Result<()> {
        if self.end_is_unknown {
            return Err(Error::EndUnknown);
        }
        Ok(())
    }
}

impl ExecInner {
    fn lock(&self) -> MutexGuard<'_, RawExec> {
        self.raw.lock()
    }

    /// Waits for the last launch and destroys the driver's object.
    fn end(&self) -> Result<()> {
        let exec = self.lock();
        exec.known_end()?;
        self.done.synchronize()?;
        let driver = self.device.driver();
        // SAFETY: it is live and idle, and destroyed here; this is not tried again after it succeeded.
        unsafe { driver.cuGraphExecDestroy(exec.raw) }
    }
}

impl Drop for GraphExec {
    fn drop(&mut self) {
        let exec = Arc::clone(&self.exec);
        // Everything it keeps alive is dropped with the last reference, which is not while it may run.
        self.exec.device.end("a graph", move || exec.end());
    }
}

impl fmt::Debug for GraphExec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("GraphExec")
            .field("device", &self.exec.device)
            .finish_non_exhaustive()
    }
}

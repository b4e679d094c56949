//! Graphs: work that is captured once from a stream and launched as a whole, many times.
//!
//! A kernel in a graph stays on the SMs of the stream that it was captured in, wherever the graph is
//! launched (measured on an H200, driver 580, CUDA 13.0). So a graph is captured once for each partition;
//! [`PartitionGraph`](crate::PartitionGraph) does that by itself.

mod capture;

use std::{any::Any, fmt, sync::Arc};

use cuda_green_sys::{CUgraph, CUgraphExec};

pub use capture::{Capture, CaptureMode};

use crate::{
    device::{CudaDevice, retry_ends},
    driver::{Driver, log_failure},
    error::{Error, Result},
    event::Event,
    partition::GreenContext,
    stream::Stream,
    sync::{Mutex, MutexGuard},
};

/// What a graph needs as long as it can be launched.
pub(crate) struct Kept {
    /// Of every stream that was part of the capture.
    contexts: Vec<GreenContext>,
    /// Kernels, and whatever the client gave.
    values: Vec<Box<dyn Any + Send + Sync>>,
}

/// Work that was captured, from [`Stream::capture`]. It cannot run by itself: see
/// [`instantiate`](Self::instantiate).
///
/// It keeps the contexts of its streams alive, the kernels of [`Capture::launch`], and what was given to
/// [`Capture::keep`]. Of other memory and other libraries' kernels it knows nothing.
pub struct Graph {
    device: CudaDevice,
    raw: CUgraph,
    kept: Arc<Kept>,
}

// SAFETY: the handle is an opaque token that the driver accepts from every thread, one at a time: there is
// no `Sync`.
unsafe impl Send for Graph {}

impl Graph {
    /// Makes it ready to be launched. Takes tens of microseconds and more, by the number of its nodes, and
    /// may be done several times: each instantiation is independent of the others and of the graph. It spoils no
    /// capture that goes on elsewhere.
    ///
    /// # Errors
    /// [`Error::Driver`](crate::Error::Driver).
    #[doc(alias = "cuGraphInstantiateWithFlags")]
    pub fn instantiate(&self) -> Result<GraphExec> {
        let driver = self.device.driver();
        let _allowed = driver.beside_captures();
        retry_ends();
        let done = Event::new(&self.device)?;
        let mut raw = std::ptr::null_mut();
        self.device.with_primary(|| {
            // SAFETY: the graph is live and nobody else's meanwhile, the output valid; 0 is no flag.
            unsafe { driver.cuGraphInstantiateWithFlags(&mut raw, self.raw, 0) }
        })?;
        let exec = Exec {
            device: self.device.clone(),
            raw: Mutex::new(RawExec {
                raw,
                end_is_unknown: false,
            }),
            done,
            _kept: Arc::clone(&self.kept),
        };
        Ok(GraphExec {
            exec: Arc::new(exec),
        })
    }

    /// The raw graph, which belongs to this object and must not be destroyed.
    pub fn raw(&self) -> CUgraph {
        self.raw
    }
}

impl Drop for Graph {
    fn drop(&mut self) {
        let driver = self.device.driver();
        // SAFETY: the graph is live, and this is its end; instantiations stay.
        log_failure(unsafe { driver.cuGraphDestroy(self.raw) });
    }
}

struct RawExec {
    raw: CUgraphExec,
    /// Whether it runs and nobody can tell until when.
    end_is_unknown: bool,
}

// SAFETY: the handle is an opaque token that the driver accepts from every thread, one at a time; it lies in
// a mutex.
unsafe impl Send for RawExec {}

/// A graph that can be launched, from [`Graph::instantiate`].
///
/// Its launches run one after another, in whatever streams. It keeps alive what its graph does. Dropping it
/// waits for its last launch, so that nothing of that is given back too early.
pub struct GraphExec {
    exec: Arc<Exec>,
}

/// An instantiated graph, and what it needs until its last launch is done. Shared with its end, where that has to
/// be tried again.
struct Exec {
    device: CudaDevice,
    raw: Mutex<RawExec>,
    /// The end of the last launch.
    done: Event,
    _kept: Arc<Kept>,
}

impl GraphExec {
    /// Launches it. What follows in the stream waits for all of it; it waits for what is in the stream,
    /// and for its own launch before. Its kernels run on the SMs of the contexts that they were captured
    /// in, with the priority of this stream. Beside the driver's call it records one event, by which its end
    /// is known.
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
    /// // SAFETY: the buffer lives until the stream was waited for.
    /// unsafe { exec.launch(&stream)? }; // a hundred kernels in one launch
    /// stream.synchronize()?;
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// [`Error::ForeignDevice`] for a stream of another device; [`Error::Driver`], also for an earlier
    /// fault. Where it runs and its end can neither be recorded nor waited for, what it keeps is kept for as long as
    /// no later launch succeeds.
    ///
    /// # Safety
    /// What the captured work points to is valid until the launch has ended: device memory, host memory of
    /// copies, arguments' targets, kernels that were captured past [`Capture::launch`]. The stream is in no
    /// capture.
    #[doc(alias = "cuGraphLaunch")]
    pub unsafe fn launch(&self, stream: &Stream) -> Result<()> {
        self.check_stream(stream)?;
        let driver = self.driver();
        let mut exec = self.exec.lock();
        // SAFETY: both are live, and the lock keeps other threads out; the caller vouches for what the
        // nodes use.
        unsafe { driver.cuGraphLaunch(exec.raw, stream.raw()) }?;
        // It runs. Where its end cannot be recorded, it is waited for here.
        let known = stream.record(&self.exec.done).or_else(|error| {
            stream.wait_beside_captures().map_err(|refusal| {
                log::error!("waiting for a graph whose end could not be recorded: {refusal}");
                error
            })
        });
        // Launches run one after another, so the end of this one is that of those before.
        exec.end_is_unknown = known.is_err();
        known
    }

    /// Brings it to the device ahead of its first launch, which is faster then.
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

    /// Whether its last launch is done; true where there was none.
    ///
    /// # Errors
    /// [`Error::Driver`], also for a fault of the work itself; [`Error::EndUnknown`] after a launch whose end the driver
    /// neither recorded nor waited for, until one succeeds.
    pub fn is_done(&self) -> Result<bool> {
        // The event is the graph's own.
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
    fn known_end(&self) -> Result<()> {
        if self.end_is_unknown {
            return Err(Error::EndUnknown);
        }
        Ok(())
    }
}

impl Exec {
    fn lock(&self) -> MutexGuard<'_, RawExec> {
        self.raw.lock()
    }

    /// Waits for its last launch, and destroys it.
    fn end(&self) -> Result<()> {
        let exec = self.lock();
        exec.known_end()?;
        self.done.synchronize()?;
        let driver = self.device.driver();
        // SAFETY: it is live and idle, and this is its end, which is not tried again after it succeeded.
        unsafe { driver.cuGraphExecDestroy(exec.raw) }
    }
}

impl Drop for GraphExec {
    fn drop(&mut self) {
        let exec = Arc::clone(&self.exec);
        // What it keeps is given up with the last reference, and not while it may run.
        self.exec.device.end("a graph", move || exec.end());
    }
}

impl fmt::Debug for Graph {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Graph")
            .field("raw", &self.raw)
            .field("contexts", &self.kept.contexts.len())
            .field("kept", &self.kept.values.len())
            .finish()
    }
}

impl fmt::Debug for GraphExec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("GraphExec")
            .field("device", &self.exec.device)
            .finish_non_exhaustive()
    }
}

//! Captures: recording the work that is put into a stream as a graph, without running it.

use std::{any::Any, cell::RefCell, sync::Arc};

use cuda_green_sys::{CUgraph, CUresult, CUstreamCaptureMode};

use super::{captured::Graph, resources::GraphResources};
use crate::{
    driver::log_failure,
    error::{Error, Result},
    event::Event,
    launch::{KernelArg, LaunchConfig},
    module::Kernel,
    partition::GreenContext,
    stream::Stream,
};

/// The calls that are forbidden during a capture, and to which threads.
///
/// A capture can forbid allocating, freeing, creating a memory pool, instantiating a graph, and querying or waiting
/// for any stream or event, captured or not. It also forbids allocating from a driver's pool in the order of another
/// stream. It does not forbid synchronous copies, loading a module, creating a context, or waiting for a context
/// without a captured stream (measured on an H200, driver 580, CUDA 13.0).
///
/// The captured streams, their contexts, and events recorded in them cannot be queried or waited for in any mode. So a
/// rebalance with a strict hand-off, which records contexts, is refused while a stream of one of these contexts is in a
/// capture ([`Error::ContextInCapture`]); the capture stays valid.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum CaptureMode {
    /// The calls are forbidden to all threads of the process. One such call invalidates the capture.
    Global,
    /// The calls are forbidden to the capturing thread.
    #[default]
    ThreadLocal,
    /// The calls are allowed. For code that has to allocate while it is captured.
    Relaxed,
}

impl CaptureMode {
    /// Returns the driver's value.
    fn raw(self) -> CUstreamCaptureMode {
        match self {
            Self::Global => CUstreamCaptureMode::CU_STREAM_CAPTURE_MODE_GLOBAL,
            Self::ThreadLocal => CUstreamCaptureMode::CU_STREAM_CAPTURE_MODE_THREAD_LOCAL,
            Self::Relaxed => CUstreamCaptureMode::CU_STREAM_CAPTURE_MODE_RELAXED,
        }
    }
}

/// A capture in progress, passed to the closure of [`Stream::capture`].
///
/// Everything that is put into [`stream`](Self::stream) meanwhile is captured, also by foreign libraries through
/// its raw handle.
///
/// The graph keeps alive the contexts of the streams that it knows: the captured one, and those of [`fork`](Self::fork)
/// and [`join`](Self::join). It does not know a stream of another partition that joins the capture through events only
/// ([`Stream::record`], [`Stream::wait`]). In that case, [`keep`](Self::keep) that stream's [context](Stream::context),
/// which must not end before the graph's last launch.
pub struct Capture<'s> {
    stream: &'s Stream,
    contexts: RefCell<Vec<GreenContext>>,
    values: RefCell<Vec<Box<dyn Any + Send + Sync>>>,
    /// The events that order streams; they can be dropped when the capture has ended.
    events: RefCell<Vec<Event>>,
}

impl Stream {
    /// Captures the work that is put into this stream while the closure runs. None of it is executed.
    ///
    /// The capture ends with the closure on every path. After an error or a panic there is no graph, and the stream
    /// is as before. Work that other threads put into the stream meanwhile is captured too.
    ///
    /// Launches and events are captured. During a capture, copies and allocations of this crate's buffers in the
    /// stream fail with [`Error::InvalidArgument`]: they follow work through events, which mark no work in a capture.
    /// A refused launch invalidates the capture, and so does the launch of a graph that was captured in another
    /// context (measured on an H200, driver 580, CUDA 13.0).
    ///
    /// An event that was recorded in a capture cannot be queried or waited for afterwards: until it is recorded again,
    /// the driver refuses that (`INVALID_VALUE`, the same measurement).
    ///
    /// # Errors
    /// The closure's error; [`Error::CaptureFailed`] if there is no graph because a forbidden call was made
    /// or another stream was not joined; [`Error::Driver`].
    #[doc(alias = "cuStreamBeginCapture")]
    #[doc(alias = "cuStreamEndCapture")]
    pub fn capture(
        &self,
        mode: CaptureMode,
        record: impl FnOnce(&Capture<'_>) -> Result<()>,
    ) -> Result<Graph> {
        let driver = self.device().driver();
        let capture = Capture {
            stream: self,
            contexts: RefCell::new(vec![self.context().clone()]),
            values: RefCell::default(),
            events: RefCell::default(),
        };
        let begun = self.context().inner.streams.begin_capture(|| {
            // SAFETY: the stream is live.
            unsafe { driver.cuStreamBeginCapture_v2(self.raw(), mode.raw()) }
        });
        begun.map_err(explained)?;
        let ending = EndCapture(self);
        let recorded = record(&capture);
        let ended = ending.end();
        let resources = Arc::new(GraphResources {
            contexts: capture.contexts.into_inner(),
            values: capture.values.into_inner(),
        });
        // Owned here, so that the graph is destroyed if the closure failed.
        let graph = ended.map(|raw| Graph {
            device: self.device().clone(),
            raw,
            resources,
        });
        // If the closure failed, its error says more than the one of the capture.
        recorded.map_err(explained)?;
        graph.map_err(explained)
    }
}

impl Capture<'_> {
    /// Returns the stream that is captured.
    pub fn stream(&self) -> &Stream {
        self.stream
    }

    /// Captures the launch of a kernel, which the graph then keeps loaded. The values of the arguments are copied
    /// now.
    ///
    /// # Errors
    /// As [`Stream::launch`].
    ///
    /// # Safety
    /// The arguments match the kernel's parameters in number, type and order. For what they point to, see
    /// [`GraphExec::launch`](crate::GraphExec::launch).
    pub unsafe fn launch(
        &self,
        kernel: &Kernel,
        config: &LaunchConfig,
        args: &[&dyn KernelArg],
    ) -> Result<()> {
        // SAFETY: the caller promises what `Stream::launch` asks for about the arguments; nothing runs before the graph
        // is launched, whose caller promises the rest.
        unsafe { self.stream.launch(kernel, config, args)? };
        self.keep(kernel.clone());
        Ok(())
    }

    /// Keeps a value alive as long as the graph and its instantiations, until their last launch is done:
    /// a buffer, a module, or an `Arc` of either.
    pub fn keep(&self, value: impl Any + Send + Sync) {
        self.values.borrow_mut().push(Box::new(value));
    }

    /// Takes another stream, of this or another partition of the device, into the capture. Work that is put
    /// into it from now on is captured too, follows the work captured here so far, and runs on the SMs of that stream's
    /// context. The stream has to be joined before the capture ends.
    ///
    /// # Errors
    /// [`Error::Driver`]; [`Error::ForeignDriver`] or [`Error::ForeignDevice`] for a stream of another driver or
    /// device.
    pub fn fork(&self, other: &Stream) -> Result<()> {
        self.check_device(other)?;
        self.keep_context(other.context());
        let streams = &other.context().inner.streams;
        streams.begin_capture(|| self.follow(other, self.stream))
    }

    /// Joins a stream that was taken in: work captured here from now on follows the work in that stream.
    ///
    /// # Errors
    /// As [`fork`](Self::fork).
    pub fn join(&self, other: &Stream) -> Result<()> {
        self.check_device(other)?;
        // It may have been taken in through an event of the client, and not by `fork`.
        self.keep_context(other.context());
        self.follow(self.stream, other)
    }

    /// Keeps a context alive with the graph.
    fn keep_context(&self, context: &GreenContext) {
        let mut contexts = self.contexts.borrow_mut();
        if !contexts
            .iter()
            .any(|kept| Arc::ptr_eq(&kept.inner, &context.inner))
        {
            contexts.push(context.clone());
        }
    }

    /// Ensures that a stream is of the captured stream's device.
    fn check_device(&self, other: &Stream) -> Result<()> {
        let device = self.stream.device();
        device.check_own("the other stream", other.device())
    }

    /// Orders one stream after another within the capture.
    fn follow(&self, next: &Stream, before: &Stream) -> Result<()> {
        let event = Event::new(before.device())?;
        let ordered = before.record(&event).and_then(|()| next.wait(&event));
        self.events.borrow_mut().push(event);
        ordered
    }
}

/// Ends a capture, also during a panic.
struct EndCapture<'s>(&'s Stream);

impl EndCapture<'_> {
    /// Ends the capture and returns its graph.
    fn end(self) -> Result<CUgraph> {
        let ended = self.end_capture();
        std::mem::forget(self);
        ended
    }

    fn end_capture(&self) -> Result<CUgraph> {
        let driver = self.0.device().driver();
        let mut graph = std::ptr::null_mut();
        // SAFETY: the stream is live, and the output valid.
        unsafe { driver.cuStreamEndCapture(self.0.raw(), &mut graph) }?;
        Ok(graph)
    }
}

impl Drop for EndCapture<'_> {
    fn drop(&mut self) {
        // The closure panicked, so the captured work is discarded, whether the capture is valid or not.
        match self.end_capture() {
            Ok(graph) => {
                let driver = self.0.device().driver();
                // SAFETY: the graph was made just now and has no other owner.
                log_failure(unsafe { driver.cuGraphDestroy(graph) });
            }
            Err(error) => log::debug!("ending a capture during a panic: {error}"),
        }
    }
}

/// Turns a driver's refusal that concerns a capture into [`Error::CaptureFailed`], which explains it.
fn explained(error: Error) -> Error {
    let Error::Driver { call, code } = error else {
        return error;
    };
    let reason = match code {
        CUresult::CUDA_ERROR_ILLEGAL_STATE => "the stream is in a capture already",
        CUresult::CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED => {
            "a capture forbids this call: it waits, queries or allocates, which a graph cannot repeat"
        }
        CUresult::CUDA_ERROR_STREAM_CAPTURE_INVALIDATED => {
            "a call that a capture forbids was made meanwhile: see CaptureMode"
        }
        CUresult::CUDA_ERROR_STREAM_CAPTURE_MERGE => "two captures cannot wait for each other",
        CUresult::CUDA_ERROR_STREAM_CAPTURE_UNMATCHED => {
            "the stream was taken into the capture of another stream, which has to end it"
        }
        CUresult::CUDA_ERROR_STREAM_CAPTURE_UNJOINED => {
            "a stream was forked into the capture and not joined"
        }
        CUresult::CUDA_ERROR_STREAM_CAPTURE_ISOLATION => {
            "captured work cannot wait for an event from outside the capture"
        }
        CUresult::CUDA_ERROR_STREAM_CAPTURE_IMPLICIT => {
            "the default stream would wait for a captured one"
        }
        CUresult::CUDA_ERROR_CAPTURED_EVENT => {
            "the event was recorded in a capture, so it marks no work that runs"
        }
        CUresult::CUDA_ERROR_STREAM_CAPTURE_WRONG_THREAD => "the capture began on another thread",
        _ => return Error::Driver { call, code },
    };
    Error::CaptureFailed { call, code, reason }
}

impl std::fmt::Debug for Capture<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Capture")
            .field("stream", &self.stream)
            .finish_non_exhaustive()
    }
}

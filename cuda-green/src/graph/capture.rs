//! Captures: what is put into a stream becomes a graph instead of being done.

use std::{any::Any, cell::RefCell, sync::Arc};

use cuda_green_sys::{CUgraph, CUresult, CUstreamCaptureMode};

use super::{Graph, Kept};
use crate::{
    driver::log_failure,
    error::{Error, Result},
    event::Event,
    launch::{KernelArg, LaunchConfig},
    module::Kernel,
    partition::GreenContext,
    stream::Stream,
};

/// What is forbidden while a capture goes on: to allocate, to free or to make a pool, to instantiate a graph,
/// and to ask or wait for a stream or an event, those of elsewhere too. Allocating from a driver's pool in
/// the order of another stream is forbidden as well. Copies that wait, loading a module, making a context
/// and waiting for a context without a captured stream are not (measured on an H200, driver 580, CUDA 13.0).
///
/// The captured streams, their contexts and events recorded in them can be waited for or asked in no mode. So a
/// rebalance with a strict hand-off, which records contexts, is refused while a stream of one is in a capture
/// ([`Error::ContextInCapture`]): the capture goes on.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum CaptureMode {
    /// All threads of the process are forbidden those calls. One of them spoils the capture.
    Global,
    /// The capturing thread is.
    #[default]
    ThreadLocal,
    /// Nobody is. For code that allocates while it is captured, and knows what it does.
    Relaxed,
}

impl CaptureMode {
    fn raw(self) -> CUstreamCaptureMode {
        match self {
            Self::Global => CUstreamCaptureMode::CU_STREAM_CAPTURE_MODE_GLOBAL,
            Self::ThreadLocal => CUstreamCaptureMode::CU_STREAM_CAPTURE_MODE_THREAD_LOCAL,
            Self::Relaxed => CUstreamCaptureMode::CU_STREAM_CAPTURE_MODE_RELAXED,
        }
    }
}

/// A capture that goes on, as the closure of [`Stream::capture`] sees it.
///
/// Everything that is put into [`stream`](Self::stream) meanwhile is captured, by foreign libraries through
/// its raw handle too.
///
/// The graph keeps the contexts of the streams that it knows of: its own, and those of [`fork`](Self::fork) and
/// [`join`](Self::join). A stream of another partition that comes in and goes out by events alone
/// ([`Stream::record`], [`Stream::wait`]) it does not know of: [`keep`](Self::keep) that stream's
/// [context](Stream::context), which must not end before the graph's last launch.
pub struct Capture<'s> {
    stream: &'s Stream,
    contexts: RefCell<Vec<GreenContext>>,
    values: RefCell<Vec<Box<dyn Any + Send + Sync>>>,
    /// Those that join streams; they may go when the capture has ended.
    events: RefCell<Vec<Event>>,
}

impl Stream {
    /// Captures what is put into this stream while the closure runs. Nothing of it is done.
    ///
    /// The capture ends with the closure, on every path, an error or a panic included: then there is no
    /// graph, and the stream is as before. What other threads put into the stream meanwhile is captured too.
    ///
    /// Launches and events are captured. The copies and allocations of this crate's buffers in streams are
    /// refused meanwhile, with [`Error::InvalidArgument`]: they follow work by events, which stand for
    /// nothing in a capture. A launch that is refused spoils the capture, and so does the launch of a graph
    /// that was captured in another context (measured on an H200, driver 580, CUDA 13.0).
    ///
    /// An event that was recorded in a capture stands for no work after it either: whoever asks it or waits
    /// for it gets an error of the driver's (`INVALID_VALUE`, the same measurement) until it is recorded anew.
    ///
    /// # Errors
    /// The closure's own; [`Error::CaptureFailed`] where the capture came to nothing, because something
    /// was done that a capture forbids or another stream was not joined; [`Error::Driver`].
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
        let ending = Ending(self);
        let recorded = record(&capture);
        let ended = ending.end();
        let kept = Arc::new(Kept {
            contexts: capture.contexts.into_inner(),
            values: capture.values.into_inner(),
        });
        // Owned at once, so that it goes where the closure failed.
        let graph = ended.map(|raw| Graph {
            device: self.device().clone(),
            raw,
            kept,
        });
        // Where the closure failed, that says more than what came of the capture.
        recorded.map_err(explained)?;
        graph.map_err(explained)
    }
}

impl Capture<'_> {
    /// The stream that is captured.
    pub fn stream(&self) -> &Stream {
        self.stream
    }

    /// Captures the launch of a kernel, which the graph then keeps loaded. The arguments' values are taken
    /// now.
    ///
    /// # Errors
    /// As [`Stream::launch`].
    ///
    /// # Safety
    /// The arguments are those of the kernel, in number, type and order. What they point to is a matter of
    /// [`GraphExec::launch`](crate::GraphExec::launch).
    pub unsafe fn launch(
        &self,
        kernel: &Kernel,
        config: &LaunchConfig,
        args: &[&dyn KernelArg],
    ) -> Result<()> {
        // SAFETY: the caller's promise is the one asked for; nothing runs before the graph is launched,
        // whose caller makes the rest of the promise.
        unsafe { self.stream.launch(kernel, config, args)? };
        self.keep(kernel.clone());
        Ok(())
    }

    /// Keeps something alive as long as the graph and its instantiations, until their last launch is done:
    /// a buffer, a module, an `Arc` of either.
    pub fn keep(&self, value: impl Any + Send + Sync) {
        self.values.borrow_mut().push(Box::new(value));
    }

    /// Takes another stream into the capture, of this or another partition of the device: what is put
    /// into it from now on is captured too, follows what was captured here so far, and runs on its own
    /// context's SMs. It has to be joined again before the capture ends.
    ///
    /// # Errors
    /// [`Error::Driver`]; [`Error::ForeignDriver`] or [`Error::ForeignDevice`] for a stream of another driver or device.
    pub fn fork(&self, other: &Stream) -> Result<()> {
        self.check_device(other)?;
        self.keep_context(other.context());
        let streams = &other.context().inner.streams;
        streams.begin_capture(|| self.follow(other, self.stream))
    }

    /// Makes what is captured here from now on follow what was put into a stream that was taken in.
    ///
    /// # Errors
    /// As [`fork`](Self::fork).
    pub fn join(&self, other: &Stream) -> Result<()> {
        self.check_device(other)?;
        // It may have come in by an event of the client's, and not by `fork`.
        self.keep_context(other.context());
        self.follow(self.stream, other)
    }

    fn keep_context(&self, context: &GreenContext) {
        let mut contexts = self.contexts.borrow_mut();
        if !contexts
            .iter()
            .any(|kept| Arc::ptr_eq(&kept.inner, &context.inner))
        {
            contexts.push(context.clone());
        }
    }

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

/// Ends a capture, in a panic too.
struct Ending<'s>(&'s Stream);

impl Ending<'_> {
    fn end(self) -> Result<CUgraph> {
        let ended = self.end_once();
        std::mem::forget(self);
        ended
    }

    fn end_once(&self) -> Result<CUgraph> {
        let driver = self.0.device().driver();
        let mut graph = std::ptr::null_mut();
        // SAFETY: the stream is live, and the output valid.
        unsafe { driver.cuStreamEndCapture(self.0.raw(), &mut graph) }?;
        Ok(graph)
    }
}

impl Drop for Ending<'_> {
    fn drop(&mut self) {
        // The closure panicked. What it captured, good or spoilt, is of no use.
        match self.end_once() {
            Ok(graph) => {
                let driver = self.0.device().driver();
                // SAFETY: the graph was made just now, and nobody else has it.
                log_failure(unsafe { driver.cuGraphDestroy(graph) });
            }
            Err(error) => log::debug!("ending a capture in a panic: {error}"),
        }
    }
}

/// An error of a capture in words that help.
fn explained(error: Error) -> Error {
    let Error::Driver { call, code } = error else {
        return error;
    };
    let reason = match code {
        CUresult::CUDA_ERROR_ILLEGAL_STATE => "the stream is in a capture already",
        CUresult::CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED => {
            "a capture forbids this call: it waits, asks or allocates, and a graph could not do it again"
        }
        CUresult::CUDA_ERROR_STREAM_CAPTURE_INVALIDATED => {
            "something was called meanwhile that a capture forbids: see CaptureMode"
        }
        CUresult::CUDA_ERROR_STREAM_CAPTURE_MERGE => "two captures cannot wait for each other",
        CUresult::CUDA_ERROR_STREAM_CAPTURE_UNMATCHED => {
            "the stream was taken into the capture of another one, which has to end it"
        }
        CUresult::CUDA_ERROR_STREAM_CAPTURE_UNJOINED => {
            "a stream was forked into the capture and not joined again"
        }
        CUresult::CUDA_ERROR_STREAM_CAPTURE_ISOLATION => {
            "captured work cannot wait for an event of outside the capture"
        }
        CUresult::CUDA_ERROR_STREAM_CAPTURE_IMPLICIT => {
            "the default stream would wait for a captured one"
        }
        CUresult::CUDA_ERROR_CAPTURED_EVENT => {
            "the event was recorded in a capture, so it stands for no work that is done"
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

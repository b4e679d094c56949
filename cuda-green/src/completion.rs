//! The end of work as a future or a callback, without a runtime.
//!
//! A thread waits for events: `green-waiter`, one for each driver, which starts at the first completion and
//! ends when there has been nothing to wait for a second long. It asks the driver for the first unfinished event
//! of each stream, and pauses between two rounds for a sixteenth of the time since something ended or was added,
//! but at least 10 µs and at most 1 ms. So an end is told late by about 6 % of its own time, and never by much
//! more than 1 ms. Callbacks run on another thread, `green-callbacks`, one for the process, so that one
//! which blocks holds up other callbacks but no future, and may call CUDA.
//!
//! Reasons against the driver's own callbacks: a function of `cuLaunchHostFunc` must not call CUDA, is not called
//! after a fault (so whoever waits for it waits for ever), holds up its stream on the GPU while it runs, becomes
//! part of a capture, and there is none for an event. `cuStreamAddCallback` is to be deprecated, by its header.
//! A question that asks an event fails after a fault like every call, so every completion ends.
//!
//! The waiter's questions spoil nobody's capture: its capture mode is relaxed (measured to be enough on an H200,
//! driver 580). With a simulated driver, whose time passes in calls alone, it does not pause, and its questions
//! spend virtual time: 1 µs each.

use std::{
    fmt,
    future::Future,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, Waker},
};

use crate::{
    driver::{Inbox, Pending, caught, spawn},
    error::{Error, Result},
    event::Event,
    stream::Stream,
    sync::{Mutex, MutexGuard},
};

/// The end of some work, from [`Stream::completion`] or [`Event::completion`]: a future, or what a callback can
/// be given to with [`on_done`](Self::on_done).
///
/// The work is waited for from the start, whether or not the future is polled. It may be dropped at any time,
/// which changes nothing for the work. It borrows nothing and needs no runtime: any executor will do, see the
/// guide [`futures`](crate::guide::futures). What the work uses is not kept alive: buffers and modules are
/// to live until it has ended, as for [`Stream::launch`].
///
/// It ends with an error where the work failed or another fault came first, and never hangs on one. Polled again
/// after its end it is pending.
#[must_use = "the work is not waited for by dropping this"]
pub struct Completion {
    state: Arc<State>,
}

type Callback = Box<dyn FnOnce(Result<()>) + Send>;

enum Progress {
    Pending(Option<Then>),
    Done(Result<()>),
    Taken,
}

/// What is to be done at the end.
enum Then {
    Wake(Waker),
    Call(Callback),
}

struct State(Mutex<Progress>);

/// A callback with what it is to be told.
type Job = (Callback, Result<()>);

static CALLBACKS: Inbox<Job> = Inbox::new();

impl State {
    fn lock(&self) -> MutexGuard<'_, Progress> {
        self.0.lock()
    }

    /// Tells the end, if it was not told yet. Wakers and callbacks run without the lock.
    fn finish(&self, result: Result<()>) {
        let mut progress = self.lock();
        if !matches!(*progress, Progress::Pending(_)) {
            return;
        }
        match std::mem::replace(&mut *progress, Progress::Taken) {
            Progress::Pending(Some(Then::Call(callback))) => {
                drop(progress);
                // Its thread was running, or could be started, when the callback was given.
                if let Err(error) = CALLBACKS.send((callback, result), start_callbacks) {
                    log::error!("a callback is not called: {error}");
                }
            }
            Progress::Pending(then) => {
                *progress = Progress::Done(result);
                drop(progress);
                if let Some(Then::Wake(waker)) = then {
                    caught("a waker", || waker.wake());
                }
            }
            Progress::Done(_) | Progress::Taken => {}
        }
    }

    /// Whether a callback waits for it.
    fn has_callback(&self) -> bool {
        matches!(*self.lock(), Progress::Pending(Some(Then::Call(_))))
    }
}

fn start_callbacks() -> std::io::Result<()> {
    let run = || {
        CALLBACKS.serve(|jobs| {
            for (callback, result) in jobs {
                caught("a callback", move || callback(result));
            }
        });
    };
    spawn("green-callbacks", run)
}

impl Completion {
    fn new() -> Self {
        let state = State(Mutex::new(Progress::Pending(None)));
        Self {
            state: Arc::new(state),
        }
    }

    /// One that ended already.
    fn ended(result: Result<()>) -> Self {
        let completion = Self::new();
        completion.state.finish(result);
        completion
    }

    /// Calls a function with the result at the end of the work, on the thread `green-callbacks`; soon, where
    /// the work has ended. It may call CUDA, with no context current, and may block, but other callbacks wait for
    /// it: one that waits for another callback never ends. A panic in it is caught and logged.
    ///
    /// ```
    /// use std::sync::mpsc;
    /// use cuda_green::{ContextId, Driver, SmPartitionManager};
    ///
    /// # fn main() -> cuda_green::Result<()> {
    /// let device = Driver::open(&"sim:h200@13.0".parse()?)?.device(0)?;
    /// let manager = SmPartitionManager::on(&device)?;
    /// manager.init_quad_partition()?;
    /// let stream = manager.get_context(ContextId::Embedding)?.create_stream()?;
    /// let (done, ends) = mpsc::channel();
    /// // ... launches ...
    /// stream.completion().on_done(move |result| done.send(result).unwrap_or_default())?;
    /// assert!(matches!(ends.recv(), Ok(Ok(()))));
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// [`Error::NoThread`] where the callbacks' thread cannot be started; the function is dropped then.
    pub fn on_done(self, callback: impl FnOnce(Result<()>) + Send + 'static) -> Result<()> {
        // Started before the callback is given away, so that its failure can be told here.
        CALLBACKS.wake(start_callbacks)?;
        let callback = Box::new(callback);
        let mut progress = self.state.lock();
        let next = match &*progress {
            Progress::Pending(_) => Progress::Pending(Some(Then::Call(callback))),
            Progress::Done(_) => {
                let done = std::mem::replace(&mut *progress, Progress::Taken);
                drop(progress);
                return match done {
                    Progress::Done(result) => CALLBACKS.send((callback, result), start_callbacks),
                    _ => Ok(()),
                };
            }
            // It was polled to its end, which has told the result.
            Progress::Taken => return Ok(()),
        };
        // A waker of before goes without the lock.
        let before = std::mem::replace(&mut *progress, next);
        drop(progress);
        drop(before);
        Ok(())
    }
}

impl Drop for Completion {
    /// Nobody is to be woken any more. A callback stays.
    fn drop(&mut self) {
        let mut progress = self.state.lock();
        if let Progress::Pending(then @ Some(Then::Wake(_))) = &mut *progress {
            let waker = then.take();
            drop(progress);
            drop(waker);
        }
    }
}

impl Future for Completion {
    type Output = Result<()>;

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Result<()>> {
        // Wakers are another's code, which runs without the lock: made before it, and dropped after it.
        let waker = context.waker().clone();
        let mut progress = self.state.lock();
        let next = match &*progress {
            Progress::Pending(_) => Progress::Pending(Some(Then::Wake(waker))),
            Progress::Done(_) | Progress::Taken => Progress::Taken,
        };
        let before = std::mem::replace(&mut *progress, next);
        drop(progress);
        match before {
            Progress::Done(result) => Poll::Ready(result),
            Progress::Pending(_) | Progress::Taken => Poll::Pending,
        }
    }
}

impl Stream {
    /// The end of all work that is in the stream now, as a future or for a callback.
    ///
    /// It records an event. A stream in a capture has no work that ends: there the completion ends at once with
    /// [`Error::InvalidArgument`], and the capture is as before.
    ///
    /// ```
    /// # use std::{future::Future, pin::pin, sync::Arc, task::{Context, Poll, Wake, Waker}, thread::Thread};
    /// # struct Unpark(Thread);
    /// # impl Wake for Unpark { fn wake(self: Arc<Self>) { self.0.unpark() } }
    /// # fn block_on<F: Future>(future: F) -> F::Output {
    /// #     let mut future = pin!(future);
    /// #     let waker = Waker::from(Arc::new(Unpark(std::thread::current())));
    /// #     loop {
    /// #         match future.as_mut().poll(&mut Context::from_waker(&waker)) {
    /// #             Poll::Ready(output) => return output,
    /// #             Poll::Pending => std::thread::park(),
    /// #         }
    /// #     }
    /// # }
    /// # async fn infer(stream: &cuda_green::Stream) -> cuda_green::Result<()> {
    /// // ... launches ...
    /// stream.completion().await?;
    /// // ... what they wrote can be read ...
    /// # Ok(())
    /// # }
    /// # fn main() -> cuda_green::Result<()> {
    /// # let device = cuda_green::Driver::open(&"sim:h200@13.0".parse()?)?.device(0)?;
    /// # let manager = cuda_green::SmPartitionManager::on(&device)?;
    /// # manager.init_quad_partition()?;
    /// # let stream = manager.get_context(cuda_green::ContextId::Embedding)?.create_stream()?;
    /// # block_on(infer(&stream))
    /// # }
    /// ```
    #[doc(alias = "cuStreamAddCallback")]
    #[doc(alias = "cuLaunchHostFunc")]
    pub fn completion(&self) -> Completion {
        match self.recorded_end() {
            Ok(event) => waited_for(event, Some(self.serial())),
            Err(error) => Completion::ended(Err(error)),
        }
    }

    fn recorded_end(&self) -> Result<Event> {
        if self.is_captured()? {
            return Err(Error::InvalidArgument {
                name: "stream",
                value: "in a capture".to_owned(),
                reason: "what is captured is not done, so it has no end; launch the graph, and ask the stream \
                         that it was launched in",
            });
        }
        let event = Event::new(self.device())?;
        self.record(&event)?;
        Ok(event)
    }
}

impl Event {
    /// The end of the work that was recorded last, as a future or for a callback; at once where nothing ever was.
    ///
    /// The event may be dropped meanwhile. Where it is recorded anew, that work counts as well. As with
    /// [`is_done`](Self::is_done), one that was recorded in a capture cannot be asked, and the capture is spoilt
    /// by it.
    pub fn completion(&self) -> Completion {
        waited_for(self.share(), None)
    }
}

/// Hands an event to the waiter. Of one stream's, each is done after those before it.
fn waited_for(event: Event, stream: Option<u64>) -> Completion {
    let completion = Completion::new();
    let state = Arc::clone(&completion.state);
    let driver = event.device().driver().clone();
    match driver
        .waiter()
        .wait_for(stream, Box::new(Awaited { event, state }))
    {
        Ok(()) => completion,
        Err(error) => Completion::ended(Err(error)),
    }
}

/// An event whose end somebody is to be told.
struct Awaited {
    event: Event,
    state: Arc<State>,
}

impl Pending for Awaited {
    fn prepare(&self) -> bool {
        let driver = self.event.device().driver();
        driver.always_beside_captures();
        // A simulated driver's time passes in calls alone: a pause would only make it later.
        !driver.is_simulated()
    }

    fn is_over(&self) -> bool {
        let is_wanted = Arc::strong_count(&self.state) > 1 || self.state.has_callback();
        if !is_wanted {
            return true;
        }
        match self.event.is_done() {
            Ok(false) => return false,
            Ok(true) => self.state.finish(Ok(())),
            Err(error) => self.state.finish(Err(error)),
        }
        true
    }
}

impl Drop for Awaited {
    /// Tells where it was dropped before its end. After its end this changes nothing.
    fn drop(&mut self) {
        self.state.finish(Err(Error::NoThread {
            reason: "it ended before the work did".to_owned(),
        }));
    }
}

impl fmt::Debug for Completion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let is_done = !matches!(*self.state.lock(), Progress::Pending(_));
        f.debug_struct("Completion")
            .field("is_done", &is_done)
            .finish()
    }
}

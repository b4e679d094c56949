//! The end of GPU work as a future or a callback, without a runtime.
//!
//! A thread for each driver, `green-waiter`, waits for events. It starts at the first completion and ends after a
//! second without anything to wait for. It queries the first unfinished event of each stream, and pauses between two
//! polls for a sixteenth of the time since an event was last added or done, but at least 10 µs and at most 1 ms. So an
//! end is reported late by about 6 % of the time waited, and never by much more than 1 ms. Callbacks run on another
//! thread, `green-callbacks`, one for the process. A callback may call CUDA, and one that blocks delays other callbacks
//! but no future.
//!
//! The driver's own callbacks do not serve. A function given to `cuLaunchHostFunc` must not call CUDA, is not called
//! after a fault (so its waiter would wait forever), blocks its stream on the GPU while it runs, becomes part of a
//! capture, and exists only for streams, not for events. `cuStreamAddCallback` is to be deprecated, by its header. A
//! query of an event fails after a fault like every call, so every completion ends.
//!
//! The waiter's queries invalidate no capture, because its thread's capture mode is relaxed (measured to suffice on an
//! H200, driver 580). With a simulated driver, whose time passes only in calls, it does not pause, and each query
//! takes 1 µs of virtual time.

use std::{
    fmt,
    future::Future,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, Waker},
};

use crate::{
    driver::{Inbox, Pending, catch_panic, spawn_detached},
    error::{Error, Result},
    event::Event,
    stream::Stream,
    sync::{Mutex, MutexGuard},
};

/// The end of GPU work, from [`Stream::completion`] or [`Event::completion`]: a future, which can instead be given a
/// callback with [`on_done`](Self::on_done).
///
/// The work is waited for from the start, whether or not the future is polled. The completion may be dropped at any
/// time, which does not affect the work. It borrows nothing and needs no runtime; any executor will do, see the
/// guide [`futures`](crate::guide::futures). It does not keep alive what the work uses: buffers and modules must
/// live until the work has ended, as for [`Stream::launch`].
///
/// If the work fails or another fault comes first, it ends with an error; it never hangs on a fault. Polled again
/// after its end, it is pending.
#[must_use = "the work is not waited for by dropping this"]
pub struct Completion {
    shared: Arc<SharedProgress>,
}

type Callback = Box<dyn FnOnce(Result<()>) + Send>;

/// The progress of a completion.
enum Progress {
    /// The work has not ended.
    Pending(Option<OnEnd>),
    /// The work has ended, and the result was not taken yet.
    Done(Result<()>),
    /// The result went to the future or to the callback.
    Taken,
}

/// The action at the end of the work.
enum OnEnd {
    Wake(Waker),
    Call(Callback),
}

/// The progress that a completion shares with the waiter.
struct SharedProgress(Mutex<Progress>);

/// A callback and the result that it is called with.
type CallbackJob = (Callback, Result<()>);

static CALLBACKS: Inbox<CallbackJob> = Inbox::new();

impl SharedProgress {
    fn lock(&self) -> MutexGuard<'_, Progress> {
        self.0.lock()
    }

    /// Sets the result, unless there is one already. Wakers and callbacks run without the lock.
    fn finish(&self, result: Result<()>) {
        let mut progress = self.lock();
        if !matches!(*progress, Progress::Pending(_)) {
            return;
        }
        match std::mem::replace(&mut *progress, Progress::Taken) {
            Progress::Pending(Some(OnEnd::Call(callback))) => {
                drop(progress);
                // The callbacks' thread was running, or could be started, when the callback was given.
                if let Err(error) = CALLBACKS.send((callback, result), start_callbacks) {
                    log::error!("a callback was not called: {error}");
                }
            }
            Progress::Pending(on_end) => {
                *progress = Progress::Done(result);
                drop(progress);
                if let Some(OnEnd::Wake(waker)) = on_end {
                    catch_panic("a waker", || waker.wake());
                }
            }
            Progress::Done(_) | Progress::Taken => {}
        }
    }

    /// Returns whether a callback waits for the end.
    fn has_callback(&self) -> bool {
        matches!(*self.lock(), Progress::Pending(Some(OnEnd::Call(_))))
    }
}

/// Starts the callbacks' thread.
fn start_callbacks() -> std::io::Result<()> {
    let run = || {
        CALLBACKS.serve(|jobs| {
            for (callback, result) in jobs {
                catch_panic("a callback", move || callback(result));
            }
        });
    };
    spawn_detached("green-callbacks", run)
}

impl Completion {
    /// Makes a pending completion.
    fn new() -> Self {
        let shared = SharedProgress(Mutex::new(Progress::Pending(None)));
        Self {
            shared: Arc::new(shared),
        }
    }

    /// Makes a completion that has ended already.
    fn ended(result: Result<()>) -> Self {
        let completion = Self::new();
        completion.shared.finish(result);
        completion
    }

    /// Calls a function with the result at the end of the work, on the thread `green-callbacks`; soon, if the work
    /// has ended. The function may call CUDA, with no context current. It may block, but other callbacks wait for it
    /// then, so a callback that waits for another callback never ends. A panic in it is caught and logged.
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
    /// [`Error::NoThread`] if the callbacks' thread cannot be started; the function is then dropped.
    pub fn on_done(self, callback: impl FnOnce(Result<()>) + Send + 'static) -> Result<()> {
        // Starts the thread before the callback is handed over, so that a failure can be returned here.
        CALLBACKS.wake(start_callbacks)?;
        let callback = Box::new(callback);
        let mut progress = self.shared.lock();
        let next = match &*progress {
            Progress::Pending(_) => Progress::Pending(Some(OnEnd::Call(callback))),
            Progress::Done(_) => {
                let done = std::mem::replace(&mut *progress, Progress::Taken);
                drop(progress);
                return match done {
                    Progress::Done(result) => CALLBACKS.send((callback, result), start_callbacks),
                    _ => Ok(()),
                };
            }
            // It was polled to its end, so the future has returned the result.
            Progress::Taken => return Ok(()),
        };
        // An earlier waker is dropped without the lock.
        let previous = std::mem::replace(&mut *progress, next);
        drop(progress);
        drop(previous);
        Ok(())
    }
}

impl Drop for Completion {
    /// Removes the waker. A callback stays.
    fn drop(&mut self) {
        let mut progress = self.shared.lock();
        if let Progress::Pending(on_end @ Some(OnEnd::Wake(_))) = &mut *progress {
            let waker = on_end.take();
            drop(progress);
            drop(waker);
        }
    }
}

impl Future for Completion {
    type Output = Result<()>;

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Result<()>> {
        // A waker is foreign code, so it is cloned before the lock is taken and dropped after it is released.
        let waker = context.waker().clone();
        let mut progress = self.shared.lock();
        let next = match &*progress {
            Progress::Pending(_) => Progress::Pending(Some(OnEnd::Wake(waker))),
            Progress::Done(_) | Progress::Taken => Progress::Taken,
        };
        let previous = std::mem::replace(&mut *progress, next);
        drop(progress);
        match previous {
            Progress::Done(result) => Poll::Ready(result),
            Progress::Pending(_) | Progress::Taken => Poll::Pending,
        }
    }
}

impl Stream {
    /// Returns the end of all work that is in the stream now, as a future or for a callback.
    ///
    /// It records an event. In a capture, a stream has no work that ends; the completion then ends at once with
    /// [`Error::InvalidArgument`], and the capture is not affected.
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
    /// // ... the results can be read ...
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
        match self.record_end() {
            Ok(event) => wait_for(event, Some(self.serial())),
            Err(error) => Completion::ended(Err(error)),
        }
    }

    /// Records a new event at the end of the stream's work.
    fn record_end(&self) -> Result<Event> {
        if self.is_captured()? {
            return Err(Error::InvalidArgument {
                name: "stream",
                value: "in a capture".to_owned(),
                reason: "captured work does not run, so it has no end; launch the graph, and ask for the completion \
                         of the stream that it was launched in",
            });
        }
        let event = Event::new(self.device())?;
        self.record(&event)?;
        Ok(event)
    }
}

impl Event {
    /// Returns the end of the work that the event was last recorded after, as a future or for a callback. If it was
    /// never recorded, the completion ends at once.
    ///
    /// The event may be dropped meanwhile. If it is recorded again meanwhile, the completion waits for that work too.
    /// As with [`is_done`](Self::is_done), an event that was recorded in a capture cannot be queried, and the query
    /// invalidates the capture.
    pub fn completion(&self) -> Completion {
        wait_for(self.share(), None)
    }
}

/// Hands an event to the waiter. The events of one stream are done in the order in which they are handed over.
fn wait_for(event: Event, stream: Option<u64>) -> Completion {
    let completion = Completion::new();
    let shared = Arc::clone(&completion.shared);
    let driver = event.device().driver().clone();
    match driver
        .waiter()
        .wait_for(stream, Box::new(AwaitedEvent { event, shared }))
    {
        Ok(()) => completion,
        Err(error) => Completion::ended(Err(error)),
    }
}

/// An event whose end is to be reported to a completion.
struct AwaitedEvent {
    event: Event,
    shared: Arc<SharedProgress>,
}

impl Pending for AwaitedEvent {
    fn prepare(&self) -> bool {
        let driver = self.event.device().driver();
        driver.always_beside_captures();
        // A simulated driver's time passes only in calls, so a pause would only delay the end.
        !driver.is_simulated()
    }

    fn is_over(&self) -> bool {
        let is_wanted = Arc::strong_count(&self.shared) > 1 || self.shared.has_callback();
        if !is_wanted {
            return true;
        }
        match self.event.is_done() {
            Ok(false) => return false,
            Ok(true) => self.shared.finish(Ok(())),
            Err(error) => self.shared.finish(Err(error)),
        }
        true
    }
}

impl Drop for AwaitedEvent {
    /// Reports an error if it is dropped before its end. After its end this changes nothing.
    fn drop(&mut self) {
        self.shared.finish(Err(Error::NoThread {
            reason: "it ended before the work did".to_owned(),
        }));
    }
}

impl fmt::Debug for Completion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let is_done = !matches!(*self.shared.lock(), Progress::Pending(_));
        f.debug_struct("Completion")
            .field("is_done", &is_done)
            .finish()
    }
}

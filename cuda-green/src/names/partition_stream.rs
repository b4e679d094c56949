//! Streams that follow a name: their work runs on the SMs that the name has when it is submitted.

use std::fmt;

use super::{
    generation::ContextInForce,
    gpu::{Event, GreenContext, Stream},
    reentrancy::{InClosure, refuse_inside},
};
use crate::{
    device::ContextPriority,
    error::Result,
    launch::{KernelArg, LaunchConfig},
    module::Kernel,
    partition::{DropLater, Follower},
    sync::{Arc, Mutex, MutexGuard},
};

/// A stream of a name rather than of a context: after a rebalance, work goes to the name's new SMs.
///
/// It keeps the order of a stream: work submitted after a rebalance waits, on the GPU, for work submitted before.
/// While it is used, a rebalance waits, so that each launch is wholly before or wholly after it.
///
/// ```
/// use cuda_green::{ContextId, Driver, RebalanceHint, SmPartitionManager};
///
/// # fn main() -> cuda_green::Result<()> {
/// let device = Driver::open(&"sim:h200@13.0".parse()?)?.device(0)?;
/// let manager = SmPartitionManager::on(&device)?;
/// manager.init_quad_partition()?;
/// let stream = manager.create_stream(ContextId::Training)?;
/// assert_eq!(stream.with(|stream| Ok(stream.context().sm_count()))?, 32);
/// manager.rebalance(RebalanceHint::TrainingActive)?;
/// assert!(stream.with(|stream| Ok(stream.context().sm_count()))? > 32);
/// # stream.synchronize()
/// # }
/// ```
pub struct PartitionStream {
    priority: ContextPriority,
    /// Shared with the contexts of its streams, which ask it to give the streams up.
    streams: std::sync::Arc<StreamsOfGenerations>,
    /// Dropped after the streams, so that this counts as a user of the name as long as one of them is there.
    followed: Arc<ContextInForce>,
}

struct StreamsOfGenerations(Mutex<Streams>);

/// One stream for each generation that was used, the last used at the end.
struct Streams {
    made: Vec<Stream>,
    /// Orders the next stream after the last.
    order: Event,
    /// Whether the last used stream was given up: then the event stands for its work, and the next stream waits for it.
    last_is_gone: bool,
}

impl PartitionStream {
    pub(crate) fn new(followed: Arc<ContextInForce>) -> Result<Self> {
        refuse_inside()?;
        let context = followed.read().clone();
        let priority = context.policy().priority;
        let streams = Streams {
            made: vec![context.create_stream_with_priority(priority)?],
            order: Event::new(context.device())?,
            last_is_gone: false,
        };
        let streams = std::sync::Arc::new(StreamsOfGenerations(Mutex::new(streams)));
        streams.follow(&context);
        Ok(Self {
            priority,
            streams,
            followed,
        })
    }

    /// Calls a closure with the stream in force. No rebalance happens meanwhile, so the closure should be brief.
    ///
    /// A call that would wait for a rebalance is refused inside, since the rebalance waits for the closure: the use of
    /// a stream of a name, this one included, the creation of one, and every change of a manager's contexts. Contexts
    /// can be looked up. The closure must not wait for another thread that does any of this. Use an [`Event`] to order
    /// two streams of names.
    ///
    /// # Errors
    /// Those of the closure; [`Error::InsidePartitionStream`](crate::Error::InsidePartitionStream) inside another
    /// one; [`Error::Driver`](crate::Error::Driver).
    pub fn with<T>(&self, action: impl FnOnce(&Stream) -> Result<T>) -> Result<T> {
        let _inside = InClosure::begin()?;
        let context = self.followed.read();
        let mut streams = self.streams.lock();
        let stream = streams.of(&context, self.priority, |context| {
            self.streams.follow(context);
        })?;
        action(stream)
    }

    /// Launches a kernel on the SMs that the name has now.
    ///
    /// # Errors
    /// As [`Stream::launch`].
    ///
    /// # Safety
    /// As [`Stream::launch`].
    pub unsafe fn launch(
        &self,
        kernel: &Kernel,
        config: &LaunchConfig,
        args: &[&dyn KernelArg],
    ) -> Result<()> {
        // SAFETY: the caller's promise is the one asked for.
        self.with(|stream| unsafe { stream.launch(kernel, config, args) })
    }

    /// Records the work so far in an event.
    ///
    /// # Errors
    /// As [`Stream::record`].
    pub fn record(&self, event: &Event) -> Result<()> {
        self.with(|stream| stream.record(event))
    }

    /// Makes later work wait for an event, on the GPU.
    ///
    /// # Errors
    /// As [`Stream::wait`].
    pub fn wait(&self, event: &Event) -> Result<()> {
        self.with(|stream| stream.wait(event))
    }

    /// Waits for all work in it, on whichever SMs it runs. Does not make a rebalance wait, and spoils no capture of
    /// another stream.
    ///
    /// # Errors
    /// As [`Stream::synchronize`].
    pub fn synchronize(&self) -> Result<()> {
        let event = self.with(|stream| {
            let event = Event::new(stream.device())?;
            stream.record(&event)?;
            Ok(event)
        })?;
        event.synchronize_beside_captures()
    }
}

impl StreamsOfGenerations {
    fn lock(&self) -> MutexGuard<'_, Streams> {
        self.0.lock()
    }

    /// Registers with a context, which asks for its streams to be given up when it is to end.
    fn follow(self: &std::sync::Arc<Self>, context: &GreenContext) {
        let follower = std::sync::Arc::downgrade(self);
        context.follow(follower);
    }
}

impl Follower<GreenContext> for StreamsOfGenerations {
    fn release(&self, context: &GreenContext, later: &mut DropLater) -> Result<bool> {
        let mut streams = self.lock();
        let Some(index) = streams
            .made
            .iter()
            .position(|stream| is_of(stream, context))
        else {
            return Ok(false);
        };
        if index + 1 == streams.made.len() && !streams.last_is_gone {
            streams.made[index].record(&streams.order)?;
            streams.last_is_gone = true;
        }
        later.push(Box::new(streams.made.remove(index)));
        Ok(true)
    }
}

fn is_of(stream: &Stream, context: &GreenContext) -> bool {
    Arc::ptr_eq(&stream.context().inner, &context.inner)
}

impl Streams {
    /// Returns the stream of this context, ordered after the last used one. Calls `made` before it makes one.
    fn of(
        &mut self,
        context: &GreenContext,
        priority: ContextPriority,
        made: impl FnOnce(&GreenContext),
    ) -> Result<&Stream> {
        let is_last = self.made.last().is_some_and(|last| is_of(last, context));
        if !is_last || self.last_is_gone {
            let stream = match self.made.iter().position(|stream| is_of(stream, context)) {
                Some(index) => self.made.remove(index),
                None => {
                    made(context);
                    context.create_stream_with_priority(priority)?
                }
            };
            if let (Some(last), false) = (self.made.last(), self.last_is_gone) {
                last.record(&self.order)?;
            }
            stream.wait(&self.order)?;
            self.last_is_gone = false;
            self.made.push(stream);
        }
        // There is a last one: it was there, or it has just been pushed.
        Ok(&self.made[self.made.len() - 1])
    }
}

impl fmt::Debug for PartitionStream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PartitionStream")
            .field("priority", &self.priority)
            .finish_non_exhaustive()
    }
}

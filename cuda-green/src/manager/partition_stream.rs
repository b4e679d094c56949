//! Streams that follow a name: what is launched in them runs wherever the name has its SMs at that moment.

use std::{fmt, sync::PoisonError};

use super::{
    generation::ContextInForce,
    reentrancy::{InClosure, refuse_inside},
};
use crate::{
    device::ContextPriority,
    error::Result,
    event::Event,
    launch::{KernelArg, LaunchConfig},
    module::Kernel,
    partition::{Follower, GreenContext, Later},
    stream::Stream,
    sync::{Arc, Mutex, MutexGuard},
};

/// A stream of a name rather than of a context: after a rebalance, work goes to the name's new SMs.
///
/// It keeps the order of a stream: what comes after a rebalance waits, on the GPU, for what came before.
/// While it is used, it holds off a rebalance, so that a launch is either wholly before or wholly after.
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
    /// Shared with the contexts of its streams, which ask it to give those up.
    streams: std::sync::Arc<StreamsOfGenerations>,
    /// Dropped after the streams: while they are there, the name is in use by this, whoever counts when.
    followed: Arc<ContextInForce>,
}

struct StreamsOfGenerations(Mutex<Streams>);

/// One stream for each generation that was used, the one used last at the end.
struct Streams {
    made: Vec<Stream>,
    /// Orders the next stream after the last.
    order: Event,
    /// Whether the stream used last was given up: then the event has its work, and the next waits for it.
    last_is_gone: bool,
}

impl PartitionStream {
    pub(super) fn new(followed: Arc<ContextInForce>) -> Result<Self> {
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

    /// Does something with the stream in force. No rebalance happens meanwhile, so it should be brief.
    ///
    /// What would wait for a rebalance is refused inside, as that waits for this: to use a stream of a name, this
    /// one included, or to make one, and whatever changes a manager's contexts. Contexts can be looked up. Nor may
    /// it wait for another thread that does any of it. An [`Event`] orders two streams of names.
    ///
    /// # Errors
    /// Those of the action; [`Error::InsidePartitionStream`](crate::Error::InsidePartitionStream) inside another
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

    /// Makes the work to come wait for an event, on the GPU.
    ///
    /// # Errors
    /// As [`Stream::wait`].
    pub fn wait(&self, event: &Event) -> Result<()> {
        self.with(|stream| stream.wait(event))
    }

    /// Waits for all work in it, whatever SMs it runs on. Does not hold off a rebalance, and spoils no capture of
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
        event.wait_beside_captures()
    }
}

impl StreamsOfGenerations {
    fn lock(&self) -> MutexGuard<'_, Streams> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Has this context ask for its streams when it is to end.
    fn follow(self: &std::sync::Arc<Self>, context: &GreenContext) {
        let follower = std::sync::Arc::downgrade(self);
        context.follow(follower);
    }
}

impl Follower for StreamsOfGenerations {
    fn give_up(&self, context: &GreenContext, later: &mut Later) -> Result<bool> {
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
    /// The stream of this context, ordered after the one used last. `made` hears where one was made.
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
        // There is one: it was there, or it has just been pushed.
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

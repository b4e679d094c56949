//! Options of streams.

use std::ffi::c_int;

use crate::{
    device::ContextPriority,
    error::{Error, Result},
    partition::GreenContext,
};

/// Options of a stream. By default it is non-blocking and has the priority of its context.
///
/// ```
/// use cuda_green::{ContextPriority, Driver, Error, GreenContext, GreenContextConfig, StreamOptions};
///
/// # fn main() -> cuda_green::Result<()> {
/// let device = Driver::open(&"sim:h200@13.0".parse()?)?.device(0)?;
/// let all = [device.sm_resource()?];
/// let context = GreenContext::from_resources(&all, None, GreenContextConfig::default())?;
/// let first = context.create_stream_with(&StreamOptions::default().raw_priority(-5))?;
/// let last = context.create_stream_with(&StreamOptions::default().priority(ContextPriority::Low))?;
/// assert_eq!((first.priority()?, last.priority()?), (-5, 0));
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub struct StreamOptions {
    /// The stream's priority.
    pub priority: StreamPriority,
    /// Whether the stream ignores the default stream. This must be true: green contexts have no streams that wait for
    /// the default stream.
    pub non_blocking: bool,
}

/// The priority of a stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default, Hash)]
#[non_exhaustive]
pub enum StreamPriority {
    /// The priority in the configuration of the stream's context.
    #[default]
    OfContext,
    /// A level, mapped into the range that the device offers.
    Level(ContextPriority),
    /// The driver's number; lower numbers have precedence.
    Raw(c_int),
}

impl Default for StreamOptions {
    fn default() -> Self {
        Self {
            priority: StreamPriority::OfContext,
            non_blocking: true,
        }
    }
}

impl StreamOptions {
    /// Sets the priority to a level, which is mapped into the range that the device offers.
    #[must_use]
    pub fn priority(mut self, priority: ContextPriority) -> Self {
        self.priority = StreamPriority::Level(priority);
        self
    }

    /// Sets the priority to the driver's own number, within
    /// [`CudaDevice::stream_priorities`](crate::CudaDevice::stream_priorities).
    #[must_use]
    pub fn raw_priority(mut self, priority: c_int) -> Self {
        self.priority = StreamPriority::Raw(priority);
        self
    }

    /// Sets whether the stream is non-blocking, which a stream of a green context must be.
    #[must_use]
    pub fn non_blocking(mut self, non_blocking: bool) -> Self {
        self.non_blocking = non_blocking;
        self
    }

    /// Checks the options and returns the driver's number for the priority.
    pub(super) fn check(&self, context: &GreenContext) -> Result<c_int> {
        if !self.non_blocking {
            return Err(Error::InvalidArgument {
                name: "non_blocking",
                value: "false".into(),
                reason: "streams of green contexts must be non-blocking: a green context has no streams that wait for the default stream",
            });
        }
        let device = context.device();
        match self.priority {
            StreamPriority::OfContext => device.stream_priority(context.policy().priority),
            StreamPriority::Level(level) => device.stream_priority(level),
            StreamPriority::Raw(number) => {
                let offered = device.stream_priorities()?;
                if offered.contains(&number) {
                    Ok(number)
                } else {
                    Err(Error::InvalidArgument {
                        name: "priority",
                        value: number.to_string(),
                        reason: "the device does not offer this priority; see `CudaDevice::stream_priorities`",
                    })
                }
            }
        }
    }
}

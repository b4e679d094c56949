//! The end of a name's holder, as a program reports it.

use std::{fmt, time::Duration};

/// The result of [`SharedDevice::end_holder`](crate::SharedDevice::end_holder).
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct EndedHolder {
    /// The id of the process that was ended.
    pub pid: u32,
    /// All names of the plan that it held, and that are free now or once the MPS server is rid of it.
    pub names: Vec<String>,
    /// The steps that were taken, in their order.
    pub steps: Vec<EndStep>,
}

/// A step of ending a holder.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum EndStep {
    /// The MPS daemon was told to end the work of the client (`terminate_client`).
    ClientTerminated {
        /// The id of the client's server.
        server: u32,
    },
    /// The server no longer lists the client.
    Unlisted {
        /// The time that took.
        after: Duration,
    },
    /// The server still listed the client at the end of the wait, so that a signal to end could have met its work on the GPU;
    /// the process was stopped first, and its work in flight was left time to end.
    StillListed,
    /// The process was asked to end (`SIGTERM`).
    Asked,
    /// The process was stopped (`SIGSTOP`).
    Stopped,
    /// The process was killed (`SIGKILL`).
    Killed,
    /// The process has ended.
    Ended {
        /// The time since the first step.
        after: Duration,
    },
}

impl fmt::Display for EndStep {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::ClientTerminated { server } => {
                write!(f, "terminate_client at MPS server {server}")
            }
            Self::Unlisted { after } => write!(f, "no longer a client of it after {after:.0?}"),
            Self::StillListed => f.write_str("still a client of it at the end of the wait"),
            Self::Asked => f.write_str("SIGTERM"),
            Self::Stopped => f.write_str("SIGSTOP, and time for its work in flight"),
            Self::Killed => f.write_str("SIGKILL"),
            Self::Ended { after } => write!(f, "ended after {after:.0?}"),
        }
    }
}

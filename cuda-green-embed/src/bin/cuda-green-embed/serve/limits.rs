//! The limits of what a client can make the server hold, compute or wait for.

use std::time::Duration;

/// The limits. Each is answered with its own status once it is exceeded.
#[derive(Clone, Debug)]
pub struct Limits {
    /// Bytes of a request's body: 413.
    pub body: usize,
    /// Bytes of all bodies that are held at a time: 429.
    pub bodies: usize,
    /// Texts of a request: 413.
    pub texts: usize,
    /// Tokens of a request: 413.
    pub tokens: usize,
    /// Connections at a time: 503.
    pub connections: usize,
    /// Time for a request's head: the connection is closed.
    pub head_time: Duration,
    /// Time for a request's body: 408.
    pub body_time: Duration,
    /// Time in which a client takes nothing of an answer: the connection is closed.
    pub write_time: Duration,
    /// Time from a request's head to its vectors: 504.
    pub time: Duration,
    /// The most texts of a request that is interactive unless it says otherwise.
    pub interactive_texts: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            body: 8 << 20,
            bodies: 256 << 20,
            texts: 2048,
            tokens: 1 << 20,
            connections: 1024,
            head_time: Duration::from_secs(10),
            body_time: Duration::from_secs(10),
            write_time: Duration::from_secs(10),
            time: Duration::from_secs(30),
            interactive_texts: 8,
        }
    }
}

/// The largest body whose texts are tokenised on the thread that reads the network. More would hold up its other
/// connections: tokenising takes about 0.1 ms for 16 KiB.
pub const QUICK_BODY: usize = 16 << 10;

/// The most values that are written on such a thread, for the same reason.
pub const QUICK_VALUES: usize = 8 << 10;

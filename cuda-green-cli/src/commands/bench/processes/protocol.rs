//! What this process and its own say to each other: a line of JSON for each order, and one for its answer.
//!
//! A process ends when its orders do. So it ends in order however this one ends, and nobody has to kill it.

use std::{
    io::{self, BufRead, Write},
    path::PathBuf,
};

use serde::{Deserialize, Serialize};

use super::placements::Home;

/// The background work of the other process.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FloodKind {
    /// Blocks that hold an SM for 2 ms.
    Blocks,
    /// Products of matrices by tensor cores.
    Matrix,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Order {
    /// To the keeper: make a folder, and an MPS daemon in it if there is to be one.
    Keep { daemon: bool },
    /// Open the device, and load what later orders need.
    Open {
        folder: PathBuf,
        request_sms: u32,
        with_matrix: bool,
    },
    /// Move to other SMs: leave the plan that was joined, and join that of these.
    Settle(Home),
    /// Time requests one after another.
    Request { most: usize, limit_ms: u64 },
    /// Begin a flood.
    Flood(FloodKind),
    /// Tell how much of the flood is done.
    Count,
    /// End the flood, and wait for its work.
    Stop,
    /// Change the plan, so that its own name has so many SMs, and then follow.
    Change { sm_count: u32 },
    /// Wait until its name has so many SMs, and run something there.
    Follow { sm_count: u32 },
    /// Time joins beside a plan in force, and creations of the same context.
    Join { rounds: usize },
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Answer {
    Kept {
        folder: PathBuf,
        /// Why there is no daemon, though there was to be one.
        no_daemon: Option<String>,
    },
    Opened {
        under_mps: bool,
        /// Why there are no matrix products.
        no_matrix: Option<String>,
        /// What a matrix product is, in words.
        matrix: Option<String>,
    },
    /// The SMs that the process has now.
    Settled {
        sm_count: u32,
    },
    /// Microseconds of each request, in order.
    Times(Vec<f64>),
    Flooding,
    Counted {
        done: u64,
        nanoseconds: u64,
    },
    Stopped,
    /// Nanoseconds of each.
    Joined {
        join: Vec<f64>,
        create: Vec<f64>,
    },
    Failed(String),
}

/// Answers orders until there are no more, or nobody reads the answers.
pub fn serve(mut obey: impl FnMut(Order) -> anyhow::Result<Answer>) -> anyhow::Result<()> {
    for line in io::stdin().lock().lines() {
        let answer = match serde_json::from_str(&line?) {
            Ok(order) => obey(order),
            Err(error) => Err(error.into()),
        };
        let answer = answer.unwrap_or_else(|error| Answer::Failed(format!("{error:#}")));
        let text = serde_json::to_string(&answer)?;
        let mut stdout = io::stdout().lock();
        if writeln!(stdout, "{text}")
            .and_then(|()| stdout.flush())
            .is_err()
        {
            break;
        }
    }
    Ok(())
}

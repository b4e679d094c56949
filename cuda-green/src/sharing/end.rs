//! Ending the process that holds a name, in a way that leaves its neighbours under MPS unharmed.
//!
//! A client of an MPS server that is killed with work in flight can fail the others. With launches of several waves queued,
//! `CUDA_ERROR_ILLEGAL_ADDRESS` came in 7 of 8 runs by `SIGKILL` and in 8 of 8 by `SIGTERM`, green contexts apart or not; with
//! launches of one wave in none. After `terminate_client`, and after a stop of 0.3 s, it was none of 8 with either
//! (measured on an H200, driver 580).

use std::{
    path::Path,
    process, thread,
    time::{Duration, Instant},
};

use super::{
    ending::{EndStep, EndedHolder},
    mps,
    overview::{Found, SeenMps, found},
    pidfd::PidFd,
    process::{Life, life},
    record::{Holder, Record},
    shared_device::SharedDevice,
};
use crate::{error::Result, sharing_error::SharingError};

/// The time between two questions for the server's clients.
const PAUSE: Duration = Duration::from_millis(10);
/// The time that a stopped process's work in flight is left.
const STOPPED: Duration = Duration::from_millis(300);
/// How long a killed process may take to end: one with 1 GiB of memory took 0.13 s (measured).
const KILLED: Duration = Duration::from_secs(10);

impl SharedDevice {
    /// Ends the process that holds a name of the plan, so that its neighbours under MPS keep running, and waits for its end.
    ///
    /// Under MPS the daemon is told to end the client's work (`terminate_client`), and the server to be rid of it is waited for;
    /// only then the process gets `SIGTERM`, and, if it is there after another `wait`, `SIGKILL`. Where the server still lists
    /// it after `wait`, it is stopped for 0.3 s and killed. A caller that is itself killed meanwhile leaves it stopped;
    /// another call ends it. Without MPS it gets the two signals.
    ///
    /// Nothing is done to a process that is not proven to be the holder, and under MPS a client of the server: its id, its
    /// start and its namespace are those of the record of its claim, the name's lock is held, the server lists the id, and
    /// the server's own id is that of an MPS server here. Signals go by a file descriptor of the process (`pidfd_open`, Linux 5.3), so never
    /// to another one that has its id by then.
    ///
    /// # Errors
    /// [`Error::Sharing`](crate::Error::Sharing): [`SharingError::NotEnded`](crate::SharingError::NotEnded) with the reason,
    /// [`SharingError::NoSuchName`](crate::SharingError::NoSuchName), and those of [`list`](Self::list).
    pub fn end_holder(&self, name: &str, wait: Duration) -> Result<EndedHolder> {
        let plans = found(Some(&self.status.folder))?;
        let plan = plans.iter().find(|plan| plan.uuid == self.uuid);
        let plan = plan.ok_or(SharingError::NoPlan)?;
        Ok(end(plan, name, wait)?)
    }
}

fn end(found: &Found, name: &str, wait: Duration) -> Result<EndedHolder, SharingError> {
    let not_ended = |reason: String| SharingError::NotEnded {
        name: name.to_owned(),
        reason,
    };
    let index = found.plan.position(name)?;
    let holder = live_holder(found, index)?.map_err(&not_ended)?;
    let pid = holder.pid;
    if pid == process::id() {
        return Err(not_ended(
            "its holder is this process; destroy the context, or drop the manager".to_owned(),
        ));
    }
    let process = PidFd::open(pid)
        .map_err(|error| not_ended(format!("process {pid} cannot be signalled: {error}")))?;
    // Again, now that the descriptor names one process for good; and then the plan, which stays while a name of it is held:
    // of another one, the name would be another's.
    let again = live_holder(found, index)?.map_err(&not_ended)?;
    if !holder.is_same_process(&again) || !found.is_in_force()? {
        return Err(not_ended("another process has just claimed it".to_owned()));
    }
    let names = names_of(found, &holder)?;
    let begun = Instant::now();
    let mut steps = Vec::new();
    let failed = |error: std::io::Error| not_ended(format!("process {pid}: {error}"));
    let is_idle = match &found.mps {
        SeenMps::None => true,
        SeenMps::Unknown(reason) => return Err(not_ended(reason.clone())),
        SeenMps::Servers { pipes, servers } => {
            let server = servers.iter().find(|server| server.clients.contains(&pid));
            let Some(server) = server else {
                return Err(not_ended(format!(
                    "no MPS server of {} lists process {pid}, so it is not proven to be a client",
                    pipes.display()
                )));
            };
            if !server.is_seen_here() {
                return Err(not_ended(format!(
                    "process {} is no MPS server here, so the server's numbers are of another namespace (a container's); \
                     end it from there",
                    server.pid
                )));
            }
            terminate(pipes, server.pid, pid, wait, &mut steps).map_err(&not_ended)?
        }
    };
    if is_idle {
        process.signal(libc::SIGTERM).map_err(failed)?;
        steps.push(EndStep::Asked);
    } else {
        process.signal(libc::SIGSTOP).map_err(failed)?;
        steps.push(EndStep::Stopped);
        thread::sleep(STOPPED);
    }
    let has_ended = is_idle && process.wait(wait).map_err(failed)?;
    if !has_ended {
        process.signal(libc::SIGKILL).map_err(failed)?;
        steps.push(EndStep::Killed);
        if !process.wait(KILLED).map_err(failed)? {
            return Err(not_ended(format!(
                "process {pid} is there {KILLED:?} after SIGKILL: the kernel waits for something of it"
            )));
        }
    }
    steps.push(EndStep::Ended {
        after: begun.elapsed(),
    });
    Ok(EndedHolder { pid, names, steps })
}

/// Has the daemon end a client's work; returns whether its server no longer lists it.
fn terminate(
    pipes: &Path,
    server: u32,
    client: u32,
    wait: Duration,
    steps: &mut Vec<EndStep>,
) -> Result<bool, String> {
    mps::ask(pipes, &format!("terminate_client {server} {client}"))?;
    steps.push(EndStep::ClientTerminated { server });
    let begun = Instant::now();
    loop {
        let servers = mps::servers(pipes)?;
        let is_listed = servers.iter().any(|one| one.clients.contains(&client));
        let after = begun.elapsed();
        if !is_listed {
            steps.push(EndStep::Unlisted { after });
            return Ok(true);
        }
        if after >= wait {
            steps.push(EndStep::StillListed);
            return Ok(false);
        }
        thread::sleep(PAUSE);
    }
}

/// Returns the live process that holds a name, or the reason why there is none to end.
fn live_holder(found: &Found, index: usize) -> Result<Result<Holder, String>, SharingError> {
    let Some(claims) = &found.claims else {
        return Ok(Err("nobody holds it".to_owned()));
    };
    let is_held = claims.is_held_elsewhere(index)?;
    Ok(match claims.read(index)? {
        Record::Of(holder) if is_held => match life(&holder) {
            Life::Alive => Ok(holder),
            Life::Unknown => Err(format!(
                "process {} is of another namespace (a container's); end it from there",
                holder.pid
            )),
            Life::Gone | Life::Replaced => Err(format!(
                "process {} has ended, and another is about to have it",
                holder.pid
            )),
        },
        Record::Of(holder) => Err(match found.mps {
            SeenMps::None => format!("nobody holds it any more: process {} has ended", holder.pid),
            _ => format!(
                "nobody holds it any more: process {} has ended, and it is free once the MPS server is rid of that",
                holder.pid
            ),
        }),
        _ if is_held => Err("a process is about to claim it; try again".to_owned()),
        _ => Err("nobody holds it".to_owned()),
    })
}

/// Returns all names that a process holds.
fn names_of(found: &Found, holder: &Holder) -> Result<Vec<String>, SharingError> {
    let mut names = Vec::new();
    for (index, partition) in found.plan.partitions.iter().enumerate() {
        let other = live_holder(found, index)?;
        if other.is_ok_and(|other| other.is_same_process(holder)) {
            names.push(partition.name.clone());
        }
    }
    Ok(names)
}

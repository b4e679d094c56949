//! The holder of a name of a plan, from its lock and its record.

use std::fs;

use super::{
    claims::Claims,
    leftover::Leftover,
    record::{Holder, Record},
    status::NameHolder,
};
use crate::sharing_error::SharingError;

/// Returns the holder of a name. `judge` says whether SMs whose lock is free may be given on.
pub(super) fn holder(
    claims: &Claims,
    index: usize,
    judge: impl FnOnce(Record) -> Leftover,
) -> Result<NameHolder, SharingError> {
    if claims.is_held_here(index) {
        return Ok(NameHolder::Own);
    }
    let is_held = claims.is_held_elsewhere(index)?;
    let record = claims.read(index)?;
    let holder = match record {
        Record::Of(holder) => Some(holder),
        _ => None,
    };
    if is_held {
        return Ok(NameHolder::Process {
            pid: holder.map(|holder| holder.pid),
            program: holder.and_then(|holder| program(&holder)),
            since: holder.map(|holder| holder.since),
        });
    }
    Ok(match judge(record) {
        Leftover::Clear => NameHolder::Free,
        Leftover::Dirty(reason) => NameHolder::Dirty {
            pid: holder.map(|holder| holder.pid),
            reason,
        },
    })
}

/// Returns the name of a holder's program, as the kernel has it: at most 15 bytes.
pub(super) fn program(holder: &Holder) -> Option<String> {
    let name = fs::read(format!("/proc/{}/comm", holder.pid)).ok()?;
    // Asked afterwards, so that it is not that of another process with this number.
    let is_alive = super::process::life(holder) == super::process::Life::Alive;
    is_alive.then(|| String::from_utf8_lossy(&name).trim_end().to_owned())
}

//! Processes as the kernel tells of them: who this one is, and whether another still lives.

use std::{fs, io, os::unix::fs::MetadataExt, process, time::SystemTime};

use super::record::{Hindrance, Holder};

/// Whether a process still lives.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Life {
    Alive,
    /// No process has its number.
    Gone,
    /// Its number is another's by now.
    Replaced,
    /// Nothing is known of it from here.
    Unknown,
}

/// Returns the id of the system's start.
pub(super) fn boot() -> io::Result<String> {
    let id = fs::read_to_string("/proc/sys/kernel/random/boot_id")?;
    let id = id.trim();
    if id.is_empty() || id.len() > 64 || !id.bytes().all(|c| c.is_ascii_hexdigit() || c == b'-') {
        return Err(io::ErrorKind::InvalidData.into());
    }
    Ok(id.to_owned())
}

/// Returns this process as the holder of a name of a plan.
pub(super) fn own(generation: u64) -> io::Result<Holder> {
    if !is_own_proc() {
        return Err(io::Error::other(
            "it is of another namespace of processes than this one; mount one of this namespace there",
        ));
    }
    let pid = process::id();
    let started = read_stat(pid)?.started;
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
    Ok(Holder {
        pid,
        started,
        namespace: namespace()?,
        since: now.map_or(0, |now| now.as_secs()),
        generation,
        left_for: 0,
        hindrance: Hindrance::None,
    })
}

/// Returns whether a holder still lives.
pub(super) fn life(holder: &Holder) -> Life {
    match namespace() {
        Ok(own) if own == holder.namespace && is_own_proc() => {}
        _ => return Life::Unknown,
    }
    match read_stat(holder.pid) {
        Ok(stat) if stat.started != holder.started => Life::Replaced,
        // A zombie has closed its files, those of the driver among them, unless only its first thread has ended.
        Ok(stat) if matches!(stat.state, 'Z' | 'X') && stat.threads <= 1 => Life::Gone,
        Ok(_) => Life::Alive,
        Err(error) if is_gone(&error) && !is_hidden(holder.pid) => Life::Gone,
        Err(_) => Life::Unknown,
    }
}

fn is_gone(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::NotFound || error.raw_os_error() == Some(libc::ESRCH)
}

/// Returns whether a process runs that `/proc` does not show (proc(5), `hidepid`).
fn is_hidden(pid: u32) -> bool {
    let Ok(pid) = libc::pid_t::try_from(pid) else {
        return false;
    };
    // SAFETY: no signal is sent.
    let found = unsafe { libc::kill(pid, 0) } == 0;
    found || io::Error::last_os_error().raw_os_error() != Some(libc::ESRCH)
}

/// Returns whether `/proc` has the numbers of processes that are seen here.
fn is_own_proc() -> bool {
    let own = fs::read_link("/proc/self");
    own.is_ok_and(|own| own.to_str() == Some(&process::id().to_string()))
}

/// Returns a number of the namespaces in which the numbers of processes and their starts are told.
fn namespace() -> io::Result<u64> {
    let processes = fs::metadata("/proc/self/ns/pid")?.ino();
    // Since Linux 5.6.
    let time = fs::metadata("/proc/self/ns/time").map_or(0, |time| time.ino());
    Ok(processes ^ time.rotate_left(32))
}

/// The fields of a process that tell whether it lives.
#[derive(Debug, PartialEq, Eq)]
struct Stat {
    state: char,
    threads: u64,
    started: u64,
}

fn read_stat(pid: u32) -> io::Result<Stat> {
    let stat = fs::read(format!("/proc/{pid}/stat"))?;
    parse_stat(&String::from_utf8_lossy(&stat)).ok_or_else(|| io::ErrorKind::InvalidData.into())
}

/// Reads the line of `/proc/<pid>/stat`, whose second field is a name of any characters in parentheses (proc_pid_stat(5):
/// the state is field 3, the number of threads field 20, the start field 22).
fn parse_stat(stat: &str) -> Option<Stat> {
    let (_, fields) = stat.rsplit_once(')')?;
    let mut fields = fields.split_ascii_whitespace();
    Some(Stat {
        state: fields.next()?.chars().next()?,
        threads: fields.nth(20 - 4)?.parse().ok()?,
        started: fields.nth(22 - 21)?.parse().ok()?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_with_parentheses_hide_no_field() {
        let line =
            "42 (a) S (b)) R 1 42 42 0 -1 4194304 100 0 0 0 1 2 0 0 20 0 7 0 98765 1000 10 1";
        let stat = Stat {
            state: 'R',
            threads: 7,
            started: 98765,
        };
        assert_eq!(parse_stat(line), Some(stat));
        assert_eq!(parse_stat("42 (a"), None);
        assert_eq!(parse_stat("42 (a) R 1"), None);
    }

    #[test]
    #[cfg_attr(miri, ignore)] // reads /proc
    fn this_process_lives_and_others_with_its_number_do_not() {
        let own = own(1).unwrap();
        assert_eq!(life(&own), Life::Alive);
        let before = Holder {
            started: own.started + 1,
            ..own
        };
        assert_eq!(life(&before), Life::Replaced);
        let elsewhere = Holder {
            namespace: own.namespace + 1,
            ..own
        };
        assert_eq!(life(&elsewhere), Life::Unknown);
        // Above the largest number that Linux gives.
        let none = Holder {
            pid: 1 << 23,
            ..own
        };
        assert_eq!(life(&none), Life::Gone);
        assert!(!boot().unwrap().is_empty());
    }
}

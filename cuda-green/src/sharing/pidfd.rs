//! A file descriptor of a process: it names that one for good, where a number may become another's.

use std::{
    io,
    os::fd::{AsRawFd, FromRawFd, OwnedFd},
    ptr,
    time::{Duration, Instant},
};

use super::place::LONGEST_WAIT;

/// A process, alive or not (`pidfd_open(2)`, Linux 5.3).
#[derive(Debug)]
pub(super) struct PidFd(OwnedFd);

impl PidFd {
    pub(super) fn open(pid: u32) -> io::Result<Self> {
        let pid = libc::pid_t::try_from(pid).map_err(|_| io::ErrorKind::InvalidInput)?;
        // SAFETY: the call takes two numbers.
        let opened = unsafe { libc::syscall(libc::SYS_pidfd_open, pid, 0) };
        match libc::c_int::try_from(opened) {
            // SAFETY: the descriptor is new, and nobody else's.
            Ok(descriptor @ 0..) => Ok(Self(unsafe { OwnedFd::from_raw_fd(descriptor) })),
            _ => Err(io::Error::last_os_error()),
        }
    }

    /// Sends a signal. A process that has ended needs none, and that is no error.
    pub(super) fn signal(&self, signal: libc::c_int) -> io::Result<()> {
        let no_details = ptr::null::<libc::siginfo_t>();
        // SAFETY: the descriptor is open, and without details the kernel fills them in.
        let sent = unsafe {
            libc::syscall(
                libc::SYS_pidfd_send_signal,
                self.0.as_raw_fd(),
                signal,
                no_details,
                0,
            )
        };
        match io::Error::last_os_error() {
            error if sent != 0 && error.raw_os_error() != Some(libc::ESRCH) => Err(error),
            _ => Ok(()),
        }
    }

    /// Waits for the end of the process; returns whether it has ended.
    pub(super) fn wait(&self, patience: Duration) -> io::Result<bool> {
        let end = Instant::now() + patience.min(LONGEST_WAIT);
        loop {
            let left = end.saturating_duration_since(Instant::now());
            // Rounded up, so that the last wait is not one of no time.
            let left = left.as_micros().div_ceil(1000);
            let mut ended = libc::pollfd {
                fd: self.0.as_raw_fd(),
                events: libc::POLLIN,
                revents: 0,
            };
            // SAFETY: the array has one entry, which is valid for reading and writing.
            let found = unsafe { libc::poll(&mut ended, 1, left.min(1 << 30) as libc::c_int) };
            match found {
                0 => return Ok(false),
                1.. => return Ok(true),
                _ => match io::Error::last_os_error() {
                    error if error.kind() == io::ErrorKind::Interrupted => {}
                    error => return Err(error),
                },
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use super::*;

    #[test]
    #[cfg_attr(miri, ignore)] // starts a process
    fn a_process_is_signalled_and_its_end_is_seen() {
        let mut child = Command::new("sleep").arg("600").spawn().unwrap();
        let process = PidFd::open(child.id()).unwrap();
        assert!(!process.wait(Duration::ZERO).unwrap());
        assert!(!process.wait(Duration::from_millis(1)).unwrap());
        process.signal(libc::SIGKILL).unwrap();
        assert!(
            process.wait(Duration::MAX).unwrap(),
            "the clock has no such moment"
        );
        child.wait().unwrap();
        // Its number may be another's by now; the descriptor is not.
        process.signal(libc::SIGKILL).unwrap();
        assert!(process.wait(Duration::ZERO).unwrap());
        assert!(PidFd::open(1 << 23).is_err(), "above all numbers");
        assert!(PidFd::open(u32::MAX).is_err());
    }
}

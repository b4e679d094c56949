//! One set of SMs for several processes: a file with a byte to lock for each SM.

use std::{path::Path, time::Duration};

/// Has these SMs for a time. Who waits for an SM has those before it already, in one order in all processes, so that
/// nobody waits in a circle.
///
/// A file that cannot be opened or locked is a mistake of the test that names it, and ends in a panic of the kernel: the
/// launch fails.
#[cfg(target_os = "linux")]
#[allow(clippy::panic)] // becomes a failed launch
pub(crate) fn occupy(file: &Path, sms: &[u32], time: Duration) {
    use std::os::fd::AsRawFd;

    let opened = std::fs::OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .open(file);
    let opened = match opened {
        Ok(opened) => opened,
        Err(error) => panic!("{}: {error}", file.display()),
    };
    let mut sms = sms.to_vec();
    sms.sort_unstable();
    for sm in sms {
        // SAFETY: all fields are numbers, for which zero is a value.
        let mut lock: libc::flock = unsafe { std::mem::zeroed() };
        lock.l_type = libc::F_WRLCK as libc::c_short;
        lock.l_whence = libc::SEEK_SET as libc::c_short;
        lock.l_start = libc::off_t::from(sm);
        lock.l_len = 1;
        loop {
            // SAFETY: the descriptor is open, and the lock is valid for reading.
            if unsafe { libc::fcntl(opened.as_raw_fd(), libc::F_OFD_SETLKW, &lock) } == 0 {
                break;
            }
            let error = std::io::Error::last_os_error();
            if error.kind() != std::io::ErrorKind::Interrupted {
                panic!("{}: {error}", file.display());
            }
        }
    }
    std::thread::sleep(time);
}

/// Does nothing: there are no such locks.
#[cfg(not(target_os = "linux"))]
pub(crate) fn occupy(_: &Path, _: &[u32], _: Duration) {}

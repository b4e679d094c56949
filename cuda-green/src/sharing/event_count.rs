//! An event count in the file of claims: processes sleep until another one changes something, without polling.
//!
//! The kernel's futex needs a mapping of the file, and this program never touches it: reads and writes go through the
//! descriptor. So a file that was cut short is an error here, and no `SIGBUS`. The mapping has an open file of its own:
//! a forked child inherits it, and must not keep the description alive that has the locks.

use std::{
    fs::OpenOptions,
    io,
    os::{fd::AsRawFd, unix::fs::OpenOptionsExt},
    path::Path,
    ptr,
    sync::Arc,
    thread,
    time::{Duration, SystemTime},
};

use super::claims::Claims;
use crate::sharing_error::SharingError;

/// The longest time between two looks: for processes that were killed, and where futexes do not work.
pub(crate) const LONGEST_PAUSE: Duration = Duration::from_secs(1);

/// The event count of a file of claims.
#[derive(Debug)]
pub(crate) struct EventCount {
    claims: Arc<Claims>,
    mapping: Mapping,
}

/// A page of a file that is only waited on.
#[derive(Debug)]
struct Mapping {
    page: *mut libc::c_void,
    length: usize,
}

// SAFETY: the address is only given to the kernel, which every thread may do, until the value ends.
unsafe impl Send for Mapping {}
// SAFETY: as above.
unsafe impl Sync for Mapping {}

impl EventCount {
    /// Opens that of a file of claims.
    pub(super) fn open(claims: Arc<Claims>, path: &Path) -> Result<Self, SharingError> {
        let mapping = Mapping::of(path);
        let mapping = mapping.map_err(|error| claims.failed("mapping", error))?;
        Ok(Self { claims, mapping })
    }

    /// Returns the count now; none where it cannot be read. Look at files after this, and then wait.
    pub(crate) fn read(&self) -> Option<u32> {
        self.claims.read_count().ok()
    }

    /// Wakes all who wait, in every process.
    pub(crate) fn notify(&self) {
        // Any other value will do, so two at once do no harm. It depends on the time, so that it is none that was there
        // when a sleeper looked.
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
        let mixed = now.map_or(0, |now| now.subsec_nanos() ^ ((now.as_secs() as u32) << 20));
        let before = self.read();
        let count = if Some(mixed) == before { !mixed } else { mixed };
        if let Err(error) = self.claims.write_count(count) {
            log::error!("waking processes that share the device: {error}");
        }
        // SAFETY: the kernel takes the address as a name, and answers `EFAULT` where nothing is behind it.
        unsafe {
            libc::syscall(
                libc::SYS_futex,
                self.mapping.word(),
                libc::FUTEX_WAKE,
                libc::c_int::MAX,
            )
        };
    }

    /// Waits until the count is another one, but no longer than a pause; may return earlier.
    pub(crate) fn wait(&self, seen: Option<u32>, pause: Duration) {
        let pause = pause.min(LONGEST_PAUSE);
        let Some(seen) = seen else {
            return thread::sleep(pause);
        };
        let timeout = libc::timespec {
            tv_sec: pause.as_secs() as libc::time_t,
            tv_nsec: pause.subsec_nanos() as libc::c_long,
        };
        // SAFETY: as in `notify`; the time is valid for the call.
        let waited = unsafe {
            libc::syscall(
                libc::SYS_futex,
                self.mapping.word(),
                libc::FUTEX_WAIT,
                seen,
                &raw const timeout,
            )
        };
        if waited == 0 {
            return;
        }
        match io::Error::last_os_error().raw_os_error() {
            Some(libc::EAGAIN | libc::EINTR | libc::ETIMEDOUT) => {}
            // It cannot wait here, so it must not come back at once.
            _ => thread::sleep(pause),
        }
    }
}

impl Mapping {
    fn of(path: &Path) -> io::Result<Self> {
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .custom_flags(libc::O_NOFOLLOW | libc::O_NONBLOCK | libc::O_CLOEXEC)
            .open(path)?;
        let length = super::claims::COUNT_PLACE as usize + 4;
        // SAFETY: a new mapping, wherever the kernel likes.
        let page = unsafe {
            libc::mmap(
                ptr::null_mut(),
                length,
                libc::PROT_READ | libc::PROT_WRITE,
                libc::MAP_SHARED,
                file.as_raw_fd(),
                0,
            )
        };
        if page == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        Ok(Self { page, length })
    }

    /// Returns the address of the count, which nobody follows.
    fn word(&self) -> *mut u8 {
        self.page
            .cast::<u8>()
            .wrapping_add(super::claims::COUNT_PLACE as usize)
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: the mapping is this value's, also in a forked child, which has inherited it.
        unsafe { libc::munmap(self.page, self.length) };
    }
}

#[cfg(test)]
mod tests {
    use std::{
        fs::{self, File},
        time::Instant,
    };

    use super::*;
    use crate::sharing::{folder::Folder, store::tests::temporary};

    #[test]
    #[cfg_attr(miri, ignore)] // maps a file
    fn a_sleeper_wakes_at_a_change_and_a_short_file_ends_nobody() {
        let path = temporary("events");
        let folder = Folder::open(&path.join("shared")).unwrap();
        let file = path.join("shared/claims");
        let open = || {
            let claims = Arc::new(Claims::open(&folder, "claims").unwrap());
            EventCount::open(claims, &file).unwrap()
        };
        let (one, other) = (open(), open());
        thread::scope(|scope| {
            let sleeper = scope.spawn(|| {
                let seen = one.read();
                let begun = Instant::now();
                while one.read() == seen && begun.elapsed() < Duration::from_secs(20) {
                    one.wait(seen, LONGEST_PAUSE);
                }
                one.read() != seen
            });
            while !sleeper.is_finished() {
                other.notify();
                thread::sleep(Duration::from_millis(1));
            }
            assert!(sleeper.join().unwrap());
        });
        // What happened after the look ends the wait at once.
        let seen = one.read();
        other.notify();
        let begun = Instant::now();
        one.wait(seen, LONGEST_PAUSE);
        assert!(begun.elapsed() < LONGEST_PAUSE / 2);

        File::create(&file).unwrap(); // cut to nothing
        assert_eq!(one.read(), None);
        for seen in [seen, None] {
            let begun = Instant::now();
            one.wait(seen, Duration::from_millis(20));
            assert!(begun.elapsed() >= Duration::from_millis(20)); // it does not spin
        }
        one.notify();
        fs::remove_dir_all(&path).unwrap();
    }
}

//! A file's descriptor that a forked child does not keep, and locks that end with it.
//!
//! `FD_CLOEXEC` ends it where a child executes another program. A child that goes on with this one would share the open
//! file description, and with it the locks, also after the parent's end; so it closes the descriptor in a handler of
//! `pthread_atfork`. The handler may only do what is safe in a signal handler, so descriptors are in a table of atomics.

use std::{
    fs::{File, OpenOptions},
    io,
    mem::ManuallyDrop,
    os::{
        fd::{AsRawFd, FromRawFd, IntoRawFd},
        unix::fs::OpenOptionsExt,
    },
    path::Path,
    process,
    sync::{
        OnceLock,
        atomic::{AtomicI32, AtomicU32, Ordering::SeqCst},
    },
    thread,
    time::{Duration, Instant},
};

use crate::sharing_error::SharingError;

/// The most descriptors at once: one for each device that a process shares.
const MOST: usize = 64;

/// The longest fork by another thread that is waited for: of a process with much memory it takes a while.
const LONGEST_FORK: Duration = Duration::from_secs(20);

const UNUSED: i32 = -1;
/// Taken, and not open yet.
const TAKEN: i32 = -2;
/// Closed in a forked child.
const FORKED: i32 = -3;

static TABLE: [AtomicI32; MOST] = [const { AtomicI32::new(UNUSED) }; MOST];
/// Forks that have begun, and those of them that have ended.
static BEGUN: AtomicU32 = AtomicU32::new(0);
static ENDED: AtomicU32 = AtomicU32::new(0);

extern "C" fn before_fork() {
    BEGUN.fetch_add(1, SeqCst);
}

extern "C" fn after_fork_in_parent() {
    ENDED.fetch_add(1, SeqCst);
}

extern "C" fn after_fork_in_child() {
    for place in &TABLE {
        let descriptor = place.load(SeqCst);
        if descriptor >= 0 {
            place.store(FORKED, SeqCst);
            // SAFETY: the descriptor is this table's, and no one uses it: the child has this thread only.
            unsafe { libc::close(descriptor) };
        }
    }
    ENDED.store(BEGUN.load(SeqCst), SeqCst);
}

/// An open file of this process, and of no child.
#[derive(Debug)]
pub(super) struct Descriptor {
    place: &'static AtomicI32,
    owner: u32,
}

impl Descriptor {
    /// Opens a file for reading and writing.
    pub(super) fn open(path: &Path) -> Result<Self, SharingError> {
        let failed = |error| SharingError::Io {
            what: "opening",
            path: path.to_owned(),
            error,
        };
        watch_forks().map_err(failed)?;
        let take = |place: &&AtomicI32| {
            let taken = place.compare_exchange(UNUSED, TAKEN, SeqCst, SeqCst);
            taken.is_ok()
        };
        let place = TABLE.iter().find(take);
        let place = place.ok_or(SharingError::TooMany { most: MOST })?;
        let descriptor = Self {
            place,
            owner: process::id(),
        };
        // A fork between the opening and the entry in the table would leave the child a descriptor that its handler
        // does not know. Nothing is locked yet then: it is closed here, and opened again. A child's copy without a lock
        // of this description is harmless.
        let begin = Instant::now();
        while begin.elapsed() < LONGEST_FORK {
            let begun = BEGUN.load(SeqCst);
            if ENDED.load(SeqCst) != begun {
                thread::sleep(Duration::from_micros(100));
                continue;
            }
            let file = OpenOptions::new()
                .read(true)
                .write(true)
                .custom_flags(libc::O_NOFOLLOW | libc::O_NONBLOCK | libc::O_CLOEXEC)
                .open(path)
                .and_then(above_the_standard_ones)
                .map_err(failed)?;
            place.store(file.into_raw_fd(), SeqCst);
            if BEGUN.load(SeqCst) == begun {
                return Ok(descriptor);
            }
            close(place.swap(TAKEN, SeqCst));
        }
        Err(failed(io::ErrorKind::WouldBlock.into()))
    }

    /// Calls `action` with the file.
    pub(super) fn with<T>(&self, action: impl FnOnce(&File) -> io::Result<T>) -> io::Result<T> {
        let descriptor = self.raw()?;
        // SAFETY: the descriptor is open, and closed no earlier than this value ends; it is not closed here.
        let file = ManuallyDrop::new(unsafe { File::from_raw_fd(descriptor) });
        action(&file)
    }

    /// Returns whether this is the process that opened it.
    pub(super) fn is_own(&self) -> bool {
        self.raw().is_ok()
    }

    /// Takes the lock of some bytes, unless another open file has that of one of them.
    pub(super) fn try_lock(&self, start: i64, len: i64) -> io::Result<bool> {
        match self.control(libc::F_OFD_SETLK, libc::F_WRLCK, start, len) {
            Ok(_) => Ok(true),
            Err(error) if matches!(error.raw_os_error(), Some(libc::EAGAIN | libc::EACCES)) => {
                Ok(false)
            }
            Err(error) => Err(error),
        }
    }

    /// Gives locks of some bytes back.
    pub(super) fn unlock(&self, start: i64, len: i64) -> io::Result<()> {
        self.control(libc::F_OFD_SETLK, libc::F_UNLCK, start, len)
            .map(drop)
    }

    /// Returns whether another open file has a lock of one of these bytes.
    pub(super) fn is_locked_elsewhere(&self, start: i64, len: i64) -> io::Result<bool> {
        let found = self.control(libc::F_OFD_GETLK, libc::F_WRLCK, start, len)?;
        Ok(found != libc::F_UNLCK as libc::c_short)
    }

    fn control(
        &self,
        command: libc::c_int,
        kind: libc::c_int,
        start: i64,
        len: i64,
    ) -> io::Result<libc::c_short> {
        let descriptor = self.raw()?;
        // SAFETY: all fields are numbers, for which zero is a value.
        let mut lock: libc::flock = unsafe { std::mem::zeroed() };
        lock.l_type = kind as libc::c_short;
        lock.l_whence = libc::SEEK_SET as libc::c_short;
        lock.l_start = start as libc::off_t;
        lock.l_len = len as libc::off_t;
        loop {
            // SAFETY: the descriptor is open, and the lock is valid for reading and writing.
            if unsafe { libc::fcntl(descriptor, command, &mut lock) } >= 0 {
                return Ok(lock.l_type);
            }
            let error = io::Error::last_os_error();
            if error.kind() != io::ErrorKind::Interrupted {
                return Err(error);
            }
        }
    }

    fn raw(&self) -> io::Result<libc::c_int> {
        let descriptor = self.place.load(SeqCst);
        // The number as well: a child that was made by a bare system call runs no handler.
        if descriptor < 0 || self.owner != process::id() {
            return Err(io::Error::from_raw_os_error(libc::EBADF));
        }
        Ok(descriptor)
    }
}

impl Drop for Descriptor {
    fn drop(&mut self) {
        close(self.place.swap(UNUSED, SeqCst));
    }
}

/// Moves a file to a descriptor that nobody takes for a terminal: where a program has closed the standard ones, its log
/// would go into the file.
fn above_the_standard_ones(file: File) -> io::Result<File> {
    if file.as_raw_fd() > libc::STDERR_FILENO {
        return Ok(file);
    }
    let least = libc::STDERR_FILENO + 1;
    // SAFETY: the descriptor is open, and the call takes a number.
    let moved = unsafe { libc::fcntl(file.as_raw_fd(), libc::F_DUPFD_CLOEXEC, least) };
    if moved < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the descriptor was made above, for this value alone.
    Ok(unsafe { File::from_raw_fd(moved) })
}

fn close(descriptor: i32) {
    if descriptor >= 0 {
        // SAFETY: the descriptor came out of the table, so no one else closes it.
        unsafe { libc::close(descriptor) };
    }
}

/// Installs the handlers of forks, once.
fn watch_forks() -> io::Result<()> {
    static INSTALLED: OnceLock<i32> = OnceLock::new();
    let code = INSTALLED.get_or_init(|| {
        // SAFETY: the functions live as long as the process, and do only what is safe in a signal handler.
        unsafe {
            libc::pthread_atfork(
                Some(before_fork),
                Some(after_fork_in_parent),
                Some(after_fork_in_child),
            )
        }
    });
    match code {
        0 => Ok(()),
        code => Err(io::Error::from_raw_os_error(*code)),
    }
}

//! The file of claims: a record for each name of a plan, and behind them a byte to lock for each. At its head are the
//! count of events and the number of the plan that was announced last.
//!
//! It is made once and never replaced, as locks belong to the file and not to its path. All its bytes are written when
//! it is made, so that a full disk is found then, and not by a process that has a name already.

use std::{
    fs::{self, OpenOptions},
    io::{self, Write},
    os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt},
    path::PathBuf,
    process,
    sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering::SeqCst},
};

use super::{
    agreed_plan::MOST_NAMES,
    descriptor::Descriptor,
    folder::{Folder, distrust_file},
    record::{LENGTH, Record},
    steps::{SharingStep, reached},
};
use crate::sharing_error::SharingError;

const FIRST: &[u8] = b"cuda-green claims 1\n";
/// Bytes before the records.
const HEAD: usize = 64;
const LENGTH_OF_FILE: usize = HEAD + MOST_NAMES * LENGTH;
/// The place of the count of events, and that of the number that was announced last.
pub(super) const COUNT_PLACE: u64 = 32;
const ANNOUNCED_PLACE: u64 = 40;
/// The byte that whoever changes the plan locks, and behind it those of the names: beyond the file's end, where no one
/// reads or writes.
const CHANGES: i64 = 1 << 20;
const NAMES: i64 = CHANGES + 1;

/// The open file of claims of a device.
#[derive(Debug)]
pub(super) struct Claims {
    descriptor: Descriptor,
    path: PathBuf,
    /// A bit for each name whose lock this file has, or is about to take. An open file never refuses itself, so these
    /// bits keep threads of one manager apart.
    taken: AtomicU64,
    /// Those of them that were kept.
    kept: AtomicU64,
    /// Whether this file has the lock of changes.
    changes: AtomicBool,
}

/// The lock of some bytes, given back at its end.
pub(super) struct Locked<'a> {
    claims: &'a Claims,
    what: What,
}

/// What is locked.
#[derive(Clone, Copy)]
enum What {
    Changes,
    AllNames,
    Name(usize),
}

impl What {
    /// Returns the first byte, and their number.
    fn bytes(self) -> (i64, i64) {
        match self {
            Self::Changes => (CHANGES, 1),
            Self::AllNames => (NAMES, MOST_NAMES as i64),
            Self::Name(index) => (NAMES + index as i64, 1),
        }
    }
}

impl Claims {
    /// Opens the file, which is made where it is missing.
    pub(super) fn open(folder: &Folder, name: &str) -> Result<Self, SharingError> {
        let path = folder.shown(name);
        let failed = |error| SharingError::Io {
            what: "making",
            path: path.clone(),
            error,
        };
        let within = folder.within(name);
        if fs::symlink_metadata(&within).is_err() {
            make(folder, name).map_err(failed)?;
        }
        let claims = Self {
            descriptor: Descriptor::open(&within).map_err(|error| match error {
                SharingError::Io { what, error, .. } => SharingError::Io {
                    what,
                    path: path.clone(),
                    error,
                },
                other => other,
            })?,
            path: path.clone(),
            taken: AtomicU64::new(0),
            kept: AtomicU64::new(0),
            changes: AtomicBool::new(false),
        };
        let mut head = [0; FIRST.len()];
        let found = claims.descriptor.with(|file| {
            let found = file.metadata()?;
            if found.len() == LENGTH_OF_FILE as u64 {
                file.read_exact_at(&mut head, 0)?;
            }
            Ok(found)
        });
        let found = found.map_err(|error| claims.failed("reading", error))?;
        let problem = distrust_file(&found).or_else(|| {
            let is_own = head == FIRST;
            (!is_own).then(|| "it is damaged, or another version of cuda-green made it".to_owned())
        });
        match problem {
            Some(problem) => Err(SharingError::File { path, problem }),
            None => Ok(claims),
        }
    }

    /// Locks the plan against changes by others; returns none where another has the lock.
    pub(super) fn try_lock_changes(&self) -> Result<Option<Locked<'_>>, SharingError> {
        self.try_lock(What::Changes)
    }

    /// Locks all names; returns none where another process has one.
    pub(super) fn try_lock_all(&self) -> Result<Option<Locked<'_>>, SharingError> {
        self.try_lock(What::AllNames)
    }

    /// Locks a name; returns none where another has it, or this file keeps it.
    pub(super) fn try_lock_name(&self, index: usize) -> Result<Option<Locked<'_>>, SharingError> {
        self.try_lock(What::Name(index))
    }

    /// Returns whether this file keeps a name. In a forked child it keeps none.
    pub(super) fn is_held_here(&self, index: usize) -> bool {
        self.is_own() && self.kept.load(SeqCst) & bit(index) != 0
    }

    /// Returns whether anyone has the lock of a name, or is about to take it in this file.
    pub(super) fn is_taken(&self, index: usize) -> Result<bool, SharingError> {
        Ok(self.taken.load(SeqCst) & bit(index) != 0 || self.is_held_elsewhere(index)?)
    }

    /// Returns whether another open file has the lock of a name.
    pub(super) fn is_held_elsewhere(&self, index: usize) -> Result<bool, SharingError> {
        let held = self.descriptor.is_locked_elsewhere(NAMES + index as i64, 1);
        held.map_err(|error| self.failed("asking for locks of", error))
    }

    fn try_lock(&self, what: What) -> Result<Option<Locked<'_>>, SharingError> {
        if !self.take(what) {
            return Ok(None);
        }
        let (start, len) = what.bytes();
        let locked = self.descriptor.try_lock(start, len);
        if !matches!(locked, Ok(true)) {
            self.let_go(what);
        }
        let locked = locked.map_err(|error| self.failed("locking", error))?;
        Ok(locked.then_some(Locked { claims: self, what }))
    }

    /// Takes something for a thread of this process, unless another one has it by this file.
    fn take(&self, what: What) -> bool {
        match what {
            What::Changes => !self.changes.swap(true, SeqCst),
            What::AllNames => {
                let taken = self.taken.compare_exchange(0, u64::MAX, SeqCst, SeqCst);
                taken.is_ok()
            }
            What::Name(index) => self.taken.fetch_or(bit(index), SeqCst) & bit(index) == 0,
        }
    }

    fn let_go(&self, what: What) {
        match what {
            What::Changes => self.changes.store(false, SeqCst),
            What::AllNames => self.taken.store(0, SeqCst),
            What::Name(index) => {
                self.taken.fetch_and(!bit(index), SeqCst);
            }
        }
    }

    /// Gives the lock of a name back that was kept.
    pub(super) fn unlock_name(&self, index: usize) -> Result<(), SharingError> {
        let unlocked = self.descriptor.unlock(NAMES + index as i64, 1);
        // Not before: a claim by another thread of this process must not be unlocked with this one.
        self.kept.fetch_and(!bit(index), SeqCst);
        self.let_go(What::Name(index));
        unlocked.map_err(|error| self.failed("unlocking", error))
    }

    pub(super) fn read(&self, index: usize) -> Result<Record, SharingError> {
        let mut bytes = [0; LENGTH];
        // Another process may be writing it.
        for _ in 0..3 {
            let read = self
                .descriptor
                .with(|file| file.read_exact_at(&mut bytes, place(index)));
            read.map_err(|error| self.failed("reading", error))?;
            match Record::of_bytes(&bytes) {
                Record::Damaged => std::thread::yield_now(),
                record => return Ok(record),
            }
        }
        Ok(Record::Damaged)
    }

    /// Writes a record. The caller has the name's lock.
    pub(super) fn write(&self, index: usize, record: Record) -> Result<(), SharingError> {
        let bytes = record.to_bytes();
        let written = self
            .descriptor
            .with(|file| file.write_all_at(&bytes, place(index)));
        written.map_err(|error| self.failed("writing", error))
    }

    /// Returns the count of events.
    pub(super) fn read_count(&self) -> Result<u32, SharingError> {
        let mut bytes = [0; 4];
        let read = self
            .descriptor
            .with(|file| file.read_exact_at(&mut bytes, COUNT_PLACE));
        read.map_err(|error| self.failed("reading", error))?;
        Ok(u32::from_ne_bytes(bytes)) // the kernel compares it as this machine has it
    }

    pub(super) fn write_count(&self, count: u32) -> Result<(), SharingError> {
        let bytes = count.to_ne_bytes();
        let written = self
            .descriptor
            .with(|file| file.write_all_at(&bytes, COUNT_PLACE));
        written.map_err(|error| self.failed("writing", error))
    }

    /// Returns the number of the plan that was announced last.
    pub(super) fn read_announced(&self) -> Result<u64, SharingError> {
        let mut bytes = [0; 8];
        let read = self
            .descriptor
            .with(|file| file.read_exact_at(&mut bytes, ANNOUNCED_PLACE));
        read.map_err(|error| self.failed("reading", error))?;
        Ok(u64::from_le_bytes(bytes))
    }

    /// Notes the number of a plan that will be announced. The caller has the lock of changes.
    pub(super) fn write_announced(&self, number: u64) -> Result<(), SharingError> {
        let bytes = number.to_le_bytes();
        let written = self
            .descriptor
            .with(|file| file.write_all_at(&bytes, ANNOUNCED_PLACE));
        written.map_err(|error| self.failed("writing", error))
    }

    /// Returns whether this is the process that opened the file, and no child of it.
    pub(super) fn is_own(&self) -> bool {
        self.descriptor.is_own()
    }

    /// Ensures that the file is still the one of its path: after its removal others would lock another one.
    pub(super) fn check_in_place(&self, folder: &Folder, name: &str) -> Result<(), SharingError> {
        let in_place = folder.is_in_place();
        if !in_place.map_err(|error| self.failed("reading the folder of", error))? {
            return Err(SharingError::File {
                path: self.path.clone(),
                problem: "its folder was moved or removed while processes hold the device by it"
                    .to_owned(),
            });
        }
        let own = self
            .descriptor
            .with(|file| file.metadata())
            .map_err(|error| self.failed("reading", error))?;
        let there = fs::symlink_metadata(folder.within(name));
        let there = there.map_err(|error| self.failed("reading", error))?;
        if (own.dev(), own.ino()) == (there.dev(), there.ino()) {
            return Ok(());
        }
        Err(SharingError::File {
            path: self.path.clone(),
            problem: "it was replaced while processes hold the device by it".to_owned(),
        })
    }

    pub(super) fn failed(&self, what: &'static str, error: io::Error) -> SharingError {
        if error.raw_os_error() == Some(libc::EBADF) && !self.is_own() {
            return SharingError::Forked;
        }
        SharingError::Io {
            what,
            path: self.path.clone(),
            error,
        }
    }
}

impl Locked<'_> {
    /// Keeps the lock of a name until that is given back, or the file is closed.
    pub(super) fn keep(self, index: usize) {
        self.claims.kept.fetch_or(bit(index), SeqCst);
        std::mem::forget(self);
    }
}

impl Drop for Locked<'_> {
    fn drop(&mut self) {
        let (start, len) = self.what.bytes();
        let unlocked = self.claims.descriptor.unlock(start, len);
        self.claims.let_go(self.what);
        if let Err(error) = unlocked {
            log::error!("unlocking {}: {error}", self.claims.path.display());
        }
    }
}

fn bit(index: usize) -> u64 {
    1 << index.min(MOST_NAMES - 1)
}

/// Returns the place of a record in the file.
fn place(index: usize) -> u64 {
    (HEAD + index.min(MOST_NAMES - 1) * LENGTH) as u64
}

/// Makes the file under a name of its own, and gives it the right one unless another process was faster.
fn make(folder: &Folder, name: &str) -> io::Result<()> {
    static MADE: AtomicU32 = AtomicU32::new(0);
    let number = MADE.fetch_add(1, SeqCst);
    let beside = folder.within(&format!("{name}.{}.{number}.new", process::id()));
    let _ = fs::remove_file(&beside); // of a killed process of this number
    let mut bytes = vec![0; LENGTH_OF_FILE];
    for (place, byte) in bytes.iter_mut().zip(FIRST) {
        *place = *byte;
    }
    let made = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .custom_flags(libc::O_NOFOLLOW | libc::O_CLOEXEC)
        .open(&beside)
        .and_then(|mut file| {
            file.write_all(&bytes)?;
            file.sync_all()
        })
        .and_then(|()| match fs::hard_link(&beside, folder.within(name)) {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
            linked => linked,
        });
    let removed = fs::remove_file(&beside);
    made.and(removed)?;
    folder.sync()
}

/// Clears a name's record and gives its lock back.
pub(super) fn give_back(claims: &Claims, index: usize) {
    if !claims.is_own() {
        return; // a forked child has nothing to give back
    }
    reached(SharingStep::Leaving);
    let cleared = claims.write(index, Record::Clear);
    reached(SharingStep::RecordCleared);
    if let Err(error) = cleared.and_then(|()| claims.unlock_name(index)) {
        log::error!("giving a name of the plan among processes back: {error}");
    }
}

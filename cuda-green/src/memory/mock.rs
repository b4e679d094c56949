//! A mock of the pool for tests without a driver: the same accounting over the host's memory.

use std::{
    fmt,
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
};

use super::{
    MemoryBuffer, MemoryPool, MemoryPressure,
    budget::account::{Account, Limit},
    memory_budget::check_limit,
    pool::no_bytes,
};
use crate::{
    error::{Error, Result},
    sync::Mutex,
};

/// [`GpuMemoryPool`](super::GpuMemoryPool) for tests, without a driver, not even a simulated one. Bytes that
/// are never written take no memory, so that limits of many GiB cost nothing.
///
/// ```
/// use cuda_green::{MemoryBuffer, MemoryPool, MockGpuMemoryPool};
///
/// fn embed(pool: &impl MemoryPool) -> cuda_green::Result<u8> {
///     let buffer = pool.allocate(1000)?;
///     buffer.fill(7)?;
///     let mut first = [0];
///     buffer.copy_to(&mut first)?;
///     Ok(first[0])
/// }
///
/// let pool = MockGpuMemoryPool::new(0, 8 << 30)?;
/// assert_eq!(embed(&pool)?, 7);
/// pool.fail_next(1);
/// assert!(embed(&pool).is_err());
/// assert_eq!(pool.used(), 0);
/// # Ok::<(), cuda_green::Error>(())
/// ```
#[derive(Clone)]
pub struct MockGpuMemoryPool {
    state: Arc<MockState>,
}

struct MockState {
    account: Account<()>,
    failures: AtomicU32,
}

/// A buffer of a [`MockGpuMemoryPool`].
pub struct MockGpuBuffer {
    pool: MockGpuMemoryPool,
    len: usize,
    /// The bytes up to the last one written.
    bytes: Mutex<Vec<u8>>,
}

impl MockGpuMemoryPool {
    /// Creates a pool with a limit. The device need not exist.
    ///
    /// # Errors
    /// [`Error::InvalidArgument`] for a limit of 0.
    pub fn new(_device_id: u32, limit_bytes: u64) -> Result<Self> {
        check_limit(limit_bytes)?;
        Ok(Self {
            state: Arc::new(MockState {
                account: Account::new(&Limit::new(limit_bytes), [()]),
                failures: AtomicU32::new(0),
            }),
        })
    }

    /// Makes the next `count` allocations fail as if the device had no more memory.
    pub fn fail_next(&self, count: u32) {
        self.state.failures.store(count, Ordering::Relaxed);
    }
}

impl MemoryPool for MockGpuMemoryPool {
    type Buffer = MockGpuBuffer;

    fn check_availability() -> Result<()> {
        Ok(())
    }

    fn allocate(&self, size: usize) -> Result<MockGpuBuffer> {
        if size == 0 {
            return Err(no_bytes());
        }
        let fail = self
            .state
            .failures
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| {
                left.checked_sub(1)
            });
        if fail.is_ok() {
            return Err(Error::DeviceOutOfMemory {
                asked: size as u64,
                free: Some(0),
                // There is no device; all that is known is that it is full.
                total: match self.limit() {
                    u64::MAX => self.used(),
                    limit => limit,
                },
            });
        }
        drop(self.state.account.charge(0, size as u64)?);
        Ok(MockGpuBuffer {
            pool: self.clone(),
            len: size,
            bytes: Mutex::default(),
        })
    }

    fn deallocate(&self, buffer: MockGpuBuffer) -> Result<()> {
        if Arc::ptr_eq(&self.state, &buffer.pool.state) {
            Ok(())
        } else {
            Err(Error::ForeignBuffer)
        }
    }

    fn limit(&self) -> u64 {
        self.state.account.limit().figures().limit
    }

    fn used(&self) -> u64 {
        self.state.account.limit().figures().used
    }

    fn available(&self) -> u64 {
        self.state.account.limit().figures().available
    }

    fn high_water_mark(&self) -> u64 {
        self.state.account.limit().figures().high
    }

    fn pressure_level(&self) -> MemoryPressure {
        MemoryPressure::of(self.used(), self.limit())
    }
}

impl MockGpuBuffer {
    fn check(&self, source_len: usize) -> Result<()> {
        if source_len > self.len {
            return Err(Error::LengthMismatch {
                source_len,
                buffer_len: self.len,
            });
        }
        Ok(())
    }
}

impl MemoryBuffer for MockGpuBuffer {
    fn len(&self) -> usize {
        self.len
    }

    fn copy_from(&self, source: &[u8]) -> Result<()> {
        self.check(source.len())?;
        let mut bytes = self.bytes.lock();
        let len = bytes.len().max(source.len());
        bytes.resize(len, 0);
        bytes[..source.len()].copy_from_slice(source);
        Ok(())
    }

    fn copy_to(&self, destination: &mut [u8]) -> Result<()> {
        self.check(destination.len())?;
        let bytes = self.bytes.lock();
        let written = bytes.len().min(destination.len());
        destination[..written].copy_from_slice(&bytes[..written]);
        destination[written..].fill(0);
        Ok(())
    }

    fn fill(&self, byte: u8) -> Result<()> {
        *self.bytes.lock() = vec![byte; self.len];
        Ok(())
    }
}

impl Drop for MockGpuBuffer {
    fn drop(&mut self) {
        self.pool.state.account.refund(0, self.len as u64, |()| ());
    }
}

impl fmt::Debug for MockGpuMemoryPool {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MockGpuMemoryPool")
            .field("limit", &self.limit())
            .field("used", &self.used())
            .finish()
    }
}

impl fmt::Debug for MockGpuBuffer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MockGpuBuffer")
            .field("len", &self.len)
            .finish_non_exhaustive()
    }
}

//! Memory budgets: limits that stand over those of several pools.

use std::{fmt, sync::Arc};

use super::{
    MemoryPressure, PoolMetrics, PressureChange, alloc::thread_cache::ThreadCache,
    budget::account::Limit,
};
use crate::error::{Error, Result};

/// A limit in bytes over those of several pools, for example a device's over its contexts'. Cheap to clone; all clones
/// are the same budget.
///
/// ```
/// use cuda_green::{Driver, GpuMemoryPool, MemoryBudget};
///
/// # fn main() -> cuda_green::Result<()> {
/// let device = Driver::open(&"sim:h200@13.0".parse()?)?.device(0)?;
/// let budget = MemoryBudget::new(10 << 30)?;
/// let embedding = GpuMemoryPool::within(&device, &budget, 8 << 30)?;
/// let dream = GpuMemoryPool::within(&device, &budget, 8 << 30)?;
/// let weights = embedding.allocate(7 << 30)?;
/// assert_eq!(dream.available(), 3 << 30);
/// assert!(dream.allocate(4 << 30).is_err());
/// drop(weights);
/// assert_eq!(dream.available(), 8 << 30);
/// # Ok(())
/// # }
/// ```
#[derive(Clone)]
pub struct MemoryBudget(pub(crate) Limit<ThreadCache>);

impl MemoryBudget {
    /// Creates a budget of `limit_bytes`. `u64::MAX` is no limit.
    ///
    /// # Errors
    /// [`Error::InvalidArgument`] for 0.
    pub fn new(limit_bytes: u64) -> Result<Self> {
        check_limit(limit_bytes)?;
        Ok(Self(Limit::new(limit_bytes)))
    }

    /// Creates a budget within this one.
    ///
    /// # Errors
    /// [`Error::InvalidArgument`] for 0.
    pub fn child(&self, limit_bytes: u64) -> Result<Self> {
        check_limit(limit_bytes)?;
        Ok(Self(self.0.child(limit_bytes)))
    }

    /// Creates a budget within this one whose bytes are charged to this one now, and refunded with the last of its
    /// handles and pools.
    ///
    /// # Errors
    /// [`Error::OutOfMemory`]; [`Error::InvalidArgument`] for 0.
    pub fn reserve(&self, bytes: u64) -> Result<Self> {
        check_limit(bytes)?;
        Ok(Self(self.0.reserve(bytes)?))
    }

    /// Returns the limit in bytes.
    pub fn limit(&self) -> u64 {
        self.0.figures().limit
    }

    /// Returns the bytes in use, including reservations.
    pub fn used(&self) -> u64 {
        self.0.figures().used
    }

    /// Returns the bytes left under this limit and all above it.
    pub fn available(&self) -> u64 {
        self.0.figures().available
    }

    /// Returns the bytes that reservations hold.
    pub fn reserved(&self) -> u64 {
        self.0.figures().reserved
    }

    /// Returns the most bytes in use at once, as
    /// [`GpuMemoryPool::high_water_mark`](super::GpuMemoryPool::high_water_mark) does.
    pub fn high_water_mark(&self) -> u64 {
        self.0.figures().high
    }

    /// Returns all figures of the limit; those of memory are zero, since a budget has none.
    pub fn metrics(&self) -> PoolMetrics {
        self.0.figures().into()
    }

    /// Returns how full the budget is.
    pub fn pressure_level(&self) -> MemoryPressure {
        let figures = self.0.figures();
        MemoryPressure::of(figures.used, figures.limit)
    }

    /// Registers a callback for changes of the level of pressure, as
    /// [`GpuMemoryPool::on_pressure`](super::GpuMemoryPool::on_pressure).
    pub fn on_pressure(&self, callback: impl Fn(PressureChange) + Send + Sync + 'static) {
        self.0.watch(Arc::new(callback));
    }
}

/// Refuses a limit of 0.
pub(super) fn check_limit(limit_bytes: u64) -> Result<()> {
    if limit_bytes > 0 {
        return Ok(());
    }
    Err(Error::InvalidArgument {
        name: "limit_bytes",
        value: "0".into(),
        reason: "no buffer would fit; u64::MAX means no limit",
    })
}

impl fmt::Debug for MemoryBudget {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MemoryBudget")
            .field("limit", &self.limit())
            .field("used", &self.used())
            .finish()
    }
}

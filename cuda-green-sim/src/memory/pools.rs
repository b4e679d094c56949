//! Stream-ordered pools.

use cuda_green_sys::CUresult;

use super::{Memory, accounted};
use crate::{c_args::Answer, leaks::MadeAt};

/// Pools grow, and are limited, in steps of this many bytes (measured on an H200, driver 580).
pub(super) const POOL_STEP: u64 = 32 << 20;

/// A stream-ordered pool.
pub(crate) struct Pool {
    pub(crate) device: usize,
    /// The limit in bytes, in whole steps; `None` for no limit.
    limit: Option<u64>,
    /// Bytes requested, which is what a pool reports (measured on an H200, driver 580).
    pub(crate) used: u64,
    /// The same, including alignment.
    taken: u64,
    pub(crate) used_high: u64,
    pub(crate) reserved: u64,
    pub(crate) reserved_high: u64,
    pub(crate) release_threshold: u64,
    /// The three reuse policies, in the order of their attributes; all on by default.
    pub(crate) reuse: [i32; 3],
    /// Destroyed by the client, but kept until its last allocation is freed.
    destroyed: bool,
    /// A device's default pool, which cannot be destroyed.
    default: bool,
    pub(super) made_at: MadeAt,
}

impl Pool {
    /// Returns whether it is alive and not a device's default pool.
    pub(super) fn is_the_clients(&self) -> bool {
        !self.destroyed && !self.default
    }
}

impl Memory {
    /// Creates a pool under this id. The limit is rounded up to whole steps, even that of a single byte, and 0 means
    /// no limit (measured on an H200, driver 580).
    pub(crate) fn create_pool(&mut self, id: u64, device: usize, max_size: u64) {
        let limit = (max_size > 0)
            .then(|| max_size.checked_next_multiple_of(POOL_STEP))
            .flatten();
        self.pools.insert(
            id,
            Pool {
                device,
                limit,
                used: 0,
                taken: 0,
                used_high: 0,
                reserved: 0,
                reserved_high: 0,
                release_threshold: 0,
                reuse: [1; 3],
                destroyed: false,
                default: false,
                made_at: MadeAt::now(),
            },
        );
    }

    /// Creates a device's default pool: it has no limit.
    pub(crate) fn create_default_pool(&mut self, id: u64, device: usize) {
        self.create_pool(id, device, 0);
        if let Some(pool) = self.pools.get_mut(&id) {
            pool.default = true;
        }
    }

    pub(crate) fn pool(&mut self, id: u64) -> Result<&mut Pool, CUresult> {
        self.pools
            .get_mut(&id)
            .filter(|pool| !pool.destroyed)
            .ok_or(CUresult::CUDA_ERROR_INVALID_VALUE)
    }

    pub(crate) fn destroy_pool(&mut self, id: u64) -> Answer {
        let pool = self.pool(id)?;
        if pool.default {
            // The code is not measured.
            return Err(CUresult::CUDA_ERROR_INVALID_VALUE);
        }
        pool.destroyed = true;
        if pool.used == 0 {
            let (device, reserved) = (pool.device, pool.reserved);
            self.pools.remove(&id);
            self.discharge(device, reserved);
        }
        Ok(())
    }

    /// Allocates from a pool. Zero bytes succeed, as measured, and return a null address.
    pub(crate) fn allocate_from_pool(&mut self, id: u64, len: u64) -> Result<u64, CUresult> {
        let pool = self.pool(id)?;
        if len == 0 {
            return Ok(0);
        }
        let full = CUresult::CUDA_ERROR_OUT_OF_MEMORY;
        let (device, reserved) = (pool.device, pool.reserved);
        let taken = pool.taken.checked_add(accounted(len)?).ok_or(full)?;
        let needed = taken.checked_next_multiple_of(POOL_STEP).ok_or(full)?;
        if pool.limit.is_some_and(|limit| taken > limit) {
            return Err(full);
        }
        if needed > reserved {
            self.charge(device, needed - reserved)?;
        }
        let pool = self.pool(id)?;
        pool.taken = taken;
        pool.used += len;
        pool.used_high = pool.used_high.max(pool.used);
        pool.reserved = pool.reserved.max(needed);
        pool.reserved_high = pool.reserved_high.max(pool.reserved);
        Ok(self.place(device, len, Some(id)))
    }

    /// Releases a pool's unused memory, down to `keep` bytes.
    pub(crate) fn trim_pool(&mut self, id: u64, keep: u64) -> Answer {
        let pool = self.pool(id)?;
        let used = pool.taken.next_multiple_of(POOL_STEP);
        let keep = keep.checked_next_multiple_of(POOL_STEP).unwrap_or(u64::MAX);
        let reserved = used.max(keep).min(pool.reserved);
        let (device, given_back) = (pool.device, pool.reserved - reserved);
        pool.reserved = reserved;
        self.discharge(device, given_back);
        Ok(())
    }

    /// Trims every pool of a device to its release threshold, as a synchronisation does.
    pub(crate) fn release_unused(&mut self, device: usize) {
        let pools: Vec<(u64, u64)> = self
            .pools
            .iter()
            .filter(|(_, pool)| pool.device == device && !pool.destroyed)
            .map(|(id, pool)| (*id, pool.release_threshold))
            .collect();
        for (id, threshold) in pools {
            // The pool was found above, so this cannot fail.
            let _ = self.trim_pool(id, threshold);
        }
    }

    /// Frees an allocation of a pool: its bytes as requested, and including alignment. The last one ends a pool that
    /// was destroyed.
    pub(super) fn free_to_pool(&mut self, id: u64, asked: u64, bytes: u64) {
        let Some(pool) = self.pools.get_mut(&id) else {
            return;
        };
        pool.used -= asked;
        pool.taken -= bytes;
        if pool.destroyed && pool.used == 0 {
            let (device, reserved) = (pool.device, pool.reserved);
            self.pools.remove(&id);
            self.discharge(device, reserved);
        }
    }
}

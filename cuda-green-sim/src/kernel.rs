//! Kernels: host functions that stand in for device code, and their view of a launch.

mod access;

use std::{
    fmt,
    sync::{Arc, OnceLock, atomic::AtomicBool},
    time::Duration,
};

use crate::{
    memory::{Fault, Memory},
    sync::RwLock,
};

/// A host function that runs in place of a kernel.
#[derive(Clone)]
pub(crate) struct Kernel {
    pub(crate) run: Arc<dyn Fn(&Launch<'_>) + Send + Sync>,
    /// Whether it runs on a thread of its own, and not within the launch.
    pub(crate) concurrent: bool,
}

/// A function that returns the cost of a kernel's blocks.
pub(crate) type Cost = Arc<dyn Fn(&Launch<'_>) -> BlockCost + Send + Sync>;

/// The cost of one block of a kernel, in virtual time.
///
/// Blocks that share an SM slow each other down once their loads add up to more than 1.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct BlockCost {
    pub(crate) time: Duration,
    pub(crate) load: f64,
}

impl BlockCost {
    /// Makes a block that keeps a whole SM busy for this long: two of them together take twice as long.
    pub fn busy(time: Duration) -> Self {
        Self { time, load: 1.0 }
    }

    /// Makes a block that occupies its place for this long and slows no other down.
    pub fn idle(time: Duration) -> Self {
        Self { time, load: 0.0 }
    }

    /// Makes a block that takes this long when alone and keeps this part of an SM busy, from 0 to 1. Values outside
    /// are clamped.
    pub fn with_load(time: Duration, load: f64) -> Self {
        let load = if load > 0.0 { load.min(1.0) } else { 0.0 };
        Self { time, load }
    }
}

/// One launch, as seen by the function registered for its kernel.
///
/// An access to memory that is not allocated has the same result as on a GPU: the launch fails, and so does every
/// later call to the driver (`CUDA_ERROR_ILLEGAL_ADDRESS`). So it is for one that is not aligned
/// (`CUDA_ERROR_MISALIGNED_ADDRESS`) and for an atomic update of the host's memory (`CUDA_ERROR_INVALID_ADDRESS_SPACE`).
///
/// The function may lend it to other threads, which then stand for several warps.
pub struct Launch<'a> {
    pub(crate) name: &'a str,
    pub(crate) grid: [u32; 3],
    pub(crate) block: [u32; 3],
    pub(crate) shared_bytes: u32,
    pub(crate) cluster: [u32; 3],
    pub(crate) sm_ids: &'a [u32],
    pub(crate) args: &'a [Vec<u8>],
    pub(crate) memory: &'a RwLock<Memory>,
    /// The first access that failed.
    pub(crate) fault: OnceLock<Fault>,
    /// Whether the kernel was stopped; `None` where it runs within the call that launches it.
    pub(crate) stopped: Option<&'a AtomicBool>,
}

impl fmt::Debug for Launch<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Launch")
            .field("name", &self.name)
            .field("grid", &self.grid)
            .field("block", &self.block)
            .field("sm_ids", &self.sm_ids)
            .finish_non_exhaustive()
    }
}

impl Launch<'_> {
    /// Returns the kernel's name in its module.
    pub fn name(&self) -> &str {
        self.name
    }

    /// Returns the blocks in x, y and z.
    pub fn grid(&self) -> [u32; 3] {
        self.grid
    }

    /// Returns the threads of a block in x, y and z.
    pub fn block(&self) -> [u32; 3] {
        self.block
    }

    /// Returns the number of blocks in the grid.
    pub fn block_count(&self) -> u64 {
        self.grid.iter().map(|n| u64::from(*n)).product()
    }

    /// Returns the dynamic shared memory of a block, in bytes.
    pub fn shared_bytes(&self) -> u32 {
        self.shared_bytes
    }

    /// Returns the blocks of a thread-block cluster in x, y and z; 1 in each if the launch has no clusters.
    pub fn cluster(&self) -> [u32; 3] {
        self.cluster
    }

    /// Returns the ids of the SMs that the launch may run on, in ascending order.
    pub fn sm_ids(&self) -> &[u32] {
        self.sm_ids
    }

    /// Returns how many blocks run on each SM when they are dealt out in turn, as (SM id, blocks). SMs without a
    /// block are left out.
    pub fn blocks_by_sm(&self) -> impl Iterator<Item = (u32, u64)> + '_ {
        let blocks = self.block_count();
        let sms = self.sm_ids.len().max(1) as u64;
        (0_u64..)
            .zip(self.sm_ids)
            .map(move |(turn, sm)| (*sm, blocks / sms + u64::from(turn < blocks % sms)))
            .filter(|(_, blocks)| *blocks > 0)
    }

    /// Returns the bytes of a parameter, if the kernel has that many.
    pub fn arg(&self, index: usize) -> Option<&[u8]> {
        self.args.get(index).map(Vec::as_slice)
    }

    /// Returns a parameter of four bytes.
    pub fn arg_u32(&self, index: usize) -> Option<u32> {
        Some(u32::from_ne_bytes(self.arg(index)?.try_into().ok()?))
    }

    /// Returns a parameter of eight bytes: a number, or a device pointer.
    pub fn arg_u64(&self, index: usize) -> Option<u64> {
        Some(u64::from_ne_bytes(self.arg(index)?.try_into().ok()?))
    }
}

/// Returns the kernels that every driver has, by the name of their entry point.
pub(crate) fn built_in() -> Vec<(&'static str, Kernel)> {
    let sm_ids = Kernel {
        run: Arc::new(sm_ids),
        concurrent: false,
    };
    vec![("cuda_green_sm_ids", sm_ids)]
}

/// Runs `cuda_green_sm_ids(out: *u32, len: u32, spin_ns: u32)`: each block adds 1 to `out[its SM's id]`, if `out` is
/// long enough.
fn sm_ids(launch: &Launch<'_>) {
    let (Some(out), Some(len)) = (launch.arg_u64(0), launch.arg_u32(1)) else {
        return;
    };
    for (sm, blocks) in launch.blocks_by_sm().filter(|(sm, _)| *sm < len) {
        let address = out.wrapping_add(u64::from(sm) * 4);
        // A counter of 32 bits wraps on a GPU too.
        if launch.add_anywhere(address, blocks as u32).is_err() {
            return;
        }
    }
}

/// Returns the costs of the built-in kernels, and of `cuda_green_burn`, which has no effect but its cost.
pub(crate) fn built_in_costs() -> Vec<(&'static str, Cost)> {
    vec![
        ("cuda_green_sm_ids", Arc::new(spin)),
        ("cuda_green_burn", Arc::new(burn)),
    ]
}

/// Returns the cost of `cuda_green_sm_ids(out, len, spin_ns)`: each block stays for `spin_ns`.
fn spin(launch: &Launch<'_>) -> BlockCost {
    BlockCost::idle(Duration::from_nanos(
        launch.arg_u32(2).unwrap_or_default().into(),
    ))
}

/// Returns the cost of `cuda_green_burn(out, rounds)`, which does arithmetic. A block of 1024 threads takes 155 us
/// for 20,000 rounds, launch and synchronisation included, two on one SM 295 us, eight 1,145 us (measured on an
/// H200): 7.1 ns a round. Smaller blocks need less of the SM, down to the length of the chain of operations, for
/// which 2.2 ns a round are assumed.
fn burn(launch: &Launch<'_>) -> BlockCost {
    const FULL_NS: f64 = 7.1;
    const CHAIN_NS: f64 = 2.2;
    let rounds = f64::from(launch.arg_u32(1).unwrap_or_default());
    let threads: u64 = launch.block.iter().map(|n| u64::from(*n)).product();
    let needed = FULL_NS * threads as f64 / 1024.0;
    let round = needed.max(CHAIN_NS);
    BlockCost::with_load(
        Duration::from_nanos((rounds * round) as u64),
        needed / round,
    )
}

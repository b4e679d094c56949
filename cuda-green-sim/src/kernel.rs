//! Kernels: host functions that stand in for device code, and what they see of their launch.

use std::{
    cell::Cell,
    sync::{Arc, Mutex, PoisonError},
};

use crate::memory::{Fault, Memory};

/// A host function that is run in a kernel's place.
pub(crate) type Kernel = Arc<dyn Fn(&Launch<'_>) + Send + Sync>;

/// One launch, as the function registered for its kernel sees it.
///
/// An access to memory that is not allocated is what it is on a GPU: the launch fails, and with it
/// every later call to the driver (`CUDA_ERROR_ILLEGAL_ADDRESS`).
pub struct Launch<'a> {
    pub(crate) name: &'a str,
    pub(crate) grid: [u32; 3],
    pub(crate) block: [u32; 3],
    pub(crate) shared_bytes: u32,
    pub(crate) sm_ids: &'a [u32],
    pub(crate) args: Vec<Vec<u8>>,
    pub(crate) memory: &'a Mutex<Memory>,
    pub(crate) fault: Cell<Option<Fault>>,
}

impl Launch<'_> {
    /// The kernel's name in its module.
    pub fn name(&self) -> &str {
        self.name
    }

    /// Blocks in x, y and z.
    pub fn grid(&self) -> [u32; 3] {
        self.grid
    }

    /// Threads of a block in x, y and z.
    pub fn block(&self) -> [u32; 3] {
        self.block
    }

    /// All blocks of the grid.
    pub fn block_count(&self) -> u64 {
        self.grid.iter().map(|n| u64::from(*n)).product()
    }

    /// Dynamic shared memory of a block, in bytes.
    pub fn shared_bytes(&self) -> u32 {
        self.shared_bytes
    }

    /// The ids of the SMs that the launch may run on, in ascending order.
    pub fn sm_ids(&self) -> &[u32] {
        self.sm_ids
    }

    /// How many blocks run on each SM when they are dealt out in turn, as (SM id, blocks); SMs without
    /// a block are left out.
    pub fn blocks_by_sm(&self) -> impl Iterator<Item = (u32, u64)> + '_ {
        let blocks = self.block_count();
        let sms = self.sm_ids.len().max(1) as u64;
        (0_u64..)
            .zip(self.sm_ids)
            .map(move |(turn, sm)| (*sm, blocks / sms + u64::from(turn < blocks % sms)))
            .filter(|(_, blocks)| *blocks > 0)
    }

    /// The bytes of a parameter, if the kernel has that many.
    pub fn arg(&self, index: usize) -> Option<&[u8]> {
        self.args.get(index).map(Vec::as_slice)
    }

    /// A parameter of four bytes.
    pub fn arg_u32(&self, index: usize) -> Option<u32> {
        Some(u32::from_ne_bytes(self.arg(index)?.try_into().ok()?))
    }

    /// A parameter of eight bytes: a number, or a device pointer.
    pub fn arg_u64(&self, index: usize) -> Option<u64> {
        Some(u64::from_ne_bytes(self.arg(index)?.try_into().ok()?))
    }

    /// Reads device memory, or pinned host memory.
    ///
    /// # Errors
    /// [`Fault`] where it is not allocated, which also fails the launch.
    pub fn read(&self, address: u64, to: &mut [u8]) -> Result<(), Fault> {
        self.checked(|memory| memory.read(address, to))
    }

    /// Writes device memory, or pinned host memory.
    ///
    /// # Errors
    /// As [`read`](Self::read).
    pub fn write(&self, address: u64, from: &[u8]) -> Result<(), Fault> {
        self.checked(|memory| memory.write(address, from))
    }

    /// Adds to a 32-bit number in memory, wrapping; no other launch comes between. Gives the number
    /// that was there.
    ///
    /// # Errors
    /// As [`read`](Self::read).
    pub fn atomic_add_u32(&self, address: u64, value: u32) -> Result<u32, Fault> {
        self.checked(|memory| {
            let mut bytes = [0; 4];
            memory.read(address, &mut bytes)?;
            let before = u32::from_ne_bytes(bytes);
            memory.write(address, &before.wrapping_add(value).to_ne_bytes())?;
            Ok(before)
        })
    }

    fn checked<T>(&self, access: impl FnOnce(&mut Memory) -> Result<T, Fault>) -> Result<T, Fault> {
        let mut memory = self.memory.lock().unwrap_or_else(PoisonError::into_inner);
        let answer = access(&mut memory);
        if let Err(fault) = &answer {
            self.fault.set(Some(*fault));
        }
        answer
    }
}

/// The kernels that every driver has, by the name of their entry point.
pub(crate) fn built_in() -> Vec<(&'static str, Kernel)> {
    vec![("cuda_green_sm_ids", Arc::new(sm_ids))]
}

/// `cuda_green_sm_ids(out: *u32, len: u32, spin_ns: u32)`: each block adds 1 to `out[its SM's id]`, if
/// there is such a place.
fn sm_ids(launch: &Launch<'_>) {
    let (Some(out), Some(len)) = (launch.arg_u64(0), launch.arg_u32(1)) else {
        return;
    };
    for (sm, blocks) in launch.blocks_by_sm().filter(|(sm, _)| *sm < len) {
        let address = out.wrapping_add(u64::from(sm) * 4);
        // A counter of 32 bits wraps, on a GPU too.
        if launch.atomic_add_u32(address, blocks as u32).is_err() {
            return;
        }
    }
}

//! Memory entry points: allocations, copies, pinned host memory.

use std::ffi::c_void;

use cuda_green_sys::{CUresult, CUstream_st};

use super::{
    Context, Driver, State,
    held::Locked,
    late_copies::DONE_AT_RETURN,
    require,
    stream_actions::{Action, Pattern},
};
use crate::{
    c_args::{Answer, Raw},
    memory::Fault,
};

/// Size in bytes of the buffer through which copies go.
const BUFFER: usize = 64 << 10;

/// Converts a client's access to unallocated memory to a wrong argument, which is not a fault.
fn invalid(_: Fault) -> CUresult {
    CUresult::CUDA_ERROR_INVALID_VALUE
}

impl Driver {
    /// Returns the current context and its device, which an allocation needs.
    pub(super) fn current_device(&self, state: &State) -> Result<usize, CUresult> {
        let context: Context = self.current(state)?;
        state.device_of(context)
    }

    /// Runs a blocking copy in the default stream of the current context.
    fn wait_for_copy<'d>(&'d self, mut state: Locked<'d>) -> Result<Locked<'d>, CUresult> {
        let lane = self.lane(&state, 0)?;
        state.not_captured(lane)?;
        self.after_late_copies(&mut state, lane);
        let end = state.timeline.mark(lane);
        let mut state = self.wait_mark(state, lane.device, &end)?;
        self.do_due_copies(&mut state);
        Ok(state)
    }

    pub(crate) fn cuMemGetInfo_v2(&self, free: Raw<usize>, total: Raw<usize>) -> Answer {
        let state = self.enter()?;
        let device = self.current_device(&state)?;
        let (available, all) = self.memory().info(device);
        // Either output may be declined (measured on an H200, driver 580).
        total.set_if_wanted(all as usize);
        free.set_if_wanted(available as usize);
        Ok(())
    }

    pub(crate) fn cuMemAlloc_v2(&self, address: Raw<u64>, bytes: usize) -> Answer {
        let mut state = self.enter()?;
        address.required()?;
        let device = self.current_device(&state)?;
        self.safe_in_captures(&mut state)?;
        address.set(self.memory().allocate(device, bytes as u64)?)
    }

    pub(crate) fn cuMemFree_v2(&self, address: u64) -> Answer {
        // No context is needed: the address determines it (measured on an H200, driver 580).
        let mut state = self.enter()?;
        self.safe_in_captures(&mut state)?;
        // Waits for all work that may use it.
        let device = self.memory().device_of(address);
        if let Some(device) = device {
            self.present(device)?;
            state = self.wait_all(state, device, None)?;
            self.wait_for_late_copies(&mut state, device, None);
        } else if let Err(CUresult::CUDA_ERROR_CONTEXT_IS_DESTROYED) = self.current(&state) {
            // It may have been freed with the context (measured on an H200, driver 580).
            return Err(CUresult::CUDA_ERROR_CONTEXT_IS_DESTROYED);
        }
        self.memory().free(address)
    }

    pub(crate) fn cuMemHostAlloc(
        &self,
        pointer: Raw<*mut c_void>,
        bytes: usize,
        flags: u32,
    ) -> Answer {
        let mut state = self.enter()?;
        pointer.required()?;
        require(flags & !0b111 == 0)?;
        let device = self.current_device(&state)?;
        self.safe_in_captures(&mut state)?;
        if bytes == 0 {
            // Measured on an H200, driver 580.
            return pointer.set(std::ptr::null_mut());
        }
        let address = self.memory().allocate_host(device, bytes)?;
        pointer.set(std::ptr::with_exposed_provenance_mut(address as usize))
    }

    pub(crate) fn cuMemFreeHost(&self, pointer: Raw<c_void>) -> Answer {
        // No context is needed (measured on an H200, driver 580).
        let mut state = self.enter()?;
        if pointer.is_null() {
            return Ok(());
        }
        self.safe_in_captures(&mut state)?;
        self.memory().free_host(pointer.handle())
    }

    pub(crate) fn cuMemcpyHtoD_v2(&self, to: u64, from: Raw<c_void>, bytes: usize) -> Answer {
        let mut state = self.wait_for_copy(self.enter()?)?;
        // Pinned memory is copied whole before the call returns.
        let pinned = self.memory().check(from.handle(), bytes as u64).is_ok();
        if bytes <= DONE_AT_RETURN || pinned {
            return self.copy_in(to, &from, bytes);
        }
        from.required()?;
        self.memory().check(to, bytes as u64).map_err(invalid)?;
        let mut staged = vec![0; bytes];
        from.read_bytes(0, &mut staged);
        let lane = self.lane(&state, 0)?;
        self.copy_late(&mut state, lane, to, staged);
        Ok(())
    }

    pub(crate) fn cuMemcpyDtoH_v2(&self, to: Raw<c_void>, from: u64, bytes: usize) -> Answer {
        let _state = self.wait_for_copy(self.enter()?)?;
        self.copy_out(&to, from, bytes)
    }

    pub(crate) fn cuMemcpyDtoD_v2(&self, to: u64, from: u64, bytes: usize) -> Answer {
        let _state = self.wait_for_copy(self.enter()?)?;
        self.copy_within(to, from, bytes as u64)
    }

    pub(crate) fn cuMemcpyHtoDAsync_v2(
        &self,
        to: u64,
        from: Raw<c_void>,
        bytes: usize,
        stream: Raw<CUstream_st>,
    ) -> Answer {
        let from = from.retain();
        self.with_memory(&stream, &[(to, bytes as u64)], || {
            if bytes > 0 {
                from.pointer().required()?;
            }
            Ok(Action::CopyIn { to, from, bytes })
        })
    }

    pub(crate) fn cuMemcpyDtoHAsync_v2(
        &self,
        to: Raw<c_void>,
        from: u64,
        bytes: usize,
        stream: Raw<CUstream_st>,
    ) -> Answer {
        let to = to.retain();
        self.with_memory(&stream, &[(from, bytes as u64)], || {
            if bytes > 0 {
                to.pointer().required()?;
            }
            Ok(Action::CopyOut { to, from, bytes })
        })
    }

    pub(crate) fn cuMemcpyDtoDAsync_v2(
        &self,
        to: u64,
        from: u64,
        bytes: usize,
        stream: Raw<CUstream_st>,
    ) -> Answer {
        let bytes = bytes as u64;
        self.with_memory(&stream, &[(to, bytes), (from, bytes)], || {
            Ok(Action::CopyWithin { to, from, bytes })
        })
    }

    pub(crate) fn cuMemsetD8Async(
        &self,
        address: u64,
        byte: u8,
        bytes: usize,
        stream: Raw<CUstream_st>,
    ) -> Answer {
        let bytes = bytes as u64;
        self.with_memory(&stream, &[(address, bytes)], || {
            Ok(Action::Fill {
                address,
                pattern: Pattern::Byte(byte),
                bytes,
            })
        })
    }

    /// Requires an address that is a multiple of 4 (11.4 header and later).
    pub(crate) fn cuMemsetD32Async(
        &self,
        address: u64,
        word: u32,
        words: usize,
        stream: Raw<CUstream_st>,
    ) -> Answer {
        let bytes = (words as u64)
            .checked_mul(4)
            .ok_or(CUresult::CUDA_ERROR_INVALID_VALUE)?;
        self.with_memory(&stream, &[(address, bytes)], || {
            require(address.is_multiple_of(4))?;
            Ok(Action::Fill {
                address,
                pattern: Pattern::Word(word),
                bytes,
            })
        })
    }

    /// Submits an action on memory to a stream. Each range of bytes must lie in an allocation.
    fn with_memory(
        &self,
        stream: &Raw<CUstream_st>,
        ranges: &[(u64, u64)],
        action: impl FnOnce() -> Result<Action, CUresult>,
    ) -> Answer {
        let state = self.enter()?;
        let lane = self.lane(&state, stream.handle())?;
        let action = action()?;
        for (address, bytes) in ranges.iter().filter(|(_, bytes)| *bytes > 0) {
            self.memory().check(*address, *bytes).map_err(invalid)?;
        }
        self.enqueue(state, lane, action)
    }

    /// Copies within device memory, or between it and pinned memory.
    pub(super) fn copy_within(&self, to: u64, from: u64, bytes: u64) -> Answer {
        if bytes == 0 {
            return Ok(());
        }
        let mut memory = self.memory();
        memory.check(to, bytes).map_err(invalid)?;
        memory.check(from, bytes).map_err(invalid)?;
        let mut buffer = vec![0; bytes.min(BUFFER as u64) as usize];
        for start in (0..bytes).step_by(BUFFER) {
            let part = &mut buffer[..(bytes - start).min(BUFFER as u64) as usize];
            memory.read(from + start, part).map_err(invalid)?;
            memory.write(to + start, part).map_err(invalid)?;
        }
        Ok(())
    }

    pub(super) fn write(&self, to: u64, bytes: &[u8]) -> Answer {
        self.memory().write(to, bytes).map_err(invalid)
    }

    pub(super) fn fill(&self, address: u64, pattern: Pattern, bytes: u64) -> Answer {
        if bytes == 0 {
            return Ok(());
        }
        let mut memory = self.memory();
        let word = match pattern {
            Pattern::Byte(byte) => return memory.fill(address, byte, bytes).map_err(invalid),
            Pattern::Word(word) => word.to_ne_bytes(),
        };
        if word.iter().all(|byte| *byte == word[0]) {
            return memory.fill(address, word[0], bytes).map_err(invalid);
        }
        memory.check(address, bytes).map_err(invalid)?;
        let buffer = word.repeat((bytes.min(BUFFER as u64) / 4) as usize);
        for start in (0..bytes).step_by(BUFFER) {
            let part = &buffer[..(bytes - start).min(BUFFER as u64) as usize];
            memory.write(address + start, part).map_err(invalid)?;
        }
        Ok(())
    }

    /// Copies from the host. Copies nothing unless all of it fits.
    pub(super) fn copy_in(&self, to: u64, from: &Raw<c_void>, bytes: usize) -> Answer {
        if bytes == 0 {
            return Ok(());
        }
        from.required()?;
        let mut memory = self.memory();
        memory.check(to, bytes as u64).map_err(invalid)?;
        let mut buffer = vec![0; bytes.min(BUFFER)];
        for start in (0..bytes).step_by(BUFFER) {
            let part = &mut buffer[..(bytes - start).min(BUFFER)];
            from.read_bytes(start, part);
            memory.write(to + start as u64, part).map_err(invalid)?;
        }
        Ok(())
    }

    /// Copies to the host. Copies nothing unless all of it is there.
    pub(super) fn copy_out(&self, to: &Raw<c_void>, from: u64, bytes: usize) -> Answer {
        if bytes == 0 {
            return Ok(());
        }
        to.required()?;
        let memory = self.memory();
        memory.check(from, bytes as u64).map_err(invalid)?;
        let mut buffer = vec![0; bytes.min(BUFFER)];
        for start in (0..bytes).step_by(BUFFER) {
            let part = &mut buffer[..(bytes - start).min(BUFFER)];
            memory.read(from + start as u64, part).map_err(invalid)?;
            to.write_bytes(start, part);
        }
        Ok(())
    }
}

//! Memory entry points: allocations, copies, pinned host memory, pools.

use std::ffi::c_void;

use cuda_green_sys::{
    CUmemAllocationHandleType_enum, CUmemAllocationType_enum, CUmemLocationType_enum,
    CUmemPool_attribute, CUmemPoolHandle_st, CUmemPoolProps, CUresult, CUstream_st,
};

use super::{Context, Driver, Kind, State, as_pointer, require};
use crate::{
    memory::{Fault, Memory, Pool},
    raw::{Answer, Raw},
};

/// Copies go through a buffer of this many bytes.
const BUFFER: usize = 64 << 10;

/// All handle types that a header names (13.5): descriptor, two of Windows, fabric.
const HANDLE_TYPES: u32 = 0xf;

/// An access of the client's own to memory that is not allocated is a wrong argument, not a fault.
fn invalid(_: Fault) -> CUresult {
    CUresult::CUDA_ERROR_INVALID_VALUE
}

impl Driver {
    /// The current context and its device, without which there is no memory to be had.
    fn current_device(&self, state: &State) -> Result<usize, CUresult> {
        let context: Context = self.current(state)?;
        state.device_of(context)
    }

    /// A copy that waits runs in the default stream of the current context.
    fn wait_for_copy(&self, state: &mut State) -> Answer {
        let lane = self.lane(state, 0)?;
        let end = state.timeline.mark(lane);
        state.timeline.wait_mark(&end);
        Ok(())
    }

    pub(crate) fn cuMemGetInfo_v2(&self, free: Raw<usize>, total: Raw<usize>) -> Answer {
        let state = self.enter()?;
        let device = self.current_device(&state)?;
        let (available, all) = self.memory().info(device);
        // Either may be declined (measured on an H200, driver 580).
        total.set_if_wanted(all as usize);
        free.set_if_wanted(available as usize);
        Ok(())
    }

    pub(crate) fn cuMemAlloc_v2(&self, address: Raw<u64>, bytes: usize) -> Answer {
        let state = self.enter()?;
        address.required()?;
        let device = self.current_device(&state)?;
        address.set(self.memory().allocate(device, bytes as u64)?)
    }

    pub(crate) fn cuMemFree_v2(&self, address: u64) -> Answer {
        // No context is needed: the address tells (measured on an H200, driver 580).
        let mut state = self.enter()?;
        // Waits for whatever may use it.
        let device = self.memory().device_of(address);
        if let Some(device) = device {
            self.present(device)?;
            state.timeline.wait_all(device, None);
        } else if let Err(CUresult::CUDA_ERROR_CONTEXT_IS_DESTROYED) = self.current(&state) {
            // It may have gone with the context (measured on an H200, driver 580).
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
        let state = self.enter()?;
        pointer.required()?;
        require(flags & !0b111 == 0)?;
        let device = self.current_device(&state)?;
        if bytes == 0 {
            // Measured on an H200, driver 580.
            return pointer.set(std::ptr::null_mut());
        }
        let address = self.memory().allocate_host(device, bytes)?;
        pointer.set(std::ptr::with_exposed_provenance_mut(address as usize))
    }

    pub(crate) fn cuMemFreeHost(&self, pointer: Raw<c_void>) -> Answer {
        // No context is needed (measured on an H200, driver 580).
        self.ready()?;
        if pointer.is_null() {
            return Ok(());
        }
        self.memory().free_host(pointer.handle())
    }

    pub(crate) fn cuMemcpyHtoD_v2(&self, to: u64, from: Raw<c_void>, bytes: usize) -> Answer {
        let mut state = self.enter()?;
        self.wait_for_copy(&mut state)?;
        self.copy_in(to, &from, bytes)
    }

    pub(crate) fn cuMemcpyDtoH_v2(&self, to: Raw<c_void>, from: u64, bytes: usize) -> Answer {
        let mut state = self.enter()?;
        self.wait_for_copy(&mut state)?;
        self.copy_out(&to, from, bytes)
    }

    pub(crate) fn cuMemcpyHtoDAsync_v2(
        &self,
        to: u64,
        from: Raw<c_void>,
        bytes: usize,
        stream: Raw<CUstream_st>,
    ) -> Answer {
        let mut state = self.enter()?;
        let lane = self.lane(&state, stream.handle())?;
        state.timeline.submit(lane, None, &[]);
        self.copy_in(to, &from, bytes)
    }

    pub(crate) fn cuMemcpyDtoHAsync_v2(
        &self,
        to: Raw<c_void>,
        from: u64,
        bytes: usize,
        stream: Raw<CUstream_st>,
    ) -> Answer {
        let mut state = self.enter()?;
        let lane = self.lane(&state, stream.handle())?;
        state.timeline.submit(lane, None, &[]);
        self.copy_out(&to, from, bytes)
    }

    pub(crate) fn cuMemsetD8Async(
        &self,
        address: u64,
        byte: u8,
        bytes: usize,
        stream: Raw<CUstream_st>,
    ) -> Answer {
        let mut state = self.enter()?;
        let lane = self.lane(&state, stream.handle())?;
        state.timeline.submit(lane, None, &[]);
        if bytes == 0 {
            return Ok(());
        }
        self.memory()
            .fill(address, byte, bytes as u64)
            .map_err(invalid)
    }

    /// Copies from the host. Nothing is copied unless all of it fits.
    fn copy_in(&self, to: u64, from: &Raw<c_void>, bytes: usize) -> Answer {
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

    /// Copies to the host. Nothing is copied unless all of it is there.
    fn copy_out(&self, to: &Raw<c_void>, from: u64, bytes: usize) -> Answer {
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

    /// Only pools of pinned memory on a device of this driver, without handles for other processes.
    pub(crate) fn cuMemPoolCreate(
        &self,
        pool: Raw<*mut CUmemPoolHandle_st>,
        props: Raw<CUmemPoolProps>,
    ) -> Answer {
        let mut state = self.enter()?;
        pool.required()?;
        let props = props.get()?;
        require(props.allocType == CUmemAllocationType_enum::CU_MEM_ALLOCATION_TYPE_PINNED)?;
        require(props.location.type_ == CUmemLocationType_enum::CU_MEM_LOCATION_TYPE_DEVICE)?;
        // Wrong values are `INVALID_VALUE`, a wrong device too (measured on an H200, driver 580).
        require(props.handleTypes.0 & !HANDLE_TYPES == 0)?;
        require(props.reserved.iter().all(|byte| *byte == 0))?;
        if props.handleTypes != CUmemAllocationHandleType_enum::CU_MEM_HANDLE_TYPE_NONE {
            return Err(CUresult::CUDA_ERROR_NOT_SUPPORTED);
        }
        // These bytes are reserved in 11.x and must be zero there.
        require(props.maxSize == 0 || self.speaks(12, 0))?;
        // SAFETY: every bit pattern is a valid integer, and the struct is whole.
        let device = unsafe { props.location.__bindgen_anon_1.id };
        let device = self
            .device(device)
            .map_err(|_| CUresult::CUDA_ERROR_INVALID_VALUE)?;
        let handle = state.new_handle(self.number, Kind::Pool);
        self.memory()
            .create_pool(handle, device, props.maxSize as u64);
        pool.set(as_pointer(handle))
    }

    /// A pool that lives, on a device that is there.
    fn pool<'m>(&self, memory: &'m mut Memory, handle: u64) -> Result<&'m mut Pool, CUresult> {
        let pool = memory.pool(handle)?;
        self.present(pool.device)?;
        Ok(pool)
    }

    pub(crate) fn cuMemPoolDestroy(&self, pool: Raw<CUmemPoolHandle_st>) -> Answer {
        self.ready()?;
        let mut memory = self.memory();
        self.pool(&mut memory, pool.handle())?;
        memory.destroy_pool(pool.handle())
    }

    pub(crate) fn cuMemPoolSetAttribute(
        &self,
        pool: Raw<CUmemPoolHandle_st>,
        attribute: CUmemPool_attribute,
        value: Raw<c_void>,
    ) -> Answer {
        use CUmemPool_attribute as A;
        self.ready()?;
        value.required()?;
        let mut memory = self.memory();
        let pool = self.pool(&mut memory, pool.handle())?;
        match attribute {
            A(index @ 1..=3) => {
                // Whatever is not 0 counts as 1 (measured on an H200, driver 580).
                let on = value.cast::<i32>().get()? != 0;
                pool.reuse[index as usize - 1] = on.into();
            }
            A::CU_MEMPOOL_ATTR_RELEASE_THRESHOLD => {
                pool.release_threshold = value.cast::<u64>().get()?;
            }
            // High-water marks can only be set back to zero (11.4 header and later).
            A::CU_MEMPOOL_ATTR_RESERVED_MEM_HIGH => {
                require(value.cast::<u64>().get()? == 0)?;
                pool.reserved_high = pool.reserved;
            }
            A::CU_MEMPOOL_ATTR_USED_MEM_HIGH => {
                require(value.cast::<u64>().get()? == 0)?;
                pool.used_high = pool.used;
            }
            _ => return Err(CUresult::CUDA_ERROR_INVALID_VALUE),
        }
        Ok(())
    }

    pub(crate) fn cuMemPoolGetAttribute(
        &self,
        pool: Raw<CUmemPoolHandle_st>,
        attribute: CUmemPool_attribute,
        value: Raw<c_void>,
    ) -> Answer {
        use CUmemPool_attribute as A;
        self.ready()?;
        value.required()?;
        let mut memory = self.memory();
        let pool = self.pool(&mut memory, pool.handle())?;
        let bytes = match attribute {
            A(index @ 1..=3) => {
                return value.cast::<i32>().set(pool.reuse[index as usize - 1]);
            }
            A::CU_MEMPOOL_ATTR_RELEASE_THRESHOLD => pool.release_threshold,
            A::CU_MEMPOOL_ATTR_RESERVED_MEM_CURRENT => pool.reserved,
            A::CU_MEMPOOL_ATTR_RESERVED_MEM_HIGH => pool.reserved_high,
            A::CU_MEMPOOL_ATTR_USED_MEM_CURRENT => pool.used,
            A::CU_MEMPOOL_ATTR_USED_MEM_HIGH => pool.used_high,
            _ => return Err(CUresult::CUDA_ERROR_INVALID_VALUE),
        };
        value.cast::<u64>().set(bytes)
    }

    pub(crate) fn cuMemPoolTrimTo(&self, pool: Raw<CUmemPoolHandle_st>, keep: usize) -> Answer {
        self.ready()?;
        let mut memory = self.memory();
        self.pool(&mut memory, pool.handle())?;
        memory.trim_pool(pool.handle(), keep as u64)
    }

    pub(crate) fn cuMemAllocFromPoolAsync(
        &self,
        address: Raw<u64>,
        bytes: usize,
        pool: Raw<CUmemPoolHandle_st>,
        stream: Raw<CUstream_st>,
    ) -> Answer {
        let state = self.enter()?;
        address.required()?;
        self.stream_context(&state, stream.handle())?;
        address.set(
            self.memory()
                .allocate_from_pool(pool.handle(), bytes as u64)?,
        )
    }

    pub(crate) fn cuMemFreeAsync(&self, address: u64, stream: Raw<CUstream_st>) -> Answer {
        let state = self.enter()?;
        self.stream_context(&state, stream.handle())?;
        self.memory().free(address)
    }
}

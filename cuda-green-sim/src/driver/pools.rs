//! Pools: those that a client makes, and each device's default and current one.

use std::ffi::c_void;

use cuda_green_sys::{
    CUmemAccess_flags_enum as Flags, CUmemAccessDesc, CUmemAllocationHandleType_enum,
    CUmemAllocationType_enum, CUmemLocation, CUmemLocationType_enum, CUmemPool_attribute,
    CUmemPoolHandle_st, CUmemPoolProps, CUresult, CUstream_st,
};

use super::{Driver, Kind, State, as_pointer, require, stream_actions::Action};
use crate::{
    c_args::{Answer, Raw},
    memory::{Memory, Pool},
    timeline::LaneOf,
};

/// All handle types that a header names (13.5): descriptor, two of Windows, fabric.
pub(super) const HANDLE_TYPES: u32 = 0xf;

impl Driver {
    /// Accepts only pools of pinned memory on a device of this driver, without handles for other processes.
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
        let device = self.located(&props.location)?;
        self.safe_in_captures(&mut state)?;
        let handle = state.new_handle(self.number, Kind::Pool);
        self.memory()
            .create_pool(handle, device, props.maxSize as u64);
        pool.set(as_pointer(handle))
    }

    /// Returns a live pool on a device that is not lost.
    fn pool<'m>(&self, memory: &'m mut Memory, handle: u64) -> Result<&'m mut Pool, CUresult> {
        let pool = memory.pool(handle)?;
        self.present(pool.device)?;
        Ok(pool)
    }

    pub(crate) fn cuMemPoolDestroy(&self, pool: Raw<CUmemPoolHandle_st>) -> Answer {
        let mut state = self.enter()?;
        self.safe_in_captures(&mut state)?;
        let mut memory = self.memory();
        self.pool(&mut memory, pool.handle())?;
        memory.destroy_pool(pool.handle())
    }

    /// Runs `work` on a pool, after the checks that reading and setting an attribute begin with.
    fn with_attribute(
        &self,
        pool: &Raw<CUmemPoolHandle_st>,
        value: &Raw<c_void>,
        work: impl FnOnce(&mut Pool) -> Answer,
    ) -> Answer {
        let mut state = self.enter()?;
        self.safe_in_captures(&mut state)?;
        value.required()?;
        work(self.pool(&mut self.memory(), pool.handle())?)
    }

    pub(crate) fn cuMemPoolSetAttribute(
        &self,
        pool: Raw<CUmemPoolHandle_st>,
        attribute: CUmemPool_attribute,
        value: Raw<c_void>,
    ) -> Answer {
        use CUmemPool_attribute as A;
        self.with_attribute(&pool, &value, |pool| {
            match attribute {
                A(index @ 1..=3) => {
                    // Every value but 0 counts as 1 (measured on an H200, driver 580).
                    let on = value.cast::<i32>().get()? != 0;
                    pool.reuse[index as usize - 1] = on.into();
                }
                A::CU_MEMPOOL_ATTR_RELEASE_THRESHOLD => {
                    pool.release_threshold = value.cast::<u64>().get()?;
                }
                // High-water marks can only be reset to zero (11.4 header and later).
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
        })
    }

    pub(crate) fn cuMemPoolGetAttribute(
        &self,
        pool: Raw<CUmemPoolHandle_st>,
        attribute: CUmemPool_attribute,
        value: Raw<c_void>,
    ) -> Answer {
        use CUmemPool_attribute as A;
        self.with_attribute(&pool, &value, |pool| {
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
        })
    }

    pub(crate) fn cuMemPoolTrimTo(&self, pool: Raw<CUmemPoolHandle_st>, keep: usize) -> Answer {
        let mut state = self.enter()?;
        self.pool(&mut self.memory(), pool.handle())?;
        self.safe_in_captures(&mut state)?;
        let mut memory = self.memory();
        memory.trim_pool(pool.handle(), keep as u64)
    }

    /// Allocates in a stream's order, from the pool that is found for the stream's device.
    ///
    /// Refused beside a capture, although it is in a stream's order (measured on an H200, driver 580, for
    /// `cuMemAllocAsync` of a pool that had no free memory).
    fn allocate_in(
        &self,
        stream: &Raw<CUstream_st>,
        address: &Raw<u64>,
        bytes: usize,
        pool: impl FnOnce(&mut State, usize) -> u64,
    ) -> Answer {
        let mut state = self.enter()?;
        address.required()?;
        let lane = self.lane(&state, stream.handle())?;
        outside_captures(&mut state, lane)?;
        self.safe_in_captures(&mut state)?;
        let pool = pool(&mut state, lane.device);
        address.set(self.memory().allocate_from_pool(pool, bytes as u64)?)
    }

    pub(crate) fn cuMemAllocFromPoolAsync(
        &self,
        address: Raw<u64>,
        bytes: usize,
        pool: Raw<CUmemPoolHandle_st>,
        stream: Raw<CUstream_st>,
    ) -> Answer {
        self.allocate_in(&stream, &address, bytes, |_, _| pool.handle())
    }

    /// Allocates from the current pool of the stream's device.
    pub(crate) fn cuMemAllocAsync(
        &self,
        address: Raw<u64>,
        bytes: usize,
        stream: Raw<CUstream_st>,
    ) -> Answer {
        self.allocate_in(&stream, &address, bytes, |state, device| {
            self.current_pool(state, device)
        })
    }

    pub(crate) fn cuMemFreeAsync(&self, address: u64, stream: Raw<CUstream_st>) -> Answer {
        let mut state = self.enter()?;
        let lane = self.lane(&state, stream.handle())?;
        outside_captures(&mut state, lane)?;
        self.safe_in_captures(&mut state)?;
        if address != 0 && state.timeline.next_waits_for_gate(lane) {
            self.memory()
                .check(address, 1)
                .map_err(|_| CUresult::CUDA_ERROR_INVALID_VALUE)?;
            return self.enqueue(state, lane, Action::Free(address));
        }
        self.memory().free(address)
    }

    /// Returns the pool that every device has; it cannot be destroyed.
    fn default_pool(&self, state: &mut State, device: usize) -> u64 {
        if let Some(pool) = state.devices[device].default_pool {
            return pool;
        }
        let handle = state.new_handle(self.number, Kind::Pool);
        self.memory().create_default_pool(handle, device);
        state.devices[device].default_pool = Some(handle);
        handle
    }

    fn current_pool(&self, state: &mut State, device: usize) -> u64 {
        let set = state.devices[device].current_pool;
        // If the current pool was destroyed, the default pool takes its place (11.4 header and later).
        match set.filter(|pool| self.memory().pool(*pool).is_ok()) {
            Some(pool) => pool,
            None => self.default_pool(state, device),
        }
    }

    /// Returns one of a device's pools.
    fn give_pool(
        &self,
        pool: &Raw<*mut CUmemPoolHandle_st>,
        device: i32,
        which: impl FnOnce(&mut State, usize) -> u64,
    ) -> Answer {
        let mut state = self.enter()?;
        pool.required()?;
        let device = self.device(device)?;
        pool.set(as_pointer(which(&mut state, device)))
    }

    pub(crate) fn cuDeviceGetDefaultMemPool(
        &self,
        pool: Raw<*mut CUmemPoolHandle_st>,
        device: i32,
    ) -> Answer {
        self.give_pool(&pool, device, |state, device| {
            self.default_pool(state, device)
        })
    }

    pub(crate) fn cuDeviceGetMemPool(
        &self,
        pool: Raw<*mut CUmemPoolHandle_st>,
        device: i32,
    ) -> Answer {
        self.give_pool(&pool, device, |state, device| {
            self.current_pool(state, device)
        })
    }

    /// Requires a pool of the device. The code is not measured.
    pub(crate) fn cuDeviceSetMemPool(&self, device: i32, pool: Raw<CUmemPoolHandle_st>) -> Answer {
        let mut state = self.enter()?;
        let device = self.device(device)?;
        let of = self.pool(&mut self.memory(), pool.handle())?.device;
        require(of == device)?;
        state.devices[device].current_pool = Some(pool.handle());
        Ok(())
    }

    /// Grants each device access to its own pools only, because these devices are not peers.
    pub(crate) fn cuMemPoolSetAccess(
        &self,
        pool: Raw<CUmemPoolHandle_st>,
        map: Raw<CUmemAccessDesc>,
        count: usize,
    ) -> Answer {
        self.ready()?;
        let of = self.pool(&mut self.memory(), pool.handle())?.device;
        for index in 0..count {
            let access = map.at(index)?;
            let device = self.device(device_of(&access.location)?)?;
            // The codes are measured on an H200, driver 580; that a device's access to its own pool cannot
            // be taken away is in the 11.4 header and later.
            match access.flags {
                _ if device != of => return Err(CUresult::CUDA_ERROR_INVALID_DEVICE),
                Flags::CU_MEM_ACCESS_FLAGS_PROT_READWRITE => {}
                Flags::CU_MEM_ACCESS_FLAGS_PROT_READ => {
                    return Err(CUresult::CUDA_ERROR_NOT_SUPPORTED);
                }
                Flags::CU_MEM_ACCESS_FLAGS_PROT_NONE => {
                    return Err(CUresult::CUDA_ERROR_INVALID_DEVICE);
                }
                _ => return Err(CUresult::CUDA_ERROR_INVALID_VALUE),
            }
        }
        Ok(())
    }

    /// Returns the device of a location, which must be one; a wrong location is a wrong value (measured on an H200,
    /// driver 580, for pools that are made and for access to virtual memory).
    pub(super) fn located(&self, location: &CUmemLocation) -> Result<usize, CUresult> {
        self.device(device_of(location)?)
            .map_err(|_| CUresult::CUDA_ERROR_INVALID_VALUE)
    }
}

/// Returns the device that a location names, which may not exist.
fn device_of(location: &CUmemLocation) -> Result<i32, CUresult> {
    require(location.type_ == CUmemLocationType_enum::CU_MEM_LOCATION_TYPE_DEVICE)?;
    // SAFETY: every bit pattern is a valid integer, and the struct is whole.
    Ok(unsafe { location.__bindgen_anon_1.id })
}

/// Refuses streams in captures, because allocations within graphs are not modelled.
fn outside_captures(state: &mut State, lane: LaneOf) -> Answer {
    if state.is_captured(&lane.lane) {
        return Err(CUresult::CUDA_ERROR_NOT_SUPPORTED);
    }
    state.not_captured(lane)
}

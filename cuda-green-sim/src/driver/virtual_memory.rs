//! Virtual memory on a device. Memory of the host, and memory for other processes, are not modelled.

use cuda_green_sys::{
    CUmemAccess_flags_enum as Flags, CUmemAccessDesc, CUmemAllocationGranularity_flags,
    CUmemAllocationHandleType_enum, CUmemAllocationProp, CUmemAllocationType_enum,
    CUmemLocationType_enum, CUresult,
};

use super::{Driver, Kind, pools::HANDLE_TYPES, require};
use crate::{
    c_args::{Answer, Raw},
    memory::mapped::{Access, GRANULARITY},
};

impl Driver {
    /// Returns the device of an allocation's properties.
    fn allocation_device(&self, prop: &CUmemAllocationProp) -> Result<usize, CUresult> {
        require(prop.type_ == CUmemAllocationType_enum::CU_MEM_ALLOCATION_TYPE_PINNED)?;
        require(prop.requestedHandleTypes.0 & !HANDLE_TYPES == 0)?;
        let for_others =
            prop.requestedHandleTypes != CUmemAllocationHandleType_enum::CU_MEM_HANDLE_TYPE_NONE;
        let of_host = [
            CUmemLocationType_enum::CU_MEM_LOCATION_TYPE_HOST,
            CUmemLocationType_enum::CU_MEM_LOCATION_TYPE_HOST_NUMA,
            CUmemLocationType_enum::CU_MEM_LOCATION_TYPE_HOST_NUMA_CURRENT,
        ];
        if for_others || of_host.contains(&prop.location.type_) {
            return Err(CUresult::CUDA_ERROR_NOT_SUPPORTED);
        }
        self.located(&prop.location)
    }

    pub(crate) fn cuMemGetAllocationGranularity(
        &self,
        granularity: Raw<usize>,
        prop: Raw<CUmemAllocationProp>,
        option: CUmemAllocationGranularity_flags,
    ) -> Answer {
        self.ready()?;
        granularity.required()?;
        self.allocation_device(&prop.get()?)?;
        require(option.0 <= 1)?;
        granularity.set(GRANULARITY as usize)
    }

    pub(crate) fn cuMemCreate(
        &self,
        handle: Raw<u64>,
        size: usize,
        prop: Raw<CUmemAllocationProp>,
        flags: u64,
    ) -> Answer {
        let mut state = self.enter()?;
        handle.required()?;
        require(flags == 0)?;
        let device = self.allocation_device(&prop.get()?)?;
        let size = whole_steps(size)?;
        self.safe_in_captures(&mut state)?;
        let mut memory = self.memory();
        memory.charge(device, size)?;
        let new = state.new_handle(self.number, Kind::Physical);
        memory.mapped.create(new, device, size);
        handle.set(new)
    }

    pub(crate) fn cuMemRelease(&self, handle: u64) -> Answer {
        self.ready()?;
        let mut memory = self.memory();
        if let Some((device, bytes)) = memory.mapped.release(handle)? {
            memory.discharge(device, bytes);
        }
        Ok(())
    }

    /// Ignores the requested address, as the driver may (10.2 header and later).
    pub(crate) fn cuMemAddressReserve(
        &self,
        address: Raw<u64>,
        size: usize,
        alignment: usize,
        _wish: u64,
        flags: u64,
    ) -> Answer {
        self.ready()?;
        address.required()?;
        require(flags == 0)?;
        require(alignment == 0 || alignment.is_power_of_two())?;
        let size = whole_steps(size)?;
        let mut memory = self.memory();
        let found = memory.take_addresses(size, (alignment as u64).max(GRANULARITY))?;
        memory.mapped.reserve(found, size);
        address.set(found)
    }

    pub(crate) fn cuMemAddressFree(&self, address: u64, size: usize) -> Answer {
        self.ready()?;
        let size = whole_steps(size)?;
        self.memory().mapped.free(address, size)
    }

    /// Requires an offset of 0 (10.2 header and later) and maps all of the memory: less and more were not supported
    /// (measured on an H200, driver 580, with half a step and with two of one).
    pub(crate) fn cuMemMap(
        &self,
        address: u64,
        size: usize,
        offset: usize,
        handle: u64,
        flags: u64,
    ) -> Answer {
        self.ready()?;
        require(flags == 0 && address.is_multiple_of(GRANULARITY))?;
        let mut memory = self.memory();
        if offset != 0 || memory.mapped.len_of(handle)? != size as u64 {
            return Err(CUresult::CUDA_ERROR_NOT_SUPPORTED);
        }
        memory.mapped.map(address, handle)
    }

    /// Waits for work that may use it. Reserved addresses with nothing mapped may be unmapped as well (measured on an
    /// H200, driver 580).
    pub(crate) fn cuMemUnmap(&self, address: u64, size: usize) -> Answer {
        let mut state = self.enter()?;
        let size = whole_steps(size)?;
        self.safe_in_captures(&mut state)?;
        let device = self
            .memory()
            .pointer_info(address)
            .map(|found| found.device);
        let _state = match device {
            Some(device) => self.wait_all(state, device, None)?,
            None => state,
        };
        let mut memory = self.memory();
        for (device, bytes) in memory.mapped.unmap(address, size)? {
            memory.discharge(device, bytes);
        }
        Ok(())
    }

    pub(crate) fn cuMemSetAccess(
        &self,
        address: u64,
        size: usize,
        descriptions: Raw<CUmemAccessDesc>,
        count: usize,
    ) -> Answer {
        self.ready()?;
        let size = whole_steps(size)?;
        require(count > 0)?;
        for index in 0..count {
            let description = descriptions.at(index)?;
            let device = self.located(&description.location)?;
            let access = match description.flags {
                Flags::CU_MEM_ACCESS_FLAGS_PROT_NONE => Access::Ask,
                Flags::CU_MEM_ACCESS_FLAGS_PROT_READ => Access::Read,
                Flags::CU_MEM_ACCESS_FLAGS_PROT_READWRITE => Access::Write,
                _ => return Err(CUresult::CUDA_ERROR_INVALID_VALUE),
            };
            self.memory()
                .mapped
                .set_access(address, size, device, access)?;
        }
        Ok(())
    }
}

/// Requires a size in whole steps, and not 0.
fn whole_steps(size: usize) -> Result<u64, CUresult> {
    let size = size as u64;
    require(size > 0 && size.is_multiple_of(GRANULARITY))?;
    Ok(size)
}

//! Entry points for addresses: pinning of client memory, and attributes of pointers.

use std::{ffi::c_void, ptr::NonNull};

use cuda_green_sys::{CUpointer_attribute, CUresult};

use super::{Driver, as_pointer, require};
use crate::c_args::{Answer, Raw};

/// All flags that a header names (13.5): portable, mapped, device registers, read only.
const REGISTER_FLAGS: u32 = 0xf;

impl Driver {
    pub(crate) fn cuMemHostRegister_v2(
        &self,
        pointer: Raw<c_void>,
        bytes: usize,
        flags: u32,
    ) -> Answer {
        let mut state = self.enter()?;
        let start = NonNull::new(pointer.pointer().cast::<u8>());
        let start = start.ok_or(CUresult::CUDA_ERROR_INVALID_VALUE)?;
        require(bytes > 0 && flags & !REGISTER_FLAGS == 0)?;
        let device = self.current_device(&state)?;
        self.safe_in_captures(&mut state)?;
        self.memory().register(device, start, bytes)
    }

    /// Unpins memory after waiting for work that may use it.
    pub(crate) fn cuMemHostUnregister(&self, pointer: Raw<c_void>) -> Answer {
        let mut state = self.enter()?;
        pointer.required()?;
        let device = self.current_device(&state)?;
        self.safe_in_captures(&mut state)?;
        let _state = self.wait_all(state, device, None)?;
        self.memory().unregister(pointer.handle())
    }

    /// Returns the address itself: host and device have the same address for pinned memory.
    pub(crate) fn cuMemHostGetDevicePointer_v2(
        &self,
        address: Raw<u64>,
        pointer: Raw<c_void>,
        flags: u32,
    ) -> Answer {
        let state = self.enter()?;
        address.required()?;
        require(flags == 0)?;
        self.current_device(&state)?;
        let about = self.memory().pointer_info(pointer.handle());
        require(about.is_some_and(|about| about.on_host))?;
        address.set(pointer.handle())
    }

    /// Answers the attributes that concern one process and memory of the driver; `NOT_SUPPORTED` for the others.
    pub(crate) fn cuPointerGetAttribute(
        &self,
        data: Raw<c_void>,
        attribute: CUpointer_attribute,
        address: u64,
    ) -> Answer {
        use CUpointer_attribute as A;
        const HOST: u32 = 1;
        const DEVICE: u32 = 2;
        let state = self.enter()?;
        data.required()?;
        let newest = if self.speaks(13, 4) {
            A::CU_POINTER_ATTRIBUTE_LOCALITY_DOMAIN_ORDINAL
        } else {
            A::CU_POINTER_ATTRIBUTE_MEMORY_BLOCK_ID
        };
        require((1..=newest.0).contains(&attribute.0))?;
        let about = self.memory().pointer_info(address);
        let about = about.ok_or(CUresult::CUDA_ERROR_INVALID_VALUE)?;
        match attribute {
            // Memory of a pool belongs to no context (measured on an H200, driver 580).
            A::CU_POINTER_ATTRIBUTE_CONTEXT => data.cast().set(match about.pool {
                Some(_) => 0,
                None => state.devices[about.device].primary,
            }),
            A::CU_POINTER_ATTRIBUTE_MEMORY_TYPE => {
                data.cast().set(if about.on_host { HOST } else { DEVICE })
            }
            A::CU_POINTER_ATTRIBUTE_DEVICE_POINTER => data.cast().set(address),
            A::CU_POINTER_ATTRIBUTE_HOST_POINTER => {
                require(about.on_host)?;
                data.cast().set(address)
            }
            A::CU_POINTER_ATTRIBUTE_IS_MANAGED => data.cast().set(false),
            A::CU_POINTER_ATTRIBUTE_DEVICE_ORDINAL => data.cast().set(about.device as i32),
            A::CU_POINTER_ATTRIBUTE_RANGE_START_ADDR => data.cast().set(about.base),
            A::CU_POINTER_ATTRIBUTE_RANGE_SIZE => data.cast().set(about.len as usize),
            // Nothing is localised (13.4 header).
            A::CU_POINTER_ATTRIBUTE_LOCALITY_DOMAIN_ORDINAL => data.cast().set(-1_i32),
            A::CU_POINTER_ATTRIBUTE_MAPPED => data.cast().set(true),
            A::CU_POINTER_ATTRIBUTE_MEMPOOL_HANDLE => data
                .cast()
                .set(as_pointer::<c_void>(about.pool.unwrap_or(0))),
            _ => Err(CUresult::CUDA_ERROR_NOT_SUPPORTED),
        }
    }
}

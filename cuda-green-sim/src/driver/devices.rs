//! The driver itself and its devices: version, error texts, names, attributes.

use std::{
    collections::HashMap,
    ffi::{CString, c_char},
};

use cuda_green_sys::{CUdevice_attribute, CUresult, CUuuid};

use super::{
    Driver,
    device_attributes::{MEASURED, largest},
    require,
};
use crate::{
    c_args::{Answer, Raw},
    fork,
    sync::Mutex,
};

/// Error names and texts as C strings. They must live as long as the process, so each is made once and kept; there
/// are only as many as error codes.
static TEXTS: Mutex<Option<HashMap<(u32, bool), &'static CString>>> = Mutex::new(None);

/// Codes newer than 12.4, with the version of the first header that has them, from which on the driver knows their
/// names (on an H200, driver 580: all up to 13.0 and none after).
const ERRORS_SINCE: &[(u32, u16, u8)] = &[
    (36, 13, 0),
    (47, 13, 4),
    (226, 12, 8),
    (227, 13, 4),
    (721, 12, 8),
    (916, 12, 8),
    (917, 13, 1),
    (918, 13, 3),
    (919, 13, 4),
];

/// Returns the name or the description of an error code, as a C string that lives for ever.
fn error_text(error: CUresult, name: bool) -> Option<*const c_char> {
    let known = error.name()?;
    let text = if name { known } else { error.description() };
    let mut texts = TEXTS.lock();
    let texts = texts.get_or_insert_default();
    let text = match texts.get(&(error.0, name)) {
        Some(text) => text,
        None => {
            let text: &'static CString = Box::leak(Box::new(CString::new(text).ok()?));
            texts.insert((error.0, name), text);
            text
        }
    };
    Some(text.as_ptr())
}

impl Driver {
    pub(crate) fn cuInit(&self, flags: u32) -> Answer {
        require(flags == 0)?;
        self.visible.as_ref().map_err(|code| *code)?;
        self.lock().initialised = true;
        fork::note_initialised();
        Ok(())
    }

    pub(crate) fn cuDriverGetVersion(&self, version: Raw<i32>) -> Answer {
        version.set(self.profile.cuda_version.to_raw())
    }

    pub(crate) fn cuGetErrorName(&self, error: CUresult, text: Raw<*const c_char>) -> Answer {
        answer_text(text, self.error_text(error, true))
    }

    pub(crate) fn cuGetErrorString(&self, error: CUresult, text: Raw<*const c_char>) -> Answer {
        answer_text(text, self.error_text(error, false))
    }

    /// Returns the text of a code that this CUDA version has.
    fn error_text(&self, error: CUresult, name: bool) -> Option<*const c_char> {
        let newer = ERRORS_SINCE
            .iter()
            .any(|(code, major, minor)| *code == error.0 && !self.speaks(*major, *minor));
        if newer { None } else { error_text(error, name) }
    }

    pub(crate) fn cuDeviceGetCount(&self, count: Raw<i32>) -> Answer {
        self.ready_despite_fault()?;
        count.set(self.profile.device_count as i32)
    }

    pub(crate) fn cuDeviceGet(&self, device: Raw<i32>, ordinal: i32) -> Answer {
        self.ready_despite_fault()?;
        device.required()?;
        device.set(self.device(ordinal)? as i32)
    }

    pub(crate) fn cuDeviceGetName(&self, name: Raw<c_char>, len: i32, dev: i32) -> Answer {
        self.ready_despite_fault()?;
        self.device(dev)?;
        name.required()?;
        let len = usize::try_from(len)
            .ok()
            .filter(|len| *len > 0)
            .ok_or(CUresult::CUDA_ERROR_INVALID_VALUE)?;
        let text = self.profile.device.device_name.bytes().take(len - 1);
        for (index, byte) in text.chain([0]).enumerate() {
            name.set_at(index, byte as c_char)?;
        }
        Ok(())
    }

    pub(crate) fn cuDeviceGetUuid_v2(&self, uuid: Raw<CUuuid>, dev: i32) -> Answer {
        self.ready_despite_fault()?;
        let device = self.device(dev)?;
        let visible = self.visible.as_ref().map_err(|code| *code)?;
        let bytes = self.profile.uuid(visible[device]);
        uuid.set(CUuuid {
            bytes: bytes.map(|byte| byte as c_char),
        })
    }

    pub(crate) fn cuDeviceTotalMem_v2(&self, bytes: Raw<usize>, dev: i32) -> Answer {
        self.ready_despite_fault()?;
        self.device(dev)?;
        bytes.set(self.profile.device.memory_bytes as usize)
    }

    pub(crate) fn cuDeviceGetAttribute(
        &self,
        value: Raw<i32>,
        attribute: CUdevice_attribute,
        dev: i32,
    ) -> Answer {
        self.ready_despite_fault()?;
        let device = self.device(dev)?;
        value.required()?;
        value.set(self.attribute(attribute, device)?)
    }

    /// Returns an attribute's value. Those that the CUDA version does not have are refused.
    fn attribute(&self, attribute: CUdevice_attribute, device: usize) -> Result<i32, CUresult> {
        use CUdevice_attribute as A;
        let profile = self.profile.device;
        let hopper = i32::from(profile.has_clusters());
        Ok(match attribute {
            A::CU_DEVICE_ATTRIBUTE_MAX_THREADS_PER_BLOCK
            | A::CU_DEVICE_ATTRIBUTE_MAX_BLOCK_DIM_X
            | A::CU_DEVICE_ATTRIBUTE_MAX_BLOCK_DIM_Y => 1024,
            A::CU_DEVICE_ATTRIBUTE_MAX_BLOCK_DIM_Z => 64,
            A::CU_DEVICE_ATTRIBUTE_MAX_GRID_DIM_X | A::CU_DEVICE_ATTRIBUTE_MAX_PITCH => i32::MAX,
            A::CU_DEVICE_ATTRIBUTE_MAX_GRID_DIM_Y | A::CU_DEVICE_ATTRIBUTE_MAX_GRID_DIM_Z => 65_535,
            A::CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_BLOCK => 48 * 1024,
            A::CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_BLOCK_OPTIN => {
                profile.shared_per_sm() as i32 - 1024
            }
            A::CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_MULTIPROCESSOR => {
                profile.shared_per_sm() as i32
            }
            A::CU_DEVICE_ATTRIBUTE_RESERVED_SHARED_MEMORY_PER_BLOCK => 1024,
            A::CU_DEVICE_ATTRIBUTE_TOTAL_CONSTANT_MEMORY => 64 * 1024,
            A::CU_DEVICE_ATTRIBUTE_WARP_SIZE => 32,
            A::CU_DEVICE_ATTRIBUTE_MAX_REGISTERS_PER_BLOCK
            | A::CU_DEVICE_ATTRIBUTE_MAX_REGISTERS_PER_MULTIPROCESSOR => 64 * 1024,
            A::CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT => self.sm_count() as i32,
            A::CU_DEVICE_ATTRIBUTE_MPS_ENABLED => self.injections.mps().is_some().into(),
            A::CU_DEVICE_ATTRIBUTE_MAX_THREADS_PER_MULTIPROCESSOR => {
                profile.threads_per_sm() as i32
            }
            A::CU_DEVICE_ATTRIBUTE_MAX_BLOCKS_PER_MULTIPROCESSOR => profile.blocks_per_sm() as i32,
            A::CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR => profile.compute_capability.0 as i32,
            A::CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR => profile.compute_capability.1 as i32,
            A::CU_DEVICE_ATTRIBUTE_L2_CACHE_SIZE => profile.l2_bytes,
            A::CU_DEVICE_ATTRIBUTE_INTEGRATED => profile.integrated.into(),
            A::CU_DEVICE_ATTRIBUTE_ASYNC_ENGINE_COUNT => 3,
            A::CU_DEVICE_ATTRIBUTE_PCI_BUS_ID => device as i32 + 1,
            A::CU_DEVICE_ATTRIBUTE_CAN_MAP_HOST_MEMORY
            | A::CU_DEVICE_ATTRIBUTE_CONCURRENT_KERNELS
            | A::CU_DEVICE_ATTRIBUTE_GPU_OVERLAP
            | A::CU_DEVICE_ATTRIBUTE_UNIFIED_ADDRESSING
            | A::CU_DEVICE_ATTRIBUTE_STREAM_PRIORITIES_SUPPORTED
            | A::CU_DEVICE_ATTRIBUTE_COMPUTE_PREEMPTION_SUPPORTED
            | A::CU_DEVICE_ATTRIBUTE_COOPERATIVE_LAUNCH
            | A::CU_DEVICE_ATTRIBUTE_MEMORY_POOLS_SUPPORTED
            | A::CU_DEVICE_ATTRIBUTE_CAN_USE_HOST_POINTER_FOR_REGISTERED_MEM => 1,
            A::CU_DEVICE_ATTRIBUTE_CLUSTER_LAUNCH => hopper,
            A::CU_DEVICE_ATTRIBUTE_GLOBAL_MEMORY_BUS_WIDTH => profile.memory_bus_bits,
            // Five eighths on an H200.
            A::CU_DEVICE_ATTRIBUTE_MAX_PERSISTING_L2_CACHE_SIZE => profile.l2_bytes / 8 * 5,
            // Measured on 9.0; the guide's table of throughputs for the others.
            A::CU_DEVICE_ATTRIBUTE_SINGLE_TO_DOUBLE_PRECISION_PERF_RATIO => {
                match profile.compute_capability {
                    (8..=10, 0) => 2,
                    (7, _) => 32,
                    _ => 64,
                }
            }
            // 0 on a machine with one GPU, 1 on one with two (measured on an H200 and an H100, driver 580).
            A::CU_DEVICE_ATTRIBUTE_MULTICAST_SUPPORTED => i32::from(self.profile.device_count > 1),
            // One domain is the whole device.
            A::CU_DEVICE_ATTRIBUTE_LOCALITY_DOMAIN_COUNT if self.speaks(13, 4) => 1,
            A::CU_DEVICE_ATTRIBUTE_LOCALITY_DOMAIN_MULTIPROCESSOR_COUNT if self.speaks(13, 4) => {
                self.sm_count() as i32
            }
            A(id) if (1..=largest(self.profile.cuda_version)).contains(&id) => MEASURED
                .iter()
                .find(|(known, _)| *known == id)
                .map_or(0, |(_, value)| *value),
            _ => return Err(CUresult::CUDA_ERROR_INVALID_VALUE),
        })
    }
}

/// Writes a known text, or a null pointer and `INVALID_VALUE` (11.4 header and later).
fn answer_text(to: Raw<*const c_char>, text: Option<*const c_char>) -> Answer {
    to.set(text.unwrap_or(std::ptr::null()))?;
    require(text.is_some())
}

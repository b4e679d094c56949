//! The name and meaning of every `CUresult`, in one table.
//!
//! `tests/bindings.rs` of the workspace fails when a header has a code that is not here.

use std::fmt;

use crate::bindings::CUresult;

impl CUresult {
    /// Returns `Ok` for success, and otherwise the code as the error.
    ///
    /// # Errors
    /// Every code but `CUDA_SUCCESS`.
    #[inline]
    pub fn ok(self) -> Result<(), CUresult> {
        if self == CUresult::CUDA_SUCCESS {
            Ok(())
        } else {
            Err(self)
        }
    }

    /// Returns the C name of the code, if this binding knows it.
    pub fn name(self) -> Option<&'static str> {
        self.row().map(|(_, name, _)| *name)
    }

    /// Returns the meaning of the code.
    pub fn description(self) -> &'static str {
        self.row()
            .map_or("a code that is newer than this binding", |(_, _, text)| {
                text
            })
    }

    /// Returns whether the fault persists: every later call in the process fails, and only a restart helps.
    ///
    /// These are the codes for which the 13.5 header says that the process or the context must end.
    pub fn is_sticky(self) -> bool {
        matches!(self.0, 226 | 700 | 702 | 710 | 714..=719 | 721 | 810 | 911)
    }

    fn row(self) -> Option<&'static (u32, &'static str, &'static str)> {
        let index = TABLE
            .binary_search_by_key(&self.0, |(code, _, _)| *code)
            .ok()?;
        TABLE.get(index)
    }
}

/// Writes `CUDA_ERROR_OUT_OF_MEMORY (2)`, or `code 12345` where this binding does not know the code.
impl fmt::Debug for CUresult {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.name() {
            Some(name) => write!(f, "{name} ({})", self.0),
            None => write!(f, "code {}", self.0),
        }
    }
}

/// Writes what `Debug` writes, followed by what the code means.
impl fmt::Display for CUresult {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self:?}: {}", self.description())
    }
}

impl std::error::Error for CUresult {}

/// Code, C name, meaning; in the order of the codes.
#[rustfmt::skip]
const TABLE: &[(u32, &str, &str)] = &[
    (0, "CUDA_SUCCESS", "no error"),
    (1, "CUDA_ERROR_INVALID_VALUE", "an argument is outside what the function takes"),
    (2, "CUDA_ERROR_OUT_OF_MEMORY", "not enough memory"),
    (3, "CUDA_ERROR_NOT_INITIALIZED", "the driver is not initialised: `cuInit` was not called or failed, or the process was forked after it"),
    (4, "CUDA_ERROR_DEINITIALIZED", "the driver is shutting down"),
    (5, "CUDA_ERROR_PROFILER_DISABLED", "the profiler is not in use in this process"),
    (6, "CUDA_ERROR_PROFILER_NOT_INITIALIZED", "the profiler was not initialised"),
    (7, "CUDA_ERROR_PROFILER_ALREADY_STARTED", "the profiler is already running"),
    (8, "CUDA_ERROR_PROFILER_ALREADY_STOPPED", "the profiler is already stopped"),
    (34, "CUDA_ERROR_STUB_LIBRARY", "the library is the toolkit's stub, not a driver"),
    (36, "CUDA_ERROR_CALL_REQUIRES_NEWER_DRIVER", "this call needs a newer driver"),
    (46, "CUDA_ERROR_DEVICE_UNAVAILABLE", "the device is in use by another process or reserved"),
    (47, "CUDA_ERROR_MULTICAST_RESOURCE_FULL", "the device has no room for another multicast object"),
    (100, "CUDA_ERROR_NO_DEVICE", "the driver sees no CUDA device"),
    (101, "CUDA_ERROR_INVALID_DEVICE", "there is no device of that ordinal"),
    (102, "CUDA_ERROR_DEVICE_NOT_LICENSED", "the device has no valid licence"),
    (200, "CUDA_ERROR_INVALID_IMAGE", "the kernel image is damaged"),
    (201, "CUDA_ERROR_INVALID_CONTEXT", "no context is current, or the handle is not a context"),
    (202, "CUDA_ERROR_CONTEXT_ALREADY_CURRENT", "the context is already current"),
    (205, "CUDA_ERROR_MAP_FAILED", "mapping failed"),
    (206, "CUDA_ERROR_UNMAP_FAILED", "unmapping failed"),
    (207, "CUDA_ERROR_ARRAY_IS_MAPPED", "the array is mapped and cannot be destroyed"),
    (208, "CUDA_ERROR_ALREADY_MAPPED", "the resource is already mapped"),
    (209, "CUDA_ERROR_NO_BINARY_FOR_GPU", "the image has no code for this GPU"),
    (210, "CUDA_ERROR_ALREADY_ACQUIRED", "the resource was already acquired"),
    (211, "CUDA_ERROR_NOT_MAPPED", "the resource is not mapped"),
    (212, "CUDA_ERROR_NOT_MAPPED_AS_ARRAY", "the resource is not mapped as an array"),
    (213, "CUDA_ERROR_NOT_MAPPED_AS_POINTER", "the resource is not mapped as a pointer"),
    (214, "CUDA_ERROR_ECC_UNCORRECTABLE", "memory error that the GPU could not correct"),
    (215, "CUDA_ERROR_UNSUPPORTED_LIMIT", "this device does not have that limit"),
    (216, "CUDA_ERROR_CONTEXT_ALREADY_IN_USE", "the context is current to another thread"),
    (217, "CUDA_ERROR_PEER_ACCESS_UNSUPPORTED", "these devices cannot access each other's memory"),
    (218, "CUDA_ERROR_INVALID_PTX", "the PTX does not compile"),
    (219, "CUDA_ERROR_INVALID_GRAPHICS_CONTEXT", "the graphics context is broken"),
    (220, "CUDA_ERROR_NVLINK_UNCORRECTABLE", "NVLink error that could not be corrected"),
    (221, "CUDA_ERROR_JIT_COMPILER_NOT_FOUND", "the PTX compiler library was not found"),
    (222, "CUDA_ERROR_UNSUPPORTED_PTX_VERSION", "the PTX is of a newer version than the driver's compiler"),
    (223, "CUDA_ERROR_JIT_COMPILATION_DISABLED", "compiling PTX is disabled"),
    (224, "CUDA_ERROR_UNSUPPORTED_EXEC_AFFINITY", "the device does not support that execution affinity"),
    (225, "CUDA_ERROR_UNSUPPORTED_DEVSIDE_SYNC", "the code synchronises on the device in a way that is no longer supported"),
    (226, "CUDA_ERROR_CONTAINED", "an error was contained to this context, which can no longer be used"),
    (227, "CUDA_ERROR_INSUFFICIENT_LOADER_VERSION", "the installed loader is older than the driver needs"),
    (300, "CUDA_ERROR_INVALID_SOURCE", "the kernel source is invalid"),
    (301, "CUDA_ERROR_FILE_NOT_FOUND", "file not found"),
    (302, "CUDA_ERROR_SHARED_OBJECT_SYMBOL_NOT_FOUND", "a shared object lacks a symbol"),
    (303, "CUDA_ERROR_SHARED_OBJECT_INIT_FAILED", "a shared object could not be initialised"),
    (304, "CUDA_ERROR_OPERATING_SYSTEM", "a call to the operating system failed"),
    (400, "CUDA_ERROR_INVALID_HANDLE", "the handle does not belong to a live object"),
    (401, "CUDA_ERROR_ILLEGAL_STATE", "the object is not in a state that allows this"),
    (402, "CUDA_ERROR_LOSSY_QUERY", "the query would lose information"),
    (500, "CUDA_ERROR_NOT_FOUND", "no such symbol, kernel or name"),
    (600, "CUDA_ERROR_NOT_READY", "the work is not finished yet"),
    (700, "CUDA_ERROR_ILLEGAL_ADDRESS", "a kernel touched memory that is not allocated; the process must restart to use CUDA again"),
    (701, "CUDA_ERROR_LAUNCH_OUT_OF_RESOURCES", "the launch asks for more registers, threads or shared memory than there are"),
    (702, "CUDA_ERROR_LAUNCH_TIMEOUT", "a kernel ran longer than the system allows; the process must restart to use CUDA again"),
    (703, "CUDA_ERROR_LAUNCH_INCOMPATIBLE_TEXTURING", "the launch uses incompatible texturing"),
    (704, "CUDA_ERROR_PEER_ACCESS_ALREADY_ENABLED", "peer access is already enabled"),
    (705, "CUDA_ERROR_PEER_ACCESS_NOT_ENABLED", "peer access is not enabled"),
    (708, "CUDA_ERROR_PRIMARY_CONTEXT_ACTIVE", "the primary context is already active"),
    (709, "CUDA_ERROR_CONTEXT_IS_DESTROYED", "the context was destroyed"),
    (710, "CUDA_ERROR_ASSERT", "an assertion in a kernel failed; the process must restart to use CUDA again"),
    (711, "CUDA_ERROR_TOO_MANY_PEERS", "no more peer mappings are possible"),
    (712, "CUDA_ERROR_HOST_MEMORY_ALREADY_REGISTERED", "the host memory is already registered"),
    (713, "CUDA_ERROR_HOST_MEMORY_NOT_REGISTERED", "the host memory is not registered"),
    (714, "CUDA_ERROR_HARDWARE_STACK_ERROR", "stack error in a kernel; the process must restart to use CUDA again"),
    (715, "CUDA_ERROR_ILLEGAL_INSTRUCTION", "illegal instruction in a kernel; the process must restart to use CUDA again"),
    (716, "CUDA_ERROR_MISALIGNED_ADDRESS", "misaligned access in a kernel; the process must restart to use CUDA again"),
    (717, "CUDA_ERROR_INVALID_ADDRESS_SPACE", "a kernel used an address of the wrong space; the process must restart to use CUDA again"),
    (718, "CUDA_ERROR_INVALID_PC", "a kernel's program counter left its code; the process must restart to use CUDA again"),
    (719, "CUDA_ERROR_LAUNCH_FAILED", "a kernel failed; the process must restart to use CUDA again"),
    (720, "CUDA_ERROR_COOPERATIVE_LAUNCH_TOO_LARGE", "a cooperative launch has more blocks than fit at once"),
    (721, "CUDA_ERROR_TENSOR_MEMORY_LEAK", "a kernel ended without freeing its tensor memory; the process must restart to use CUDA again"),
    (800, "CUDA_ERROR_NOT_PERMITTED", "not permitted"),
    (801, "CUDA_ERROR_NOT_SUPPORTED", "not supported on this system or device"),
    (802, "CUDA_ERROR_SYSTEM_NOT_READY", "the system is not ready, for example the fabric manager is not running"),
    (803, "CUDA_ERROR_SYSTEM_DRIVER_MISMATCH", "the user-mode driver and the kernel driver are of different versions"),
    (804, "CUDA_ERROR_COMPAT_NOT_SUPPORTED_ON_DEVICE", "forward compatibility is not supported on this GPU"),
    (805, "CUDA_ERROR_MPS_CONNECTION_FAILED", "cannot reach the MPS server"),
    (806, "CUDA_ERROR_MPS_RPC_FAILURE", "the MPS server answered wrongly"),
    (807, "CUDA_ERROR_MPS_SERVER_NOT_READY", "the MPS server does not accept clients yet"),
    (808, "CUDA_ERROR_MPS_MAX_CLIENTS_REACHED", "the MPS server already has the most clients that it can have"),
    (809, "CUDA_ERROR_MPS_MAX_CONNECTIONS_REACHED", "the MPS server already has the most connections that it can have"),
    (810, "CUDA_ERROR_MPS_CLIENT_TERMINATED", "the MPS server ended this client"),
    (811, "CUDA_ERROR_CDP_NOT_SUPPORTED", "the module uses dynamic parallelism, which is not supported here"),
    (812, "CUDA_ERROR_CDP_VERSION_MISMATCH", "the module uses a dynamic-parallelism version that does not fit the driver"),
    (900, "CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED", "not allowed while the stream is captured"),
    (901, "CUDA_ERROR_STREAM_CAPTURE_INVALIDATED", "an earlier error ended the capture"),
    (902, "CUDA_ERROR_STREAM_CAPTURE_MERGE", "the call would merge two captures"),
    (903, "CUDA_ERROR_STREAM_CAPTURE_UNMATCHED", "the stream did not begin this capture"),
    (904, "CUDA_ERROR_STREAM_CAPTURE_UNJOINED", "the capture has forks that were not joined"),
    (905, "CUDA_ERROR_STREAM_CAPTURE_ISOLATION", "the capture would depend on work outside it"),
    (906, "CUDA_ERROR_STREAM_CAPTURE_IMPLICIT", "the legacy stream would join a capture implicitly"),
    (907, "CUDA_ERROR_CAPTURED_EVENT", "not allowed on an event of a running capture"),
    (908, "CUDA_ERROR_STREAM_CAPTURE_WRONG_THREAD", "the capture was begun by another thread"),
    (909, "CUDA_ERROR_TIMEOUT", "the time allowed has passed"),
    (910, "CUDA_ERROR_GRAPH_EXEC_UPDATE_FAILURE", "the change does not fit the instantiated graph"),
    (911, "CUDA_ERROR_EXTERNAL_DEVICE", "a device outside this process failed"),
    (912, "CUDA_ERROR_INVALID_CLUSTER_SIZE", "a cluster of this size cannot run here"),
    (913, "CUDA_ERROR_FUNCTION_NOT_LOADED", "the kernel is not loaded"),
    (914, "CUDA_ERROR_INVALID_RESOURCE_TYPE", "the resource is not of the type this call takes"),
    (915, "CUDA_ERROR_INVALID_RESOURCE_CONFIGURATION", "the resources cannot be split or combined in this way"),
    (916, "CUDA_ERROR_KEY_ROTATION", "the key rotation failed"),
    (917, "CUDA_ERROR_STREAM_DETACHED", "the stream's green context was destroyed"),
    (918, "CUDA_ERROR_GRAPH_RECAPTURE_FAILURE", "the graph could not be captured again"),
    (919, "CUDA_ERROR_FABRIC_NOT_READY", "the fabric is not ready"),
    (999, "CUDA_ERROR_UNKNOWN", "unknown error in the driver"),
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_is_sorted_so_that_it_can_be_searched() {
        assert!(TABLE.is_sorted_by(|a, b| a.0 < b.0));
    }

    #[test]
    fn known_and_unknown_codes_have_words() {
        let refused = CUresult::CUDA_ERROR_INVALID_RESOURCE_CONFIGURATION;
        assert_eq!(
            refused.name(),
            Some("CUDA_ERROR_INVALID_RESOURCE_CONFIGURATION")
        );
        assert_eq!(CUresult(4711).name(), None);
        assert_eq!(
            CUresult(4711).to_string(),
            "code 4711: a code that is newer than this binding"
        );
        assert_eq!(format!("{:?}", CUresult(12345)), "code 12345");
        assert_eq!(
            format!("{:?}", CUresult::CUDA_ERROR_OUT_OF_MEMORY),
            "CUDA_ERROR_OUT_OF_MEMORY (2)"
        );
    }

    #[test]
    fn only_faults_stick() {
        assert!(CUresult::CUDA_ERROR_ILLEGAL_ADDRESS.is_sticky());
        assert!(!CUresult::CUDA_ERROR_OUT_OF_MEMORY.is_sticky());
        assert!(!CUresult::CUDA_SUCCESS.is_sticky());
    }
}

//! The part of cuBLASLt's C interface that the encoder calls, as a table of functions.
//!
//! Names, values and sizes are those of `cublasLt.h`, `cublas_api.h` and `library_types.h`; they are the same in CUDA 12
//! and 13.

use std::ffi::{c_char, c_float, c_int, c_uint, c_void};

use cuda_green::sys::CUstream;
use libloading::Library;

pub(super) type Handle = *mut c_void;
pub(super) type MatmulDesc = *mut c_void;
pub(super) type MatrixLayout = *mut c_void;
pub(super) type Preference = *mut c_void;
/// `cublasStatus_t`.
pub(super) type Status = c_uint;

/// `CUBLAS_STATUS_SUCCESS`.
pub(super) const SUCCESS: Status = 0;
/// `CUBLAS_STATUS_NOT_SUPPORTED`.
pub(super) const NOT_SUPPORTED: Status = 15;
/// `CUBLAS_COMPUTE_32F`: sums in 32 bits, without TF32.
pub(super) const COMPUTE_32F: c_uint = 68;
/// `CUDA_R_32F`.
pub(super) const R_32F: c_uint = 0;
/// `CUDA_R_16F`.
pub(super) const R_16F: c_uint = 2;
/// `CUDA_R_16BF`.
pub(super) const R_16BF: c_uint = 14;
/// `CUBLAS_OP_T`.
pub(super) const OP_T: i32 = 1;
/// `CUBLASLT_EPILOGUE_BIAS`.
pub(super) const EPILOGUE_BIAS: u32 = 4;

/// `CUBLASLT_MATMUL_DESC_TRANSA`, an `int32_t`.
pub(super) const DESC_TRANSA: c_uint = 3;
/// `CUBLASLT_MATMUL_DESC_EPILOGUE`, a `uint32_t`.
pub(super) const DESC_EPILOGUE: c_uint = 7;
/// `CUBLASLT_MATMUL_DESC_BIAS_POINTER`, a pointer. The bias has the type of the result by default.
pub(super) const DESC_BIAS_POINTER: c_uint = 8;
/// `CUBLASLT_MATMUL_DESC_SM_COUNT_TARGET`, an `int32_t`.
pub(super) const DESC_SM_COUNT_TARGET: c_uint = 15;
/// `CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES`, a `uint64_t`.
pub(super) const PREFERENCE_MAX_WORKSPACE_BYTES: c_uint = 1;

/// `cublasLtMatmulAlgo_t`: opaque, and may be copied.
#[repr(C)]
#[derive(Clone, Copy, Default)]
pub(super) struct Algo {
    pub data: [u64; 8],
}

/// `cublasLtMatmulHeuristicResult_t`.
#[repr(C)]
#[derive(Clone, Copy, Default)]
pub(super) struct HeuristicResult {
    pub algo: Algo,
    pub workspace_size: usize,
    pub state: Status,
    pub waves_count: c_float,
    pub reserved: [c_int; 4],
}

const _: () = assert!(size_of::<Algo>() == 64 && size_of::<HeuristicResult>() == 96);

macro_rules! functions {
    ($($(#[$doc:meta])* $field:ident = $symbol:ident ($($arg:ty),*) -> $result:ty;)+) => {
        /// The functions.
        #[derive(Clone, Copy)]
        pub(super) struct Functions {
            $($(#[$doc])* pub $field: unsafe extern "C" fn($($arg),*) -> $result,)+
        }

        impl Functions {
            /// Takes the functions from a library; the error names what it lacks.
            ///
            /// # Safety
            /// The library's functions of these names are those of cuBLASLt, and it is never unloaded.
            pub(super) unsafe fn of(library: &Library) -> Result<Self, libloading::Error> {
                Ok(Self {
                    // SAFETY: the caller's promise; the types are those of the header.
                    $($field: unsafe { *library.get(stringify!($symbol))? },)+
                })
            }
        }
    };
}

functions! {
    get_version = cublasLtGetVersion() -> usize;
    get_status_name = cublasLtGetStatusName(Status) -> *const c_char;
    create = cublasLtCreate(*mut Handle) -> Status;
    destroy = cublasLtDestroy(Handle) -> Status;
    /// Takes the type of the sums, and that of the factors.
    desc_create = cublasLtMatmulDescCreate(*mut MatmulDesc, c_uint, c_uint) -> Status;
    desc_destroy = cublasLtMatmulDescDestroy(MatmulDesc) -> Status;
    desc_set = cublasLtMatmulDescSetAttribute(MatmulDesc, c_uint, *const c_void, usize) -> Status;
    /// Takes the type of the elements, rows, columns, and the elements from one column to the next.
    layout_create = cublasLtMatrixLayoutCreate(*mut MatrixLayout, c_uint, u64, u64, i64) -> Status;
    layout_destroy = cublasLtMatrixLayoutDestroy(MatrixLayout) -> Status;
    preference_create = cublasLtMatmulPreferenceCreate(*mut Preference) -> Status;
    preference_destroy = cublasLtMatmulPreferenceDestroy(Preference) -> Status;
    preference_set =
        cublasLtMatmulPreferenceSetAttribute(Preference, c_uint, *const c_void, usize) -> Status;
    /// Takes the layouts of A, B, C and D, and how many results are wanted; returns how many there are.
    get_heuristic = cublasLtMatmulAlgoGetHeuristic(
        Handle,
        MatmulDesc,
        MatrixLayout,
        MatrixLayout,
        MatrixLayout,
        MatrixLayout,
        Preference,
        c_int,
        *mut HeuristicResult,
        *mut c_int
    ) -> Status;
    /// D = alpha A B + beta C, with the epilogue. The factors are on the host, the matrices on the device.
    matmul = cublasLtMatmul(
        Handle,
        MatmulDesc,
        *const c_void,
        *const c_void,
        MatrixLayout,
        *const c_void,
        MatrixLayout,
        *const c_void,
        *const c_void,
        MatrixLayout,
        *mut c_void,
        MatrixLayout,
        *const Algo,
        *mut c_void,
        usize,
        CUstream
    ) -> Status;
}

#[cfg(test)]
mod tests {
    use std::mem::offset_of;

    use cudarc::{
        cublas::sys::cublasOperation_t as Operation,
        cublaslt::sys::{
            cublasComputeType_t as Compute, cublasLtEpilogue_t as Epilogue, cublasLtMatmulAlgo_t,
            cublasLtMatmulDescAttributes_t as Attribute, cublasLtMatmulHeuristicResult_t as Result,
            cublasLtMatmulPreferenceAttributes_t as Preferred, cublasStatus_t,
            cudaDataType_t as Type,
        },
    };

    use super::*;

    #[test]
    fn values_and_sizes_are_those_of_the_headers() {
        let pairs = [
            (SUCCESS, cublasStatus_t::CUBLAS_STATUS_SUCCESS as u32),
            (
                NOT_SUPPORTED,
                cublasStatus_t::CUBLAS_STATUS_NOT_SUPPORTED as u32,
            ),
            (COMPUTE_32F, Compute::CUBLAS_COMPUTE_32F as u32),
            (R_32F, Type::CUDA_R_32F as u32),
            (R_16F, Type::CUDA_R_16F as u32),
            (R_16BF, Type::CUDA_R_16BF as u32),
            (OP_T as u32, Operation::CUBLAS_OP_T as u32),
            (EPILOGUE_BIAS, Epilogue::CUBLASLT_EPILOGUE_BIAS as u32),
            (DESC_TRANSA, Attribute::CUBLASLT_MATMUL_DESC_TRANSA as u32),
            (
                DESC_EPILOGUE,
                Attribute::CUBLASLT_MATMUL_DESC_EPILOGUE as u32,
            ),
            (
                DESC_BIAS_POINTER,
                Attribute::CUBLASLT_MATMUL_DESC_BIAS_POINTER as u32,
            ),
            (
                DESC_SM_COUNT_TARGET,
                Attribute::CUBLASLT_MATMUL_DESC_SM_COUNT_TARGET as u32,
            ),
            (
                PREFERENCE_MAX_WORKSPACE_BYTES,
                Preferred::CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES as u32,
            ),
        ];
        for (ours, theirs) in pairs {
            assert_eq!(ours, theirs);
        }
        assert_eq!(size_of::<Algo>(), size_of::<cublasLtMatmulAlgo_t>());
        assert_eq!(size_of::<HeuristicResult>(), size_of::<Result>());
        let offsets = [
            (
                offset_of!(HeuristicResult, workspace_size),
                offset_of!(Result, workspaceSize),
            ),
            (
                offset_of!(HeuristicResult, state),
                offset_of!(Result, state),
            ),
            (
                offset_of!(HeuristicResult, waves_count),
                offset_of!(Result, wavesCount),
            ),
        ];
        for (ours, theirs) in offsets {
            assert_eq!(ours, theirs);
        }
    }
}

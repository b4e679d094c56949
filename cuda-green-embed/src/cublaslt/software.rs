//! cuBLASLt in software, for simulated drivers: the functions of the table over a kernel with a body on the host.
//!
//! Descriptors are checked as the real library's documentation says; a product is launched in the given stream like the
//! real one, so that it is captured into graphs and takes its place among other work.

use std::{
    cell::RefCell,
    ffi::{c_char, c_int, c_uint, c_void},
    path::PathBuf,
    ptr,
};

use cuda_green::{
    CUresult, CudaDevice, Kernel, Module,
    sim::Launch,
    sys::{CUdeviceptr, CUstream},
};

use super::{
    api::{self, Algo, Functions, Handle, HeuristicResult, Status},
    search::Loaded,
};
use crate::{
    error::{Error, Result},
    kernels::{
        Element,
        host::{Arguments, product},
    },
};

/// `CUBLAS_STATUS_NOT_INITIALIZED`.
const NOT_INITIALIZED: Status = 1;
/// `CUBLAS_STATUS_INVALID_VALUE`.
const INVALID_VALUE: Status = 7;
/// `CUBLAS_STATUS_EXECUTION_FAILED`.
const EXECUTION_FAILED: Status = 13;
/// `CUBLASLT_EPILOGUE_DEFAULT`.
const EPILOGUE_DEFAULT: u32 = 1;
/// The alignment that the heuristic may count on if the preference does not say otherwise.
const ALIGNMENT: CUdeviceptr = 256;
/// Begins each algorithm that the heuristic returns.
const MAGIC: u64 = 0x6772_6565_6e6c_7400;
/// The workspace of the second algorithm.
const WORKSPACE: usize = 1 << 20;
/// The rows and columns of a block's tile.
const TILE: u32 = 64;

/// The kernel of every product.
pub(crate) const KERNEL: &str = "cuda_green_software_matmul";
/// The index of the parameter `k`, the inputs of an output.
pub(crate) const KERNEL_INPUTS: usize = 7;
const PTX: &str = ".version 7.4
.target sm_80
.address_size 64
.visible .entry cuda_green_software_matmul(
.param .u64 a, .param .u64 b, .param .u64 bias, .param .u64 c, .param .u64 d,
.param .u32 m, .param .u32 n, .param .u32 k, .param .u32 element,
.param .f32 alpha, .param .f32 beta)
{ ret; }
";

const FUNCTIONS: Functions = Functions {
    get_version,
    get_status_name,
    create,
    destroy,
    desc_create,
    desc_destroy,
    desc_set,
    layout_create,
    layout_destroy,
    preference_create,
    preference_destroy,
    preference_set,
    get_heuristic,
    matmul,
};

thread_local! {
    /// The device that the next handle of this thread is made for: the real library takes that of the current context.
    static DEVICE: RefCell<Option<CudaDevice>> = const { RefCell::new(None) };
}

/// Calls `make` with the functions, of which `create` makes a handle for the device.
pub(super) fn on<T>(device: &CudaDevice, make: impl FnOnce(Loaded) -> Result<T>) -> Result<T> {
    let Some(simulator) = device.driver().simulator() else {
        super::check(&FUNCTIONS, "cublasLtCreate", NOT_INITIALIZED)?;
        return Err(Error::CublasLt {
            call: "cublasLtCreate",
            status: NOT_INITIALIZED,
            name: "not a simulated driver".to_owned(),
        });
    };
    simulator.register_kernel(KERNEL, |launch| {
        // A fault in memory has failed the launch already.
        let _ = body(launch);
    });
    DEVICE.set(Some(device.clone()));
    let made = make(Loaded {
        functions: FUNCTIONS,
        path: PathBuf::from("software"),
    });
    DEVICE.set(None);
    made
}

struct SoftwareHandle {
    kernel: Kernel,
}

struct SoftwareDesc {
    transposes_a: bool,
    epilogue: u32,
    bias: CUdeviceptr,
}

#[derive(Clone, Copy, PartialEq)]
struct SoftwareLayout {
    element: Element,
    rows: u32,
    columns: u32,
}

struct SoftwarePreference {
    workspace_bytes: u64,
}

extern "C" fn get_version() -> usize {
    130_000
}

extern "C" fn get_status_name(status: Status) -> *const c_char {
    let name = match status {
        api::SUCCESS => c"CUBLAS_STATUS_SUCCESS",
        NOT_INITIALIZED => c"CUBLAS_STATUS_NOT_INITIALIZED",
        INVALID_VALUE => c"CUBLAS_STATUS_INVALID_VALUE",
        EXECUTION_FAILED => c"CUBLAS_STATUS_EXECUTION_FAILED",
        api::NOT_SUPPORTED => c"CUBLAS_STATUS_NOT_SUPPORTED",
        _ => c"CUBLAS_STATUS_INTERNAL_ERROR",
    };
    name.as_ptr()
}

/// Writes a new object's address.
///
/// # Safety
/// The pointer is null or valid for writing.
unsafe fn put<T>(to: *mut *mut c_void, object: T) -> Status {
    if to.is_null() {
        return INVALID_VALUE;
    }
    // SAFETY: it is not null, so valid.
    unsafe { to.write(Box::into_raw(Box::new(object)).cast()) };
    api::SUCCESS
}

/// Destroys an object.
///
/// # Safety
/// The address is null or that of a live `T` that [`put`] wrote, which is not used again.
unsafe fn take<T>(object: *mut c_void) -> Option<Box<T>> {
    if object.is_null() {
        return None;
    }
    // SAFETY: the caller's promise.
    Some(unsafe { Box::from_raw(object.cast()) })
}

/// Reads an attribute, if it has as many bytes as there are.
///
/// # Safety
/// The buffer is null or has `size` bytes.
unsafe fn attribute<T: Copy>(buffer: *const c_void, size: usize) -> Option<T> {
    if buffer.is_null() || size != size_of::<T>() {
        return None;
    }
    // SAFETY: the buffer has the bytes; they need not be aligned.
    Some(unsafe { buffer.cast::<T>().read_unaligned() })
}

unsafe extern "C" fn create(to: *mut Handle) -> Status {
    let Some(device) = DEVICE.with_borrow(Clone::clone) else {
        return NOT_INITIALIZED;
    };
    let loaded = Module::load_ptx(&device, PTX).and_then(|module| module.kernel(KERNEL));
    match loaded {
        // SAFETY: the caller's promise.
        Ok(kernel) => unsafe { put(to, SoftwareHandle { kernel }) },
        Err(error) => {
            log::warn!("the software cuBLASLt cannot load its kernel: {error}");
            NOT_INITIALIZED
        }
    }
}

unsafe extern "C" fn destroy(handle: Handle) -> Status {
    // SAFETY: the caller's promise.
    match unsafe { take::<SoftwareHandle>(handle) } {
        Some(_) => api::SUCCESS,
        None => NOT_INITIALIZED,
    }
}

unsafe extern "C" fn desc_create(to: *mut *mut c_void, compute: c_uint, scale: c_uint) -> Status {
    if compute != api::COMPUTE_32F || scale != api::R_32F {
        return api::NOT_SUPPORTED;
    }
    let desc = SoftwareDesc {
        transposes_a: false,
        epilogue: EPILOGUE_DEFAULT,
        bias: 0,
    };
    // SAFETY: the caller's promise.
    unsafe { put(to, desc) }
}

unsafe extern "C" fn desc_destroy(desc: *mut c_void) -> Status {
    // SAFETY: the caller's promise.
    unsafe { take::<SoftwareDesc>(desc) };
    api::SUCCESS
}

unsafe extern "C" fn desc_set(
    desc: *mut c_void,
    which: c_uint,
    buffer: *const c_void,
    size: usize,
) -> Status {
    // SAFETY: the caller's promise: it is null, or live and not in use elsewhere.
    let Some(desc) = (unsafe { desc.cast::<SoftwareDesc>().as_mut() }) else {
        return INVALID_VALUE;
    };
    // SAFETY: the caller's promise.
    let done = unsafe {
        match which {
            api::DESC_TRANSA => attribute::<i32>(buffer, size)
                .filter(|operation| (0..=api::OP_T).contains(operation))
                .map(|operation| desc.transposes_a = operation == api::OP_T),
            api::DESC_EPILOGUE => attribute::<u32>(buffer, size)
                .filter(|epilogue| [EPILOGUE_DEFAULT, api::EPILOGUE_BIAS].contains(epilogue))
                .map(|epilogue| desc.epilogue = epilogue),
            api::DESC_BIAS_POINTER => {
                attribute::<CUdeviceptr>(buffer, size).map(|bias| desc.bias = bias)
            }
            api::DESC_SM_COUNT_TARGET => attribute::<i32>(buffer, size)
                .filter(|sms| *sms >= 0)
                .map(drop),
            _ => None,
        }
    };
    done.map_or(INVALID_VALUE, |()| api::SUCCESS)
}

unsafe extern "C" fn layout_create(
    to: *mut *mut c_void,
    element: c_uint,
    rows: u64,
    columns: u64,
    leading: i64,
) -> Status {
    let element = match element {
        api::R_16F => Element::F16,
        api::R_16BF => Element::Bf16,
        api::R_32F => Element::F32,
        _ => return api::NOT_SUPPORTED,
    };
    let (Ok(rows), Ok(columns)) = (u32::try_from(rows), u32::try_from(columns)) else {
        return api::NOT_SUPPORTED;
    };
    // The body knows no gaps between columns.
    if rows == 0 || columns == 0 || leading != i64::from(rows) {
        return INVALID_VALUE;
    }
    let layout = SoftwareLayout {
        element,
        rows,
        columns,
    };
    // SAFETY: the caller's promise.
    unsafe { put(to, layout) }
}

unsafe extern "C" fn layout_destroy(layout: *mut c_void) -> Status {
    // SAFETY: the caller's promise.
    unsafe { take::<SoftwareLayout>(layout) };
    api::SUCCESS
}

unsafe extern "C" fn preference_create(to: *mut *mut c_void) -> Status {
    // SAFETY: the caller's promise.
    unsafe { put(to, SoftwarePreference { workspace_bytes: 0 }) }
}

unsafe extern "C" fn preference_destroy(preference: *mut c_void) -> Status {
    // SAFETY: the caller's promise.
    unsafe { take::<SoftwarePreference>(preference) };
    api::SUCCESS
}

unsafe extern "C" fn preference_set(
    preference: *mut c_void,
    which: c_uint,
    buffer: *const c_void,
    size: usize,
) -> Status {
    // SAFETY: the caller's promise: it is null, or live and not in use elsewhere.
    let Some(preference) = (unsafe { preference.cast::<SoftwarePreference>().as_mut() }) else {
        return INVALID_VALUE;
    };
    // SAFETY: the caller's promise.
    let value = unsafe { attribute::<u64>(buffer, size) };
    match (which, value) {
        (api::PREFERENCE_MAX_WORKSPACE_BYTES, Some(bytes)) => {
            preference.workspace_bytes = bytes;
            api::SUCCESS
        }
        _ => INVALID_VALUE,
    }
}

/// A product as its descriptors say: D, m × n, of A, k × m and transposed, and B, k × n.
struct Shape {
    m: u32,
    n: u32,
    k: u32,
    element: Element,
}

/// Checks that the descriptors fit each other.
///
/// # Safety
/// Each is null or live.
unsafe fn shape(desc: *mut c_void, [a, b, c, d]: [*mut c_void; 4]) -> Result<Shape, Status> {
    // SAFETY: the caller's promise.
    let (desc, a, b, c, d) = unsafe {
        let layout = |layout: *mut c_void| layout.cast::<SoftwareLayout>().as_ref();
        let desc = desc.cast::<SoftwareDesc>().as_ref();
        let (Some(desc), Some(a), Some(b), Some(c), Some(d)) =
            (desc, layout(a), layout(b), layout(c), layout(d))
        else {
            return Err(INVALID_VALUE);
        };
        (desc, a, b, c, d)
    };
    if !desc.transposes_a {
        return Err(api::NOT_SUPPORTED);
    }
    let fit = a.rows == b.rows && d.rows == a.columns && d.columns == b.columns && c == d;
    let alike = a.element == d.element && b.element == d.element;
    if !fit || !alike || (desc.epilogue == api::EPILOGUE_BIAS && desc.bias == 0) {
        return Err(INVALID_VALUE);
    }
    Ok(Shape {
        m: d.rows,
        n: d.columns,
        k: a.rows,
        element: d.element,
    })
}

unsafe extern "C" fn get_heuristic(
    handle: Handle,
    desc: *mut c_void,
    a: *mut c_void,
    b: *mut c_void,
    c: *mut c_void,
    d: *mut c_void,
    preference: *mut c_void,
    wanted: c_int,
    results: *mut HeuristicResult,
    count: *mut c_int,
) -> Status {
    // SAFETY: the caller's promise.
    let (shape, preference) = unsafe {
        let preference = preference.cast::<SoftwarePreference>().as_ref();
        (shape(desc, [a, b, c, d]), preference)
    };
    let Some(preference) = preference else {
        return INVALID_VALUE;
    };
    if handle.is_null() || wanted < 1 || results.is_null() || count.is_null() {
        return INVALID_VALUE;
    }
    if let Err(status) = shape {
        return status;
    }
    let mut found = 0;
    for workspace_size in [0, WORKSPACE] {
        if found == wanted || workspace_size as u64 > preference.workspace_bytes {
            break;
        }
        let mut algo = Algo::default();
        algo.data[..2].copy_from_slice(&[MAGIC, workspace_size as u64]);
        let result = HeuristicResult {
            algo,
            workspace_size,
            waves_count: 1.0,
            ..HeuristicResult::default()
        };
        // SAFETY: there is room for as many as are wanted.
        unsafe { results.add(found as usize).write(result) };
        found += 1;
    }
    // SAFETY: it is not null, so valid.
    unsafe { count.write(found) };
    api::SUCCESS
}

#[allow(clippy::too_many_arguments)] // the library's signature
unsafe extern "C" fn matmul(
    handle: Handle,
    desc: *mut c_void,
    alpha: *const c_void,
    a: *const c_void,
    a_layout: *mut c_void,
    b: *const c_void,
    b_layout: *mut c_void,
    beta: *const c_void,
    c: *const c_void,
    c_layout: *mut c_void,
    d: *mut c_void,
    d_layout: *mut c_void,
    algo: *const Algo,
    workspace: *mut c_void,
    workspace_bytes: usize,
    stream: CUstream,
) -> Status {
    // SAFETY: the caller's promise: all are null or live.
    let (handle, desc_of, shape, alpha, beta, algo) = unsafe {
        (
            handle.cast::<SoftwareHandle>().as_ref(),
            desc.cast::<SoftwareDesc>().as_ref(),
            shape(desc, [a_layout, b_layout, c_layout, d_layout]),
            alpha.cast::<f32>().as_ref(),
            beta.cast::<f32>().as_ref(),
            algo.as_ref(),
        )
    };
    let Some(handle) = handle else {
        return NOT_INITIALIZED;
    };
    let (Some(desc), Some(alpha), Some(beta)) = (desc_of, alpha, beta) else {
        return INVALID_VALUE;
    };
    let shape = match shape {
        Ok(shape) => shape,
        Err(status) => return status,
    };
    if let Some(algo) = algo {
        let [magic, needed, ..] = algo.data;
        let too_small = needed > workspace_bytes as u64 || (needed > 0 && workspace.is_null());
        if magic != MAGIC || too_small {
            return INVALID_VALUE;
        }
    }
    let bias = match desc.epilogue {
        api::EPILOGUE_BIAS => desc.bias,
        _ => 0,
    };
    let mut matrices = [a, b, c, d.cast_const()].map(|matrix| matrix as CUdeviceptr);
    let bad = |address: &CUdeviceptr| *address == 0 || !address.is_multiple_of(ALIGNMENT);
    if matrices.iter().any(bad) || !bias.is_multiple_of(ALIGNMENT) {
        return INVALID_VALUE;
    }

    let [a, b, c, d] = &mut matrices;
    let Shape { m, n, k, element } = shape;
    let element = match element {
        Element::F16 => api::R_16F,
        Element::Bf16 => api::R_16BF,
        Element::F32 => api::R_32F,
    };
    let mut arguments: [*mut c_void; 11] = [
        ptr::from_mut(a).cast(),
        ptr::from_mut(b).cast(),
        ptr::from_ref(&bias).cast_mut().cast(),
        ptr::from_mut(c).cast(),
        ptr::from_mut(d).cast(),
        ptr::from_ref(&m).cast_mut().cast(),
        ptr::from_ref(&n).cast_mut().cast(),
        ptr::from_ref(&k).cast_mut().cast(),
        ptr::from_ref(&element).cast_mut().cast(),
        ptr::from_ref(alpha).cast_mut().cast(),
        ptr::from_ref(beta).cast_mut().cast(),
    ];
    let (grid_x, grid_y) = (m.div_ceil(TILE), n.div_ceil(TILE));
    let api = handle.kernel.module().device().driver().api();
    // SAFETY: the kernel is loaded, and the arguments are its parameters.
    let launched = unsafe {
        api.cuLaunchKernel(
            handle.kernel.raw(),
            grid_x,
            grid_y,
            1,
            128,
            1,
            1,
            0,
            stream,
            arguments.as_mut_ptr(),
            ptr::null_mut(),
        )
    };
    match launched {
        Ok(CUresult::CUDA_SUCCESS) => api::SUCCESS,
        _ => EXECUTION_FAILED,
    }
}

/// Computes D = alpha A' B + beta C + bias.
fn body(launch: &Launch<'_>) -> Option<()> {
    let mut arguments = Arguments::of(launch);
    let [a, b, bias, c, d] = arguments.addresses()?;
    let [m, n, k, element] = arguments.numbers()?;
    let [alpha, beta] = arguments.floats()?;
    let (m, n, k) = (m as usize, n as usize, k as usize);
    let element = match element {
        api::R_16F => Element::F16,
        api::R_16BF => Element::Bf16,
        _ => Element::F32,
    };
    let w = arguments.read(element, a, m * k)?;
    let rows = arguments.read(element, b, n * k)?;
    let bias = match bias {
        0 => vec![0.0; m],
        _ => arguments.read(element, bias, m)?,
    };
    let mut sums = product(&rows, &w, k);
    let added = match beta {
        0.0 => Vec::new(),
        _ => arguments.read(element, c, m * n)?,
    };
    for (row, sums) in sums.chunks_exact_mut(m).enumerate() {
        for (sum, bias) in sums.iter_mut().zip(&bias) {
            *sum = alpha * *sum + bias;
        }
        if let Some(added) = added.get(row * m..(row + 1) * m) {
            for (sum, added) in sums.iter_mut().zip(added) {
                *sum += beta * added;
            }
        }
    }
    arguments.write(element, d, &sums)
}

//! One matrix product: its descriptors, and the ways to compute it among which a caller can choose.

use std::{
    ffi::c_void,
    fmt, ptr,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
};

use cuda_green::{Stream, sys::CUdeviceptr};

use super::{
    CublasLt,
    api::{
        self, Algo, HeuristicResult, MatmulDesc, MatrixLayout, NOT_SUPPORTED, Preference, Status,
    },
};
use crate::{error::Result, kernels::Element, precision::InferencePrecision};

/// The most ways to compute a product that are asked for.
const CANDIDATES: usize = 8;

/// The shape of a product `out = a w' + bias + residual` of row-major matrices without gaps: `a` is rows × inputs, `w`
/// outputs × inputs, `out` and `residual` are rows × outputs, and `bias` has a value for each output.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct ProductShape {
    /// The number of rows of `a`.
    pub rows: usize,
    /// The number of values in a row of `a`.
    pub inputs: usize,
    /// The number of values in a row of `out`.
    pub outputs: usize,
    /// The type of all matrices, and of the bias. Sums are in 32 bits, and `f32` is not rounded to TF32.
    pub precision: InferencePrecision,
    /// Whether a bias is added to each row.
    pub with_bias: bool,
    /// Whether `residual` is added.
    pub with_residual: bool,
}

/// A product that is ready to be launched.
///
/// Matrices are column-major to cuBLASLt, so it is told to compute out' = w a', where out' is outputs × rows.
pub struct Product {
    cublaslt: Arc<CublasLt>,
    shape: ProductShape,
    workspace_bytes: usize,
    candidates: Vec<Algo>,
    chosen: AtomicUsize,
    /// Holds the address of the bias, so a launch needs it alone.
    desc: Mutex<Desc>,
    w: Layout,
    a: Layout,
    out: Layout,
}

impl Product {
    pub(super) fn new(
        cublaslt: Arc<CublasLt>,
        shape: ProductShape,
        workspace_bytes: usize,
        sm_count_target: Option<u32>,
    ) -> Result<Self> {
        let element = match Element::of(shape.precision)? {
            Element::F16 => api::R_16F,
            Element::Bf16 => api::R_16BF,
            Element::F32 => api::R_32F,
        };
        let rows = size("rows", shape.rows)?;
        let inputs = size("inputs", shape.inputs)?;
        let outputs = size("outputs", shape.outputs)?;

        let desc = Desc::new(&cublaslt)?;
        desc.set(api::DESC_TRANSA, &api::OP_T)?;
        if shape.with_bias {
            desc.set(api::DESC_EPILOGUE, &api::EPILOGUE_BIAS)?;
            // The heuristic wants to know that there is an address, and how it is aligned.
            desc.set(api::DESC_BIAS_POINTER, &ANY_ADDRESS)?;
        }
        if let Some(sms) = sm_count_target {
            let sms = i32::try_from(sms).unwrap_or(0);
            desc.set(api::DESC_SM_COUNT_TARGET, &sms)?;
        }
        let w = Layout::new(&cublaslt, element, inputs, outputs)?;
        let a = Layout::new(&cublaslt, element, inputs, rows)?;
        let out = Layout::new(&cublaslt, element, outputs, rows)?;
        let preference = PreferenceBox::new(&cublaslt)?;
        let bytes = workspace_bytes as u64;
        preference.set(api::PREFERENCE_MAX_WORKSPACE_BYTES, &bytes)?;

        let mut results = [HeuristicResult::default(); CANDIDATES];
        let mut count = 0;
        let guard = cublaslt.primary.activate()?;
        // SAFETY: the handle and the descriptors are live, and there is room for as many results as are asked for.
        let status = unsafe {
            (cublaslt.functions.get_heuristic)(
                cublaslt.handle.0,
                desc.raw,
                w.raw,
                a.raw,
                out.raw,
                out.raw,
                preference.raw,
                CANDIDATES as i32,
                results.as_mut_ptr(),
                &mut count,
            )
        };
        let call = "cublasLtMatmulAlgoGetHeuristic";
        drop(guard);
        cublaslt.check(call, status)?;
        let found = results.iter().take(usize::try_from(count).unwrap_or(0));
        let candidates: Vec<_> = found
            .filter(|result| result.state == api::SUCCESS)
            .filter(|result| result.workspace_size <= workspace_bytes)
            .map(|result| result.algo)
            .collect();
        if candidates.is_empty() {
            cublaslt.check(call, NOT_SUPPORTED)?;
        }
        drop(preference);
        Ok(Self {
            shape,
            workspace_bytes,
            candidates,
            chosen: AtomicUsize::new(0),
            desc: Mutex::new(desc),
            w,
            a,
            out,
            cublaslt,
        })
    }

    /// Returns the shape.
    pub fn shape(&self) -> ProductShape {
        self.shape
    }

    /// Returns the bytes of workspace that a launch needs.
    pub fn workspace_bytes(&self) -> usize {
        self.workspace_bytes
    }

    /// Returns the number of ways to compute it, 1 or more. The first is the one that cuBLASLt takes for the fastest.
    pub fn candidates(&self) -> usize {
        self.candidates.len()
    }

    /// Makes later launches compute it in another way than the first, or the last if there are not that many.
    pub fn choose(&self, candidate: usize) {
        let last = self.candidates.len().saturating_sub(1);
        self.chosen.store(candidate.min(last), Ordering::Relaxed);
    }

    /// Launches it in a stream, in the way that was [chosen](Self::choose).
    ///
    /// cuBLASLt may load its kernels into the current context at the first launch. So the stream's context, or the
    /// device's primary one, is current to the calling thread: see the guide
    /// [`foreign_libraries`](cuda_green::guide::foreign_libraries).
    ///
    /// # Errors
    /// [`Error::CublasLt`](crate::Error::CublasLt).
    ///
    /// # Safety
    /// The stream is of the product's device. The addresses are multiples of 256 and of live memory of the shape's sizes,
    /// the workspace's of [`workspace_bytes`](Self::workspace_bytes), until the stream has done the work. `bias` and
    /// `residual` are used only if the shape has them; `residual` may be `out`, and nothing else overlaps with it.
    #[allow(clippy::too_many_arguments)] // what a product is
    pub unsafe fn launch(
        &self,
        stream: &Stream,
        a: CUdeviceptr,
        w: CUdeviceptr,
        bias: CUdeviceptr,
        residual: CUdeviceptr,
        out: CUdeviceptr,
        workspace: CUdeviceptr,
    ) -> Result<()> {
        let (alpha, beta) = (
            1.0_f32,
            if self.shape.with_residual {
                1.0_f32
            } else {
                0.0
            },
        );
        let added = if self.shape.with_residual {
            residual
        } else {
            out
        };
        let chosen = self.chosen.load(Ordering::Relaxed);
        let algo = self.candidates.get(chosen).or(self.candidates.first());
        let algo = algo.map_or(ptr::null(), ptr::from_ref);
        let pointer = |address: CUdeviceptr| address as *mut c_void;

        let desc = self.desc.lock().unwrap_or_else(PoisonError::into_inner);
        if self.shape.with_bias {
            desc.set(api::DESC_BIAS_POINTER, &bias)?;
        }
        // SAFETY: the handle and the descriptors are live, the factors are of the type that the descriptor says, and the
        // caller vouches for the rest.
        let status = unsafe {
            (self.cublaslt.functions.matmul)(
                self.cublaslt.handle.0,
                desc.raw,
                ptr::from_ref(&alpha).cast(),
                pointer(w),
                self.w.raw,
                pointer(a),
                self.a.raw,
                ptr::from_ref(&beta).cast(),
                pointer(added),
                self.out.raw,
                pointer(out),
                self.out.raw,
                algo,
                pointer(workspace),
                self.workspace_bytes,
                stream.raw(),
            )
        };
        self.cublaslt.check("cublasLtMatmul", status)
    }
}

impl fmt::Debug for Product {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Product")
            .field("shape", &self.shape)
            .field("candidates", &self.candidates.len())
            .finish_non_exhaustive()
    }
}

/// Stands for the address of a bias that is not known yet.
const ANY_ADDRESS: CUdeviceptr = 4096;

/// Ensures that a size is one that cuBLASLt takes.
fn size(name: &'static str, value: usize) -> Result<u64> {
    if value == 0 || i32::try_from(value).is_err() {
        return Err(cuda_green::Error::InvalidArgument {
            name,
            value: value.to_string(),
            reason: "a product has 1 to 2147483647 of each",
        }
        .into());
    }
    Ok(value as u64)
}

macro_rules! descriptors {
    ($($(#[$doc:meta])* $name:ident of $raw:ty, $destroy:ident;)+) => {$(
        $(#[$doc])*
        struct $name {
            raw: $raw,
            cublaslt: Arc<CublasLt>,
        }

        // SAFETY: a descriptor is plain memory of the library's, which does not care for the thread.
        unsafe impl Send for $name {}
        // SAFETY: as above; the library does not change it where it is only used.
        unsafe impl Sync for $name {}

        impl Drop for $name {
            fn drop(&mut self) {
                // SAFETY: the descriptor is this object's own, and is not used again.
                let status = unsafe { (self.cublaslt.functions.$destroy)(self.raw) };
                if let Err(error) = self.cublaslt.check(stringify!($destroy), status) {
                    log::warn!("dropping a matrix product: {error}");
                }
            }
        }
    )+};
}

descriptors! {
    /// The description of the operation.
    Desc of MatmulDesc, desc_destroy;
    /// The description of a matrix.
    Layout of MatrixLayout, layout_destroy;
    /// What the heuristic is to heed.
    PreferenceBox of Preference, preference_destroy;
}

impl Desc {
    fn new(cublaslt: &Arc<CublasLt>) -> Result<Self> {
        let mut raw = ptr::null_mut();
        let create = cublaslt.functions.desc_create;
        // SAFETY: the pointer is valid for the one descriptor that is written.
        let status = unsafe { create(&mut raw, api::COMPUTE_32F, api::R_32F) };
        cublaslt.check("cublasLtMatmulDescCreate", status)?;
        let cublaslt = Arc::clone(cublaslt);
        Ok(Self { raw, cublaslt })
    }

    /// Sets an attribute whose type in the header has the form of `T`.
    fn set<T>(&self, attribute: u32, value: &T) -> Result<()> {
        let status = set(self.cublaslt.functions.desc_set, self.raw, attribute, value);
        self.cublaslt
            .check("cublasLtMatmulDescSetAttribute", status)
    }
}

impl Layout {
    /// Describes a column-major matrix without gaps.
    fn new(cublaslt: &Arc<CublasLt>, element: u32, rows: u64, columns: u64) -> Result<Self> {
        let mut raw = ptr::null_mut();
        let create = cublaslt.functions.layout_create;
        // SAFETY: the pointer is valid for the one descriptor that is written.
        let status = unsafe { create(&mut raw, element, rows, columns, rows as i64) };
        cublaslt.check("cublasLtMatrixLayoutCreate", status)?;
        let cublaslt = Arc::clone(cublaslt);
        Ok(Self { raw, cublaslt })
    }
}

impl PreferenceBox {
    fn new(cublaslt: &Arc<CublasLt>) -> Result<Self> {
        let mut raw = ptr::null_mut();
        // SAFETY: the pointer is valid for the one descriptor that is written.
        let status = unsafe { (cublaslt.functions.preference_create)(&mut raw) };
        cublaslt.check("cublasLtMatmulPreferenceCreate", status)?;
        let cublaslt = Arc::clone(cublaslt);
        Ok(Self { raw, cublaslt })
    }

    fn set<T>(&self, attribute: u32, value: &T) -> Result<()> {
        let function = self.cublaslt.functions.preference_set;
        let status = set(function, self.raw, attribute, value);
        self.cublaslt
            .check("cublasLtMatmulPreferenceSetAttribute", status)
    }
}

/// Sets an attribute of a live descriptor.
fn set<T>(
    function: unsafe extern "C" fn(*mut c_void, u32, *const c_void, usize) -> Status,
    raw: *mut c_void,
    attribute: u32,
    value: &T,
) -> Status {
    // SAFETY: the descriptor is live; the library reads as many bytes as it is told, or refuses them.
    unsafe { function(raw, attribute, ptr::from_ref(value).cast(), size_of::<T>()) }
}

//! Pointers and handles that cross the C boundary, each checked for null before it is accessed.
//!
//! All reading and writing through a caller's pointer happens here, so that the rest of the driver is safe code.
//! Accesses are unaligned, because clients built with headers up to 13.0 align `CUdevResource` to 4 bytes and newer
//! ones to 8.

use std::ffi::{CStr, c_char, c_void};

use cuda_green_sys::{CUhostFn, CUresult};

/// The result of a driver function inside the simulator.
pub(crate) type Answer = Result<(), CUresult>;

/// A pointer or a handle as it came across the C boundary.
///
/// Only [`Arg::lift`] makes one. Its caller promises what the methods need: the pointer is null, an opaque handle, or
/// valid for what the driver's function of that name reads and writes.
pub(crate) struct Raw<T>(*const T);

impl<T> Raw<T> {
    /// Returns the value as a handle, which is never dereferenced.
    pub(crate) fn handle(&self) -> u64 {
        self.0 as usize as u64
    }

    pub(crate) fn is_null(&self) -> bool {
        self.0.is_null()
    }

    /// Returns `INVALID_VALUE` if the pointer is null, so that a call can fail before it changes anything.
    pub(crate) fn required(&self) -> Answer {
        if self.is_null() {
            Err(CUresult::CUDA_ERROR_INVALID_VALUE)
        } else {
            Ok(())
        }
    }

    /// Writes a result; `INVALID_VALUE` if the pointer is null.
    pub(crate) fn set(&self, value: T) -> Answer {
        self.set_at(0, value)
    }

    /// Writes an element of an array.
    pub(crate) fn set_at(&self, index: usize, value: T) -> Answer {
        self.required()?;
        // SAFETY: not null, so valid for what the driver's function writes, by the promise of `lift`.
        unsafe { self.0.cast_mut().add(index).write_unaligned(value) };
        Ok(())
    }

    /// Writes a result unless the caller declined it with a null pointer.
    pub(crate) fn set_if_wanted(&self, value: T) {
        if !self.is_null() {
            // SAFETY: as in `set_at`.
            unsafe { self.0.cast_mut().write_unaligned(value) };
        }
    }
}

impl<T: Copy> Raw<T> {
    /// Reads an input; `INVALID_VALUE` if the pointer is null.
    pub(crate) fn get(&self) -> Result<T, CUresult> {
        self.at(0)
    }

    /// Reads an element of an array.
    pub(crate) fn at(&self, index: usize) -> Result<T, CUresult> {
        self.required()?;
        // SAFETY: not null, so valid for what the driver's function reads, by the promise of `lift`.
        Ok(unsafe { self.0.add(index).read_unaligned() })
    }
}

impl Raw<c_void> {
    /// Copies bytes in. The pointer must not be null and must be valid for them.
    pub(crate) fn read_bytes(&self, offset: usize, to: &mut [u8]) {
        let from = self.0.cast::<u8>().wrapping_add(offset);
        // SAFETY: valid for the bytes that the driver's function reads, by the promise of `lift`; the
        // destination is the simulator's own.
        unsafe { from.copy_to_nonoverlapping(to.as_mut_ptr(), to.len()) };
    }

    /// Copies bytes out. The pointer must not be null and must be valid for them.
    pub(crate) fn write_bytes(&self, offset: usize, from: &[u8]) {
        let to = self.0.cast::<u8>().cast_mut().wrapping_add(offset);
        // SAFETY: valid for the bytes that the driver's function writes, by the promise of `lift`; the
        // source is the simulator's own.
        unsafe { to.copy_from_nonoverlapping(from.as_ptr(), from.len()) };
    }

    /// Returns the first `n` bytes, or those up to a NUL, so that looking at an image's magic number never runs past
    /// the end of a short text.
    pub(crate) fn head(&self, n: usize) -> Result<Vec<u8>, CUresult> {
        self.required()?;
        let mut head = Vec::with_capacity(n);
        for offset in 0..n {
            let mut byte = [0];
            self.read_bytes(offset, &mut byte);
            head.push(byte[0]);
            if byte[0] == 0 {
                break;
            }
        }
        Ok(head)
    }

    /// Returns the text at the pointer, if it is NUL-terminated UTF-8.
    pub(crate) fn text(&self) -> Result<String, CUresult> {
        Raw::<c_char>(self.0.cast()).text()
    }

    /// Returns the pointer in a form that outlives the call.
    pub(crate) fn retain(self) -> ClientPointer {
        ClientPointer(self)
    }

    /// Returns the pointer itself, for client memory that the driver pins.
    pub(crate) fn pointer(&self) -> *mut c_void {
        self.0.cast_mut()
    }

    /// Casts the pointer to another type.
    pub(crate) fn cast<U>(&self) -> Raw<U> {
        Raw(self.0.cast())
    }
}

impl Raw<c_char> {
    /// Returns the C string at the pointer, if it is UTF-8.
    pub(crate) fn text(&self) -> Result<String, CUresult> {
        self.required()?;
        // SAFETY: not null, so a NUL-terminated string by the promise of `lift`.
        let text = unsafe { CStr::from_ptr(self.0) };
        text.to_str()
            .map(str::to_owned)
            .map_err(|_| CUresult::CUDA_ERROR_INVALID_VALUE)
    }
}

impl Raw<*mut c_void> {
    /// Reads one pointer from an array of pointers.
    pub(crate) fn pointer_at(&self, index: usize) -> Result<Raw<c_void>, CUresult> {
        self.at(index).map(|pointer| Raw(pointer.cast_const()))
    }
}

/// A client's pointer that is used after its call has returned: at the launches of a graph, or for the log of a link.
/// The rules of captured calls and of `cuLinkCreate` say that the memory stays valid for that.
pub(crate) struct ClientPointer(Raw<c_void>);

// SAFETY: the pointer is only used as the client promised, and the client's promise is for every launch,
// from whatever thread.
unsafe impl Send for ClientPointer {}
// SAFETY: as above.
unsafe impl Sync for ClientPointer {}

impl ClientPointer {
    pub(crate) fn pointer(&self) -> &Raw<c_void> {
        &self.0
    }
}

/// A client's function and its argument.
pub(crate) struct HostFunction {
    function: unsafe extern "C" fn(*mut c_void),
    data: ClientPointer,
}

impl HostFunction {
    /// Makes one; `INVALID_VALUE` if there is no function.
    pub(crate) fn new(function: CUhostFn, data: Raw<c_void>) -> Result<Self, CUresult> {
        Ok(Self {
            function: function.ok_or(CUresult::CUDA_ERROR_INVALID_VALUE)?,
            data: data.retain(),
        })
    }

    pub(crate) fn call(&self) {
        // SAFETY: the client gave both to be called so, once for each launch.
        unsafe { (self.function)(self.data.0.pointer()) };
    }
}

/// An argument of a C function, converted for safe code.
pub(crate) trait Arg {
    /// The type that the driver's own code receives.
    type Lifted;

    /// # Safety
    /// A pointer is null, an opaque handle, or valid for everything that the driver's function of this
    /// signature reads and writes through it, until that function returns.
    unsafe fn lift(self) -> Self::Lifted;
}

impl<T> Arg for *mut T {
    type Lifted = Raw<T>;
    unsafe fn lift(self) -> Raw<T> {
        Raw(self.cast_const())
    }
}

impl<T> Arg for *const T {
    type Lifted = Raw<T>;
    unsafe fn lift(self) -> Raw<T> {
        Raw(self)
    }
}

/// Values cross as they are.
macro_rules! values {
    ($($ty:ty),+) => {$(
        impl Arg for $ty {
            type Lifted = $ty;
            unsafe fn lift(self) -> $ty {
                self
            }
        }
    )+};
}

values!(
    u8,
    i32,
    u32,
    u64,
    usize,
    CUresult,
    cuda_green_sys::CUdevice_attribute,
    cuda_green_sys::CUdevResourceType,
    cuda_green_sys::CUmemPool_attribute,
    cuda_green_sys::CUstreamCaptureMode,
    cuda_green_sys::CUfunction_attribute,
    cuda_green_sys::CUjitInputType,
    cuda_green_sys::CUpointer_attribute,
    cuda_green_sys::CUmemAllocationGranularity_flags,
    CUhostFn
);

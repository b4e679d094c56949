//! The table of the driver's entry points, and everything that is generated from it.
//!
//! To add an entry point, add its line to the table below and regenerate the bindings
//! (`cargo xtask bindings`). From the line come its field in [`Api`], its method, its
//! row in [`ENTRY_POINTS`] (the loader's requests), its documentation, its checks against every
//! CUDA header, and the simulated driver's function, for which that crate must have a body.

use std::{
    ffi::{CStr, c_char, c_int, c_uint, c_ulonglong, c_void},
    fmt,
    path::Path,
};

use crate::{bindings::*, version::CudaVersion};

/// One entry point of the driver API.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub struct EntryPoint {
    /// The exported C symbol, with the suffix of its ABI: `cuMemAlloc_v2`.
    pub symbol: &'static CStr,
    /// The name that `cuGetProcAddress` knows it by, without the suffix: `cuMemAlloc`.
    pub proc_name: &'static CStr,
    /// The CUDA version that introduced this ABI: the version `cuGetProcAddress` is asked with, and
    /// the first whose driver has it.
    pub since: CudaVersion,
}

impl EntryPoint {
    /// Returns the exported C symbol as text.
    pub fn name(&self) -> &'static str {
        // Every name in the table is ASCII, so the fallback is never taken.
        self.symbol.to_str().unwrap_or_default()
    }
}

/// The reason why a driver has no address for an entry point.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Absence {
    /// The driver does not know the name (`CU_GET_PROC_ADDRESS_SYMBOL_NOT_FOUND`, or no such symbol
    /// in the library).
    NotFound,
    /// The driver knows the name, but not in the ABI of that version
    /// (`CU_GET_PROC_ADDRESS_VERSION_NOT_SUFFICIENT`, or an address although the driver is older than
    /// the ABI).
    OlderAbi,
}

/// The error of calling an entry point that the loaded driver lacks.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub struct MissingEntryPoint {
    /// The entry point that was called.
    pub entry_point: &'static EntryPoint,
    /// The version of the driver that lacks it.
    pub driver: CudaVersion,
    /// The kind of absence: no such function, or only an older form of it.
    pub absence: Absence,
    /// The file of the library that gave the driver's other entry points; `None` where they came through
    /// [`Api::from_resolver`].
    pub library: Option<&'static Path>,
}

impl std::error::Error for MissingEntryPoint {}

/// Writes what `Display` writes, because `unwrap` prints `Debug`.
impl fmt::Debug for MissingEntryPoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl fmt::Display for MissingEntryPoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { driver, .. } = self;
        let EntryPoint { since, .. } = self.entry_point;
        let name = self.entry_point.name();
        if since > driver {
            write!(
                f,
                "{name} needs a driver of CUDA {since} or later; this one speaks CUDA {driver}"
            )?;
            return match self.absence {
                Absence::OlderAbi => f.write_str(" and has the function only in an older form"),
                Absence::NotFound => Ok(()),
            };
        }
        // Every driver of that version has it, so something else answered in the driver's place.
        write!(f, "CUDA {driver} has {name} (since {since}), but ")?;
        match self.library {
            Some(path) => write!(f, "{}", path.display())?,
            None => f.write_str("the driver")?,
        }
        f.write_str(match self.absence {
            Absence::NotFound => " does not provide it: ",
            Absence::OlderAbi => " provides only an older form of it: ",
        })?;
        f.write_str(match self.library {
            Some(_) => {
                "it stands in front of the driver and hides it, or is not a complete driver; LD_PRELOAD, \
                 LD_LIBRARY_PATH and CUDA_GREEN_DRIVER decide what is loaded"
            }
            None => {
                "something stands in front of the driver and hides it, or it is not a complete driver"
            }
        })
    }
}

/// The entry point that is resolved first: its answer decides which of the others can exist.
pub(crate) static DRIVER_GET_VERSION: EntryPoint = EntryPoint {
    symbol: c"cuDriverGetVersion",
    proc_name: c"cuDriverGetVersion",
    since: CudaVersion::new(2, 2),
};

/// A resolver's answer for one entry point.
pub(crate) type Resolution = Result<*const c_void, Absence>;

/// Returns the name that `cuGetProcAddress` wants, without `_v2`, `_v3` …, as a C string's bytes.
const fn proc_name(symbol: &'static CStr) -> &'static [u8] {
    let bytes = symbol.to_bytes_with_nul();
    let n = bytes.len();
    if n > 4 && bytes[n - 4] == b'_' && bytes[n - 3] == b'v' && bytes[n - 2].is_ascii_digit() {
        bytes.split_at(n - 4).0
    } else {
        bytes.split_at(n - 1).0
    }
}

/// Returns the name with a NUL appended.
const fn with_nul<const N: usize>(name: &[u8]) -> [u8; N] {
    let mut out = [0; N];
    let mut i = 0;
    while i < name.len() {
        out[i] = name[i];
        i += 1;
    }
    out
}

macro_rules! entry_points {
    ($(
        $(#[doc = $doc:literal])+
        $name:ident($($arg:ident: $ty:ty),* $(,)?), since ($major:literal, $minor:literal);
    )+) => {
        /// Every entry point that [`Api`] binds, in the order of the table.
        pub static ENTRY_POINTS: &[EntryPoint] = &[$(
            EntryPoint {
                symbol: symbol_of!($name),
                proc_name: {
                    const NAME: &[u8] = proc_name(symbol_of!($name));
                    const WITH_NUL: [u8; NAME.len() + 1] = with_nul(NAME);
                    match CStr::from_bytes_with_nul(&WITH_NUL) {
                        Ok(name) => name,
                        Err(_) => c"",
                    }
                },
                since: CudaVersion::new($major, $minor),
            },
        )+];

        /// The index of each entry point in [`ENTRY_POINTS`].
        #[allow(non_camel_case_types, clippy::enum_variant_names)]
        enum Index { $($name),+ }

        /// The table of the driver's functions, each present or known to be absent.
        ///
        /// Each method calls the function of its name. The outer `Result` says whether the driver has the function;
        /// the [`CUresult`] within is the driver's answer. See [`Api::load`].
        pub struct Api {
            pub(crate) version: CudaVersion,
            library: Option<&'static Path>,
            absences: Box<[Option<Absence>]>,
            $($name: Option<unsafe extern "C" fn($($ty),*) -> CUresult>,)+
        }

        impl Api {
            /// Fills the table for a driver of this version that came from this library.
            ///
            /// An entry point newer than the driver stays absent, even where the driver has an address for it: asked
            /// for an ABI of the future, a real driver answers with its newest one (12.2 and 12.4 give the
            /// two-argument `cuStreamGetCtx` when asked for that of 12.5).
            ///
            /// # Safety
            /// Each address that `resolve` gives for an entry point that is not newer than `version`
            /// must be the driver's function of that name and ABI, callable for as long as the table
            /// lives.
            pub(crate) unsafe fn fill(
                version: CudaVersion,
                library: Option<&'static Path>,
                mut resolve: impl FnMut(&'static EntryPoint) -> Resolution,
            ) -> Self {
                let found: Vec<Resolution> = ENTRY_POINTS.iter().map(|entry| match resolve(entry) {
                    Ok(address) if address.is_null() => Err(Absence::NotFound),
                    Ok(_) if entry.since > version => Err(Absence::OlderAbi),
                    answer => answer,
                }).collect();
                Self {
                    version,
                    library,
                    absences: found.iter().map(|answer| answer.err()).collect(),
                    $($name: found[Index::$name as usize].ok().map(|address| {
                        // SAFETY: the address is not null, and the caller vouches that it is this
                        // very function, whose type the tests compare with every CUDA header.
                        unsafe {
                            std::mem::transmute::<
                                *const c_void,
                                unsafe extern "C" fn($($ty),*) -> CUresult,
                            >(address)
                        }
                    }),)+
                }
            }

            $(
                $(#[doc = $doc])+
                #[doc = concat!("\n\nCUDA ", $major, ".", $minor, " or later.")]
                ///
                /// # Errors
                /// [`MissingEntryPoint`] if the driver lacks the function. The [`CUresult`] holds the driver's own
                /// answer.
                ///
                /// # Safety
                /// The driver's own rules for this function: handles are live and of this driver,
                /// pointers are valid for what it reads and writes, structs were zeroed first.
                #[inline]
                #[allow(clippy::too_many_arguments)]
                pub unsafe fn $name(&self, $($arg: $ty),*) -> Result<CUresult, MissingEntryPoint> {
                    match self.$name {
                        // SAFETY: the table holds this function's own address; its arguments are the
                        // caller's promise.
                        Some(function) => Ok(unsafe { function($($arg),*) }),
                        None => Err(self.missing(Index::$name)),
                    }
                }
            )+

            #[cold]
            fn missing(&self, index: Index) -> MissingEntryPoint {
                let index = index as usize;
                MissingEntryPoint {
                    entry_point: &ENTRY_POINTS[index],
                    driver: self.version,
                    absence: self.absences[index].unwrap_or(Absence::NotFound),
                    library: self.library,
                }
            }

            /// Returns each entry point with the reason for its absence, if it is absent.
            pub fn entry_points(&self) -> impl Iterator<Item = (&'static EntryPoint, Option<Absence>)> {
                ENTRY_POINTS.iter().zip(self.absences.iter().copied())
            }

            /// Returns the CUDA version of the driver behind the table.
            pub fn version(&self) -> CudaVersion {
                self.version
            }

            /// Returns the file of the library that answers for the driver, as the system's loader names it; `None`
            /// if the table came from [`Api::from_resolver`].
            pub fn library(&self) -> Option<&'static Path> {
                self.library
            }

            /// Returns a key that is equal for two tables of the same driver: the address of its `cuInit`, which is
            /// the same however often a library is loaded and different in each library. Null if the driver has no
            /// `cuInit`.
            pub fn identity(&self) -> *const c_void {
                self.cuInit.map_or(std::ptr::null(), |function| function as *const c_void)
            }
        }

        /// The C signature of each entry point as the table states it, to be compared with the headers.
        #[doc(hidden)]
        pub static SIGNATURES: &[(&str, &str)] = &[$(
            (stringify!($name), stringify!(($($arg: $ty),*))),
        )+];
    };
}

impl fmt::Debug for Api {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let absent: Vec<_> = self
            .entry_points()
            .filter_map(|(entry, absence)| absence.map(|_| entry.name()))
            .collect();
        f.debug_struct("Api")
            .field("version", &self.version)
            .field("library", &self.library)
            .field("absent", &absent)
            .finish()
    }
}

/// Makes a C string from an identifier.
macro_rules! symbol_of {
    ($name:ident) => {
        match CStr::from_bytes_with_nul(concat!(stringify!($name), "\0").as_bytes()) {
            Ok(name) => name,
            Err(_) => c"",
        }
    };
}

/// Calls a macro with the whole table, to generate something for every entry point: [`Api`] here, the simulated
/// driver's functions elsewhere. The names of the types must be in scope there: those of `std::ffi` and all of this
/// crate. Not for users: it changes with any release.
#[doc(hidden)]
#[macro_export]
#[rustfmt::skip]
macro_rules! each_entry_point { ($callback:ident) => { $callback! {
    // --- Driver -------------------------------------------------------------------------------
    /// Initialises the driver; must come before almost everything else. Flags must be 0.
    cuInit(Flags: c_uint), since (2, 0);
    /// Gets the CUDA version that the driver speaks, as 1000 × major + 10 × minor. Works before `cuInit`.
    cuDriverGetVersion(driverVersion: *mut c_int), since (2, 2);
    /// Gets the name of an error code, as a static string of the driver.
    cuGetErrorName(error: CUresult, pStr: *mut *const c_char), since (6, 0);
    /// Gets the text of an error code, as a static string of the driver.
    cuGetErrorString(error: CUresult, pStr: *mut *const c_char), since (6, 0);

    // --- Devices ------------------------------------------------------------------------------
    /// Counts the devices.
    cuDeviceGetCount(count: *mut c_int), since (2, 0);
    /// Gets the handle of the device with this ordinal.
    cuDeviceGet(device: *mut CUdevice, ordinal: c_int), since (2, 0);
    /// Gets the device's name, NUL-terminated and cut to `len` bytes.
    cuDeviceGetName(name: *mut c_char, len: c_int, dev: CUdevice), since (2, 0);
    /// Gets the device's UUID.
    cuDeviceGetUuid_v2(uuid: *mut CUuuid, dev: CUdevice), since (11, 4);
    /// Gets the device's memory in bytes.
    cuDeviceTotalMem_v2(bytes: *mut usize, dev: CUdevice), since (3, 2);
    /// Gets one attribute of the device.
    cuDeviceGetAttribute(pi: *mut c_int, attrib: CUdevice_attribute, dev: CUdevice), since (2, 0);
    /// Gets the device's default memory pool, from which `cuMemAllocAsync` draws unless another is set.
    cuDeviceGetDefaultMemPool(pool_out: *mut CUmemoryPool, dev: CUdevice), since (11, 2);
    /// Gets the device's current memory pool.
    cuDeviceGetMemPool(pool: *mut CUmemoryPool, dev: CUdevice), since (11, 2);
    /// Makes a pool the device's current one.
    cuDeviceSetMemPool(dev: CUdevice, pool: CUmemoryPool), since (11, 2);
    /// Queries whether one device can access another's memory.
    cuDeviceCanAccessPeer(canAccessPeer: *mut c_int, dev: CUdevice, peerDev: CUdevice), since (4, 0);

    // --- The primary context ------------------------------------------------------------------
    /// Retains the device's primary context, creating it at the first call.
    cuDevicePrimaryCtxRetain(pctx: *mut CUcontext, dev: CUdevice), since (7, 0);
    /// Releases one retain of the primary context.
    cuDevicePrimaryCtxRelease_v2(dev: CUdevice), since (11, 0);
    /// Queries whether the primary context is active, and its flags.
    cuDevicePrimaryCtxGetState(dev: CUdevice, flags: *mut c_uint, active: *mut c_int), since (7, 0);

    // --- The current context ------------------------------------------------------------------
    /// Gets the calling thread's current context, or null.
    cuCtxGetCurrent(pctx: *mut CUcontext), since (4, 0);
    /// Replaces the top of the calling thread's context stack; null pops it.
    cuCtxSetCurrent(ctx: CUcontext), since (4, 0);
    /// Pushes a context onto the calling thread's stack.
    cuCtxPushCurrent_v2(ctx: CUcontext), since (4, 0);
    /// Pops the calling thread's current context.
    cuCtxPopCurrent_v2(pctx: *mut CUcontext), since (4, 0);
    /// Gets the device of the current context.
    cuCtxGetDevice(device: *mut CUdevice), since (2, 0);
    /// Waits for all work of the current context.
    cuCtxSynchronize(), since (2, 0);
    /// Gets the least and the greatest stream priority of the current context; lower numbers come first.
    cuCtxGetStreamPriorityRange(leastPriority: *mut c_int, greatestPriority: *mut c_int), since (5, 5);
    /// Gets the flags that the current context was created with.
    cuCtxGetFlags(flags: *mut c_uint), since (7, 0);
    /// Gets the process-wide unique id of a context; null means the current one.
    cuCtxGetId(ctx: CUcontext, ctxId: *mut c_ulonglong), since (12, 0);
    /// Records all work of a context in an event; the context may be a green context's.
    cuCtxRecordEvent(hCtx: CUcontext, hEvent: CUevent), since (12, 5);
    /// Makes all later work of a context wait for an event; the context may be a green context's.
    cuCtxWaitEvent(hCtx: CUcontext, hEvent: CUevent), since (12, 5);
    /// Lets the current context access the memory of a context on another device. Flags must be 0.
    cuCtxEnablePeerAccess(peerContext: CUcontext, Flags: c_uint), since (4, 0);
    /// Reverts `cuCtxEnablePeerAccess`.
    cuCtxDisablePeerAccess(peerContext: CUcontext), since (4, 0);

    // --- Resources and green contexts ---------------------------------------------------------
    /// Gets a device's resources of one type.
    cuDeviceGetDevResource(device: CUdevice, resource: *mut CUdevResource, type_: CUdevResourceType), since (12, 4);
    /// Gets a context's resources of one type.
    cuCtxGetDevResource(hCtx: CUcontext, resource: *mut CUdevResource, type_: CUdevResourceType), since (12, 4);
    /// Gets a green context's resources of one type.
    cuGreenCtxGetDevResource(hCtx: CUgreenCtx, resource: *mut CUdevResource, type_: CUdevResourceType), since (12, 4);
    /// Splits SMs into equal groups of at least `minCount`, and a remainder.
    cuDevSmResourceSplitByCount(result: *mut CUdevResource, nbGroups: *mut c_uint, input: *const CUdevResource, remainder: *mut CUdevResource, flags: c_uint, minCount: c_uint), since (12, 4);
    /// Splits SMs into groups of the sizes and co-scheduling that each asks for, and a remainder.
    cuDevSmResourceSplit(result: *mut CUdevResource, nbGroups: c_uint, input: *const CUdevResource, remainder: *mut CUdevResource, flags: c_uint, groupParams: *mut CU_DEV_SM_RESOURCE_GROUP_PARAMS), since (13, 1);
    /// Creates the descriptor from which a green context is created. It lives as long as the process.
    cuDevResourceGenerateDesc(phDesc: *mut CUdevResourceDesc, resources: *mut CUdevResource, nbResources: c_uint), since (12, 4);
    /// Creates a green context over a descriptor's resources.
    cuGreenCtxCreate(phCtx: *mut CUgreenCtx, desc: CUdevResourceDesc, dev: CUdevice, flags: c_uint), since (12, 4);
    /// Destroys a green context, whatever still uses it.
    cuGreenCtxDestroy(hCtx: CUgreenCtx), since (12, 4);
    /// Gets the `CUcontext` of a green context, for functions that take one. It must never be destroyed.
    cuCtxFromGreenCtx(pContext: *mut CUcontext, hCtx: CUgreenCtx), since (12, 4);
    /// Records all work of a green context in an event.
    cuGreenCtxRecordEvent(hCtx: CUgreenCtx, hEvent: CUevent), since (12, 4);
    /// Makes all later work of a green context wait for an event.
    cuGreenCtxWaitEvent(hCtx: CUgreenCtx, hEvent: CUevent), since (12, 4);
    /// Creates a stream in a green context; it must be non-blocking.
    cuGreenCtxStreamCreate(phStream: *mut CUstream, greenCtx: CUgreenCtx, flags: c_uint, priority: c_int), since (12, 5);
    /// Gets the process-wide unique id of a green context.
    cuGreenCtxGetId(greenCtx: CUgreenCtx, greenCtxId: *mut c_ulonglong), since (13, 0);

    // --- Streams ------------------------------------------------------------------------------
    /// Creates a stream in the current context.
    cuStreamCreateWithPriority(phStream: *mut CUstream, flags: c_uint, priority: c_int), since (5, 5);
    /// Destroys a stream once its work is done; returns at once.
    cuStreamDestroy_v2(hStream: CUstream), since (4, 0);
    /// Waits for a stream's work.
    cuStreamSynchronize(hStream: CUstream), since (2, 0);
    /// Queries whether a stream's work is done.
    cuStreamQuery(hStream: CUstream), since (2, 0);
    /// Makes a stream's later work wait for an event.
    cuStreamWaitEvent(hStream: CUstream, hEvent: CUevent, Flags: c_uint), since (3, 2);
    /// Gets a stream's priority.
    cuStreamGetPriority(hStream: CUstream, priority: *mut c_int), since (5, 5);
    /// Gets a stream's flags.
    cuStreamGetFlags(hStream: CUstream, flags: *mut c_uint), since (5, 5);
    /// Gets the process-wide unique id of a stream.
    cuStreamGetId(hStream: CUstream, streamId: *mut c_ulonglong), since (12, 0);
    /// Gets the context of a stream; for a stream of a green context, the context that contains it.
    cuStreamGetCtx(hStream: CUstream, pctx: *mut CUcontext), since (9, 2);
    /// Gets the context of a stream and its green context, if any.
    cuStreamGetCtx_v2(hStream: CUstream, pCtx: *mut CUcontext, pGreenCtx: *mut CUgreenCtx), since (12, 5);
    /// Gets a stream's green context, or null.
    cuStreamGetGreenCtx(hStream: CUstream, phCtx: *mut CUgreenCtx), since (12, 4);
    /// Gets a stream's resources of one type.
    cuStreamGetDevResource(hStream: CUstream, resource: *mut CUdevResource, type_: CUdevResourceType), since (13, 1);
    /// Calls a host function in the stream's order, on a thread of the driver. It must not call CUDA.
    cuLaunchHostFunc(hStream: CUstream, fn_: CUhostFn, userData: *mut c_void), since (10, 0);

    // --- Events -------------------------------------------------------------------------------
    /// Creates an event in the current context.
    cuEventCreate(phEvent: *mut CUevent, Flags: c_uint), since (2, 0);
    /// Destroys an event.
    cuEventDestroy_v2(hEvent: CUevent), since (4, 0);
    /// Records a stream's work in an event.
    cuEventRecord(hEvent: CUevent, hStream: CUstream), since (2, 0);
    /// Records a stream's work in an event, with flags for capture.
    cuEventRecordWithFlags(hEvent: CUevent, hStream: CUstream, flags: c_uint), since (11, 1);
    /// Queries whether an event's work is done.
    cuEventQuery(hEvent: CUevent), since (2, 0);
    /// Waits for an event's work.
    cuEventSynchronize(hEvent: CUevent), since (2, 0);
    /// Measures the milliseconds between two events.
    cuEventElapsedTime(pMilliseconds: *mut f32, hStart: CUevent, hEnd: CUevent), since (2, 0);

    // --- Modules, kernels, launches -----------------------------------------------------------
    /// Loads PTX, cubin or fatbin into the current context.
    cuModuleLoadData(module: *mut CUmodule, image: *const c_void), since (2, 0);
    /// Loads an image with options for the compiler and buffers for its log.
    cuModuleLoadDataEx(module: *mut CUmodule, image: *const c_void, numOptions: c_uint, options: *mut CUjit_option, optionValues: *mut *mut c_void), since (2, 1);
    /// Unloads a module.
    cuModuleUnload(hmod: CUmodule), since (2, 0);
    /// Gets a kernel of a module by its name.
    cuModuleGetFunction(hfunc: *mut CUfunction, hmod: CUmodule, name: *const c_char), since (2, 0);
    /// Counts the kernels of a module.
    cuModuleGetFunctionCount(count: *mut c_uint, mod_: CUmodule), since (12, 4);
    /// Gets the kernels of a module, up to `numFunctions` of them.
    cuModuleEnumerateFunctions(functions: *mut CUfunction, numFunctions: c_uint, mod_: CUmodule), since (12, 4);
    /// Gets the address and the size of a module's global variable; either output may be null.
    cuModuleGetGlobal_v2(dptr: *mut CUdeviceptr, bytes: *mut usize, hmod: CUmodule, name: *const c_char), since (3, 2);
    /// Loads PTX, cubin or fatbin for every context, present and future. It belongs to no context.
    cuLibraryLoadData(library: *mut CUlibrary, code: *const c_void, jitOptions: *mut CUjit_option, jitOptionsValues: *mut *mut c_void, numJitOptions: c_uint, libraryOptions: *mut CUlibraryOption, libraryOptionValues: *mut *mut c_void, numLibraryOptions: c_uint), since (12, 0);
    /// Unloads a library.
    cuLibraryUnload(library: CUlibrary), since (12, 0);
    /// Gets a kernel of a library by its name.
    cuLibraryGetKernel(pKernel: *mut CUkernel, library: CUlibrary, name: *const c_char), since (12, 0);
    /// Gets the module of a library in the current context.
    cuLibraryGetModule(pMod: *mut CUmodule, library: CUlibrary), since (12, 0);
    /// Gets the function of a kernel in the current context.
    cuKernelGetFunction(pFunc: *mut CUfunction, kernel: CUkernel), since (12, 0);
    /// Gets one attribute of a kernel on a device.
    cuKernelGetAttribute(pi: *mut c_int, attrib: CUfunction_attribute, kernel: CUkernel, dev: CUdevice), since (12, 0);
    /// Sets an attribute of a kernel on a device, such as its dynamic shared memory.
    cuKernelSetAttribute(attrib: CUfunction_attribute, val: c_int, kernel: CUkernel, dev: CUdevice), since (12, 0);
    /// Gets one attribute of a function: threads per block, registers, shared memory.
    cuFuncGetAttribute(pi: *mut c_int, attrib: CUfunction_attribute, hfunc: CUfunction), since (2, 2);
    /// Sets an attribute of a function, such as its dynamic shared memory.
    cuFuncSetAttribute(hfunc: CUfunction, attrib: CUfunction_attribute, value: c_int), since (9, 0);
    /// Gets the module of a function.
    cuFuncGetModule(hmod: *mut CUmodule, hfunc: CUfunction), since (11, 0);
    /// Gets the name of a function, as a string that lives as long as its module.
    cuFuncGetName(name: *mut *const c_char, hfunc: CUfunction), since (12, 3);
    /// Begins a link, which turns PTX and binaries into one cubin.
    cuLinkCreate_v2(numOptions: c_uint, options: *mut CUjit_option, optionValues: *mut *mut c_void, stateOut: *mut CUlinkState), since (6, 5);
    /// Adds an image to the link; PTX is compiled.
    cuLinkAddData_v2(state: CUlinkState, type_: CUjitInputType, data: *mut c_void, size: usize, name: *const c_char, numOptions: c_uint, options: *mut CUjit_option, optionValues: *mut *mut c_void), since (6, 5);
    /// Completes a link; the cubin lives as long as the link.
    cuLinkComplete(state: CUlinkState, cubinOut: *mut *mut c_void, sizeOut: *mut usize), since (5, 5);
    /// Destroys a link and its cubin.
    cuLinkDestroy(state: CUlinkState), since (5, 5);
    /// Launches a kernel.
    cuLaunchKernel(f: CUfunction, gridDimX: c_uint, gridDimY: c_uint, gridDimZ: c_uint, blockDimX: c_uint, blockDimY: c_uint, blockDimZ: c_uint, sharedMemBytes: c_uint, hStream: CUstream, kernelParams: *mut *mut c_void, extra: *mut *mut c_void), since (4, 0);
    /// Launches a kernel with attributes, such as a cluster size.
    cuLaunchKernelEx(config: *const CUlaunchConfig, f: CUfunction, kernelParams: *mut *mut c_void, extra: *mut *mut c_void), since (11, 6);
    /// Counts the blocks of a function that fit on one SM at once.
    cuOccupancyMaxActiveBlocksPerMultiprocessor(numBlocks: *mut c_int, func: CUfunction, blockSize: c_int, dynamicSMemSize: usize), since (6, 5);
    /// Gets the largest cluster that a launch of these dimensions can use in its stream's context.
    cuOccupancyMaxPotentialClusterSize(clusterSize: *mut c_int, func: CUfunction, config: *const CUlaunchConfig), since (11, 7);
    /// Counts the clusters of a launch that can run at once in its stream's context.
    cuOccupancyMaxActiveClusters(numClusters: *mut c_int, func: CUfunction, config: *const CUlaunchConfig), since (11, 7);

    // --- Graphs and capture -------------------------------------------------------------------
    /// Begins to capture a stream's work into a graph instead of running it.
    cuStreamBeginCapture_v2(hStream: CUstream, mode: CUstreamCaptureMode), since (10, 1);
    /// Ends a capture and returns its graph. The graph keeps the contexts of the streams it was captured on.
    cuStreamEndCapture(hStream: CUstream, phGraph: *mut CUgraph), since (10, 0);
    /// Queries whether a stream is being captured.
    cuStreamIsCapturing(hStream: CUstream, captureStatus: *mut CUstreamCaptureStatus), since (10, 0);
    /// Swaps the calling thread's capture mode.
    cuThreadExchangeStreamCaptureMode(mode: *mut CUstreamCaptureMode), since (10, 1);
    /// Creates an empty graph. Flags must be 0.
    cuGraphCreate(phGraph: *mut CUgraph, flags: c_uint), since (10, 0);
    /// Destroys a graph; graphs instantiated from it stay.
    cuGraphDestroy(hGraph: CUgraph), since (10, 0);
    /// Instantiates a graph, so that it can be launched.
    cuGraphInstantiateWithFlags(phGraphExec: *mut CUgraphExec, hGraph: CUgraph, flags: c_ulonglong), since (11, 4);
    /// Brings an instantiated graph to the device ahead of its first launch.
    cuGraphUpload(hGraph: CUgraphExec, hStream: CUstream), since (11, 1);
    /// Launches an instantiated graph. Its kernels run in the contexts that they were captured in.
    cuGraphLaunch(hGraph: CUgraphExec, hStream: CUstream), since (10, 0);
    /// Destroys an instantiated graph; one that runs is destroyed once it is done.
    cuGraphExecDestroy(hGraphExec: CUgraphExec), since (10, 0);

    // --- Memory -------------------------------------------------------------------------------
    /// Gets the free and total memory of the current context's device, in bytes.
    cuMemGetInfo_v2(free: *mut usize, total: *mut usize), since (3, 2);
    /// Allocates device memory; zero bytes are refused.
    cuMemAlloc_v2(dptr: *mut CUdeviceptr, bytesize: usize), since (3, 2);
    /// Frees device memory after waiting for work that may use it.
    cuMemFree_v2(dptr: CUdeviceptr), since (3, 2);
    /// Allocates pinned host memory.
    cuMemHostAlloc(pp: *mut *mut c_void, bytesize: usize, Flags: c_uint), since (2, 2);
    /// Frees pinned host memory.
    cuMemFreeHost(p: *mut c_void), since (2, 0);
    /// Pins host memory that was allocated by other means.
    cuMemHostRegister_v2(p: *mut c_void, bytesize: usize, Flags: c_uint), since (6, 5);
    /// Unpins memory of `cuMemHostRegister_v2`.
    cuMemHostUnregister(p: *mut c_void), since (4, 0);
    /// Gets the device's address of pinned host memory. Flags must be 0.
    cuMemHostGetDevicePointer_v2(pdptr: *mut CUdeviceptr, p: *mut c_void, Flags: c_uint), since (3, 2);
    /// Gets one attribute of an address: its kind of memory, context, device, pool.
    cuPointerGetAttribute(data: *mut c_void, attribute: CUpointer_attribute, ptr: CUdeviceptr), since (4, 0);
    /// Copies from the host and waits for the end.
    cuMemcpyHtoD_v2(dstDevice: CUdeviceptr, srcHost: *const c_void, ByteCount: usize), since (3, 2);
    /// Copies to the host and waits for the end.
    cuMemcpyDtoH_v2(dstHost: *mut c_void, srcDevice: CUdeviceptr, ByteCount: usize), since (3, 2);
    /// Copies from the host in a stream.
    cuMemcpyHtoDAsync_v2(dstDevice: CUdeviceptr, srcHost: *const c_void, ByteCount: usize, hStream: CUstream), since (3, 2);
    /// Copies to the host in a stream.
    cuMemcpyDtoHAsync_v2(dstHost: *mut c_void, srcDevice: CUdeviceptr, ByteCount: usize, hStream: CUstream), since (3, 2);
    /// Copies within the device; the call may return before the end.
    cuMemcpyDtoD_v2(dstDevice: CUdeviceptr, srcDevice: CUdeviceptr, ByteCount: usize), since (3, 2);
    /// Copies within the device in a stream.
    cuMemcpyDtoDAsync_v2(dstDevice: CUdeviceptr, srcDevice: CUdeviceptr, ByteCount: usize, hStream: CUstream), since (3, 2);
    /// Sets device memory to a byte in a stream.
    cuMemsetD8Async(dstDevice: CUdeviceptr, uc: u8, N: usize, hStream: CUstream), since (3, 2);
    /// Sets device memory to a 32-bit value, `N` times, in a stream.
    cuMemsetD32Async(dstDevice: CUdeviceptr, ui: c_uint, N: usize, hStream: CUstream), since (3, 2);

    // --- Virtual memory -----------------------------------------------------------------------
    /// Reserves a range of addresses, without memory behind it.
    cuMemAddressReserve(ptr: *mut CUdeviceptr, size: usize, alignment: usize, addr: CUdeviceptr, flags: c_ulonglong), since (10, 2);
    /// Releases a reserved range.
    cuMemAddressFree(ptr: CUdeviceptr, size: usize), since (10, 2);
    /// Allocates memory without an address, on a device or on a NUMA node of the host.
    cuMemCreate(handle: *mut CUmemGenericAllocationHandle, size: usize, prop: *const CUmemAllocationProp, flags: c_ulonglong), since (10, 2);
    /// Frees what `cuMemCreate` allocated, once it is mapped nowhere.
    cuMemRelease(handle: CUmemGenericAllocationHandle), since (10, 2);
    /// Maps memory to reserved addresses.
    cuMemMap(ptr: CUdeviceptr, size: usize, offset: usize, handle: CUmemGenericAllocationHandle, flags: c_ulonglong), since (10, 2);
    /// Unmaps addresses from their memory.
    cuMemUnmap(ptr: CUdeviceptr, size: usize), since (10, 2);
    /// Sets which devices may read and write mapped addresses; none may at first.
    cuMemSetAccess(ptr: CUdeviceptr, size: usize, desc: *const CUmemAccessDesc, count: usize), since (10, 2);
    /// Gets the step between the sizes that `cuMemCreate` takes for these properties.
    cuMemGetAllocationGranularity(granularity: *mut usize, prop: *const CUmemAllocationProp, option: CUmemAllocationGranularity_flags), since (10, 2);

    // --- Memory pools -------------------------------------------------------------------------
    /// Creates a stream-ordered memory pool.
    cuMemPoolCreate(pool: *mut CUmemoryPool, poolProps: *const CUmemPoolProps), since (11, 2);
    /// Destroys a pool; its memory goes back once every allocation is freed.
    cuMemPoolDestroy(pool: CUmemoryPool), since (11, 2);
    /// Sets an attribute of a pool.
    cuMemPoolSetAttribute(pool: CUmemoryPool, attr: CUmemPool_attribute, value: *mut c_void), since (11, 2);
    /// Reads an attribute of a pool.
    cuMemPoolGetAttribute(pool: CUmemoryPool, attr: CUmemPool_attribute, value: *mut c_void), since (11, 2);
    /// Returns memory to the system until the pool holds at most `minBytesToKeep`.
    cuMemPoolTrimTo(pool: CUmemoryPool, minBytesToKeep: usize), since (11, 2);
    /// Sets which devices may access a pool's memory.
    cuMemPoolSetAccess(pool: CUmemoryPool, map: *const CUmemAccessDesc, count: usize), since (11, 2);
    /// Allocates from the device's current pool in a stream's order.
    cuMemAllocAsync(dptr: *mut CUdeviceptr, bytesize: usize, hStream: CUstream), since (11, 2);
    /// Allocates from a pool in a stream's order.
    cuMemAllocFromPoolAsync(dptr: *mut CUdeviceptr, bytesize: usize, pool: CUmemoryPool, hStream: CUstream), since (11, 2);
    /// Frees in a stream's order.
    cuMemFreeAsync(dptr: CUdeviceptr, hStream: CUstream), since (11, 2);
} } }

each_entry_point!(entry_points);

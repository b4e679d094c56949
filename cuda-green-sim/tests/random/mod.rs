//! Random calls through the whole table of entry points, with handles that are live, dead or of another kind, and
//! with sizes and flags of every kind. The driver must answer each with a code, and never with the code of a panic
//! inside it.
//!
//! All randomness comes from bytes, so `tests/random_calls.rs` (everywhere) and the target `calls` in `fuzz/` (where
//! there is time) make the same calls for the same bytes. The arguments are made from the types and names of the
//! table, so a new entry point is called as well, or does not compile here.
//!
//! One rule of clients is kept, because no driver could do without it: a pointer is null, or valid for what the
//! function reads and writes through it.

#![allow(clippy::undocumented_unsafe_blocks)] // all of them rest on that promise, and on outputs that live in `World`
#![allow(clippy::unwrap_used, clippy::panic)] // it is of tests

use std::{
    any::type_name,
    collections::{BTreeMap, BTreeSet},
    ffi::{c_char, c_int, c_uint, c_ulonglong, c_void},
    ptr,
};

use cuda_green_sim::Sim;
use cuda_green_sys::*;

mod arguments;

use arguments::{Arg, Of};

/// Size in bytes of the host memory for copies.
const ARENA: usize = 64 << 10;
/// Number of elements of every array.
const ROOM: usize = 64;

/// Makes the calls that the bytes encode on a driver of a profile, and returns the functions that succeeded.
pub fn calls(profile: &str, bytes: &[u8]) -> BTreeSet<&'static str> {
    // Copies may access it until the driver is gone.
    let mut arena = vec![0_u64; ARENA / 8];
    let simulator = Sim::new(profile).unwrap();
    let api = simulator.api().unwrap();
    let at = arena.as_mut_ptr() as usize;
    // A thread for the calls, so that its current contexts end with it.
    let made = std::thread::scope(|scope| {
        let run = || World::new(&api, bytes, at).run();
        scope.spawn(run).join()
    });
    let _ = simulator.live_objects().to_string();
    drop((api, simulator));
    drop(arena);
    made.unwrap_or_else(|panic| std::panic::resume_unwind(panic))
}

/// Does the same from several threads on one driver, with other bytes for each.
#[allow(dead_code)] // for the test alone
pub fn calls_of_threads(profile: &str, bytes: &[Vec<u8>]) {
    let mut arenas = vec![vec![0_u64; ARENA / 8]; bytes.len()];
    let simulator = Sim::new(profile).unwrap();
    let api = simulator.api().unwrap();
    std::thread::scope(|scope| {
        for (bytes, arena) in bytes.iter().zip(&mut arenas) {
            let (api, at) = (&api, arena.as_mut_ptr() as usize);
            scope.spawn(move || World::new(api, bytes, at).run());
        }
    });
    let _ = simulator.live_objects().to_string();
    drop((api, simulator));
    drop(arenas);
}

/// An output that is read once the call has succeeded.
enum Output {
    Handle(&'static str, *const usize),
    Address(*const u64),
    Physical(*const u64),
    Pinned(*const usize),
    Resources(*const CUdevResource),
}

struct World<'a> {
    api: &'a Api,
    bytes: std::slice::Iter<'a, u8>,
    /// The start of the host memory.
    arena: usize,
    /// Handles by the name of the type that they point to; dead ones stay.
    handles: BTreeMap<&'static str, Vec<usize>>,
    /// Device addresses.
    addresses: Vec<u64>,
    /// Handles of physical memory.
    physical: Vec<u64>,
    pinned: Vec<usize>,
    resources: Vec<CUdevResource>,
    images: Vec<Vec<u8>>,
    /// The targets of the pointers of one call.
    memory: Vec<Vec<u64>>,
    outputs: Vec<Output>,
    /// The name and arguments of the call, for messages.
    trace: Vec<String>,
}

impl<'a> World<'a> {
    fn new(api: &'a Api, bytes: &'a [u8], arena: usize) -> Self {
        let text = |text: &str| format!("{text}\0").into_bytes();
        let head = ".version 6.0\n.target sm_60\n.address_size 64\n";
        let kernels = ".entry cuda_green_sm_ids(.param .u64 out, .param .u32 len, .param .u32 spin) { ret; }\n\
                       .entry k() { ret; }";
        let mut world = Self {
            api,
            bytes: bytes.iter(),
            arena,
            handles: BTreeMap::new(),
            addresses: Vec::new(),
            physical: Vec::new(),
            pinned: Vec::new(),
            resources: Vec::new(),
            images: vec![
                text(&format!("{head}{kernels}")),
                text(&format!("{head}.entry other(.param .u64 a) {{ ret; }}")),
                text(&format!("{head}.entry k() {{ nonsense; }}")),
                text(".version 99.9"),
                text(""),
            ],
            memory: Vec::new(),
            outputs: Vec::new(),
            trace: Vec::new(),
        };
        world.begin();
        world
    }

    /// Creates one live object of each kind, because random calls alone rarely do.
    fn begin(&mut self) {
        let api = self.api;
        let none = ptr::null_mut::<c_void>();
        let mut made: [usize; 11] = [0; 11];
        let [
            context,
            module,
            function,
            green,
            stream,
            event,
            link,
            pool,
            second,
            library,
            kernel,
        ] = &mut made;
        let (mut memory, mut groups, mut rest) =
            (0, [CUdevResource::default(); 4], CUdevResource::default());
        let mut whole = CUdevResource::default();
        let (mut count, mut reserved, mut physical) = (4, 0, 0);
        let (mut descriptor, mut cubin, mut size) = (ptr::null_mut(), none, 0);
        let out = |slot: &mut usize| ptr::from_mut(slot);
        unsafe {
            let _ = api.cuInit(0);
            let _ = api.cuDevicePrimaryCtxRetain(out(context).cast(), 0);
            let _ = api.cuCtxSetCurrent(*context as CUcontext);
            let image = self.images[0].as_ptr();
            let _ = api.cuModuleLoadData(out(module).cast(), image.cast());
            let name = c"cuda_green_sm_ids".as_ptr();
            let _ = api.cuModuleGetFunction(out(function).cast(), *module as CUmodule, name);
            let kind = CUdevResourceType::CU_DEV_RESOURCE_TYPE_SM;
            let _ = api.cuDeviceGetDevResource(0, &mut whole, kind);
            let to = groups.as_mut_ptr();
            let _ = api.cuDevSmResourceSplitByCount(to, &mut count, &whole, &mut rest, 0, 8);
            let _ = api.cuDevResourceGenerateDesc(&mut descriptor, groups.as_mut_ptr(), 1);
            let _ = api.cuGreenCtxCreate(out(green).cast(), descriptor, 0, 1);
            let _ = api.cuStreamCreateWithPriority(out(stream).cast(), 1, 0);
            let _ = api.cuEventCreate(out(event).cast(), 0);
            let _ = api.cuMemAlloc_v2(&mut memory, ARENA);
            let _ = api.cuDeviceGetDefaultMemPool(out(pool).cast(), 0);
            let _ = api.cuDevicePrimaryCtxRetain(out(second).cast(), 1);
            let properties = CUmemAllocationProp {
                type_: CUmemAllocationType(1),
                location: CUmemLocation {
                    type_: CUmemLocationType(1),
                    ..Default::default()
                },
                ..Default::default()
            };
            let _ = api.cuMemAddressReserve(&mut reserved, 4 << 20, 0, 0, 0);
            let _ = api.cuMemCreate(&mut physical, 2 << 20, &properties, 0);
            let _ = api.cuMemMap(reserved, 2 << 20, 0, physical, 0);
            let (none, nothing) = (ptr::null_mut(), ptr::null_mut());
            let (own, own_values) = (ptr::null_mut(), ptr::null_mut());
            let to = out(library).cast();
            let _ = api.cuLibraryLoadData(to, image.cast(), none, nothing, 0, own, own_values, 0);
            let (of, to) = (*library as CUlibrary, out(kernel).cast());
            let _ = api.cuLibraryGetKernel(to, of, name);
            let _ = api.cuLinkCreate_v2(0, ptr::null_mut(), ptr::null_mut(), out(link).cast());
            let (kind, data) = (CUjitInputType::CU_JIT_INPUT_PTX, image.cast_mut().cast());
            let (len, state) = (self.images[0].len(), *link as CUlinkState);
            let _ = api.cuLinkAddData_v2(
                state,
                kind,
                data,
                len,
                name,
                0,
                ptr::null_mut(),
                ptr::null_mut(),
            );
            let _ = api.cuLinkComplete(state, &mut cubin, &mut size);
            if !cubin.is_null() {
                let bytes = std::slice::from_raw_parts(cubin.cast::<u8>(), size);
                self.images.push(bytes.to_vec());
            }
        }
        let kinds = [
            type_name::<CUctx_st>(),
            type_name::<CUmod_st>(),
            type_name::<CUfunc_st>(),
            type_name::<CUgreenCtx_st>(),
            type_name::<CUstream_st>(),
            type_name::<CUevent_st>(),
            type_name::<CUlinkState_st>(),
            type_name::<CUmemPoolHandle_st>(),
            type_name::<CUctx_st>(),
            type_name::<CUlib_st>(),
            type_name::<CUkern_st>(),
        ];
        for (kind, handle) in kinds.into_iter().zip(made) {
            self.handles.entry(kind).or_default().push(handle);
        }
        let kind = type_name::<CUdevResourceDesc_st>();
        self.handles
            .entry(kind)
            .or_default()
            .push(descriptor as usize);
        self.resources.extend([whole, groups[0], groups[1], rest]);
        self.addresses
            .extend([memory, reserved, reserved + (2 << 20)]);
        self.physical.push(physical);
    }

    /// Returns a byte; 0 once all are used.
    fn byte(&mut self) -> u8 {
        self.bytes.next().copied().unwrap_or(0)
    }

    fn below(&mut self, limit: usize) -> usize {
        usize::from(self.byte()) % limit.max(1)
    }

    fn one_of<T: Copy>(&mut self, from: &[T]) -> T {
        from[self.below(from.len())]
    }

    /// Returns mostly a likely value, and occasionally any number.
    fn number(&mut self, likely: &[u64]) -> u64 {
        if self.below(8) > 0 {
            return self.one_of(likely);
        }
        let any = [0; 8].map(|_: u8| self.byte());
        self.one_of(&[
            u64::from_le_bytes(any),
            u64::MAX,
            1 << 63,
            u32::MAX.into(),
            i32::MAX as u64,
        ])
    }

    /// Returns an address that a call returned, or one near it.
    fn address(&mut self) -> u64 {
        let all = self.addresses.len() + 1;
        let known = self.one_of(&[all, 4]);
        let known = self.below(known);
        let base = self.addresses.get(known).copied().unwrap_or(0);
        let base = match self.below(16) {
            0 => self.arena as u64,
            1 => self.pinned.first().map_or(0, |pinned| *pinned as u64),
            _ => base,
        };
        base.wrapping_add(self.number(&[0, 0, 0, 0, 1, 4, 4096]))
    }

    /// Returns room for this many values, filled with zeros, until the call is over.
    fn room<T>(&mut self, count: usize) -> *mut T {
        let mut memory = vec![0_u64; (count * size_of::<T>()).div_ceil(8) + 1];
        let at = memory.as_mut_ptr().cast();
        self.memory.push(memory);
        at
    }

    /// Returns whether a pointer is to be null.
    fn is_null(&mut self) -> bool {
        self.below(24) == 1
    }

    /// Returns an output of one value; it may also be null.
    fn output<T>(&mut self) -> *mut T {
        if self.is_null() {
            ptr::null_mut()
        } else {
            self.room(1)
        }
    }

    /// Collects the outputs of a call.
    fn harvest(&mut self) {
        for output in std::mem::take(&mut self.outputs) {
            unsafe {
                match output {
                    Output::Handle(kind, at) => keep(self.handles.entry(kind).or_default(), *at),
                    Output::Pinned(at) => keep(&mut self.pinned, *at),
                    Output::Address(at) => keep(&mut self.addresses, *at),
                    Output::Physical(at) => keep(&mut self.physical, *at),
                    Output::Resources(at) => {
                        self.resources.truncate(ROOM);
                        self.resources.extend([*at, *at.add(1)]);
                        self.resources.rotate_right(2);
                    }
                }
            }
        }
    }

    /// Makes calls until all bytes are used.
    fn run(mut self) -> BTreeSet<&'static str> {
        let mut succeeded = BTreeSet::new();
        while !self.bytes.as_slice().is_empty() {
            let which = self.below(FUNCTIONS.len());
            let name = FUNCTIONS[which];
            self.trace.push(name.to_owned());
            let Ok(code) = call(&mut self, which) else {
                continue; // the driver is older
            };
            if let Some(last) = self.trace.last_mut() {
                *last = format!("{name} {}", code.0);
            }
            if self.trace.len() > 40 {
                self.trace.remove(0);
            }
            let wrong = code == CUresult::CUDA_ERROR_UNKNOWN || code.name().is_none();
            assert!(!wrong, "{name} answers {code}; before it: {:?}", self.trace);
            if code == CUresult::CUDA_SUCCESS {
                succeeded.insert(name);
                self.harvest();
            }
            self.outputs.clear();
            self.memory.clear();
        }
        unsafe {
            // The capture's mode and the current contexts belong to the thread, which ends.
            let _ = self.api.cuCtxSynchronize();
        }
        succeeded
    }
}

/// Adds a value, in place of another if there are many. The objects made at the start stay.
fn keep<T: PartialEq + Default>(all: &mut Vec<T>, new: T) {
    if new == T::default() || all.contains(&new) {
        return;
    }
    if all.len() >= ROOM {
        all.remove(ROOM / 2);
    }
    all.push(new);
}

macro_rules! functions {
    ($(
        $(#[$doc:meta])+
        $name:ident($($arg:ident: $ty:ty),* $(,)?), since $since:tt;
    )+) => {
        const FUNCTIONS: &[&str] = &[$(stringify!($name)),+];

        /// Calls the function with a number.
        fn call(world: &mut World<'_>, which: usize) -> Result<CUresult, MissingEntryPoint> {
            $(
                if FUNCTIONS[which] == stringify!($name) {
                    $(
                        #[allow(non_snake_case)] // the header's names
                        let $arg = <$ty as Arg>::make(world, Of {
                            function: stringify!($name),
                            name: stringify!($arg),
                        });
                    )*
                    return unsafe { world.api.$name($($arg),*) };
                }
            )+
            unreachable!("there are as many names as functions")
        }
    };
}
cuda_green_sys::each_entry_point!(functions);

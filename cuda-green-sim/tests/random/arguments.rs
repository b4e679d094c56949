//! Arguments of random calls, chosen by type and name: likely ones and wrong ones.

use std::{
    any::type_name,
    ffi::{CStr, c_char, c_int, c_uint, c_ulonglong, c_void},
    ptr,
};

use cuda_green_sys::*;

use super::{ARENA, Output, ROOM, World};

/// The argument to make.
#[derive(Clone, Copy)]
pub struct Of {
    pub function: &'static str,
    pub name: &'static str,
}

/// A value that an argument can have.
pub trait Arg {
    fn make(world: &mut World<'_>, of: Of) -> Self;
}

/// The target of a pointer.
pub trait Pointee: Sized {
    fn point(world: &mut World<'_>, of: Of) -> *mut Self;
}

/// A type whose content only the driver reads.
pub trait Handle {}

impl<T: Pointee> Arg for *mut T {
    fn make(world: &mut World<'_>, of: Of) -> Self {
        T::point(world, of)
    }
}

impl<T: Pointee> Arg for *const T {
    fn make(world: &mut World<'_>, of: Of) -> Self {
        T::point(world, of)
    }
}

/// A host function that calls nothing.
unsafe extern "C" fn host_function(_: *mut c_void) {}

impl Arg for CUhostFn {
    fn make(world: &mut World<'_>, _: Of) -> Self {
        let some = world.below(8) > 0;
        some.then_some(host_function as unsafe extern "C" fn(*mut c_void))
    }
}

impl Arg for u8 {
    fn make(world: &mut World<'_>, _: Of) -> Self {
        world.byte()
    }
}

impl Arg for c_int {
    fn make(world: &mut World<'_>, of: Of) -> Self {
        match of.name {
            // At most as many as there is room for.
            "len" => world.one_of(&[-1, 0, 1, 8, ROOM as i32]),
            "dev" | "device" | "ordinal" | "peerDev" => {
                world.one_of(&[0, 0, 0, 0, 0, 0, 1, -1, i32::MAX])
            }
            _ => {
                let negative = world.below(4) == 0;
                let value = world.number(&[0, 1, 2, 5, 32, 64, 100, 1024, 65_536]) as i32;
                if negative {
                    value.wrapping_neg()
                } else {
                    value
                }
            }
        }
    }
}

impl Arg for c_uint {
    fn make(world: &mut World<'_>, of: Of) -> Self {
        match of.name {
            "numOptions" | "numJitOptions" | "numLibraryOptions" => world.below(5) as u32,
            "nbResources" | "nbGroups" | "numFunctions" => {
                let any = world.below(ROOM + 1) as u32;
                world.one_of(&[any, 1, 1, 2, 3])
            }
            name if name.starts_with("gridDim") || name.starts_with("blockDim") => {
                world.number(&[1, 1, 1, 1, 2, 8, 32]) as u32
            }
            _ => {
                world.number(&[0, 0, 1, 1, 1, 2, 3, 4, 7, 8, 16, 32, 64, 128, 1024, 65_535]) as u32
            }
        }
    }
}

impl Arg for c_ulonglong {
    fn make(world: &mut World<'_>, of: Of) -> Self {
        match of.name {
            "flags" => world.number(&[0, 0, 0, 1, 2, 4, 8]),
            "handle" => {
                let known = world.below(world.physical.len() + 1);
                let known = world.physical.get(known).copied();
                known.unwrap_or_else(|| world.number(&[0, 1]))
            }
            _ => world.address(),
        }
    }
}

impl Arg for usize {
    fn make(world: &mut World<'_>, of: Of) -> Self {
        const MIB: u64 = 1 << 20;
        let value = match (of.function, of.name) {
            // In the arena, or in one of its halves.
            (_, "ByteCount") => world.one_of(&[0, 1, 7, 64, 4096, ARENA as u64]),
            ("cuMemHostRegister_v2", _) => world.one_of(&[0, 1, 4096, ARENA as u64 / 2]),
            // Memory that is given really exists, so this must not be too much.
            ("cuMemHostAlloc", _) => {
                world.one_of(&[0, 1, 4096, MIB, u64::MAX, u64::MAX / 2, 1 << 50])
            }
            ("cuLinkAddData_v2", _) => world.below(ROOM) as u64,
            (_, "count") => world.one_of(&[0, 1, 1, 1, 2, 4]),
            ("cuMemMap" | "cuMemUnmap" | "cuMemSetAccess", "size") => {
                world.one_of(&[2 * MIB, 2 * MIB, 2 * MIB, 4 * MIB, 0, 1 << 40])
            }
            (_, "offset") => world.number(&[0, 0, 0, 2 * MIB]),
            // To be filled by the driver.
            (_, "N") => world.one_of(&[0, 1, 3, 4096, MIB, u64::MAX, u64::MAX / 4 + 2, 1 << 62]),
            _ => world.number(&[
                0,
                1,
                4096,
                64 << 10,
                MIB,
                2 * MIB,
                4 * MIB,
                64 * MIB,
                1 << 40,
            ]),
        };
        value as usize
    }
}

macro_rules! codes {
    ($($ty:ident),+) => {$(
        impl Arg for $ty {
            fn make(world: &mut World<'_>, _: Of) -> Self {
                let (small, smaller) = (world.below(160) as u64, world.below(16) as u64);
                Self(world.number(&[1, 2, small, small, smaller, smaller, smaller, 1000, 10_000]) as _)
            }
        }
        impl Pointee for $ty {
            fn point(world: &mut World<'_>, of: Of) -> *mut Self {
                if world.is_null() {
                    return ptr::null_mut();
                }
                let at = world.room::<Self>(ROOM);
                for index in 0..4 {
                    unsafe { at.add(index).write(Self::make(world, of)) };
                }
                at
            }
        }
    )+};
}
codes!(
    CUdevice_attribute,
    CUdevResourceType,
    CUfunction_attribute,
    CUjitInputType,
    CUlibraryOption,
    CUmemAllocationGranularity_flags,
    CUmemPool_attribute,
    CUpointer_attribute,
    CUresult,
    CUstreamCaptureMode,
    CUstreamCaptureStatus
);

macro_rules! outputs {
    ($($ty:ty),+) => {$(
        impl Pointee for $ty {
            fn point(world: &mut World<'_>, _: Of) -> *mut Self {
                world.output()
            }
        }
    )+};
}
outputs!(c_int, usize, f32, CUuuid, *const c_char);

macro_rules! handles {
    ($($ty:ident),+) => {$(
        impl Handle for $ty {}
        impl Pointee for $ty {
            fn point(world: &mut World<'_>, _: Of) -> *mut Self {
                // 1 and 2 are streams that every context has.
                let other = world.one_of(&[0, 0, 1, 2, 0x1234]);
                match world.below(12) {
                    0 => return ptr::without_provenance_mut(other),
                    // A handle of another kind.
                    1 => {
                        let kind = world.below(world.handles.len());
                        let of_kind = world.handles.values().nth(kind);
                        let found = of_kind.and_then(|all| all.last()).copied();
                        return ptr::without_provenance_mut(found.unwrap_or(0));
                    }
                    _ => {}
                }
                let all = world.handles.get(type_name::<Self>()).cloned().unwrap_or_default();
                let found = if all.is_empty() { 0 } else { world.one_of(&all) };
                ptr::without_provenance_mut(found)
            }
        }
    )+};
}
handles!(
    CUctx_st,
    CUdevResourceDesc_st,
    CUevent_st,
    CUfunc_st,
    CUgraphExec_st,
    CUgraph_st,
    CUgreenCtx_st,
    CUkern_st,
    CUlib_st,
    CUlinkState_st,
    CUmemPoolHandle_st,
    CUmod_st,
    CUstream_st
);

/// Returns room for a handle, or for an array of handles.
impl<T: Handle> Pointee for *mut T {
    fn point(world: &mut World<'_>, _: Of) -> *mut Self {
        if world.is_null() {
            return ptr::null_mut();
        }
        let at = world.room::<Self>(ROOM);
        world
            .outputs
            .push(Output::Handle(type_name::<T>(), at.cast()));
        at
    }
}

impl Pointee for c_uint {
    fn point(world: &mut World<'_>, _: Of) -> *mut Self {
        let at = world.output::<Self>();
        if !at.is_null() {
            // Some of these outputs contain the size of the array.
            let room = world.below(ROOM + 1) as u32;
            unsafe { at.write(room) };
        }
        at
    }
}

impl Pointee for c_ulonglong {
    fn point(world: &mut World<'_>, of: Of) -> *mut Self {
        let at = world.output::<Self>();
        match of.name {
            _ if at.is_null() => {}
            "handle" => world.outputs.push(Output::Physical(at)),
            "dptr" | "pdptr" | "ptr" => world.outputs.push(Output::Address(at)),
            _ => {} // an id
        }
        at
    }
}

impl Pointee for c_char {
    fn point(world: &mut World<'_>, of: Of) -> *mut Self {
        if of.function == "cuDeviceGetName" {
            return if world.is_null() {
                ptr::null_mut()
            } else {
                world.room(ROOM)
            };
        }
        let names: [Option<&CStr>; 5] = [
            Some(c"cuda_green_sm_ids"),
            Some(c"k"),
            Some(c""),
            Some(c"\xff"),
            None,
        ];
        let name = world.one_of(&names);
        name.map_or(ptr::null_mut(), |name| name.as_ptr().cast_mut())
    }
}

impl Pointee for c_void {
    fn point(world: &mut World<'_>, of: Of) -> *mut Self {
        let arena = ptr::with_exposed_provenance_mut::<u8>(world.arena);
        if world.is_null() {
            return ptr::null_mut();
        }
        match (of.function, of.name) {
            (_, "image" | "code") | ("cuLinkAddData_v2", "data") => {
                let which = world.below(world.images.len());
                world.images[which].as_ptr().cast_mut().cast()
            }
            ("cuMemHostRegister_v2", _) => {
                let at = world.one_of(&[0, 1, 4096, ARENA / 2]);
                arena.wrapping_add(at).cast()
            }
            (_, "p") => {
                let pinned = world.below(world.pinned.len() + 1);
                let pinned = world.pinned.get(pinned).copied().unwrap_or(world.arena);
                ptr::with_exposed_provenance_mut(pinned)
            }
            // Written by the driver, or the host memory of a copy.
            _ => arena.cast(),
        }
    }
}

/// Returns pointers in an array, or room for one.
impl Pointee for *mut c_void {
    fn point(world: &mut World<'_>, of: Of) -> *mut Self {
        if world.is_null() {
            return ptr::null_mut();
        }
        let all = world.room::<Self>(ROOM);
        let set = |index: usize, value: *mut c_void| unsafe { all.add(index).write(value) };
        let arena = ptr::with_exposed_provenance_mut::<c_void>(world.arena);
        match of.name {
            "pp" => world.outputs.push(Output::Pinned(all.cast())),
            "optionValues" | "jitOptionsValues" => {
                // As the options define them: a log, and its size.
                for pair in 0..4 {
                    set(2 * pair, arena);
                    set(2 * pair + 1, ptr::without_provenance_mut(64));
                }
            }
            "extra" if world.below(4) > 0 => return ptr::null_mut(),
            "extra" => {
                let len = world.room::<usize>(1);
                unsafe { len.write(world.one_of(&[0, 8, 16, 64])) };
                let pairs = [(1, arena), (2, len.cast::<c_void>())];
                for (index, (kind, value)) in pairs.into_iter().enumerate() {
                    set(2 * index, ptr::without_provenance_mut(kind));
                    set(2 * index + 1, value);
                }
            }
            "kernelParams" => {
                for index in 0..8 {
                    let value = world.room::<u64>(1);
                    let some = world.below(16) == 0;
                    unsafe { value.write(if some { world.address() } else { 0 }) };
                    set(index, value.cast());
                }
            }
            _ => {}
        }
        all
    }
}

/// Makes logs of errors and of notes, each followed by its size.
impl Pointee for CUjit_option {
    fn point(world: &mut World<'_>, _: Of) -> *mut Self {
        if world.is_null() {
            return ptr::null_mut();
        }
        let all = world.room::<Self>(ROOM);
        let options = [
            Self::CU_JIT_ERROR_LOG_BUFFER,
            Self::CU_JIT_ERROR_LOG_BUFFER_SIZE_BYTES,
            Self::CU_JIT_INFO_LOG_BUFFER,
            Self::CU_JIT_INFO_LOG_BUFFER_SIZE_BYTES,
        ];
        for (index, option) in options.into_iter().enumerate() {
            unsafe { all.add(index).write(option) };
        }
        all
    }
}

impl Pointee for CUdevResource {
    fn point(world: &mut World<'_>, of: Of) -> *mut Self {
        if world.is_null() {
            return ptr::null_mut();
        }
        let all = world.room::<Self>(ROOM + 1);
        if !matches!(of.name, "input" | "resources") {
            world.outputs.push(Output::Resources(all));
            return all;
        }
        for index in 0..ROOM {
            let which = world.below(world.resources.len());
            let mut resource = world.resources[which];
            // Once the bytes are used up, all are the same.
            match world.below(24) {
                1 => resource._internal_padding[world.below(92)] ^= 1 << world.below(8),
                2 => resource.type_ = CUdevResourceType::make(world, of),
                3 => resource.__bindgen_anon_1.sm.smCount = c_uint::make(world, of),
                4 => resource.__bindgen_anon_1.sm.flags = c_uint::make(world, of),
                _ => {}
            }
            unsafe { all.add(index).write(resource) };
            if index > 3 && world.bytes.as_slice().is_empty() {
                break;
            }
        }
        all
    }
}

impl Pointee for CU_DEV_SM_RESOURCE_GROUP_PARAMS {
    fn point(world: &mut World<'_>, of: Of) -> *mut Self {
        if world.is_null() {
            return ptr::null_mut();
        }
        let all = world.room::<Self>(ROOM);
        for index in 0..4 {
            let mut group = Self {
                smCount: c_uint::make(world, of),
                coscheduledSmCount: world.number(&[0, 0, 2, 4, 8]) as u32,
                preferredCoscheduledSmCount: world.number(&[0, 0, 2, 8, 16]) as u32,
                flags: world.number(&[0, 0, 0, 1, 2]) as u32,
                localityDomainId: world.number(&[0, 0, 0, 1]) as u32,
                ..Default::default()
            };
            group.reserved[0] = world.number(&[0]) as u32;
            unsafe { all.add(index).write(group) };
        }
        all
    }
}

fn location(world: &mut World<'_>, of: Of) -> CUmemLocation {
    let mut location = CUmemLocation {
        type_: CUmemLocationType(world.number(&[1, 1, 1, 0, 2]) as _),
        ..Default::default()
    };
    location.__bindgen_anon_1.id = c_int::make(world, Of { name: "dev", ..of });
    location
}

impl Pointee for CUmemAllocationProp {
    fn point(world: &mut World<'_>, of: Of) -> *mut Self {
        let at = world.output::<Self>();
        if !at.is_null() {
            let made = Self {
                type_: CUmemAllocationType(world.number(&[1, 1, 1, 0]) as _),
                location: location(world, of),
                ..Default::default()
            };
            unsafe { at.write(made) };
        }
        at
    }
}

impl Pointee for CUmemAccessDesc {
    fn point(world: &mut World<'_>, of: Of) -> *mut Self {
        if world.is_null() {
            return ptr::null_mut();
        }
        let all = world.room::<Self>(ROOM);
        for index in 0..4 {
            let made = Self {
                location: location(world, of),
                flags: CUmemAccess_flags(world.number(&[3, 3, 1, 0]) as _),
            };
            unsafe { all.add(index).write(made) };
        }
        all
    }
}

impl Pointee for CUmemPoolProps {
    fn point(world: &mut World<'_>, of: Of) -> *mut Self {
        let at = world.output::<Self>();
        if !at.is_null() {
            let made = Self {
                allocType: CUmemAllocationType(world.number(&[1, 1, 1, 0]) as _),
                location: location(world, of),
                maxSize: world.number(&[0, 0, 1, 64 << 20]) as usize,
                ..Default::default()
            };
            unsafe { at.write(made) };
        }
        at
    }
}

impl Pointee for CUlaunchConfig {
    fn point(world: &mut World<'_>, of: Of) -> *mut Self {
        let at = world.output::<Self>();
        if at.is_null() {
            return at;
        }
        let attributes = world.room::<CUlaunchAttribute>(4);
        let count = world.below(4);
        for index in 0..count {
            let mut attribute = CUlaunchAttribute::default();
            let cluster = CUlaunchAttributeID::CU_LAUNCH_ATTRIBUTE_CLUSTER_DIMENSION;
            let cooperative = CUlaunchAttributeID::CU_LAUNCH_ATTRIBUTE_COOPERATIVE;
            attribute.id = world.one_of(&[cluster, cooperative, CUlaunchAttributeID(77)]);
            let sides = [0; 3].map(|_| world.number(&[1, 1, 2, 4, 0]) as u32);
            if attribute.id == cluster {
                attribute.value.clusterDim.x = sides[0];
                attribute.value.clusterDim.y = sides[1];
                attribute.value.clusterDim.z = sides[2];
            } else {
                attribute.value.cooperative = sides[0] as i32;
            }
            unsafe { attributes.add(index).write(attribute) };
        }
        let grid = Of {
            name: "gridDim",
            ..of
        };
        let mut side = || c_uint::make(world, grid);
        let made = Self {
            gridDimX: side(),
            gridDimY: side(),
            gridDimZ: side(),
            blockDimX: side(),
            blockDimY: side(),
            blockDimZ: side(),
            sharedMemBytes: side(),
            hStream: CUstream::make(world, of),
            attrs: attributes,
            numAttrs: count as u32,
        };
        unsafe { at.write(made) };
        at
    }
}

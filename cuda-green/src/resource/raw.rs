//! A resource as the driver describes it, which can move between threads.

use cuda_green_sys::CUdevResource;

#[derive(Clone, Copy)]
pub(super) struct RawResource(pub(super) CUdevResource);

// SAFETY: the resource is a value; the one pointer in it (13.1) is null or the driver's own, and is never followed in
// this crate.
unsafe impl Send for RawResource {}
// SAFETY: as above; nothing is changed through a shared reference.
unsafe impl Sync for RawResource {}

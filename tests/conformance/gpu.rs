//! What the cases share: an initialised driver with its primary context current, and a notebook for what
//! was seen. Every call goes to the driver as it is; nothing of `cuda-green` lies between.

use std::{
    collections::{BTreeMap, BTreeSet},
    ffi::{CStr, CString, c_void},
    io::Write as _,
    ptr,
};

use cuda_green::kernels;
use cuda_green_sys::*;
use serde::Serialize;
use serde_json::{Value, json};

#[path = "../../cuda-green-sim/tests/client/calls.rs"]
mod calls;
pub use calls::{MISSING, OK, SM, Split, count};

pub const NON_BLOCKING: u32 = 1;

/// Calls a function of the driver. The cases keep its rules, or break them on purpose: with values that a
/// driver answers with a code, or in cases that are marked as rough.
macro_rules! call {
    ($gpu:expr, $name:ident($($arg:expr),* $(,)?)) => {
        unsafe { $gpu.api.$name($($arg),*) }.unwrap_or($crate::gpu::MISSING)
    };
}
pub(crate) use call;

/// A code as the notes have it: `SUCCESS`, `INVALID_VALUE`.
pub fn say(code: CUresult) -> String {
    match code.name() {
        _ if code == MISSING => "missing".to_owned(),
        Some(name) => name
            .trim_start_matches("CUDA_ERROR_")
            .trim_start_matches("CUDA_")
            .to_owned(),
        None => format!("code {}", code.0),
    }
}

/// The same for a call with a result.
pub fn said<T>(result: &Result<T, CUresult>) -> String {
    say(result.as_ref().err().copied().unwrap_or(OK))
}

/// What a case has seen, by name.
#[derive(Default)]
pub struct Seen {
    pub notes: BTreeMap<String, Value>,
    /// Whether each note is printed at once, because the process may not live to its end.
    pub aloud: bool,
}

impl Seen {
    pub fn note(&mut self, key: impl Into<String>, value: impl Serialize) {
        let (key, value) = (key.into(), json!(value));
        if self.aloud {
            let mut out = std::io::stdout().lock();
            writeln!(out, "{}", json!([&key, &value])).unwrap();
            out.flush().unwrap();
        }
        let before = self.notes.insert(key.clone(), value);
        assert!(before.is_none(), "noted twice: {key}");
    }

    pub fn code(&mut self, key: impl Into<String>, code: CUresult) {
        self.note(key, say(code));
    }
}

/// A driver under test.
pub struct Gpu<'a> {
    pub api: &'a Api,
    /// The simulated driver's profile, or none of a real driver.
    pub profile: Option<&'a str>,
    pub device: CUdevice,
    pub primary: CUcontext,
    module: CUmodule,
    /// The project's kernels.
    pub sm_ids: CUfunction,
    pub burn: CUfunction,
    /// Device memory for `LEN` counters.
    counters: CUdeviceptr,
}

/// More than any device has SMs.
const LEN: usize = 1024;

/// Count, smallest partition, alignment and flags, as the driver fills them.
pub fn fields(resource: &CUdevResource) -> String {
    let sm = unsafe { resource.__bindgen_anon_1.sm };
    format!(
        "type {} count {} min {} align {} flags {}",
        resource.type_.0, sm.smCount, sm.minSmPartitionSize, sm.smCoscheduledAlignment, sm.flags
    )
}

/// The arguments of the kernel that counts blocks by SM: where, how many counters, nanoseconds to stay.
pub struct SmIdsArgs(CUdeviceptr, u32, u32);

impl SmIdsArgs {
    pub fn new(counters: CUdeviceptr, len: u32, spin_ns: u32) -> Self {
        Self(counters, len, spin_ns)
    }

    /// As a launch takes them, for as long as this is there.
    pub fn pointers(&mut self) -> [*mut c_void; 3] {
        [
            (&raw mut self.0).cast(),
            (&raw mut self.1).cast(),
            (&raw mut self.2).cast(),
        ]
    }
}

impl<'a> Gpu<'a> {
    pub fn new(api: &'a Api, profile: Option<&'a str>) -> Self {
        let mut gpu = Self {
            profile,
            ..Self::bare(api)
        };
        must(call!(gpu, cuInit(0)));
        must(call!(gpu, cuDeviceGet(&mut gpu.device, 0)));
        must(call!(
            gpu,
            cuDevicePrimaryCtxRetain(&mut gpu.primary, gpu.device)
        ));
        must(call!(gpu, cuCtxSetCurrent(gpu.primary)));
        let ptx = CString::new(kernels::PTX).unwrap();
        must(call!(
            gpu,
            cuModuleLoadData(&mut gpu.module, ptx.as_ptr().cast())
        ));
        gpu.sm_ids = gpu.function(gpu.module, c"cuda_green_sm_ids").unwrap();
        gpu.burn = gpu.function(gpu.module, c"cuda_green_burn").unwrap();
        must(call!(gpu, cuMemAlloc_v2(&mut gpu.counters, LEN * 4)));
        gpu
    }

    /// For another thread: the driver alone, with nothing made and nothing current.
    pub fn bare(api: &'a Api) -> Self {
        Self {
            api,
            profile: None,
            device: 0,
            primary: ptr::null_mut(),
            module: ptr::null_mut(),
            sm_ids: ptr::null_mut(),
            burn: ptr::null_mut(),
            counters: 0,
        }
    }

    /// Gives everything back.
    pub fn end(self) {
        must(call!(self, cuCtxSetCurrent(self.primary)));
        must(call!(self, cuMemFree_v2(self.counters)));
        must(call!(self, cuModuleUnload(self.module)));
        while self.current() != 0 {
            must(call!(self, cuCtxPopCurrent_v2(ptr::null_mut())));
        }
        must(call!(self, cuDevicePrimaryCtxRelease_v2(self.device)));
    }

    pub fn current(&self) -> usize {
        let mut context = ptr::null_mut();
        must(call!(self, cuCtxGetCurrent(&mut context)));
        context as usize
    }

    /// What a context is called in the notes.
    pub fn name_of(&self, context: CUcontext, green: CUgreenCtx) -> &'static str {
        if context.is_null() {
            "none"
        } else if context == self.primary {
            "primary"
        } else if Ok(context) == self.context(green) {
            "green"
        } else {
            "other"
        }
    }

    pub fn function(&self, module: CUmodule, name: &CStr) -> Result<CUfunction, CUresult> {
        calls::function(self.api, module, name)
    }

    pub fn whole(&self) -> CUdevResource {
        calls::whole(self.api, self.device).unwrap()
    }

    /// A split by count into at most `wanted` groups.
    pub fn split(
        &self,
        input: &CUdevResource,
        wanted: u32,
        flags: u32,
        min: u32,
    ) -> Result<Split, CUresult> {
        calls::split(self.api, input, wanted, flags, min)
    }

    pub fn descriptor(&self, resources: &[CUdevResource]) -> Result<CUdevResourceDesc, CUresult> {
        calls::descriptor(self.api, resources)
    }

    pub fn green(&self, resources: &[CUdevResource]) -> Result<CUgreenCtx, CUresult> {
        calls::green(self.api, self.device, resources)
    }

    /// A green context over a quarter of the device, more or less.
    pub fn quarter(&self) -> CUgreenCtx {
        self.quarters::<1>()[0]
    }

    /// Green contexts over parts of one split.
    pub fn quarters<const N: usize>(&self) -> [CUgreenCtx; N] {
        let whole = self.whole();
        let split = self.split(&whole, 4, 0, count(&whole) / 4 / 8 * 8).unwrap();
        std::array::from_fn(|index| self.green(&split.groups[index..=index]).unwrap())
    }

    pub fn destroy(&self, green: CUgreenCtx) {
        must(call!(self, cuGreenCtxDestroy(green)));
    }

    pub fn resource(&self, green: CUgreenCtx) -> CUdevResource {
        calls::resource(self.api, green).unwrap()
    }

    pub fn context(&self, green: CUgreenCtx) -> Result<CUcontext, CUresult> {
        calls::context(self.api, green)
    }

    /// Runs something with a context current.
    pub fn within<T>(&self, context: CUcontext, work: impl FnOnce() -> T) -> T {
        must(call!(self, cuCtxPushCurrent_v2(context)));
        let result = work();
        must(call!(self, cuCtxPopCurrent_v2(ptr::null_mut())));
        result
    }

    /// Runs something with no context current.
    pub fn without<T>(&self, work: impl FnOnce() -> T) -> T {
        must(call!(self, cuCtxPopCurrent_v2(ptr::null_mut())));
        assert_eq!(self.current(), 0);
        let result = work();
        must(call!(self, cuCtxPushCurrent_v2(self.primary)));
        result
    }

    /// A stream of the current context.
    pub fn stream_here(&self) -> CUstream {
        let mut stream = ptr::null_mut();
        must(call!(
            self,
            cuStreamCreateWithPriority(&mut stream, NON_BLOCKING, 0)
        ));
        stream
    }

    /// A stream of a green context, in the way that every version has.
    pub fn stream(&self, green: CUgreenCtx) -> CUstream {
        let context = self.context(green).unwrap();
        self.within(context, || self.stream_here())
    }

    pub fn close(&self, stream: CUstream) {
        must(call!(self, cuStreamDestroy_v2(stream)));
    }

    pub fn event(&self, flags: u32) -> CUevent {
        let mut event = ptr::null_mut();
        must(call!(self, cuEventCreate(&mut event, flags)));
        event
    }

    pub fn alloc(&self, bytes: usize) -> Result<CUdeviceptr, CUresult> {
        calls::alloc(self.api, bytes)
    }

    /// A plain launch of a kernel of this project, one dimension.
    pub fn launch(
        &self,
        function: CUfunction,
        stream: CUstream,
        blocks: u32,
        threads: u32,
        args: &mut [*mut c_void],
    ) -> CUresult {
        let (params, none) = (args.as_mut_ptr(), ptr::null_mut());
        call!(
            self,
            cuLaunchKernel(
                function, blocks, 1, 1, threads, 1, 1, 0, stream, params, none
            )
        )
    }

    /// A launch that counts nothing and is over at once.
    pub fn launch_empty(&self, stream: CUstream) -> CUresult {
        self.launch_spin(stream, 1, 0)
    }

    /// Blocks that stay for a time and count nothing.
    pub fn launch_spin(&self, stream: CUstream, blocks: u32, ns: u32) -> CUresult {
        let mut args = SmIdsArgs::new(0, 0, ns);
        self.launch(self.sm_ids, stream, blocks, 64, &mut args.pointers())
    }

    /// The SMs on which a stream's blocks run.
    pub fn sms_seen(&self, stream: CUstream) -> Result<BTreeSet<u32>, CUresult> {
        let mut args = SmIdsArgs::new(self.counters, LEN as u32, 20_000);
        call!(self, cuMemsetD8Async(self.counters, 0, LEN * 4, stream)).ok()?;
        self.launch(
            self.sm_ids,
            stream,
            4 * LEN as u32,
            256,
            &mut args.pointers(),
        )
        .ok()?;
        let mut counts = vec![0_u32; LEN];
        let to = counts.as_mut_ptr().cast();
        call!(
            self,
            cuMemcpyDtoHAsync_v2(to, self.counters, LEN * 4, stream)
        )
        .ok()?;
        call!(self, cuStreamSynchronize(stream)).ok()?;
        Ok((0..)
            .zip(counts)
            .filter(|(_, count)| *count > 0)
            .map(|(sm, _)| sm)
            .collect())
    }

    /// The SMs of a green context, by a stream of its own.
    pub fn sms_of(&self, green: CUgreenCtx) -> BTreeSet<u32> {
        let stream = self.stream(green);
        let sms = self.sms_seen(stream).unwrap();
        self.close(stream);
        sms
    }
}

/// For calls that are no observation, but what one rests on.
pub fn must(code: CUresult) {
    assert_eq!(say(code), "SUCCESS");
}

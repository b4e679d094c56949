//! A thin client of the driver API for the tests, with shorthands for frequent calls.

#![allow(dead_code, clippy::undocumented_unsafe_blocks, clippy::unwrap_used)] // each test file uses a part; see `Client`

use std::{ffi::c_void, ptr, time::Duration};

use cuda_green_sim::{Error, Sim};
use cuda_green_sys::*;

mod calls;
#[allow(unused_imports)] // each test file uses a part
pub use calls::{OK, SM, Split, count};

pub const INVALID_VALUE: CUresult = CUresult::CUDA_ERROR_INVALID_VALUE;
pub const REFUSED: CUresult = CUresult::CUDA_ERROR_INVALID_RESOURCE_CONFIGURATION;

/// The project's kernel, with only the parts that the simulator reads.
pub const PTX: &std::ffi::CStr = c".version 7.0\n.target sm_70\n.address_size 64\n\
    .visible .entry cuda_green_sm_ids(.param .u64 out, .param .u32 len, .param .u32 spin) { ret; }\n\
    .visible .entry custom(.param .u64 out) { ret; }\n";

/// An initialised driver whose primary context is retained and current on the thread that made it.
///
/// All unsafe blocks of the tests rest on the same reasons: pointers are to live locals of the right type, and
/// handles are either live, null, or deliberately wrong, which this driver detects.
pub struct Client {
    pub sim: Sim,
    pub api: Api,
    pub primary: CUcontext,
}

/// Calls a function of the driver, which must exist.
macro_rules! call {
    ($client:expr, $name:ident($($arg:expr),* $(,)?)) => {
        unsafe { $client.api.$name($($arg),*) }.unwrap()
    };
}
#[allow(unused_imports)] // each test file uses a part
pub(crate) use call;

/// Calls a function that must exist and succeed.
#[allow(unused_macros)]
macro_rules! ok {
    ($client:expr, $name:ident($($arg:expr),* $(,)?)) => {
        assert_eq!(call!($client, $name($($arg),*)), OK)
    };
}
#[allow(unused_imports)]
pub(crate) use ok;

pub fn sm(resource: &CUdevResource) -> CUdevSmResource {
    unsafe { resource.__bindgen_anon_1.sm }
}

/// Makes a simulated driver. Waits for a slot if the other tests of the process have all of them.
pub fn simulator(spec: &str) -> Sim {
    loop {
        match Sim::new(spec) {
            Err(Error::TooManyDrivers { .. }) => std::thread::sleep(Duration::from_millis(1)),
            made => return made.unwrap(),
        }
    }
}

impl Client {
    pub fn new(spec: &str) -> Self {
        let sim = simulator(spec);
        let api = sim.api().unwrap();
        let mut primary = ptr::null_mut();
        unsafe {
            assert_eq!(api.cuInit(0).unwrap(), OK);
            assert_eq!(api.cuDevicePrimaryCtxRetain(&mut primary, 0).unwrap(), OK);
            assert_eq!(api.cuCtxSetCurrent(primary).unwrap(), OK);
        }
        Self { sim, api, primary }
    }

    /// Releases the primary context and asserts that nothing is left.
    pub fn finish(self) {
        unsafe {
            assert_eq!(self.api.cuCtxSetCurrent(ptr::null_mut()).unwrap(), OK);
            assert_eq!(self.api.cuDevicePrimaryCtxRelease_v2(0).unwrap(), OK);
        }
        let live = self.sim.live_objects();
        assert!(live.is_empty(), "left behind: {live}");
    }

    pub fn device_sms(&self) -> CUdevResource {
        calls::whole(&self.api, 0).unwrap()
    }

    /// Returns how many groups of this many SMs a split would have, without making it.
    pub fn possible(
        &self,
        of: &CUdevResource,
        flags: u32,
        min_count: u32,
    ) -> Result<u32, CUresult> {
        let (nothing, mut groups) = (ptr::null_mut(), u32::MAX);
        let code = unsafe {
            self.api.cuDevSmResourceSplitByCount(
                nothing,
                &mut groups,
                of,
                nothing,
                flags,
                min_count,
            )
        };
        code.unwrap().ok().map(|()| groups)
    }

    pub fn split(
        &self,
        input: &CUdevResource,
        wanted: u32,
        flags: u32,
        min_count: u32,
    ) -> Result<Split, CUresult> {
        calls::split(&self.api, input, wanted, flags, min_count)
    }

    /// Makes a structured split of (SMs, co-scheduled, flags), and returns it with the parameters as the driver left
    /// them.
    pub fn structured(
        &self,
        input: &CUdevResource,
        groups: &[(u32, u32, u32)],
        dry: bool,
    ) -> Result<(Split, Vec<u32>), CUresult> {
        let mut params: Vec<_> = groups
            .iter()
            .map(|(sms, unit, flags)| CU_DEV_SM_RESOURCE_GROUP_PARAMS {
                smCount: *sms,
                coscheduledSmCount: *unit,
                flags: *flags,
                ..Default::default()
            })
            .collect();
        let mut results = vec![CUdevResource::default(); groups.len()];
        let mut rest = CUdevResource::default();
        let to = if dry {
            ptr::null_mut()
        } else {
            results.as_mut_ptr()
        };
        unsafe {
            self.api
                .cuDevSmResourceSplit(
                    to,
                    groups.len() as u32,
                    input,
                    &mut rest,
                    0,
                    params.as_mut_ptr(),
                )
                .unwrap()
                .ok()?;
        }
        let counts = params.iter().map(|params| params.smCount).collect();
        let groups = results;
        Ok((Split { groups, rest }, counts))
    }

    pub fn descriptor(&self, resources: &[CUdevResource]) -> Result<CUdevResourceDesc, CUresult> {
        calls::descriptor(&self.api, resources)
    }

    pub fn green(&self, resources: &[CUdevResource]) -> Result<CUgreenCtx, CUresult> {
        calls::green(&self.api, 0, resources)
    }

    pub fn destroy(&self, green: CUgreenCtx) -> CUresult {
        unsafe { self.api.cuGreenCtxDestroy(green).unwrap() }
    }

    pub fn green_sms(&self, green: CUgreenCtx) -> CUdevResource {
        calls::resource(&self.api, green).unwrap()
    }

    pub fn context(&self, green: CUgreenCtx) -> CUcontext {
        calls::context(&self.api, green).unwrap()
    }

    /// Creates a stream in a green context in the way that every version supports: with the context current.
    pub fn stream(&self, green: CUgreenCtx) -> CUstream {
        let (mut stream, mut popped) = (ptr::null_mut(), ptr::null_mut());
        unsafe {
            assert_eq!(
                self.api.cuCtxPushCurrent_v2(self.context(green)).unwrap(),
                OK
            );
            let code = self.api.cuStreamCreateWithPriority(&mut stream, 1, -1);
            assert_eq!(code.unwrap(), OK);
            assert_eq!(self.api.cuCtxPopCurrent_v2(&mut popped).unwrap(), OK);
        }
        stream
    }

    pub fn function(&self, name: &std::ffi::CStr) -> (CUmodule, CUfunction) {
        let mut module = ptr::null_mut();
        let code = unsafe { self.api.cuModuleLoadData(&mut module, PTX.as_ptr().cast()) };
        assert_eq!(code.unwrap(), OK);
        (module, calls::function(&self.api, module, name).unwrap())
    }

    pub fn alloc(&self, bytes: usize) -> Result<CUdeviceptr, CUresult> {
        calls::alloc(&self.api, bytes)
    }

    pub fn launch(
        &self,
        function: CUfunction,
        blocks: u32,
        stream: CUstream,
        args: &mut [*mut c_void],
    ) -> CUresult {
        unsafe {
            self.api
                .cuLaunchKernel(
                    function,
                    blocks,
                    1,
                    1,
                    32,
                    1,
                    1,
                    0,
                    stream,
                    args.as_mut_ptr(),
                    ptr::null_mut(),
                )
                .unwrap()
        }
    }

    /// Returns the ids of the SMs that a kernel sees in a stream.
    pub fn sm_ids(&self, stream: CUstream) -> Vec<u32> {
        const LEN: usize = 1024;
        let (module, function) = self.function(c"cuda_green_sm_ids");
        let mut address = self.alloc(LEN * 4).unwrap();
        let (mut len, mut spin) = (LEN as u32, 0_u32);
        let mut args: [*mut c_void; 3] = [
            (&raw mut address).cast(),
            (&raw mut len).cast(),
            (&raw mut spin).cast(),
        ];
        assert_eq!(self.launch(function, 2000, stream, &mut args), OK);
        let mut counts = vec![0_u32; LEN];
        unsafe {
            assert_eq!(self.api.cuStreamSynchronize(stream).unwrap(), OK);
            let code = self
                .api
                .cuMemcpyDtoH_v2(counts.as_mut_ptr().cast(), address, LEN * 4);
            assert_eq!(code.unwrap(), OK);
            assert_eq!(self.api.cuMemFree_v2(address).unwrap(), OK);
            assert_eq!(self.api.cuModuleUnload(module).unwrap(), OK);
        }
        assert_eq!(counts.iter().sum::<u32>(), 2000);
        (0..)
            .zip(counts)
            .filter(|(_, count)| *count > 0)
            .map(|(sm, _)| sm)
            .collect()
    }
}

/// Creates a pool of the device; a limit of 0 means none.
pub fn pool(client: &Client, max_size: usize) -> CUmemoryPool {
    let mut props = CUmemPoolProps {
        allocType: CUmemAllocationType_enum::CU_MEM_ALLOCATION_TYPE_PINNED,
        maxSize: max_size,
        ..CUmemPoolProps::default()
    };
    props.location.type_ = CUmemLocationType_enum::CU_MEM_LOCATION_TYPE_DEVICE;
    let mut pool = ptr::null_mut();
    ok!(client, cuMemPoolCreate(&mut pool, &props));
    pool
}

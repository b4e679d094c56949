//! A thin client of the driver API for the tests: calls as they are, with less to write.

#![allow(dead_code, clippy::undocumented_unsafe_blocks, clippy::unwrap_used)] // each test file uses a part; see `Client`

use std::{ffi::c_void, ptr};

use cuda_green_sim::Sim;
use cuda_green_sys::*;

pub const OK: CUresult = CUresult::CUDA_SUCCESS;
pub const INVALID_VALUE: CUresult = CUresult::CUDA_ERROR_INVALID_VALUE;
pub const REFUSED: CUresult = CUresult::CUDA_ERROR_INVALID_RESOURCE_CONFIGURATION;
pub const SM: CUdevResourceType = CUdevResourceType::CU_DEV_RESOURCE_TYPE_SM;

/// The project's kernel, as far as the simulator reads it.
pub const PTX: &std::ffi::CStr = c".version 7.0\n.target sm_70\n.address_size 64\n\
    .visible .entry cuda_green_sm_ids(.param .u64 out, .param .u32 len, .param .u32 spin) { ret; }\n\
    .visible .entry custom(.param .u64 out) { ret; }\n";

/// An initialised driver whose primary context is retained and current to the thread that made it.
///
/// Every unsafe block of the tests rests on the same reasons: pointers are to live locals of the right
/// type, and handles are either live, null, or wrong on purpose, which this driver finds.
pub struct Client {
    pub sim: Sim,
    pub api: Api,
    pub primary: CUcontext,
}

/// A split's parts.
pub struct Split {
    pub groups: Vec<CUdevResource>,
    pub remainder: CUdevResource,
}

pub fn count(resource: &CUdevResource) -> u32 {
    assert_eq!(resource.type_, SM);
    unsafe { resource.__bindgen_anon_1.sm }.smCount
}

pub fn sm(resource: &CUdevResource) -> CUdevSmResource {
    unsafe { resource.__bindgen_anon_1.sm }
}

impl Client {
    pub fn new(spec: &str) -> Self {
        let sim = Sim::new(spec).unwrap();
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
        let mut resource = CUdevResource::default();
        let code = unsafe { self.api.cuDeviceGetDevResource(0, &mut resource, SM) };
        assert_eq!(code.unwrap(), OK);
        resource
    }

    pub fn split(
        &self,
        input: &CUdevResource,
        wanted: u32,
        flags: u32,
        min_count: u32,
    ) -> Result<Split, CUresult> {
        let mut groups = vec![CUdevResource::default(); wanted as usize];
        let mut remainder = CUdevResource::default();
        let mut made = wanted;
        unsafe {
            self.api
                .cuDevSmResourceSplitByCount(
                    groups.as_mut_ptr(),
                    &mut made,
                    input,
                    &mut remainder,
                    flags,
                    min_count,
                )
                .unwrap()
                .ok()?;
        }
        groups.truncate(made as usize);
        Ok(Split { groups, remainder })
    }

    /// A structured split of (SMs, co-scheduled, flags); gives the parameters back as the driver left them.
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
        let mut remainder = CUdevResource::default();
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
                    &mut remainder,
                    0,
                    params.as_mut_ptr(),
                )
                .unwrap()
                .ok()?;
        }
        let counts = params.iter().map(|params| params.smCount).collect();
        let groups = results;
        Ok((Split { groups, remainder }, counts))
    }

    pub fn descriptor(&self, resources: &[CUdevResource]) -> Result<CUdevResourceDesc, CUresult> {
        let mut desc = ptr::null_mut();
        let mut resources = resources.to_vec();
        unsafe {
            self.api
                .cuDevResourceGenerateDesc(
                    &mut desc,
                    resources.as_mut_ptr(),
                    resources.len() as u32,
                )
                .unwrap()
                .ok()?;
        }
        Ok(desc)
    }

    pub fn green(&self, resources: &[CUdevResource]) -> Result<CUgreenCtx, CUresult> {
        let desc = self.descriptor(resources)?;
        let mut green = ptr::null_mut();
        unsafe { self.api.cuGreenCtxCreate(&mut green, desc, 0, 1).unwrap() }.ok()?;
        Ok(green)
    }

    pub fn destroy(&self, green: CUgreenCtx) -> CUresult {
        unsafe { self.api.cuGreenCtxDestroy(green).unwrap() }
    }

    pub fn green_sms(&self, green: CUgreenCtx) -> CUdevResource {
        let mut resource = CUdevResource::default();
        let code = unsafe { self.api.cuGreenCtxGetDevResource(green, &mut resource, SM) };
        assert_eq!(code.unwrap(), OK);
        resource
    }

    pub fn context(&self, green: CUgreenCtx) -> CUcontext {
        let mut context = ptr::null_mut();
        let code = unsafe { self.api.cuCtxFromGreenCtx(&mut context, green) };
        assert_eq!(code.unwrap(), OK);
        context
    }

    /// A stream in a green context, the way that every version has: with the context current.
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
        let (mut module, mut function) = (ptr::null_mut(), ptr::null_mut());
        unsafe {
            let code = self.api.cuModuleLoadData(&mut module, PTX.as_ptr().cast());
            assert_eq!(code.unwrap(), OK);
            let code = self
                .api
                .cuModuleGetFunction(&mut function, module, name.as_ptr());
            assert_eq!(code.unwrap(), OK);
        }
        (module, function)
    }

    pub fn alloc(&self, bytes: usize) -> Result<CUdeviceptr, CUresult> {
        let mut address = 0;
        unsafe { self.api.cuMemAlloc_v2(&mut address, bytes).unwrap() }.ok()?;
        Ok(address)
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

    /// The ids of the SMs that a kernel sees in a stream.
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

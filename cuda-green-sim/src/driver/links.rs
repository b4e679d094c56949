//! Linking: images become a cubin, which contains only the kernels' names and parameters here.

use std::{
    collections::BTreeMap,
    ffi::{c_char, c_void},
};

use cuda_green_sys::{CUjit_option, CUjitInputType, CUlinkState_st, CUresult};

use super::{Driver, Kind, as_pointer, modules::Log, require};
use crate::{
    c_args::{Answer, Raw},
    image,
    leaks::MadeAt,
    ptx::Ptx,
};

/// The kernels added so far, and the cubin once it was requested.
pub(super) struct Link {
    kernels: BTreeMap<String, Vec<usize>>,
    cubin: Option<Box<[u8]>>,
    log: Log,
    pub(super) made_at: MadeAt,
}

impl Driver {
    /// Requires a current context, because a cubin is for its device.
    pub(crate) fn cuLinkCreate_v2(
        &self,
        num_options: u32,
        options: Raw<CUjit_option>,
        values: Raw<*mut c_void>,
        link: Raw<*mut CUlinkState_st>,
    ) -> Answer {
        let mut state = self.enter()?;
        link.required()?;
        let log = Log::read(num_options, &options, &values)?;
        self.current(&state)?;
        let handle = state.new_handle(self.number, Kind::Link);
        let new = Link {
            kernels: BTreeMap::new(),
            cubin: None,
            log,
            made_at: MadeAt::now(),
        };
        state.links.insert(handle, new);
        link.set(as_pointer(handle))
    }

    /// Accepts the same images as a module, until the cubin is made. A kernel that is already there is refused. An
    /// image has no log of its own; its errors go to the link's log (measured on an H200, driver 580).
    #[allow(clippy::too_many_arguments)] // the driver's own signature
    pub(crate) fn cuLinkAddData_v2(
        &self,
        link: Raw<CUlinkState_st>,
        kind: CUjitInputType,
        data: Raw<c_void>,
        _size: usize,
        _name: Raw<c_char>,
        num_options: u32,
        options: Raw<CUjit_option>,
        values: Raw<*mut c_void>,
    ) -> Answer {
        let mut state = self.enter()?;
        data.required()?;
        let log = Log::read(num_options, &options, &values)?;
        let link = state.links.get_mut(&link.handle());
        let link = link.ok_or(CUresult::CUDA_ERROR_INVALID_HANDLE)?;
        require(kind.0 <= CUjitInputType::CU_JIT_INPUT_NVVM.0)?;
        require(log.is_none() && link.cubin.is_none())?;
        let added = self.read_image(&data);
        let added = added.map_err(|refusal| refusal.log(&link.log))?;
        if added
            .kernels
            .keys()
            .any(|name| link.kernels.contains_key(name))
        {
            return Err(CUresult::CUDA_ERROR_INVALID_SOURCE);
        }
        link.kernels.extend(added.kernels);
        Ok(())
    }

    /// Makes the cubin, once (a second time is refused, measured on an H200, driver 580).
    pub(crate) fn cuLinkComplete(
        &self,
        link: Raw<CUlinkState_st>,
        cubin: Raw<*mut c_void>,
        size: Raw<usize>,
    ) -> Answer {
        let mut state = self.enter()?;
        cubin.required()?;
        let link = state.links.get_mut(&link.handle());
        let link = link.ok_or(CUresult::CUDA_ERROR_INVALID_HANDLE)?;
        if link.cubin.is_some() {
            return Err(CUresult::CUDA_ERROR_INVALID_HANDLE);
        }
        let (major, minor) = self.profile.device.compute_capability;
        let linked = Ptx {
            version: (0, 0),
            target: major * 10 + minor,
            kernels: link.kernels.clone(),
        };
        let made = link.cubin.insert(image::write(&linked).into());
        size.set_if_wanted(made.len());
        cubin.set(made.as_mut_ptr().cast())
    }

    pub(crate) fn cuLinkDestroy(&self, link: Raw<CUlinkState_st>) -> Answer {
        let mut state = self.enter()?;
        let removed = state.links.remove(&link.handle());
        removed.map(drop).ok_or(CUresult::CUDA_ERROR_INVALID_HANDLE)
    }
}

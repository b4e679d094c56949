//! Functions and kernels: their attributes, and the number of their blocks that fit on an SM.

use cuda_green_sys::{CUfunc_st, CUfunction_attribute, CUkern_st, CUmod_st, CUresult};

use super::{Driver, State, as_pointer, modules::Function, require};
use crate::c_args::{Answer, Raw};

/// Dynamic shared memory that a kernel gets without setting an attribute.
const SHARED_WITHOUT_OPT_IN: u32 = 48 * 1024;

/// Shared memory that each block reserves, in bytes.
const OWN_SHARED: usize = 1024;

/// Registers of every kernel. Nothing is compiled, so the real number is unknown; with this many, registers never
/// limit the blocks on an SM.
const REGISTERS: i32 = 32;

impl Driver {
    /// Returns a function by its handle; a library's kernel can take the place of one (12.0 header).
    pub(super) fn function(&self, state: &State, handle: u64) -> Result<Function, CUresult> {
        if let Some(function) = state.functions.get(&handle) {
            return Ok(function.clone());
        }
        let invalid = CUresult::CUDA_ERROR_INVALID_HANDLE;
        let kernel = state.kernels.get(&handle).ok_or(invalid)?;
        let parameters = state.image_of(kernel.library)?.kernels.get(&kernel.name);
        let parameters = parameters.ok_or(invalid)?.clone();
        Ok(Function::of_kernel(handle, &kernel.name, parameters))
    }

    /// Returns the dynamic shared memory that a function may be launched with, in bytes.
    pub(super) fn dynamic_shared(&self, state: &State, handle: u64) -> u32 {
        let attribute = CUfunction_attribute::CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES;
        let set = set_attribute(state, handle, attribute);
        set.map_or(SHARED_WITHOUT_OPT_IN, i32::unsigned_abs)
    }

    fn function_attribute(
        &self,
        state: &State,
        handle: u64,
        attribute: CUfunction_attribute,
    ) -> Result<i32, CUresult> {
        use CUfunction_attribute as A;
        let function = self.function(state, handle)?;
        let of_module = state.modules.get(&function.module);
        let of_kernel = || state.image_of(state.kernels.get(&handle)?.library).ok();
        let ptx = of_module.map(|module| &module.ptx).or_else(of_kernel);
        let ptx = ptx.map_or((0, 0), |ptx| ptx.version);
        let (major, minor) = self.profile.device.compute_capability;
        let set = set_attribute(state, handle, attribute);
        Ok(match attribute {
            A::CU_FUNC_ATTRIBUTE_MAX_THREADS_PER_BLOCK => 1024,
            A::CU_FUNC_ATTRIBUTE_NUM_REGS => REGISTERS,
            A::CU_FUNC_ATTRIBUTE_PTX_VERSION if ptx.0 > 0 => (ptx.0 * 10 + ptx.1) as i32,
            A::CU_FUNC_ATTRIBUTE_PTX_VERSION | A::CU_FUNC_ATTRIBUTE_BINARY_VERSION => {
                (major * 10 + minor) as i32
            }
            A::CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES => {
                set.unwrap_or(SHARED_WITHOUT_OPT_IN as i32)
            }
            A::CU_FUNC_ATTRIBUTE_PREFERRED_SHARED_MEMORY_CARVEOUT => set.unwrap_or(-1),
            attribute if attribute.0 < A::CU_FUNC_ATTRIBUTE_DEVICE_NODE_UPDATE_SUPPORTED.0 => {
                set.unwrap_or(0)
            }
            _ => return Err(CUresult::CUDA_ERROR_INVALID_VALUE),
        })
    }

    fn set_function_attribute(
        &self,
        state: &mut State,
        handle: u64,
        attribute: CUfunction_attribute,
        value: i32,
    ) -> Answer {
        use CUfunction_attribute as A;
        self.function(state, handle)?;
        let most = self.profile.device.shared_per_sm() as i32 - 1024;
        let value = match attribute {
            // Every value but 0 counts as 1 (measured on an H200, driver 580).
            A::CU_FUNC_ATTRIBUTE_NON_PORTABLE_CLUSTER_SIZE_ALLOWED => (value != 0).into(),
            _ => value,
        };
        require(match attribute {
            A::CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES => (0..=most).contains(&value),
            A::CU_FUNC_ATTRIBUTE_PREFERRED_SHARED_MEMORY_CARVEOUT => (-1..=100).contains(&value),
            A::CU_FUNC_ATTRIBUTE_NON_PORTABLE_CLUSTER_SIZE_ALLOWED => true,
            A::CU_FUNC_ATTRIBUTE_CLUSTER_SCHEDULING_POLICY_PREFERENCE => (0..=2).contains(&value),
            _ => false,
        })?;
        state
            .function_attributes
            .insert((handle, attribute.0), value);
        Ok(())
    }

    pub(crate) fn cuFuncGetAttribute(
        &self,
        value: Raw<i32>,
        attribute: CUfunction_attribute,
        function: Raw<CUfunc_st>,
    ) -> Answer {
        let state = self.enter()?;
        value.required()?;
        value.set(self.function_attribute(&state, function.handle(), attribute)?)
    }

    pub(crate) fn cuFuncSetAttribute(
        &self,
        function: Raw<CUfunc_st>,
        attribute: CUfunction_attribute,
        value: i32,
    ) -> Answer {
        let mut state = self.enter()?;
        self.set_function_attribute(&mut state, function.handle(), attribute, value)
    }

    /// Ignores the device: all devices of one driver are alike, and so are the attributes on them.
    pub(crate) fn cuKernelGetAttribute(
        &self,
        value: Raw<i32>,
        attribute: CUfunction_attribute,
        kernel: Raw<CUkern_st>,
        device: i32,
    ) -> Answer {
        let state = self.enter()?;
        value.required()?;
        self.device(device)?;
        value.set(self.function_attribute(&state, kernel.handle(), attribute)?)
    }

    pub(crate) fn cuKernelSetAttribute(
        &self,
        attribute: CUfunction_attribute,
        value: i32,
        kernel: Raw<CUkern_st>,
        device: i32,
    ) -> Answer {
        let mut state = self.enter()?;
        self.device(device)?;
        self.set_function_attribute(&mut state, kernel.handle(), attribute, value)
    }

    pub(crate) fn cuFuncGetModule(
        &self,
        module: Raw<*mut CUmod_st>,
        function: Raw<CUfunc_st>,
    ) -> Answer {
        let mut state = self.enter()?;
        module.required()?;
        let found = self.function(&state, function.handle())?;
        let library = found.kernel.and_then(|kernel| state.kernels.get(&kernel));
        let handle = match library.map(|kernel| kernel.library) {
            Some(library) if found.module == 0 => {
                let device = self.current_device(&state)?;
                self.module_of_library(&mut state, library, device)?
            }
            _ => found.module,
        };
        module.set(as_pointer(handle))
    }

    /// Counts blocks by threads, blocks and shared memory; registers are not known. More shared memory than a launch
    /// may have allows no block, and an amount that overflows is ignored (measured on an H200, driver 580).
    pub(crate) fn cuOccupancyMaxActiveBlocksPerMultiprocessor(
        &self,
        blocks: Raw<i32>,
        function: Raw<CUfunc_st>,
        block_size: i32,
        shared: usize,
    ) -> Answer {
        let state = self.enter()?;
        blocks.required()?;
        self.function(&state, function.handle())?;
        require(block_size > 0)?;
        let allowed = self.dynamic_shared(&state, function.handle()) as usize;
        let profile = self.profile.device;
        let threads = block_size.unsigned_abs().next_multiple_of(32);
        // Each block reserves 1 KiB of shared memory.
        let taken = shared.wrapping_add(OWN_SHARED);
        if threads > 1024 || taken > allowed + OWN_SHARED {
            return blocks.set(0);
        }
        let by_shared = profile.shared_per_sm() as usize / taken.max(1);
        let by_threads = (profile.threads_per_sm() / threads) as usize;
        let fit = by_shared
            .min(by_threads)
            .min(profile.blocks_per_sm() as usize);
        blocks.set(fit as i32)
    }
}

/// Returns the attributes set on a function or a kernel. Those set on a kernel apply to its functions too, which is
/// not measured; those set on a function do not apply to the kernel (measured on an H200, driver 580).
pub(super) fn set_attribute(
    state: &State,
    handle: u64,
    attribute: CUfunction_attribute,
) -> Option<i32> {
    let set = |handle| {
        state
            .function_attributes
            .get(&(handle, attribute.0))
            .copied()
    };
    let kernel = || state.functions.get(&handle)?.kernel;
    set(handle).or_else(|| set(kernel()?))
}

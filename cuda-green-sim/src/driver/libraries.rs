//! Libraries: code that belongs to no context, and becomes a module in each context that uses it.

use std::{
    ffi::{c_char, c_void},
    sync::Arc,
};

use cuda_green_sys::{
    CUfunc_st, CUjit_option, CUkern_st, CUlib_st, CUlibraryOption, CUmod_st, CUresult,
};

use super::{Driver, Kind, State, as_pointer, modules::Module, require};
use crate::{
    c_args::{Answer, Raw},
    leaks::MadeAt,
    ptx::Ptx,
};

pub(super) struct Library {
    /// The kernels of its image, or why the image cannot be used. The error is reported when a kernel or module is
    /// requested.
    image: Result<Arc<Ptx>, CUresult>,
    pub(super) made_at: MadeAt,
}

/// A library's kernel.
pub(super) struct LibraryKernel {
    pub(super) library: u64,
    pub(super) name: String,
}

impl Driver {
    /// Needs no context and accepts any image: an unusable one fails where its kernels or its module are requested
    /// (measured on an H200, driver 580). So there is nothing to write to an error log, and the other options do not
    /// matter here.
    #[allow(clippy::too_many_arguments)] // the driver's own signature
    pub(crate) fn cuLibraryLoadData(
        &self,
        library: Raw<*mut CUlib_st>,
        code: Raw<c_void>,
        options: Raw<CUjit_option>,
        _values: Raw<*mut c_void>,
        num_options: u32,
        library_options: Raw<CUlibraryOption>,
        _library_values: Raw<*mut c_void>,
        num_library_options: u32,
    ) -> Answer {
        let mut state = self.enter()?;
        library.required()?;
        code.required()?;
        for index in 0..num_options as usize {
            options.at(index)?;
        }
        for index in 0..num_library_options as usize {
            let known = CUlibraryOption::CU_LIBRARY_NUM_OPTIONS;
            require(library_options.at(index)?.0 < known.0)?;
        }
        let image = self.read_image(&code);
        let image = image.map(Arc::new).map_err(|refusal| refusal.0);
        let handle = state.new_handle(self.number, Kind::Library);
        state.libraries.insert(
            handle,
            Library {
                image,
                made_at: MadeAt::now(),
            },
        );
        library.set(as_pointer(handle))
    }

    /// Unloads its modules and their functions too.
    pub(crate) fn cuLibraryUnload(&self, library: Raw<CUlib_st>) -> Answer {
        let mut state = self.enter()?;
        let handle = library.handle();
        let removed = state.libraries.remove(&handle);
        removed.ok_or(CUresult::CUDA_ERROR_INVALID_HANDLE)?;
        state.kernels.retain(|_, kernel| kernel.library != handle);
        state
            .modules
            .retain(|_, module| module.library != Some(handle));
        let State {
            functions, modules, ..
        } = &mut *state;
        functions.retain(|_, function| modules.contains_key(&function.module));
        Ok(())
    }

    /// Returns the same handle for the same kernel of the same library.
    pub(crate) fn cuLibraryGetKernel(
        &self,
        kernel: Raw<*mut CUkern_st>,
        library: Raw<CUlib_st>,
        name: Raw<c_char>,
    ) -> Answer {
        let mut state = self.enter()?;
        kernel.required()?;
        let name = name.text()?;
        let found = self.kernel_of(&mut state, library.handle(), &name)?;
        kernel.set(as_pointer(found))
    }

    pub(super) fn kernel_of(
        &self,
        state: &mut State,
        library: u64,
        name: &str,
    ) -> Result<u64, CUresult> {
        if !state.image_of(library)?.kernels.contains_key(name) {
            return Err(CUresult::CUDA_ERROR_NOT_FOUND);
        }
        let same = |kernel: &LibraryKernel| kernel.library == library && kernel.name == name;
        let known = state.kernels.iter().find(|(_, known)| same(known));
        if let Some((known, _)) = known {
            return Ok(*known);
        }
        let new = state.new_handle(self.number, Kind::LibraryKernel);
        let name = name.to_owned();
        state.kernels.insert(new, LibraryKernel { library, name });
        Ok(new)
    }

    /// Needs a current context, whose device the module is for.
    pub(crate) fn cuLibraryGetModule(
        &self,
        module: Raw<*mut CUmod_st>,
        library: Raw<CUlib_st>,
    ) -> Answer {
        let mut state = self.enter()?;
        module.required()?;
        let device = self.current_device(&state)?;
        let found = self.module_of_library(&mut state, library.handle(), device)?;
        module.set(as_pointer(found))
    }

    pub(crate) fn cuKernelGetFunction(
        &self,
        function: Raw<*mut CUfunc_st>,
        kernel: Raw<CUkern_st>,
    ) -> Answer {
        let mut state = self.enter()?;
        function.required()?;
        let device = self.current_device(&state)?;
        let found = state.kernels.get(&kernel.handle());
        let found = found.ok_or(CUresult::CUDA_ERROR_INVALID_HANDLE)?;
        let (library, name) = (found.library, found.name.clone());
        let module = self.module_of_library(&mut state, library, device)?;
        let found = self.function_of(&mut state, module, name)?;
        function.set(as_pointer(found))
    }

    /// Returns the module of a library on a device, made at the first use.
    pub(super) fn module_of_library(
        &self,
        state: &mut State,
        library: u64,
        device: usize,
    ) -> Result<u64, CUresult> {
        let ptx = Arc::clone(state.image_of(library)?);
        let is_it = |module: &Module| module.library == Some(library) && module.device == device;
        let known = state.modules.iter().find(|(_, module)| is_it(module));
        if let Some((known, _)) = known {
            return Ok(*known);
        }
        let made = Module {
            device,
            library: Some(library),
            ptx,
            made_at: MadeAt::now(),
        };
        Ok(self.keep_module(state, made))
    }
}

impl State {
    /// Returns the content of a library's image, if it is usable.
    pub(super) fn image_of(&self, library: u64) -> Result<&Arc<Ptx>, CUresult> {
        let found = self.libraries.get(&library);
        let found = found.ok_or(CUresult::CUDA_ERROR_INVALID_HANDLE)?;
        found.image.as_ref().map_err(|code| *code)
    }
}

//! Modules: PTX texts, of which the kernels' names and parameters are read.

use std::{
    ffi::{c_char, c_void},
    sync::Arc,
};

use cuda_green_sys::{CUfunc_st, CUjit_option, CUmod_st, CUresult};

use super::{Driver, Kind, State, as_pointer, require};
use crate::{
    live::MadeAt,
    ptx,
    raw::{Answer, Raw},
};

pub(super) struct Module {
    pub(super) device: usize,
    /// The library that it is a part of, where it is.
    pub(super) library: Option<u64>,
    pub(super) ptx: Arc<ptx::Ptx>,
    pub(super) made_at: MadeAt,
}

#[derive(Clone)]
pub(super) struct Function {
    pub(super) module: u64,
    /// The library's kernel that it is, where it is one.
    pub(super) kernel: Option<u64>,
    pub(super) name: String,
    /// Bytes of each parameter.
    pub(super) parameters: Vec<usize>,
}

/// Why an image cannot be loaded: the driver's code, and a line for the compiler's log.
pub(super) struct Refusal(pub(super) CUresult, String);

impl Refusal {
    fn plain(code: CUresult) -> Self {
        Self(code, code.to_string())
    }

    /// Writes the line into the log that the options name. Of the others, all tune a compiler that is not
    /// there.
    pub(super) fn log(
        self,
        num_options: u32,
        options: &Raw<CUjit_option>,
        values: &Raw<*mut c_void>,
    ) -> CUresult {
        match self.write(num_options, options, values) {
            Ok(()) => self.0,
            Err(code) => code,
        }
    }

    fn write(
        &self,
        num_options: u32,
        options: &Raw<CUjit_option>,
        values: &Raw<*mut c_void>,
    ) -> Answer {
        let mut buffer = None;
        let mut size = 0;
        for index in 0..num_options as usize {
            match options.at(index)? {
                CUjit_option::CU_JIT_ERROR_LOG_BUFFER => buffer = Some(values.pointer_at(index)?),
                // A number in the place of a pointer.
                CUjit_option::CU_JIT_ERROR_LOG_BUFFER_SIZE_BYTES => {
                    size = values.pointer_at(index)?.handle() as u32 as usize;
                }
                _ => {}
            }
        }
        if let Some(buffer) = buffer.filter(|buffer| !buffer.is_null() && size > 0) {
            let text = format!("simulated driver: {}", self.1);
            let text = &text.as_bytes()[..text.len().min(size - 1)];
            buffer.write_bytes(0, text);
            buffer.write_bytes(text.len(), &[0]);
        }
        Ok(())
    }
}

impl Driver {
    pub(crate) fn cuModuleLoadData(
        &self,
        module: Raw<*mut CUmod_st>,
        image: Raw<c_void>,
    ) -> Answer {
        self.load(&module, &image).map_err(|refusal| refusal.0)
    }

    pub(crate) fn cuModuleLoadDataEx(
        &self,
        module: Raw<*mut CUmod_st>,
        image: Raw<c_void>,
        num_options: u32,
        options: Raw<CUjit_option>,
        values: Raw<*mut c_void>,
    ) -> Answer {
        // What is wrong with the options is told before the image is looked at.
        for index in 0..num_options as usize {
            options.at(index)?;
        }
        self.load(&module, &image)
            .map_err(|refusal| refusal.log(num_options, &options, &values))
    }

    fn load(&self, module: &Raw<*mut CUmod_st>, image: &Raw<c_void>) -> Result<(), Refusal> {
        let plain = Refusal::plain;
        let mut state = self.enter().map_err(plain)?;
        module.required().map_err(plain)?;
        image.required().map_err(plain)?;
        let context = self.current(&state).map_err(plain)?;
        let device = state.device_of(context).map_err(plain)?;
        let ptx = Arc::new(self.read_image(image)?);
        let made = Module {
            device,
            library: None,
            ptx,
            made_at: MadeAt::now(),
        };
        let handle = self.keep_module(&mut state, made);
        module.set(as_pointer(handle)).map_err(plain)
    }

    pub(super) fn keep_module(&self, state: &mut State, module: Module) -> u64 {
        let handle = state.new_handle(self.number, Kind::Module);
        state.modules.insert(handle, module);
        handle
    }

    /// Reads a PTX text, as far as this driver and its devices can load it.
    pub(super) fn read_image(&self, image: &Raw<c_void>) -> Result<ptx::Ptx, Refusal> {
        let head = image.head(4).map_err(Refusal::plain)?;
        if is_binary(&head) {
            return Err(Refusal(
                CUresult::CUDA_ERROR_NO_BINARY_FOR_GPU,
                "only PTX can be loaded: a simulated device has no machine code".to_owned(),
            ));
        }
        let text = image
            .text()
            .map_err(|_| Refusal(CUresult::CUDA_ERROR_INVALID_IMAGE, "not a text".to_owned()))?;
        if !text.contains(".version") {
            let what = "neither PTX nor a binary".to_owned();
            return Err(Refusal(CUresult::CUDA_ERROR_INVALID_IMAGE, what));
        }
        let ptx =
            ptx::parse(&text).map_err(|text| Refusal(CUresult::CUDA_ERROR_INVALID_PTX, text))?;
        let newest = ptx::newest_version(self.profile.cuda_version);
        if ptx.version > newest {
            let what = format!(
                "PTX {}.{} is newer than {}.{}, the newest of CUDA {}",
                ptx.version.0, ptx.version.1, newest.0, newest.1, self.profile.cuda_version
            );
            return Err(Refusal(CUresult::CUDA_ERROR_UNSUPPORTED_PTX_VERSION, what));
        }
        let (major, minor) = self.profile.device.compute_capability;
        if ptx.target > major * 10 + minor {
            let what = format!(
                "sm_{} is newer than this device, sm_{major}{minor}",
                ptx.target
            );
            return Err(Refusal(CUresult::CUDA_ERROR_INVALID_PTX, what));
        }
        Ok(ptx)
    }

    pub(super) fn module<'s>(&self, state: &'s State, handle: u64) -> Result<&'s Module, CUresult> {
        let module = state
            .modules
            .get(&handle)
            .ok_or(CUresult::CUDA_ERROR_INVALID_HANDLE)?;
        self.present(module.device)?;
        Ok(module)
    }

    pub(crate) fn cuModuleUnload(&self, module: Raw<CUmod_st>) -> Answer {
        let mut state = self.enter()?;
        let handle = module.handle();
        if self.module(&state, handle)?.library.is_some() {
            // It is the library's. The code is not measured.
            return Err(CUresult::CUDA_ERROR_NOT_PERMITTED);
        }
        state.modules.remove(&handle);
        state
            .functions
            .retain(|_, function| function.module != handle);
        Ok(())
    }

    /// The same kernel of the same module is the same handle.
    pub(crate) fn cuModuleGetFunction(
        &self,
        function: Raw<*mut CUfunc_st>,
        module: Raw<CUmod_st>,
        name: Raw<c_char>,
    ) -> Answer {
        let mut state = self.enter()?;
        function.required()?;
        let name = name.text()?;
        // Measured on an H200, driver 580.
        require(!name.is_empty())?;
        let found = self.function_of(&mut state, module.handle(), name)?;
        function.set(as_pointer(found))
    }

    /// A module's function: that of a library's kernel where the module is a library's (measured on an H200,
    /// driver 580).
    pub(super) fn function_of(
        &self,
        state: &mut State,
        module: u64,
        name: String,
    ) -> Result<u64, CUresult> {
        let found = self.module(state, module)?;
        let parameters = found.ptx.kernels.get(&name);
        let parameters = parameters.ok_or(CUresult::CUDA_ERROR_NOT_FOUND)?.clone();
        let kernel = match found.library {
            Some(library) => Some(self.kernel_of(state, library, &name)?),
            None => None,
        };
        let same = |function: &Function| function.module == module && function.name == name;
        let known = state.functions.iter().find(|(_, known)| same(known));
        if let Some((known, _)) = known {
            return Ok(*known);
        }
        let new = state.new_handle(self.number, Kind::Function);
        let function = Function {
            module,
            kernel,
            name,
            parameters,
        };
        state.functions.insert(new, function);
        Ok(new)
    }
}

/// Whether an image begins like a cubin (ELF) or a fat binary.
fn is_binary(head: &[u8]) -> bool {
    head == b"\x7fELF" || head == [0x50, 0xed, 0x55, 0xba] || head == [0xb1, 0x43, 0x62, 0x46]
}

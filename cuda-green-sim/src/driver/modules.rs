//! Modules: images, from which the kernels' names and parameters are read.

use std::{
    ffi::{CStr, CString, c_char, c_void},
    sync::Arc,
};

use cuda_green_sys::{CUfunc_st, CUjit_option, CUmod_st, CUresult};

use super::{Driver, Kind, State, as_pointer, require};
use crate::{
    c_args::{Answer, ClientPointer, Raw},
    image,
    leaks::MadeAt,
    ptx,
};

pub(super) struct Module {
    pub(super) device: usize,
    /// The library that it belongs to, if any.
    pub(super) library: Option<u64>,
    pub(super) ptx: Arc<ptx::Ptx>,
    pub(super) made_at: MadeAt,
}

#[derive(Clone)]
pub(super) struct Function {
    pub(super) module: u64,
    /// The library's kernel that it comes from, if any.
    pub(super) kernel: Option<u64>,
    pub(super) name: String,
    /// The same as a C string, to which clients get a pointer.
    c_name: Arc<CStr>,
    /// Bytes of each parameter.
    pub(super) parameters: Vec<usize>,
}

impl Function {
    /// Makes a function that stands for a library's kernel.
    pub(super) fn of_kernel(kernel: u64, name: &str, parameters: Vec<usize>) -> Self {
        Self {
            module: 0,
            kernel: Some(kernel),
            name: name.to_owned(),
            c_name: c"".into(),
            parameters,
        }
    }
}

/// The reason why an image cannot be loaded: the driver's code, and a line for the compiler's log.
pub(super) struct Refusal(pub(super) CUresult, String);

impl Refusal {
    fn plain(code: CUresult) -> Self {
        Self(code, code.to_string())
    }

    /// Writes the line into a log.
    pub(super) fn log(self, log: &Log) -> CUresult {
        if let Some(buffer) = &log.buffer {
            let text = format!("simulated driver: {}", self.1);
            let text = &text.as_bytes()[..text.len().min(log.size - 1)];
            buffer.pointer().write_bytes(0, text);
            buffer.pointer().write_bytes(text.len(), &[0]);
        }
        self.0
    }
}

/// The buffer for the compiler's errors.
#[derive(Default)]
pub(super) struct Log {
    /// The buffer; `None` if it has no room.
    buffer: Option<ClientPointer>,
    size: usize,
}

impl Log {
    /// Reads the log buffer from options. All other options are for a compiler, and there is none.
    pub(super) fn read(
        num_options: u32,
        options: &Raw<CUjit_option>,
        values: &Raw<*mut c_void>,
    ) -> Result<Self, CUresult> {
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
        let buffer = buffer.filter(|buffer| !buffer.is_null() && size > 0);
        Ok(Self {
            buffer: buffer.map(Raw::retain),
            size,
        })
    }

    pub(super) fn is_none(&self) -> bool {
        self.buffer.is_none()
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
        // Errors in the options are reported before the image is read.
        let log = Log::read(num_options, &options, &values)?;
        self.load(&module, &image)
            .map_err(|refusal| refusal.log(&log))
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

    /// Reads a PTX text, if this driver and its devices can load it.
    pub(super) fn read_image(&self, image: &Raw<c_void>) -> Result<ptx::Ptx, Refusal> {
        let head = image.head(4).map_err(Refusal::plain)?;
        if head == image::ELF || head == image::FATBIN {
            return self.read_binary(&head, image);
        }
        let text = image
            .text()
            .map_err(|_| Refusal(CUresult::CUDA_ERROR_INVALID_IMAGE, "not a text".to_owned()))?;
        if !text.contains(".version") {
            let what = "neither PTX nor a binary".to_owned();
            return Err(Refusal(CUresult::CUDA_ERROR_INVALID_IMAGE, what));
        }
        self.read_ptx(&text)
    }

    fn read_ptx(&self, text: &str) -> Result<ptx::Ptx, Refusal> {
        let ptx =
            ptx::parse(text).map_err(|text| Refusal(CUresult::CUDA_ERROR_INVALID_PTX, text))?;
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

    /// Reads a binary image. Its machine code runs on devices of one major compute capability, from its minor one on
    /// (NVIDIA's programming guide).
    fn read_binary(&self, head: &[u8], image: &Raw<c_void>) -> Result<ptx::Ptx, Refusal> {
        let no_binary = |what| Refusal(CUresult::CUDA_ERROR_NO_BINARY_FOR_GPU, what);
        let bytes = image::copy(head, |at, to| image.read_bytes(at, to)).map_err(no_binary)?;
        let ptx = |text: &str| self.read_ptx(text).map_err(|refusal| refusal.1);
        let read = image::read(&bytes, ptx).map_err(no_binary)?;
        let (major, minor) = self.profile.device.compute_capability;
        let is_text = read.version > (0, 0);
        if is_text || read.target / 10 == major && read.target % 10 <= minor {
            return Ok(read);
        }
        let what = format!(
            "machine code for sm_{} does not run on sm_{major}{minor}",
            read.target
        );
        Err(no_binary(what))
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
        self.safe_in_captures(&mut state)?;
        let handle = module.handle();
        if self.module(&state, handle)?.library.is_some() {
            // It belongs to the library. The code is not measured.
            return Err(CUresult::CUDA_ERROR_NOT_PERMITTED);
        }
        state.modules.remove(&handle);
        state
            .functions
            .retain(|_, function| function.module != handle);
        Ok(())
    }

    /// Returns the same handle for the same kernel of the same module.
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

    pub(crate) fn cuModuleGetFunctionCount(
        &self,
        count: Raw<u32>,
        module: Raw<CUmod_st>,
    ) -> Answer {
        let state = self.enter()?;
        count.required()?;
        let found = self.module(&state, module.handle())?;
        count.set(found.ptx.kernels.len() as u32)
    }

    /// Writes as many as there is room for. Their order on a real driver is not known; here it is by name.
    pub(crate) fn cuModuleEnumerateFunctions(
        &self,
        functions: Raw<*mut CUfunc_st>,
        room: u32,
        module: Raw<CUmod_st>,
    ) -> Answer {
        let mut state = self.enter()?;
        functions.required()?;
        let ptx = Arc::clone(&self.module(&state, module.handle())?.ptx);
        for (index, name) in ptx.kernels.keys().take(room as usize).enumerate() {
            let found = self.function_of(&mut state, module.handle(), name.clone())?;
            functions.set_at(index, as_pointer(found))?;
        }
        Ok(())
    }

    /// Returns a pointer that is valid as long as the function's module is loaded.
    pub(crate) fn cuFuncGetName(
        &self,
        name: Raw<*const c_char>,
        function: Raw<CUfunc_st>,
    ) -> Answer {
        let state = self.enter()?;
        name.required()?;
        function.required()?;
        let found = state.functions.get(&function.handle());
        let found = found.ok_or(CUresult::CUDA_ERROR_INVALID_HANDLE)?;
        name.set(found.c_name.as_ptr())
    }

    /// Returns a module's function: that of a library's kernel if the module belongs to a library (measured on an
    /// H200, driver 580).
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
        let c_name = CString::new(name.as_str()).unwrap_or_default();
        let function = Function {
            module,
            kernel,
            c_name: c_name.into(),
            name,
            parameters,
        };
        state.functions.insert(new, function);
        Ok(new)
    }
}

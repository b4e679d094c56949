//! NVRTC, NVIDIA's compiler of CUDA C to PTX, as a library that is loaded at run time. A safe wall around it.

use std::{
    ffi::{CStr, CString, c_char, c_int, c_void},
    path::Path,
    ptr,
};

use anyhow::{Context, Result, bail, ensure};
use libloading::Library;

type Program = *mut c_void;
/// `NVRTC_SUCCESS` in `nvrtc.h`.
const SUCCESS: c_int = 0;

/// The compiler. Signatures are those of `nvrtc.h`, where `nvrtcResult` is an enum and `nvrtcProgram` a pointer.
pub struct Nvrtc {
    create: unsafe extern "C" fn(
        *mut Program,
        *const c_char,
        *const c_char,
        c_int,
        *const *const c_char,
        *const *const c_char,
    ) -> c_int,
    destroy: unsafe extern "C" fn(*mut Program) -> c_int,
    compile: unsafe extern "C" fn(Program, c_int, *const *const c_char) -> c_int,
    log_size: Size,
    log: Text,
    ptx_size: Size,
    ptx: Text,
    error: unsafe extern "C" fn(c_int) -> *const c_char,
    /// What the functions are in.
    _library: Library,
}

type Size = unsafe extern "C" fn(Program, *mut usize) -> c_int;
type Text = unsafe extern "C" fn(Program, *mut c_char) -> c_int;

impl Nvrtc {
    /// Loads the library from this file.
    pub fn load(path: &Path) -> Result<Self> {
        // SAFETY: NVIDIA's library may be loaded at any time.
        let library = unsafe { Library::new(path) }
            .with_context(|| format!("cannot load {}", path.display()))?;
        // SAFETY: the fields' types are the functions' types in `nvrtc.h`; the library lives as long as they do.
        unsafe {
            Ok(Self {
                create: *library.get(c"nvrtcCreateProgram")?,
                destroy: *library.get(c"nvrtcDestroyProgram")?,
                compile: *library.get(c"nvrtcCompileProgram")?,
                log_size: *library.get(c"nvrtcGetProgramLogSize")?,
                log: *library.get(c"nvrtcGetProgramLog")?,
                ptx_size: *library.get(c"nvrtcGetPTXSize")?,
                ptx: *library.get(c"nvrtcGetPTX")?,
                error: *library.get(c"nvrtcGetErrorString")?,
                _library: library,
            })
        }
    }

    /// Compiles a source of this name to PTX. The compiler's words are part of the error.
    pub fn compile(&self, name: &str, source: &str, options: &[&str]) -> Result<String> {
        let name = CString::new(name)?;
        let source = CString::new(source)?;
        let options: Vec<_> = options
            .iter()
            .map(|&option| CString::new(option))
            .collect::<Result<_, _>>()?;
        let options: Vec<_> = options.iter().map(|option| option.as_ptr()).collect();

        let mut program = ptr::null_mut();
        // SAFETY: both texts end with a zero; there are no headers.
        let result = unsafe {
            (self.create)(
                &mut program,
                source.as_ptr(),
                name.as_ptr(),
                0,
                ptr::null(),
                ptr::null(),
            )
        };
        self.check(result)?;
        let count = c_int::try_from(options.len())?;
        // SAFETY: the program was made above, and there are as many options, each of which ends with a zero.
        let result = unsafe { (self.compile)(program, count, options.as_ptr()) };
        let compiled = self.check(result).and_then(|()| {
            let log = self.text(program, self.log_size, self.log)?;
            ensure!(log.is_empty(), "the compiler warns:\n{log}");
            self.text(program, self.ptx_size, self.ptx)
        });
        let compiled = compiled.with_context(|| {
            let log = self.text(program, self.log_size, self.log);
            format!("the compiler says:\n{}", log.unwrap_or_default())
        });
        // SAFETY: the program was made above and is not used again.
        self.check(unsafe { (self.destroy)(&mut program) })?;
        compiled
    }

    fn text(&self, program: Program, size: Size, text: Text) -> Result<String> {
        let mut bytes = 0;
        // SAFETY: both functions are of this library, the program is alive, and the second writes as many bytes as
        // the first says.
        let buffer = unsafe {
            self.check(size(program, &mut bytes))?;
            let mut buffer = vec![0_u8; bytes];
            self.check(text(program, buffer.as_mut_ptr().cast()))?;
            buffer
        };
        let text = CStr::from_bytes_until_nul(&buffer).unwrap_or_default();
        Ok(text.to_str()?.to_owned())
    }

    fn check(&self, result: c_int) -> Result<()> {
        if result == SUCCESS {
            return Ok(());
        }
        // SAFETY: it returns a static text for any number.
        let text = unsafe { CStr::from_ptr((self.error)(result)) };
        bail!("NVRTC: {}", text.to_string_lossy())
    }
}

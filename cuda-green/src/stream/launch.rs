//! Launches of kernels in a stream.

use std::ffi::c_void;

use cuda_green_sys::CUfunction;

use crate::{Kernel, KernelArg, LaunchConfig, Result, Stream};

impl Stream {
    /// Launches a kernel.
    ///
    /// ```no_run
    /// # fn main() -> cuda_green::Result<()> {
    /// # let (stream, kernel, buffer): (cuda_green::Stream, cuda_green::Kernel, cuda_green::GpuBuffer) = unimplemented!();
    /// use cuda_green::LaunchConfig;
    ///
    /// let length = 1024u32;
    /// // SAFETY: the kernel takes a pointer to that many floats and their number.
    /// unsafe { stream.launch(&kernel, &LaunchConfig::linear(4, 256), &[&buffer.address(), &length])? };
    /// stream.synchronize()?;
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// [`Error::Driver`]: a shape that does not fit, or an earlier fault; [`Error::ForeignDriver`] for a kernel
    /// of another driver.
    ///
    /// # Safety
    /// The arguments are those of the kernel, in number, type and order; what they point to is valid for
    /// what the kernel does with it, until the kernel has ended. So are the kernel's module and every
    /// buffer: neither may be dropped before.
    #[doc(alias = "cuLaunchKernel")]
    pub unsafe fn launch(
        &self,
        kernel: &Kernel,
        config: &LaunchConfig,
        args: &[&dyn KernelArg],
    ) -> Result<()> {
        let function = kernel.raw_for(self.driver())?;
        // SAFETY: the caller's promise is the one asked for.
        unsafe { self.launch_raw(function, config, args) }
    }

    /// # Safety
    /// As [`Stream::launch`]; the function is live.
    pub(crate) unsafe fn launch_raw(
        &self,
        function: CUfunction,
        config: &LaunchConfig,
        args: &[&dyn KernelArg],
    ) -> Result<()> {
        /// More arguments than this go through an allocation.
        const INLINE: usize = 16;
        let mut inline = [std::ptr::null_mut::<c_void>(); INLINE];
        let mut spilled = Vec::new();
        let pointers = if let Some(slots) = inline.get_mut(..args.len()) {
            slots
        } else {
            spilled.resize(args.len(), std::ptr::null_mut());
            spilled.as_mut_slice()
        };
        for (slot, arg) in pointers.iter_mut().zip(args) {
            *slot = arg.as_ptr().cast_mut();
        }
        let [grid_x, grid_y, grid_z] = config.grid;
        let [block_x, block_y, block_z] = config.block;
        // SAFETY: the caller vouches for the arguments; the driver reads them before it returns. The
        // stream is live. Nothing needs to be current: the stream decides (measured).
        let result = unsafe {
            self.driver().api().cuLaunchKernel(
                function,
                grid_x,
                grid_y,
                grid_z,
                block_x,
                block_y,
                block_z,
                config.shared_bytes,
                self.raw,
                pointers.as_mut_ptr(),
                std::ptr::null_mut(),
            )
        };
        self.driver().check("cuLaunchKernel", result)
    }
}

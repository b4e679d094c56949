//! Modules: a binary of the driver's own making, and what an image or a name that is wrong is told.

use cuda_green::{
    CaptureMode, ContextId, Driver, Error, GpuMemoryPool, ImageKind, LaunchConfig, Module, Result,
    kernels,
};

use crate::{
    Case,
    support::{linked::cubin, quad, since},
};

pub const CASES: &[Case] = &[
    ("modules/a_cubin_runs", binary),
    ("modules/a_wrong_text_is_told_by_its_line", wrong_text),
    ("modules/a_missing_kernel_is_told_with_those_there", missing),
    ("modules/an_end_spoils_no_capture", end_beside_a_capture),
];

/// What the driver's linker makes of PTX loads as a binary, and its kernels do what those of the text do.
fn binary(driver: &Driver) -> Result<()> {
    const IDS: u32 = 1024;
    let (device, manager) = quad(driver)?;
    let image = cubin(&device);
    assert!(image.starts_with(b"\x7fELF"));
    // SAFETY: the driver's own linker made it.
    let module = unsafe { Module::load_image(&device, &image)? };
    let kernel = module.kernel(kernels::SM_IDS)?;
    let counts = GpuMemoryPool::on(&device, 1 << 20)?.allocate(IDS as usize * 4)?;
    counts.fill(0)?;
    let stream = manager.get_context(ContextId::Dream)?.create_stream()?;
    let config = LaunchConfig::linear(1000, 64);
    // SAFETY: the kernel takes counters, which live until it was waited for, their number and a time.
    unsafe { stream.launch(&kernel, &config, &[&counts.address(), &IDS, &0_u32])? };
    stream.synchronize()?;
    let mut bytes = vec![0; IDS as usize * 4];
    counts.copy_to(&mut bytes)?;
    let count = |bytes: &[u8]| u32::from_ne_bytes(bytes.try_into().unwrap());
    assert_eq!(bytes.chunks(4).map(count).sum::<u32>(), 1000);
    // Cut off, it never comes to the driver.
    // SAFETY: it is refused by its headers.
    let cut = unsafe { Module::load_image(&device, &image[..image.len() / 2]) };
    assert!(matches!(
        cut,
        Err(Error::InvalidArgument { name: "image", .. })
    ));
    Ok(())
}

fn wrong_text(driver: &Driver) -> Result<()> {
    let device = driver.device(0)?;
    let text = ".version 6.0\n.target sm_60\n.address_size 64\n.visible .entry k()\n{\n    ret;\n    nonsense;\n}\n";
    for _ in 0..2 {
        match Module::load_ptx(&device, text) {
            Err(Error::ImageRefused { image, log, .. }) => {
                assert_eq!(image, ImageKind::Ptx);
                assert!(log.contains("line 7") && log.contains("nonsense"), "{log}");
            }
            Err(other) => return Err(other),
            Ok(_) => panic!("it was loaded"),
        }
    }
    // The next one is none the worse for it.
    Module::load_ptx(&device, kernels::PTX).map(drop)
}

fn missing(driver: &Driver) -> Result<()> {
    let module = Module::load_ptx(&driver.device(0)?, kernels::PTX)?;
    let there = [kernels::BURN, kernels::SM_IDS];
    match module.kernel("nobody") {
        Err(Error::NoSuchKernel { name, kernels }) => {
            assert_eq!(name, "nobody");
            let told = since(driver, 12, 4).then_some(&there[..]);
            let found: Option<Vec<&str>> = kernels
                .as_ref()
                .map(|all| all.iter().map(String::as_str).collect());
            assert_eq!(found.as_deref(), told);
        }
        Err(other) => return Err(other),
        Ok(_) => panic!("there is such a kernel"),
    }
    for name in there {
        assert_eq!(module.kernel(name)?.name(), name);
    }
    Ok(())
}

/// A driver that is asked to unload a module in a capture refuses, and the capture is lost, unless it is asked in the
/// relaxed mode.
fn end_beside_a_capture(driver: &Driver) -> Result<()> {
    let (device, manager) = quad(driver)?;
    let stream = manager.get_context(ContextId::Dream)?.create_stream()?;
    for mode in [CaptureMode::Global, CaptureMode::ThreadLocal] {
        let module = Module::load_ptx(&device, kernels::PTX)?;
        stream.capture(mode, move |_| {
            drop(module);
            Ok(())
        })?;
    }
    Ok(())
}

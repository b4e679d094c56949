//! Modules: images of each kind, the compiler's log, and which kernels there are.

use crate::support::linked::cubin;
use cuda_green::{
    CudaDevice, Driver, Error, ImageKind, LaunchConfig, Module, SmPartitionManager, kernels,
    sys::CUresult,
};

fn device(profile: &str) -> CudaDevice {
    let spec = format!("sim:{profile}").parse().unwrap();
    Driver::open(&spec).unwrap().device(0).unwrap()
}

/// A fat binary with one image, as `fatbinary` writes it without compression.
fn fat(kind: u16, image: &[u8]) -> Vec<u8> {
    let mut header = [0; 64];
    header[..2].copy_from_slice(&kind.to_le_bytes());
    header[4..8].copy_from_slice(&64_u32.to_le_bytes());
    header[8..16].copy_from_slice(&(image.len() as u64).to_le_bytes());
    let mut whole = vec![0x50, 0xed, 0x55, 0xba, 1, 0, 16, 0];
    whole.extend((64 + image.len() as u64).to_le_bytes());
    whole.extend(header);
    whole.extend(image);
    whole
}

#[test]
fn each_kind_of_image_loads_and_runs() {
    for profile in ["t4@11.4", "h200@12.4", "h200@13.0", "rtx5090@newest"] {
        let device = device(profile);
        let manager = SmPartitionManager::on(&device).unwrap();
        manager.init_quad_partition().unwrap();
        let stream = manager.get_context(cuda_green::ContextId::Dream).unwrap();
        let stream = stream.create_stream().unwrap();
        let cubin = cubin(&device);
        let text = kernels::PTX.as_bytes();
        for image in [text, &cubin, &fat(2, &cubin), &fat(1, text)] {
            // SAFETY: the driver's own linker made the binaries.
            let module = unsafe { Module::load_image(&device, image) }.unwrap();
            let kernel = module.kernel(kernels::BURN).unwrap();
            assert_eq!(kernel.name(), kernels::BURN);
            // SAFETY: an address that is never written, and a number of rounds.
            unsafe { stream.launch(&kernel, &LaunchConfig::linear(1, 32), &[&0_u64, &1_u32]) }
                .unwrap();
            stream.synchronize().unwrap();
        }
    }
}

#[test]
fn a_binary_for_another_device_is_refused_with_the_log() {
    let cubin = cubin(&device("h200@13.0"));
    let other = device("rtx5090@13.0");
    // SAFETY: the driver's own linker made it.
    match unsafe { Module::load_image(&other, &cubin) }.unwrap_err() {
        Error::ImageRefused { image, code, log } => {
            assert_eq!(image, ImageKind::Cubin);
            assert_eq!(code, CUresult::CUDA_ERROR_NO_BINARY_FOR_GPU);
            assert!(log.contains("sm_90") && log.contains("sm_120"), "{log}");
        }
        other => panic!("{other}"),
    }
}

#[test]
fn what_is_cut_off_never_comes_to_the_driver() {
    let device = device("h200@13.0");
    let cubin = cubin(&device);
    for image in [cubin.clone(), fat(2, &cubin)] {
        for len in [4, 16, 63, 64, image.len() / 2, image.len() - 1] {
            // SAFETY: it is refused by its headers.
            let loaded = unsafe { Module::load_image(&device, &image[..len]) };
            let refused = matches!(loaded, Err(Error::InvalidArgument { name: "image", .. }));
            assert!(refused, "{len} of {}", image.len());
        }
    }
    // Safe code gives no binary to the driver.
    let loaded = Module::load_ptx(&device, "\u{7f}ELF\u{2}\u{1}");
    assert!(matches!(loaded, Err(Error::InvalidArgument { .. })));
}

#[test]
fn the_compilers_log_is_in_the_error() {
    let device = device("h200@13.0");
    let text = ".version 8.0\n.target sm_60\n.address_size 64\n.visible .entry k() { hello; }";
    let error = Module::load_ptx(&device, text).unwrap_err();
    let Error::ImageRefused {
        image: ImageKind::Ptx,
        log,
        ..
    } = &error
    else {
        panic!("{error}")
    };
    assert!(log.contains("hello"), "{log}");
    assert!(error.to_string().ends_with(log), "{error}");
    // An image that is none: there is no log, and no empty line for it.
    let error = Module::load_ptx(&device, "").unwrap_err();
    assert!(
        error
            .to_string()
            .starts_with("the driver refused the PTX: "),
        "{error}"
    );
    // What is not of the image stays what it was.
    let lost = Driver::open(&"sim:h200@13.0".parse().unwrap()).unwrap();
    lost.simulator()
        .unwrap()
        .fail("cuModuleLoadDataEx", 1, CUresult::CUDA_ERROR_OUT_OF_MEMORY)
        .unwrap();
    let error = Module::load_ptx(&lost.device(0).unwrap(), kernels::PTX).unwrap_err();
    assert!(matches!(error, Error::Driver { .. }), "{error}");
}

#[test]
fn a_missing_kernel_is_named_with_those_that_there_are() {
    let told = |profile: &str| {
        let module = Module::load_ptx(&device(profile), kernels::PTX).unwrap();
        module.kernel("nobody").unwrap_err().to_string()
    };
    assert_eq!(
        told("h200@12.4"),
        "the module has no kernel nobody; it has cuda_green_burn, cuda_green_sm_ids"
    );
    assert_eq!(told("t4@11.4"), "the module has no kernel nobody");
    let module = Module::load_ptx(&device("h200@13.0"), kernels::PTX).unwrap();
    assert_eq!(
        module.kernel_names().unwrap(),
        [kernels::BURN, kernels::SM_IDS]
    );
    let many: String = (0..12)
        .map(|n| format!(".entry k{n:02}() {{ ret; }}\n"))
        .collect();
    let many = format!(".version 8.0\n.target sm_60\n.address_size 64\n{many}");
    let module = Module::load_ptx(&device("h200@13.0"), &many).unwrap();
    let text = module.kernel("k12").unwrap_err().to_string();
    assert!(text.ends_with("k08, k09 and 2 more"), "{text}");
}

//! Advice for a driver whose library cannot be loaded.

use super::*;

#[test]
fn without_a_library_a_bare_machine_is_told_what_to_install() {
    let machine = |gpus_on_bus, kernel_module: Option<&str>| Situation {
        gpus_on_bus,
        kernel_module: kernel_module.map(str::to_owned),
        ..Situation::default()
    };
    let no = [CONTAINER, "NVIDIA_VISIBLE_DEVICES"];
    says(
        &not_found(),
        &machine(Some(0), None),
        &["no NVIDIA GPU", "sim:h200"],
        &no,
    );
    says(
        &not_found(),
        &machine(Some(2), None),
        &["but no driver", "branch 550"],
        &no,
    );
    says(
        &not_found(),
        &machine(None, None),
        &["Install NVIDIA's driver"],
        &["no NVIDIA GPU"],
    );
    let module = machine(Some(1), Some("570.86.15"));
    let said = ["loaded (570.86.15)", "libnvidia-compute-570", "libcuda1"];
    says(&not_found(), &module, &said, &no);
}

#[test]
fn without_a_library_a_container_is_told_how_to_be_started() {
    let bare = container(Situation::default());
    says(
        &not_found(),
        &bare,
        &["/.dockerenv", CONTAINER],
        &["CAPABILITIES", "VISIBLE"],
    );
    let unheeded = with(
        container(Situation::default()),
        &[("NVIDIA_VISIBLE_DEVICES", "all")],
    );
    says(
        &not_found(),
        &unheeded,
        &["did not heed it", CONTAINER],
        &[],
    );
    let void = with(
        container(Situation::default()),
        &[("NVIDIA_VISIBLE_DEVICES", "void")],
    );
    says(
        &not_found(),
        &void,
        &["to mount none", CONTAINER],
        &["heed"],
    );
}

#[test]
fn a_container_with_a_part_of_the_driver_lacks_the_capability() {
    let mounted = || Situation {
        management_library: Some("/usr/lib/x86_64-linux-gnu/libnvidia-ml.so.1".into()),
        ..container(healthy())
    };
    let said = [
        "libnvidia-ml.so.1",
        "NVIDIA_DRIVER_CAPABILITIES=compute,utility",
    ];
    says(&not_found(), &mounted(), &said, &[CONTAINER]);
    says(&not_found(), &mounted(), &["is not set"], &[]);
    let utility = with(mounted(), &[("NVIDIA_DRIVER_CAPABILITIES", "utility")]);
    says(&not_found(), &utility, &["is `utility`"], &["is not set"]);
    for asked in ["compute,graphics,utility", "all"] {
        let asked = with(mounted(), &[("NVIDIA_DRIVER_CAPABILITIES", asked)]);
        says(
            &not_found(),
            &asked,
            &["which asks for it"],
            &["start it with"],
        );
    }
}

#[test]
fn a_library_that_the_loader_does_not_find_is_named() {
    let hidden = container(Situation {
        cuda_library: Some("/usr/local/nvidia/lib64/libcuda.so.1".into()),
        ..Situation::default()
    });
    says(
        &not_found(),
        &hidden,
        &["LD_LIBRARY_PATH=/usr/local/nvidia/lib64"],
        &[CONTAINER],
    );
    let wsl = Situation {
        wsl: true,
        ..Situation::default()
    };
    says(
        &not_found(),
        &wsl,
        &["in Windows"],
        &["no NVIDIA GPU", "branch 550"],
    );
}

#[test]
fn a_library_that_was_named_is_the_only_one_tried() {
    let unloadable = |path: &str| {
        let (path, reason) = (PathBuf::from(path), String::new());
        Error::Load(sys::Error::DriverUnloadable { path, reason })
    };
    let path = unloadable("/opt/libcuda.so.1");
    says(
        &path,
        &healthy(),
        &["only one tried"],
        &["sim:", "CUDA_GREEN_DRIVER"],
    );
    says(
        &unloadable("h200@13.0"),
        &healthy(),
        &["begins with no `sim:`"],
        &[],
    );
    let variable = with(healthy(), &[("CUDA_GREEN_DRIVER", "/opt/libcuda.so.1")]);
    says(
        &path,
        &variable,
        &["CUDA_GREEN_DRIVER names it"],
        &["--driver"],
    );
}

#[test]
fn a_library_that_is_looked_for_is_not_the_file_in_this_folder() {
    let (path, reason) = (PathBuf::from("libshim.so"), String::new());
    let error = Error::Load(sys::Error::DriverUnloadable { path, reason });
    let here = Situation {
        named_is_here: true,
        ..healthy()
    };
    says(&error, &here, &["this folder is `./libshim.so`"], &["sim:"]);
    says(
        &error,
        &healthy(),
        &["begins with no `sim:`"],
        &["./libshim.so"],
    );
}

#[test]
fn a_stub_in_the_system_s_place_is_told_with_what_gives_a_driver() {
    let stub = |path: &str| {
        let (path, code) = (path.into(), CUresult::CUDA_ERROR_STUB_LIBRARY);
        Error::Load(sys::Error::VersionUnknown { path, code })
    };
    let folders = [("LD_LIBRARY_PATH", "/opt/lib:/opt/cuda/stubs")];
    let found = stub("/opt/cuda/stubs/libcuda.so");
    let bare = with(container(Situation::default()), &folders);
    says(
        &found,
        &bare,
        &["`/opt/lib:/opt/cuda/stubs`: /opt/cuda/stubs is", CONTAINER],
        &["--driver and"],
    );
    // That folder is not what led to it.
    let elsewhere = stub("/usr/lib/libcuda.so");
    says(&elsewhere, &bare, &[CONTAINER], &["LD_LIBRARY_PATH"]);
    let real = Situation {
        cuda_library: Some("/usr/lib64/libcuda.so.1".into()),
        ..bare
    };
    says(
        &found,
        &real,
        &["/usr/lib64/libcuda.so.1 is there", "sim:h200"],
        &[CONTAINER],
    );
    let named = Situation {
        named: Some("/opt/cuda/stubs/libcuda.so".into()),
        ..real
    };
    says(
        &found,
        &named,
        &["Without --driver and CUDA_GREEN_DRIVER"],
        &[CONTAINER, "LD_LIBRARY"],
    );
}

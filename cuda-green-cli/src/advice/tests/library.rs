//! Advice where no library of a driver can be loaded.

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

//! Advice for a driver that loads but reaches no GPU.

use super::sentences::GIVE_GPUS;
use crate::situation::{FileState, Situation};

/// Returns advice for a driver that sees no GPU.
pub(super) fn no_gpu(situation: &Situation) -> Vec<String> {
    let mut advice: Vec<String> = visible_devices(situation).into_iter().collect();
    if situation.wsl {
        advice.push(
            "This is the Windows Subsystem for Linux: make sure that `nvidia-smi` works in Windows, which provides the driver, and update that driver."
                .into(),
        );
        return advice;
    }
    let Some(module) = &situation.kernel_module else {
        advice.extend(no_kernel_module(situation));
        return advice;
    };
    advice.extend(mismatch(situation));
    advice.extend(files(situation));
    if advice.is_empty() {
        advice.push(format!(
            "The kernel module ({module}) is loaded and the device files open. See what `nvidia-smi` lists and what `sudo dmesg | grep -i nvrm` shows; a GPU in MIG mode needs a compute instance."
        ));
    }
    advice
}

fn no_kernel_module(situation: &Situation) -> Vec<String> {
    const ABSENT: &str = "there is no /proc/driver/nvidia/version";
    if let Some(sign) = &situation.container {
        let told = match situation.variable("NVIDIA_VISIBLE_DEVICES") {
            Some(value @ ("none" | "void" | "")) => {
                format!(" NVIDIA_VISIBLE_DEVICES is `{value}`, which asks for none.")
            }
            _ => String::new(),
        };
        return vec![format!(
            "This container ({sign}) has been given no GPU: {ABSENT}.{told} Start it with {GIVE_GPUS}"
        )];
    }
    vec![match situation.gpus_on_bus {
        Some(0) => format!(
            "There is no NVIDIA GPU on the PCI bus, and its kernel module is not loaded: {ABSENT}."
        ),
        _ => format!(
            "The kernel module is not loaded: {ABSENT}. Try `sudo modprobe nvidia`; `sudo dmesg | grep -i \
             nvrm` says why it does not load. It must be installed for the running kernel."
        ),
    }]
}

/// Returns advice for an invalid device in `cuInit`, the answer to a list of visible devices that names one twice.
pub(super) fn invalid_device(situation: &Situation) -> Vec<String> {
    let twice = situation.variable("CUDA_VISIBLE_DEVICES").filter(|list| {
        let entries: Vec<&str> = list.split(',').map(str::trim).collect();
        (1..entries.len()).any(|index| entries[..index].contains(&entries[index]))
    });
    match twice {
        Some(list) => vec![format!(
            "CUDA_VISIBLE_DEVICES is `{list}`, which names a device twice; the driver then refuses all of \
             them. Name each once."
        )],
        None => no_gpu(situation),
    }
}

/// Returns what to do about `CUDA_VISIBLE_DEVICES`, if it is set and so may hide devices.
fn visible_devices(situation: &Situation) -> Option<String> {
    let value = situation.variable("CUDA_VISIBLE_DEVICES")?;
    let first = value.split(',').next().unwrap_or_default().trim();
    let is_uuid = ["GPU-", "MIG-"]
        .iter()
        .any(|start| first.starts_with(start));
    Some(if first.parse::<u32>().is_err() && !is_uuid {
        format!(
            "CUDA_VISIBLE_DEVICES is `{value}`, which names no device and so hides all of them; unset it, or \
             name devices as `nvidia-smi -L` does."
        )
    } else {
        format!(
            "CUDA_VISIBLE_DEVICES is `{value}`: only these are seen, up to the first that does not exist. \
             `nvidia-smi -L` lists what there is."
        )
    })
}

pub(super) fn no_such_device(situation: &Situation) -> Vec<String> {
    let mut advice = vec!["`cuda-green info --json` lists all that the driver sees.".into()];
    advice.extend(visible_devices(situation));
    advice
}

/// Names the device files that cannot be used, and what makes them usable.
pub(super) fn files(situation: &Situation) -> Vec<String> {
    let of = |wanted: fn(&FileState) -> bool| {
        let files = situation.device_files.iter();
        let paths: Vec<&str> = files
            .filter(|(_, state)| wanted(state))
            .map(|(path, _)| path.as_str())
            .collect();
        (!paths.is_empty()).then(|| paths.join(", "))
    };
    let mut advice = Vec::new();
    let in_container = situation.container.is_some();
    if let Some(paths) = of(|state| matches!(state, FileState::Missing)) {
        advice.push(if in_container {
            format!("{paths}: missing in this container. Start it with {GIVE_GPUS}")
        } else {
            format!("{paths}: missing. `sudo nvidia-modprobe -c 0 -u` makes the device files.")
        });
    }
    if let Some(paths) = of(|state| matches!(state, FileState::Forbidden)) {
        advice.push(format!(
            "{paths}: not permitted, whatever the file's permissions say. That is so in a container that has the file but not the right to use the device. Start it with {GIVE_GPUS}"
        ));
    }
    if let Some(paths) = of(|state| matches!(state, FileState::Denied { .. })) {
        let group = situation
            .device_files
            .iter()
            .find_map(|(_, state)| match state {
                FileState::Denied { group } => group.as_deref(),
                _ => None,
            });
        let mend = match group {
            Some(group) => format!(
                "Its permissions let the group `{group}` in: `sudo usermod -aG {group} \"$USER\"`, then log \
                 in again."
            ),
            None => "Let this user read and write it (the kernel module's options NVreg_DeviceFileMode, \
                     NVreg_DeviceFileUID and NVreg_DeviceFileGID decide who may), and make sure that /dev is not mounted `nodev`."
                .into(),
        };
        advice.push(format!("{paths}: permission denied to this user. {mend}"));
    }
    for (path, state) in &situation.device_files {
        if let FileState::Dead(reason) = state {
            advice.push(format!(
                "{path}: {reason}. `sudo dmesg | grep -i nvrm` shows the kernel module's messages."
            ));
        }
    }
    advice
}

/// Returns advice if the library and the kernel module have different versions. In a package for forward compatibility
/// they are meant to.
pub(super) fn mismatch(situation: &Situation) -> Option<String> {
    let module = situation.kernel_module.as_deref()?;
    let path = situation.loaded.as_deref()?;
    if path
        .iter()
        .any(|part| part.to_string_lossy().contains("compat"))
    {
        return None;
    }
    let name = path.file_name()?.to_str()?;
    let library = name
        .strip_prefix("libcuda.so.")
        .filter(|version| version.contains('.'))?;
    (library != module).then(|| {
        format!(
            "The kernel module is {module}, but the library is {library} ({}). {}",
            path.display(),
            same_version(situation)
        )
    })
}

pub(super) fn same_version(situation: &Situation) -> &'static str {
    if situation.container.is_some() {
        "In a container the library must be the host's: remove the one in the image, and let the container \
         runtime mount it."
    } else {
        "After an update of the driver, restart the machine, so that the module is the new one too."
    }
}

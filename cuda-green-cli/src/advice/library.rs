//! Advice for a driver whose library cannot be loaded.

use std::path::Path;

use super::sentences::{GIVE_GPUS, SIMULATE};
use crate::{partitions::FIRST_BRANCH, situation::Situation};

/// Returns advice if no driver's library was found.
pub(super) fn no_library(situation: &Situation) -> Vec<String> {
    let mut advice = Vec::new();
    if let Some(path) = &situation.cuda_library {
        let folder = path.parent().unwrap_or(path).display();
        advice.push(format!(
            "{} is there, but the system's loader does not look in its folder or refuses it: set \
             `LD_LIBRARY_PATH={folder}`, or name it with --driver.",
            path.display()
        ));
    } else if situation.wsl {
        advice.push(
            "This is the Windows Subsystem for Linux: install NVIDIA's driver in Windows, which puts \
             libcuda.so.1 into /usr/lib/wsl/lib. None is installed within Linux."
                .into(),
        );
    } else if let Some(sign) = &situation.container {
        advice.push(container_without_library(sign, situation));
    } else {
        advice.push(bare_without_library(situation));
    }
    advice.push(SIMULATE.into());
    advice
}

/// The option that adds the CUDA library to a container that has the rest of the driver.
const WITH_COMPUTE: &str = "start it with `NVIDIA_DRIVER_CAPABILITIES=compute,utility`";

fn container_without_library(sign: &str, situation: &Situation) -> String {
    let capabilities = situation.variable("NVIDIA_DRIVER_CAPABILITIES");
    if let Some(path) = &situation.management_library {
        let asks = |value: &str| {
            value
                .split(',')
                .any(|one| ["compute", "all"].contains(&one.trim()))
        };
        let told = match capabilities {
            Some(value) if asks(value) => format!(
                "NVIDIA_DRIVER_CAPABILITIES is `{value}`, which asks for it: make sure that the host has it, and that the container's start command does not hide it"
            ),
            Some(value) => format!("NVIDIA_DRIVER_CAPABILITIES is `{value}`: {WITH_COMPUTE}"),
            None => format!("NVIDIA_DRIVER_CAPABILITIES is not set: {WITH_COMPUTE}"),
        };
        return format!(
            "This container ({sign}) has a part of the driver ({}), but not libcuda.so.1. {told}.",
            path.display()
        );
    }
    let told = match situation.variable("NVIDIA_VISIBLE_DEVICES") {
        Some("" | "void") => " NVIDIA_VISIBLE_DEVICES tells the runtime to mount none.",
        Some(_) => {
            " NVIDIA_VISIBLE_DEVICES is set, but the runtime that started the container did not heed it."
        }
        None => "",
    };
    format!(
        "This is a container ({sign}) without NVIDIA's driver, which comes from the host, not from the \
         image.{told} Start it with {GIVE_GPUS}"
    )
}

fn bare_without_library(situation: &Situation) -> String {
    match (&situation.kernel_module, situation.gpus_on_bus) {
        (Some(version), _) => format!(
            "The kernel module is loaded ({version}), but the driver's library for CUDA is not installed. It \
             must be of the same version: the package libcuda1 on Debian, libnvidia-compute-{} on Ubuntu.",
            version.split('.').next().unwrap_or_default()
        ),
        (None, Some(0)) => {
            "There is no NVIDIA GPU on this machine's PCI bus, and no driver for one.".into()
        }
        (None, Some(_)) => format!(
            "There is an NVIDIA GPU on the PCI bus, but no driver: install NVIDIA's. {FIRST_BRANCH}."
        ),
        (None, None) => format!("Install NVIDIA's driver. {FIRST_BRANCH}."),
    }
}

/// Returns advice for a library that loads but does not answer as a driver does.
pub(super) fn refused(path: &Path, situation: &Situation) -> Vec<String> {
    if situation.named.is_some() {
        let used = "Without --driver and CUDA_GREEN_DRIVER, the system's driver is used.";
        return vec![used.into(), SIMULATE.into()];
    }
    let folder = path.parent().filter(|folder| *folder != Path::new(""));
    let mut advice = Vec::new();
    if let (Some(folder), Some(folders)) = (folder, situation.variable("LD_LIBRARY_PATH"))
        && folders.split(':').any(|one| Path::new(one) == folder)
    {
        advice.push(format!(
            "LD_LIBRARY_PATH is `{folders}`: {} is searched before the driver's own folder.",
            folder.display()
        ));
    }
    match &situation.cuda_library {
        Some(other) if other != path => {
            let other = other.display();
            advice.push(format!(
                "{other} is there: name it with --driver to use that."
            ));
            advice.push(SIMULATE.into());
        }
        _ => advice.extend(no_library(situation)),
    }
    advice
}

/// Returns advice if the named library cannot be loaded.
pub(super) fn unloadable(path: &Path, situation: &Situation) -> Vec<String> {
    let mut advice = Vec::new();
    let name = path.display().to_string();
    if situation.variable("CUDA_GREEN_DRIVER") == Some(&name) {
        advice.push("CUDA_GREEN_DRIVER names it; unset it for the system's driver.".into());
    } else {
        advice.push(
            "A driver that is named is the only one tried; without --driver it is the system's."
                .into(),
        );
    }
    if !name.contains('/') && situation.named_is_here {
        advice.push(format!(
            "`{name}` was searched for where the system keeps libraries; the file in this folder is `./{name}`."
        ));
    } else if !name.contains('/') {
        advice.push(format!(
            "`{name}` was taken for a library's name, as it begins with no `sim:`. A simulated driver is \
             named like `sim:h200@13.0`."
        ));
    }
    advice
}

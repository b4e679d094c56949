//! The facts about the machine, its GPUs and their driver, read from files and the environment. `advice.rs` draws the
//! conclusions.

mod loaded;

use std::{
    collections::BTreeMap,
    fs, io,
    path::{Path, PathBuf},
};

use cuda_green::DriverSpec;
pub use loaded::loaded_library;
use serde_json::{Value, json};

/// The environment variables that decide which GPUs a process sees.
const VARIABLES: [&str; 10] = [
    "CUDA_GREEN_DRIVER",
    "CUDA_GREEN_SIM_FAULTS",
    "CUDA_VISIBLE_DEVICES",
    "CUDA_MPS_LOG_DIRECTORY",
    "CUDA_MPS_PIPE_DIRECTORY",
    "KUBERNETES_SERVICE_HOST",
    "LD_LIBRARY_PATH",
    "NVIDIA_DRIVER_CAPABILITIES",
    "NVIDIA_VISIBLE_DEVICES",
    "container",
];

/// The folders where drivers and container runtimes put the driver's libraries.
const LIBRARY_FOLDERS: [&str; 9] = [
    "usr/lib/x86_64-linux-gnu",
    "usr/lib/aarch64-linux-gnu",
    "usr/lib/x86_64-linux-gnu/nvidia/current",
    "usr/lib64",
    "usr/lib",
    "usr/lib/wsl/lib",
    "usr/local/nvidia/lib64",
    "usr/local/nvidia/lib",
    "run/opengl-driver/lib",
];

/// The facts.
#[derive(Debug, Default)]
pub struct Situation {
    /// Whether the driver is simulated, and so independent of this machine.
    pub simulated: bool,
    /// The sign that this is a container, if there is one.
    pub container: Option<String>,
    /// Whether this is the Windows Subsystem for Linux, whose driver is that of Windows.
    pub wsl: bool,
    /// The version of the kernel module that is loaded.
    pub kernel_module: Option<String>,
    /// NVIDIA GPUs on the PCI bus; `None` where the bus cannot be seen.
    pub gpus_on_bus: Option<usize>,
    /// The device files that CUDA needs, and the results of opening them.
    pub device_files: Vec<(String, FileState)>,
    /// A `libcuda.so.1` in a folder where drivers are put.
    pub cuda_library: Option<PathBuf>,
    /// A `libnvidia-ml.so.1` there, which every driver has beside it.
    pub management_library: Option<PathBuf>,
    /// The library that was named as the driver, by `--driver` or CUDA_GREEN_DRIVER.
    pub named: Option<PathBuf>,
    /// Whether a file of that name is in the current folder.
    pub named_is_here: bool,
    /// The library of the driver that this process has loaded.
    pub loaded: Option<PathBuf>,
    /// The variables that are set.
    pub variables: BTreeMap<&'static str, String>,
}

/// The result of opening a device file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum FileState {
    Opens,
    Missing,
    /// Its permissions exclude this user; the group that they admit, if there is one.
    Denied {
        group: Option<String>,
    },
    /// The kernel denies this process access whatever the permissions, as a container's device rules do.
    Forbidden,
    /// It does not open for another reason; usually no module is behind it.
    Dead(String),
}

impl Situation {
    /// Looks at this machine, for the driver that was asked for and the library that was loaded. A simulated driver
    /// ignores the list of visible devices.
    pub fn here(asked: Option<DriverSpec>, loaded: Option<PathBuf>) -> Self {
        let simulated = matches!(asked, Some(DriverSpec::Simulated(_)));
        let named = match asked {
            Some(DriverSpec::Path(path)) => Some(path),
            _ => None,
        };
        let heeded = |name: &str| !simulated || name != "CUDA_VISIBLE_DEVICES";
        let variable = |name: &str| std::env::var(name).ok().filter(|_| heeded(name));
        let open = |path: &Path| {
            let options = fs::OpenOptions::new().read(true).write(true).open(path);
            options.map(drop)
        };
        Self {
            named_is_here: named.as_ref().is_some_and(|path| path.is_file()),
            named,
            loaded,
            simulated,
            ..Self::under(Path::new("/"), variable, open)
        }
    }

    /// Looks at a machine whose files are under `root`.
    pub fn under(
        root: &Path,
        variable: impl Fn(&str) -> Option<String>,
        open: impl Fn(&Path) -> io::Result<()>,
    ) -> Self {
        let variables: BTreeMap<_, _> = VARIABLES
            .into_iter()
            .filter_map(|name| Some((name, variable(name)?)))
            .collect();
        Self {
            simulated: false,
            container: container(root, &variables),
            wsl: root.join("dev/dxg").exists(),
            kernel_module: kernel_module(root),
            gpus_on_bus: gpus_on_bus(root),
            device_files: device_files(root, open),
            cuda_library: library(root, "libcuda.so.1"),
            management_library: library(root, "libnvidia-ml.so.1"),
            named: None,
            named_is_here: false,
            loaded: None,
            variables,
        }
    }

    /// Returns the value of one of the variables.
    pub fn variable(&self, name: &str) -> Option<&str> {
        self.variables.get(name).map(String::as_str)
    }

    /// Returns the facts as JSON.
    pub fn json(&self) -> Value {
        let files = self.device_files.iter().map(|(path, state)| {
            let state = match state {
                FileState::Opens => "opens".to_owned(),
                FileState::Missing => "missing".to_owned(),
                FileState::Denied { .. } => "permission denied".to_owned(),
                FileState::Forbidden => "operation not permitted".to_owned(),
                FileState::Dead(reason) => reason.clone(),
            };
            (path.clone(), Value::String(state))
        });
        json!({
            "simulated": self.simulated,
            "container": self.container,
            "wsl": self.wsl,
            "kernel_module": self.kernel_module,
            "gpus_on_pci_bus": self.gpus_on_bus,
            "device_files": files.collect::<serde_json::Map<_, _>>(),
            "cuda_library": self.cuda_library,
            "management_library": self.management_library,
            "named": self.named,
            "loaded": self.loaded,
            "variables": self.variables,
        })
    }
}

/// Returns the sign that this is a container: an engine's file, a variable, or a control group.
fn container(root: &Path, variables: &BTreeMap<&'static str, String>) -> Option<String> {
    const FILES: [&str; 3] = [".dockerenv", "run/.containerenv", "run/systemd/container"];
    const ENGINES: [&str; 6] = [
        "docker",
        "kubepods",
        "containerd",
        "libpod",
        "lxc",
        "podman",
    ];
    if let Some(file) = FILES.iter().find(|file| root.join(file).exists()) {
        return Some(format!("/{file}"));
    }
    if let Some(name) = ["KUBERNETES_SERVICE_HOST", "container"]
        .into_iter()
        .find(|name| variables.contains_key(name))
    {
        return Some(format!("the variable {name}"));
    }
    let groups = fs::read_to_string(root.join("proc/1/cgroup")).ok()?;
    ENGINES
        .iter()
        .any(|engine| groups.contains(engine))
        .then(|| "/proc/1/cgroup".to_owned())
}

/// Returns the version in `NVRM version: NVIDIA UNIX x86_64 Kernel Module  580.159.04  Sat …`.
fn kernel_module(root: &Path) -> Option<String> {
    let text = fs::read_to_string(root.join("proc/driver/nvidia/version")).ok()?;
    let version = text
        .split_whitespace()
        .find(|word| word.contains('.') && word.chars().all(|c| c.is_ascii_digit() || c == '.'));
    Some(version.unwrap_or("of an unknown version").to_owned())
}

/// Counts display and 3D controllers (class 03) of NVIDIA (vendor 10de).
fn gpus_on_bus(root: &Path) -> Option<usize> {
    let devices = fs::read_dir(root.join("sys/bus/pci/devices")).ok()?;
    let is = |device: &Path, file: &str, start: &str| {
        fs::read_to_string(device.join(file)).is_ok_and(|text| text.starts_with(start))
    };
    let gpus = devices
        .flatten()
        .map(|entry| entry.path())
        .filter(|device| is(device, "vendor", "0x10de") && is(device, "class", "0x03"));
    Some(gpus.count())
}

/// Opens the control file, unified memory's file, and that of each GPU; at least that of the first.
fn device_files(root: &Path, open: impl Fn(&Path) -> io::Result<()>) -> Vec<(String, FileState)> {
    let entries = fs::read_dir(root.join("dev"))
        .into_iter()
        .flatten()
        .flatten();
    let mut numbers: Vec<u32> = entries
        .filter_map(|entry| {
            entry
                .file_name()
                .to_str()?
                .strip_prefix("nvidia")?
                .parse()
                .ok()
        })
        .collect();
    numbers.sort_unstable();
    if numbers.is_empty() {
        numbers.push(0);
    }
    let gpus = numbers.into_iter().map(|number| format!("nvidia{number}"));
    ["nvidiactl".to_owned(), "nvidia-uvm".to_owned()]
        .into_iter()
        .chain(gpus)
        .map(|name| {
            let path = root.join("dev").join(&name);
            let state = match open(&path) {
                Ok(()) => FileState::Opens,
                Err(error) => refused(root, &path, &error),
            };
            (format!("/dev/{name}"), state)
        })
        .collect()
}

fn refused(root: &Path, path: &Path, error: &io::Error) -> FileState {
    /// The error of a container's device rules on Linux; permissions give `EACCES`, which is 13.
    const EPERM: i32 = 1;
    match error.kind() {
        io::ErrorKind::NotFound => FileState::Missing,
        io::ErrorKind::PermissionDenied if error.raw_os_error() == Some(EPERM) => {
            FileState::Forbidden
        }
        io::ErrorKind::PermissionDenied => FileState::Denied {
            group: group_let_in(root, path),
        },
        _ => {
            let reason = error.to_string();
            let reason = reason.split(" (os error").next().unwrap_or_default();
            FileState::Dead(reason.to_owned())
        }
    }
}

/// Returns the group that may read and write a file, unless that is root's.
#[cfg(unix)]
fn group_let_in(root: &Path, path: &Path) -> Option<String> {
    use std::os::unix::fs::MetadataExt;
    let metadata = fs::metadata(path).ok()?;
    if metadata.mode() & 0o060 != 0o060 || metadata.gid() == 0 {
        return None;
    }
    let groups = fs::read_to_string(root.join("etc/group")).unwrap_or_default();
    let name = groups.lines().find_map(|line| {
        let mut fields = line.split(':');
        let name = fields.next()?;
        (fields.nth(1)?.parse() == Ok(metadata.gid())).then(|| name.to_owned())
    });
    Some(name.unwrap_or_else(|| metadata.gid().to_string()))
}

#[cfg(not(unix))]
fn group_let_in(_: &Path, _: &Path) -> Option<String> {
    None
}

/// Finds a library in the folders where drivers put theirs; the path is relative to the machine, not to `root`.
fn library(root: &Path, name: &str) -> Option<PathBuf> {
    LIBRARY_FOLDERS
        .iter()
        .map(|folder| Path::new(folder).join(name))
        .find(|path| root.join(path).exists())
        .map(|path| Path::new("/").join(path))
}

#[cfg(test)]
mod tests;

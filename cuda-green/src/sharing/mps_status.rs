//! MPS as a process sees it: the daemon, its servers, and what limits its clients.

use std::{env, fmt, fs, path::PathBuf};

/// MPS as this process sees it, and the states of the device that matter for sharing it:
/// [`CudaDevice::mps_status`](crate::CudaDevice::mps_status).
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct MpsStatus {
    /// Whether this process uses the device through MPS, by the driver's word.
    pub in_use: bool,
    /// The folder of the daemon's pipes: that which `CUDA_MPS_PIPE_DIRECTORY` names, or `/tmp/nvidia-mps`.
    pub pipes: PathBuf,
    /// The daemon of these pipes.
    pub daemon: MpsDaemon,
    /// The ids of the servers' processes.
    pub servers: Vec<u32>,
    /// The driver release of a server, such as `580.159.04`: that of the libcuda which it has loaded, where its memory map can be
    /// read, or else that of the kernel module. None where neither is known.
    pub version: Option<String>,
    /// Whether the daemon was started with one server for all users, by its command line; none where that cannot be read.
    pub multi_user: Option<bool>,
    /// The value of `CUDA_MPS_ACTIVE_THREAD_PERCENTAGE` in this process. A daemon can have a default, too; both show in
    /// [`sm_count`](Self::sm_count).
    pub thread_percentage: Option<String>,
    /// The static partition that this process asks for (`CUDA_MPS_SM_PARTITION`, from 13.1 on).
    pub static_partition: Option<String>,
    /// The value of `CUDA_MPS_CLIENT_PRIORITY`: 0 is normal, 1 below normal.
    pub client_priority: Option<String>,
    /// SMs that the driver reports to this process: fewer than the GPU has under a percentage or in a static partition.
    pub sm_count: u32,
    /// The reason why the driver makes no partitions under these limits, if it refuses them.
    pub refuses_splits: Option<String>,
    /// Which processes may use the device; none where the driver does not say.
    pub compute_mode: Option<ComputeMode>,
    /// Whether the device is a MIG instance, by its name.
    pub is_mig: bool,
}

/// The daemon of MPS.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum MpsDaemon {
    /// None: the pipes are not there.
    None,
    /// It answers.
    Running {
        /// The id of its process, where its file of that is right here.
        pid: Option<u32>,
        /// The id of its user.
        user: Option<u32>,
    },
    /// Its pipes are there, and it does not answer.
    Unreachable {
        /// The reason.
        reason: String,
    },
}

/// Which processes may use a device (`CUcomputemode`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ComputeMode {
    /// Any.
    Default,
    /// None.
    Prohibited,
    /// One; under MPS, the server.
    ExclusiveProcess,
    /// A mode that this version does not know.
    Other(i32),
}

impl ComputeMode {
    pub(crate) fn of(mode: i32) -> Self {
        match mode {
            0 => Self::Default,
            2 => Self::Prohibited,
            3 => Self::ExclusiveProcess,
            other => Self::Other(other),
        }
    }
}

impl fmt::Display for ComputeMode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Default => f.write_str("default"),
            Self::Prohibited => f.write_str("prohibited"),
            Self::ExclusiveProcess => f.write_str("exclusive process"),
            Self::Other(mode) => write!(f, "unknown ({mode})"),
        }
    }
}

impl fmt::Display for MpsDaemon {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::None => f.write_str("no daemon"),
            Self::Running { pid, user } => {
                f.write_str("daemon")?;
                if let Some(pid) = pid {
                    write!(f, " {pid}")?;
                }
                match user {
                    Some(user) => write!(f, " of user {user}"),
                    None => Ok(()),
                }
            }
            Self::Unreachable { reason } => write!(f, "a daemon that does not answer ({reason})"),
        }
    }
}

/// What the system and the environment say of MPS.
pub(crate) struct Surroundings {
    pub(crate) pipes: PathBuf,
    pub(crate) daemon: MpsDaemon,
    pub(crate) servers: Vec<u32>,
    pub(crate) version: Option<String>,
    pub(crate) multi_user: Option<bool>,
}

/// Returns the value of a variable, if it has one.
pub(crate) fn variable(name: &str) -> Option<String> {
    let value = env::var_os(name).filter(|value| !value.is_empty())?;
    Some(value.to_string_lossy().into_owned())
}

/// Returns the driver release of the kernel module: the first word with dots of `NVRM version: …`.
fn kernel_module() -> Option<String> {
    let text = fs::read_to_string("/proc/driver/nvidia/version").ok()?;
    text.split_ascii_whitespace()
        .find(|word| is_release(word))
        .map(str::to_owned)
}

fn is_release(word: &str) -> bool {
    let is_digits = |part: &str| !part.is_empty() && part.bytes().all(|c| c.is_ascii_digit());
    word.contains('.') && word.split('.').all(is_digits)
}

#[cfg(target_os = "linux")]
mod here {
    use std::{fs, os::unix::fs::MetadataExt};

    use super::{
        super::mps::{self, Server},
        MpsDaemon, Surroundings, is_release, kernel_module,
    };

    const PID_FILE: &str = "nvidia-cuda-mps-control.pid";
    const PIPE: &str = "control";

    impl Surroundings {
        pub(crate) fn look() -> Self {
            let pipes = mps::pipes();
            let may_ask = !cuda_green_sys::privileges_are_raised();
            let is_there = may_ask
                && [PIPE, PID_FILE]
                    .iter()
                    .any(|name| pipes.join(name).exists());
            let asked = is_there.then(|| mps::servers(&pipes));
            let daemon = asked.as_ref().and_then(|_| daemon(&pipes));
            let multi_user = daemon.and_then(|(pid, _)| {
                let line = fs::read(format!("/proc/{pid}/cmdline")).ok()?;
                Some(String::from_utf8_lossy(&line).contains("multiuser"))
            });
            let (daemon, servers) = match asked {
                None => (MpsDaemon::None, Vec::new()),
                Some(Ok(servers)) => (
                    MpsDaemon::Running {
                        pid: daemon.map(|(pid, _)| pid),
                        user: daemon.map(|(_, user)| user),
                    },
                    servers,
                ),
                Some(Err(reason)) => (MpsDaemon::Unreachable { reason }, Vec::new()),
            };
            let version = servers.iter().find_map(release).or_else(kernel_module);
            Self {
                pipes,
                daemon,
                servers: servers.iter().map(|server| server.pid).collect(),
                version,
                multi_user,
            }
        }
    }

    /// Returns the id of the daemon's process and of its user, where the file in the folder of the pipes names an MPS process.
    fn daemon(pipes: &std::path::Path) -> Option<(u32, u32)> {
        let pid = fs::read_to_string(pipes.join(PID_FILE))
            .ok()?
            .trim()
            .parse()
            .ok()?;
        let process = Server {
            pid,
            clients: Vec::new(),
        };
        if !process.is_seen_here() {
            return None;
        }
        let user = fs::metadata(format!("/proc/{pid}")).ok()?.uid();
        Some((pid, user))
    }

    /// Returns the release of the libcuda that a server has loaded.
    fn release(server: &Server) -> Option<String> {
        if !server.is_seen_here() {
            return None;
        }
        let maps = fs::read_to_string(format!("/proc/{}/maps", server.pid)).ok()?;
        release_in(&maps)
    }

    /// Finds `libcuda.so.580.159.04` in a memory map.
    pub(super) fn release_in(maps: &str) -> Option<String> {
        let names = maps
            .lines()
            .filter_map(|line| line.rsplit_once("/libcuda.so."));
        let releases = names.filter_map(|(_, release)| release.split_ascii_whitespace().next());
        let mut releases = releases.filter(|release| is_release(release));
        releases.next().map(str::to_owned)
    }
}

#[cfg(not(target_os = "linux"))]
impl Surroundings {
    /// Returns nothing: MPS is for Linux and QNX.
    pub(crate) fn look() -> Self {
        Self {
            pipes: PathBuf::new(),
            daemon: MpsDaemon::None,
            servers: Vec::new(),
            version: kernel_module(),
            multi_user: None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    #[cfg(target_os = "linux")]
    fn a_release_is_found_in_a_memory_map() {
        let maps = "7f00-7f01 r-xp 00000000 00:1 1 /usr/lib/libc.so.6\n\
            7f02-7f03 r-xp 00000000 00:1 2 /usr/lib/libcuda.so.1\n\
            7f04-7f05 r-xp 00000000 00:1 3 /usr/lib/x86_64-linux-gnu/libcuda.so.580.159.04 (deleted)\n";
        assert_eq!(here::release_in(maps).as_deref(), Some("580.159.04"));
        assert_eq!(
            here::release_in("/usr/lib/libcuda.so.1\n/libcuda.so.x.y"),
            None
        );
        for (word, is) in [
            ("580.159.04", true),
            ("1", false),
            ("1.", false),
            ("x.1", false),
        ] {
            assert_eq!(is_release(word), is, "{word}");
        }
    }

    #[test]
    fn modes_and_daemons_are_told_in_words() {
        let modes = [0, 2, 3, 17].map(|mode| ComputeMode::of(mode).to_string());
        assert_eq!(
            modes,
            ["default", "prohibited", "exclusive process", "unknown (17)"]
        );
        let running = |pid, user| MpsDaemon::Running { pid, user }.to_string();
        assert_eq!(running(Some(7), Some(0)), "daemon 7 of user 0");
        assert_eq!(running(None, None), "daemon");
    }
}

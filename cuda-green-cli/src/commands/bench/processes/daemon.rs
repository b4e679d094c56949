//! An MPS daemon with folders of its own. It leaves alone any other on the machine: its control program finds it by its pipes.

use std::{
    fs::{self, File},
    io::{Read, Write},
    path::{Path, PathBuf},
    process::{Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, bail, ensure};

const PROGRAM: &str = "nvidia-cuda-mps-control";
pub const PIPES: &str = "CUDA_MPS_PIPE_DIRECTORY";
pub const LOGS: &str = "CUDA_MPS_LOG_DIRECTORY";
/// Variables that are not taken over from the user: they would limit the daemon or its clients.
pub const NOT_INHERITED: [&str; 4] = [
    "CUDA_MPS_ACTIVE_THREAD_PERCENTAGE",
    "CUDA_MPS_CLIENT_PRIORITY",
    "CUDA_MPS_ENABLE_PER_CTX_DEVICE_MULTIPROCESSOR_PARTITIONING",
    "CUDA_MPS_SM_PARTITION",
];
/// The longest time that the control program takes for an answer.
const ANSWER: Duration = Duration::from_secs(5);
/// The longest time that the daemon takes to start or to end, and that its clients take to leave.
const PATIENCE: Duration = Duration::from_secs(8);
const STEP: Duration = Duration::from_millis(20);

/// A daemon that runs.
pub struct Daemon {
    pipes: PathBuf,
    logs: PathBuf,
}

/// Returns the folder of the daemon's pipes within a folder.
pub fn pipes(folder: &Path) -> PathBuf {
    folder.join("mps")
}

fn logs(folder: &Path) -> PathBuf {
    folder.join("mps-log")
}

/// Returns all folders within a folder.
pub fn folders(folder: &Path) -> [PathBuf; 3] {
    [pipes(folder), logs(folder), no_pipes(folder)]
}

/// Returns a folder without pipes within a folder: processes without MPS look for a daemon there, and not where the machine
/// has one.
pub fn no_pipes(folder: &Path) -> PathBuf {
    folder.join("no-mps")
}

impl Daemon {
    /// Starts a daemon with its pipes and logs in a folder, which has [`folders`] for them.
    pub fn start(folder: &Path) -> anyhow::Result<Self> {
        let daemon = Self {
            pipes: pipes(folder),
            logs: logs(folder),
        };
        daemon.control(&["-d"], "")?;
        let end = Instant::now() + PATIENCE;
        while let Err(error) = daemon.control(&[], "get_server_list\n") {
            if Instant::now() >= end {
                daemon.kill();
                return Err(error.context("the MPS daemon does not answer"));
            }
            thread::sleep(STEP);
        }
        Ok(daemon)
    }

    /// Waits for the clients to leave, and ends the daemon and its servers.
    pub fn end(self) -> anyhow::Result<()> {
        let end = Instant::now() + PATIENCE;
        // One that is still there would be ended by force, with work in flight.
        while Instant::now() < end && self.has_clients().unwrap_or(false) {
            thread::sleep(STEP);
        }
        let id = self.id();
        let quit = self.control(&[], "quit\n");
        let end = Instant::now() + PATIENCE;
        while let Some(id) = id
            && is_daemon(id)
        {
            if Instant::now() >= end {
                self.kill();
                bail!("the MPS daemon {id} did not end by itself: {quit:?}");
            }
            thread::sleep(STEP);
        }
        quit.map(drop)
    }

    fn has_clients(&self) -> anyhow::Result<bool> {
        for server in self.control(&[], "get_server_list\n")?.split_whitespace() {
            let clients = self.control(&[], &format!("get_client_list {server}\n"))?;
            if !clients.trim().is_empty() {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// Returns the daemon's process id, which it writes beside its pipes.
    fn id(&self) -> Option<u32> {
        let path = self.pipes.join(format!("{PROGRAM}.pid"));
        fs::read_to_string(path).ok()?.trim().parse().ok()
    }

    /// Ends a daemon that does not answer.
    fn kill(&self) {
        if let Some(id) = self.id().filter(|id| is_daemon(*id)) {
            // Nothing more can be done if it fails.
            let _ = Command::new("kill").arg(id.to_string()).status();
        }
    }

    /// Runs the control program, and returns what it prints.
    fn control(&self, arguments: &[&str], command: &str) -> anyhow::Result<String> {
        let failed = || format!("running {PROGRAM}");
        // Not a pipe: the daemon would keep it open.
        let path = self.logs.join("control.txt");
        let output = File::create(&path)?;
        let mut program = Command::new(PROGRAM);
        program
            .args(arguments)
            .env(PIPES, &self.pipes)
            .env(LOGS, &self.logs)
            // Clients choose among all GPUs.
            .env_remove("CUDA_VISIBLE_DEVICES")
            .stdin(Stdio::piped())
            .stdout(output.try_clone()?)
            .stderr(output);
        for variable in NOT_INHERITED {
            program.env_remove(variable);
        }
        let mut program = program.spawn().with_context(failed)?;
        if let Some(mut stdin) = program.stdin.take() {
            // One that is gone tells why by its status.
            let _ = stdin.write_all(command.as_bytes());
        }
        let end = Instant::now() + ANSWER;
        let status = loop {
            match program.try_wait().with_context(failed)? {
                Some(status) => break status,
                None if Instant::now() < end => thread::sleep(Duration::from_millis(2)),
                None => {
                    let _ = program.kill();
                    let _ = program.wait();
                    bail!("{PROGRAM} did not answer within {ANSWER:?}");
                }
            }
        };
        let mut printed = String::new();
        File::open(&path)?
            .take(64 << 10)
            .read_to_string(&mut printed)?;
        let said = printed.lines().next().unwrap_or("without a word");
        ensure!(status.success(), "{PROGRAM} failed, {status}: {said}");
        Ok(printed)
    }
}

/// Returns whether a process is an MPS daemon, and not another that got its number.
fn is_daemon(id: u32) -> bool {
    // The kernel keeps 15 bytes of a name.
    let name = fs::read_to_string(format!("/proc/{id}/comm"));
    let is_alive =
        || fs::read_to_string(format!("/proc/{id}/stat")).is_ok_and(|stat| !stat.contains(") Z "));
    name.is_ok_and(|name| PROGRAM.starts_with(name.trim_end()) && !name.trim().is_empty())
        && is_alive()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_an_mps_daemon_is_ended() {
        assert!(!is_daemon(std::process::id()));
        assert!(!is_daemon(u32::MAX));
    }
}

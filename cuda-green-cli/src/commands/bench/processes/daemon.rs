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
    /// The control program.
    program: PathBuf,
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
        Self::start_by(Path::new(PROGRAM), folder)
    }

    fn start_by(program: &Path, folder: &Path) -> anyhow::Result<Self> {
        let daemon = Self {
            program: program.to_owned(),
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
        self.end_within(PATIENCE)
    }

    fn end_within(self, patience: Duration) -> anyhow::Result<()> {
        let end = Instant::now() + patience;
        // One that is still there would be ended by force, with work in flight.
        while Instant::now() < end && self.has_clients().unwrap_or(false) {
            thread::sleep(STEP);
        }
        let id = self.id();
        let quit = self.control(&[], "quit\n");
        let end = Instant::now() + patience;
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
            let _ = Command::new("sh")
                .args(["-c", &format!("kill {id}")])
                .status();
        }
    }

    /// Runs the control program, and returns what it prints.
    fn control(&self, arguments: &[&str], command: &str) -> anyhow::Result<String> {
        let failed = || format!("running {PROGRAM}");
        // Not a pipe: the daemon would keep it open.
        let path = self.logs.join("control.txt");
        let output = File::create(&path)?;
        let mut program = Command::new(&self.program);
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

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    /// A control program whose daemon is a shell. What is in the folder of the program decides how it behaves.
    const CONTROL: &str = r#"#!/bin/sh
here=$(dirname "$0")
pipes=$CUDA_MPS_PIPE_DIRECTORY
case ${1-} in
-d)
    [ -e "$here/refuses" ] && { echo "An instance of this daemon is already running"; exit 1; }
    "$0" --daemon </dev/null >/dev/null 2>&1 &
    echo $! >"$pipes/nvidia-cuda-mps-control.pid" ;;
--daemon)
    for _ in $(seq 1000); do
        [ -e "$pipes/quit" ] && ! [ -e "$here/stays" ] && exit
        sleep 0.02
    done ;;
*)
    read -r command argument
    echo "$command $argument" >>"$here/asked"
    case $command in
    get_server_list) echo 17 ;;
    get_client_list)
        # The client leaves once it was asked for twice.
        [ "$(grep -c get_client_list "$here/asked")" -gt 2 ] || echo 18 ;;
    quit) touch "$pipes/quit" ;;
    esac ;;
esac
"#;

    /// Returns a folder with the control program, and the folders of a run.
    fn machine() -> (tempfile::TempDir, PathBuf) {
        let machine = tempfile::tempdir().unwrap();
        let program = machine.path().join(PROGRAM);
        fs::write(&program, CONTROL).unwrap();
        fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).unwrap();
        for folder in folders(machine.path()) {
            fs::create_dir(folder).unwrap();
        }
        (machine, program)
    }

    #[test]
    fn the_daemon_ends_after_its_clients() {
        let (machine, program) = machine();
        let daemon = Daemon::start_by(&program, machine.path()).unwrap();
        let id = daemon.id().unwrap();
        assert!(is_daemon(id));
        daemon.end().unwrap();
        assert!(!is_daemon(id));
        let asked = fs::read_to_string(machine.path().join("asked")).unwrap();
        assert_eq!(asked.matches("get_client_list 17").count(), 3, "{asked}");
        assert!(asked.trim_end().ends_with("quit"), "{asked}");
    }

    #[test]
    fn a_daemon_that_stays_is_ended_and_told() {
        let (machine, program) = machine();
        fs::write(machine.path().join("stays"), "").unwrap();
        let daemon = Daemon::start_by(&program, machine.path()).unwrap();
        let id = daemon.id().unwrap();
        let told = daemon.end_within(Duration::from_millis(200)).unwrap_err();
        assert!(told.to_string().contains("did not end by itself"), "{told}");
        let end = Instant::now() + Duration::from_secs(10);
        while is_daemon(id) {
            assert!(Instant::now() < end, "it is still there");
            thread::sleep(STEP);
        }
    }

    #[test]
    fn a_daemon_that_cannot_be_is_told_in_its_own_words() {
        let (machine, program) = machine();
        fs::write(machine.path().join("refuses"), "").unwrap();
        let told = |program: &Path| {
            let error = Daemon::start_by(program, machine.path()).err().unwrap();
            format!("{error:#}")
        };
        assert!(told(&program).contains("already running"));
        let missing = told(&machine.path().join("none"));
        assert!(
            missing.starts_with("running nvidia-cuda-mps-control: "),
            "{missing}"
        );
    }

    #[test]
    fn only_an_mps_daemon_is_ended() {
        assert!(!is_daemon(std::process::id()));
        assert!(!is_daemon(u32::MAX));
    }
}

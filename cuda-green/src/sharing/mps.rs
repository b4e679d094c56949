//! The MPS server's clients, asked of its control program.

use std::{
    env, fs,
    io::{self, Read, Write},
    os::{fd::OwnedFd, unix::net::UnixStream},
    path::{Path, PathBuf},
    process::{Command, Stdio},
    thread,
    time::{Duration, Instant},
};

const VARIABLE: &str = "CUDA_MPS_PIPE_DIRECTORY";
/// The folder of the pipes where the variable names none (NVIDIA's documentation of MPS).
const DEFAULT: &str = "/tmp/nvidia-mps";
const PROGRAM: &str = "nvidia-cuda-mps-control";
/// The beginning of the server's name as the kernel has it, cut to 15 bytes (measured, driver 580).
const SERVER: &[u8] = b"nvidia-cuda-mps";
/// How long the program may take.
const PATIENCE: Duration = Duration::from_secs(5);
/// The most bytes of an answer: the list of 60 clients has some hundred.
const LONGEST: u64 = 64 << 10;

/// The clients of the MPS servers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Clients {
    /// The process is no client of a server.
    WithoutServer,
    /// The ids of their processes.
    Listed(Vec<u32>),
    /// They cannot be asked for, for this reason.
    Unknown(String),
}

/// Returns the folder of the server's pipes.
pub(super) fn pipes() -> PathBuf {
    match env::var_os(VARIABLE) {
        Some(folder) if !folder.is_empty() => folder.into(),
        _ => DEFAULT.into(),
    }
}

/// An MPS server and the ids of its clients' processes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Server {
    pub(super) pid: u32,
    pub(super) clients: Vec<u32>,
}

impl Server {
    /// Returns whether the server's number is that of an MPS server as seen from here, and with it the numbers of its
    /// clients: in another namespace of processes (a container's) it would be another process's, or nobody's.
    pub(super) fn is_seen_here(&self) -> bool {
        let name = fs::read(format!("/proc/{}/comm", self.pid));
        name.is_ok_and(|name| name.starts_with(SERVER))
    }
}

/// Asks the control program for the clients of all servers of its daemon.
pub(super) fn clients(pipes: &Path) -> Clients {
    match servers(pipes) {
        Ok(servers) => {
            let clients = servers.into_iter().flat_map(|server| server.clients);
            Clients::Listed(clients.collect())
        }
        Err(reason) => Clients::Unknown(reason),
    }
}

/// Asks the control program for the servers of its daemon and their clients.
pub(super) fn servers(pipes: &Path) -> Result<Vec<Server>, String> {
    let pids = ids(&ask(pipes, "get_server_list")?)?;
    let servers = pids.into_iter().map(|pid| {
        let answer = ask(pipes, &format!("get_client_list {pid}"))?;
        // It ended between the two questions, and its clients' contexts with it.
        let clients = if answer.trim() == format!("Server {pid} not found") {
            Vec::new()
        } else {
            ids(&answer)?
        };
        Ok(Server { pid, clients })
    });
    servers.collect()
}

/// Returns the program's answer to a command.
pub(super) fn ask(pipes: &Path, command: &str) -> Result<String, String> {
    let failed = |error: io::Error| format!("{PROGRAM} cannot be asked: {error}");
    // No pipe: reading must not wait for the end of what else the program has started.
    let (mut answers, theirs) = UnixStream::pair().map_err(failed)?;
    answers.set_nonblocking(true).map_err(failed)?;
    let mut program = Command::new(PROGRAM)
        .env(VARIABLE, pipes)
        .stdin(Stdio::piped())
        .stdout(OwnedFd::from(theirs))
        .stderr(Stdio::null())
        .spawn()
        .map_err(failed)?;
    let written = match program.stdin.take() {
        Some(mut stdin) => stdin.write_all(format!("{command}\n").as_bytes()),
        None => Ok(()),
    };
    // An answer that fits into the socket, as any real one does, lets the program end without a reader.
    let end = Instant::now() + PATIENCE;
    let status = loop {
        match program.try_wait().map_err(failed)? {
            Some(status) => break status,
            None if Instant::now() >= end => {
                let _ = program.kill();
                let _ = program.wait();
                return Err(format!("{PROGRAM} does not answer"));
            }
            None => thread::sleep(Duration::from_millis(1)),
        }
    };
    written.map_err(failed)?;
    if !status.success() {
        return Err(format!("{PROGRAM} failed ({status})"));
    }
    let answer = read_what_is_there(&mut answers).map_err(failed)?;
    String::from_utf8(answer).map_err(|error| format!("{PROGRAM} answered no text: {error}"))
}

/// Reads what was written to the other end so far.
fn read_what_is_there(answers: &mut UnixStream) -> io::Result<Vec<u8>> {
    let mut answer = Vec::new();
    match answers.take(LONGEST).read_to_end(&mut answer) {
        Err(error) if error.kind() != io::ErrorKind::WouldBlock => Err(error),
        // A list that is cut off could end with another number.
        _ if answer.len() as u64 == LONGEST => Err(io::ErrorKind::FileTooLarge.into()),
        _ => Ok(answer),
    }
}

/// Reads a list of process ids, one a line; anything else is no such list.
fn ids(answer: &str) -> Result<Vec<u32>, String> {
    let lines = answer
        .lines()
        .map(str::trim)
        .filter(|line| !line.is_empty());
    lines
        .map(|line| {
            let id = line
                .parse()
                .ok()
                .filter(|_| line.bytes().all(|c| c.is_ascii_digit()));
            id.ok_or_else(|| {
                let start: String = line.chars().take(80).collect();
                format!("{PROGRAM} answered {start:?} instead of a list of processes")
            })
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::ids;

    #[test]
    fn only_numbers_are_a_list() {
        assert!(ids("").unwrap().is_empty());
        assert_eq!(ids("\n 12 \n345\n").unwrap(), [12, 345]);
        for other in [
            "+1",
            "12 13",
            "Cannot find MPS control daemon process",
            "99999999999",
            "1\nx",
        ] {
            assert!(ids(other).is_err(), "{other}");
        }
    }
}

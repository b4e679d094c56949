//! The MPS server's clients, asked of its control program.

use std::{
    env, fs,
    io::{self, PipeReader, Read, Write},
    os::fd::AsRawFd,
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Stdio},
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
    let (answers, theirs) = io::pipe().map_err(failed)?;
    // Before anybody can have closed the other end: this process would get a signal, which may end it.
    let (commands, mut writer) = io::pipe().map_err(failed)?;
    let line = format!("{command}\n");
    writer.write_all(line.as_bytes()).map_err(failed)?;
    let mut program = Command::new(PROGRAM);
    program
        .env(VARIABLE, pipes)
        .stdin(commands)
        .stdout(theirs)
        .stderr(Stdio::null());
    let mut child = program.spawn().map_err(failed)?;
    drop(writer);
    // An answer that fits into the pipe, as any real one does, lets the program end without a reader.
    let end = Instant::now() + PATIENCE;
    let status = loop {
        match end_of(&mut child).map_err(failed)? {
            Some(status) => break status,
            None if Instant::now() >= end => {
                let _ = child.kill();
                let _ = child.wait();
                return Err(format!("{PROGRAM} does not answer"));
            }
            None => thread::sleep(Duration::from_millis(1)),
        }
    };
    let answer = read_what_is_there(answers).map_err(failed)?;
    match status {
        End::Known(status) if !status.success() => {
            return Err(format!("{PROGRAM} failed ({status})"));
        }
        End::Unknown if answer.is_empty() => {
            return Err(format!(
                "{PROGRAM} answered nothing, and whether it failed is not known, as this process ignores SIGCHLD"
            ));
        }
        _ => {}
    }
    String::from_utf8(answer).map_err(|error| format!("{PROGRAM} answered no text: {error}"))
}

/// The end of a program.
enum End {
    Known(ExitStatus),
    /// The kernel has not kept its status.
    Unknown,
}

/// Returns how a program has ended, if it has.
fn end_of(child: &mut Child) -> io::Result<Option<End>> {
    match child.try_wait() {
        // Where `SIGCHLD` is ignored.
        Err(error) if error.raw_os_error() == Some(libc::ECHILD) => Ok(Some(End::Unknown)),
        status => Ok(status?.map(End::Known)),
    }
}

/// Reads what was written to the other end so far, and waits for no more: what else the program has started may have that
/// end open.
fn read_what_is_there(mut answers: PipeReader) -> io::Result<Vec<u8>> {
    // SAFETY: the descriptor is open, and the call takes a number.
    if unsafe { libc::fcntl(answers.as_raw_fd(), libc::F_SETFL, libc::O_NONBLOCK) } < 0 {
        return Err(io::Error::last_os_error());
    }
    let mut answer = Vec::new();
    match answers.by_ref().take(LONGEST).read_to_end(&mut answer) {
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

//! The MPS server's clients, asked of its control program.

use std::{
    env,
    io::{Read, Write},
    path::{Path, PathBuf},
    process::{Command, Stdio},
    thread,
    time::{Duration, Instant},
};

const VARIABLE: &str = "CUDA_MPS_PIPE_DIRECTORY";
/// The folder of the pipes where the variable names none (NVIDIA's documentation of MPS).
const DEFAULT: &str = "/tmp/nvidia-mps";
const PROGRAM: &str = "nvidia-cuda-mps-control";
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

/// Asks the control program for the clients of all servers of its daemon.
pub(super) fn clients(pipes: &Path) -> Clients {
    let listed = ask(pipes, "get_server_list").and_then(|servers| {
        let mut clients = Vec::new();
        for server in servers {
            clients.extend(ask(pipes, &format!("get_client_list {server}"))?);
        }
        Ok(clients)
    });
    listed.map_or_else(Clients::Unknown, Clients::Listed)
}

/// Returns the process ids that the program answers to a command.
fn ask(pipes: &Path, command: &str) -> Result<Vec<u32>, String> {
    let failed = |error: std::io::Error| format!("{PROGRAM} cannot be asked: {error}");
    let mut program = Command::new(PROGRAM)
        .env(VARIABLE, pipes)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .map_err(failed)?;
    let written = match program.stdin.take() {
        Some(mut stdin) => stdin.write_all(format!("{command}\n").as_bytes()),
        None => Ok(()),
    };
    // An answer that fits into the pipe, as any real one does, lets the program end without a reader.
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
    let mut answer = String::new();
    if let Some(stdout) = program.stdout.take() {
        let mut stdout = stdout.take(LONGEST);
        stdout.read_to_string(&mut answer).map_err(failed)?;
    }
    written.map_err(failed)?;
    if !status.success() {
        return Err(format!("{PROGRAM} failed ({status})"));
    }
    ids(&answer)
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

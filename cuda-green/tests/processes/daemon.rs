//! An MPS daemon's control program, which is a script here.

use std::{
    env, fs,
    os::unix::fs::symlink,
    path::{Path, PathBuf},
    process::{Child as Process, Command},
    thread,
    time::Duration,
};

use super::parent::{Child, Folder};

/// The script answers from files in the folder of the pipes, and fails where the list of servers is missing.
const SCRIPT: &str = r#"#!/bin/sh
read command server client
cd "$CUDA_MPS_PIPE_DIRECTORY" || exit 1
case "$command" in
get_server_list)
    if [ -e held ]; then
        asked=$(($(cat asked) + 1))
        echo $asked > asked.new; mv asked.new asked
        while [ $asked -ge 2 ] && [ -e held ]; do sleep 0.01; done
    fi
    cat servers ;;
get_client_list) if [ -e "clients.$server" ]; then cat "clients.$server"; else echo "Server $server not found"; fi ;;
terminate_client)
    echo "$command $server $client" >> told
    if [ -e forgets ]; then grep -vx "$client" "clients.$server" > new; mv new "clients.$server"; fi ;;
*) exit 1 ;;
esac
"#;

/// A daemon of the test's own.
pub struct Daemon {
    pipes: PathBuf,
    path: String,
}

impl Daemon {
    pub fn new(folder: &Folder) -> Self {
        let pipes = folder.path().join("pipes");
        fs::create_dir(&pipes).unwrap();
        write_program(&folder.path().join("nvidia-cuda-mps-control"));
        let path = env::var("PATH").unwrap();
        Self {
            path: format!("{}:{path}", folder.path().display()),
            pipes,
        }
    }

    /// Starts a client.
    pub fn start(&self, folder: &Folder) -> Child {
        Child::start_with(folder, |command| {
            self.environment(command);
            command.env("CUDA_GREEN_SIM_FAULTS", "mps=100%");
        })
    }

    /// Returns the folder of its pipes.
    pub fn pipes(&self) -> &Path {
        &self.pipes
    }

    pub fn environment(&self, command: &mut Command) {
        command
            .env("PATH", &self.path)
            .env("CUDA_MPS_PIPE_DIRECTORY", &self.pipes);
    }

    /// Lists one server and its clients from now on.
    pub fn list(&self, server: u32, clients: &[u32]) {
        let clients: String = clients.iter().map(|pid| format!("{pid}\n")).collect();
        fs::write(self.pipes.join("servers"), format!("{server}\n")).unwrap();
        fs::write(self.pipes.join(format!("clients.{server}")), clients).unwrap();
    }

    /// Answers one more question for the list of servers, and lets the next one wait.
    pub fn hold_second_question(&self) {
        fs::write(self.pipes.join("asked"), "0").unwrap();
        fs::write(self.pipes.join("held"), "").unwrap();
    }

    /// Waits for the question that waits.
    pub fn wait_for_second_question(&self) {
        let asked = || fs::read_to_string(self.pipes.join("asked")).unwrap();
        while asked().trim() != "2" {
            thread::sleep(Duration::from_millis(1));
        }
    }

    /// Answers the question that waits, and all that come.
    pub fn hold_no_question(&self) {
        fs::remove_file(self.pipes.join("held")).unwrap();
    }

    /// Sets whether a client that is terminated is no longer listed.
    pub fn forgets_terminated_clients(&self, forgets: bool) {
        let file = self.pipes.join("forgets");
        if forgets {
            fs::write(file, "").unwrap();
        } else {
            fs::remove_file(file).unwrap();
        }
    }

    /// Returns the commands by which clients were terminated.
    pub fn told(&self) -> String {
        fs::read_to_string(self.pipes.join("told")).unwrap_or_default()
    }

    /// Ends a name's holder from a process that sees this daemon; returns the steps, or the reason for a refusal.
    pub fn end(&self, folder: &Folder, name: &str) -> Result<String, String> {
        let mut command = Command::new(env::current_exe().unwrap());
        command
            .args(["processes::ends::ender", "--exact", "--nocapture"])
            .env("CUDA_GREEN_TEST_END", format!("{name} {}", folder.shared()));
        self.environment(&mut command);
        let output = command.output().unwrap();
        let output = String::from_utf8(output.stdout).unwrap();
        let mut lines = output.lines();
        let said = lines.find_map(|line| line.strip_prefix("@ ")).unwrap();
        match said.strip_prefix("ok ") {
            Some(steps) => Ok(steps.to_owned()),
            None => Err(said.to_owned()),
        }
    }
}

/// A process with the name of an MPS server.
pub struct Server(Process);

impl Server {
    pub fn start(folder: &Folder) -> Self {
        let program = folder.path().join("nvidia-cuda-mps-server");
        symlink("/bin/sleep", &program).unwrap();
        let server = Command::new(program).arg("600").spawn().unwrap();
        let name = format!("/proc/{}/comm", server.id());
        while !fs::read_to_string(&name)
            .unwrap()
            .starts_with("nvidia-cuda-mps")
        {
            std::thread::yield_now(); // it has not become that program yet
        }
        Self(server)
    }

    pub fn id(&self) -> u32 {
        self.0.id()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Writes the program by another process: a child of this one that is being made could hold the file open for writing,
/// and then it cannot be executed (ETXTBSY).
fn write_program(path: &Path) {
    let written = Command::new("sh")
        .args([
            "-c",
            "printf '%s' \"$2\" > \"$1\" && chmod 755 \"$1\"",
            "sh",
        ])
        .arg(path)
        .arg(SCRIPT)
        .status();
    assert!(written.unwrap().success());
}

//! What a test holds of its children.

use std::{
    collections::BTreeMap,
    env, fs,
    io::{BufRead, BufReader, Write},
    path::{Path, PathBuf},
    process::{Child as Process, ChildStdin, ChildStdout, Command, Stdio},
};

use cuda_green::SharingStep;

use super::child::{STEPS, VARIABLE};

/// Two names that share an H200.
pub const LIST: &str = "a=64,b=rest";

/// A folder of a test's own, removed at its end.
pub struct Folder(PathBuf);

impl Folder {
    pub fn new(name: &str) -> Self {
        let path = env::temp_dir().join(format!("cuda-green-{name}-{}", std::process::id()));
        let _ = fs::remove_dir_all(&path);
        fs::create_dir(&path).unwrap();
        Self(path)
    }

    pub fn path(&self) -> &Path {
        &self.0
    }

    /// Returns the folder of plans in it, which is not made yet.
    pub fn shared(&self) -> String {
        self.0.join("shared").to_str().unwrap().to_owned()
    }

    /// Returns the file of the shared folder that ends like this.
    pub fn file(&self, end: &str) -> PathBuf {
        let entries = fs::read_dir(self.shared()).unwrap();
        let mut paths = entries.map(|entry| entry.unwrap().path());
        paths
            .find(|path| path.to_str().unwrap().ends_with(end))
            .unwrap()
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// A child process.
pub struct Child {
    process: Process,
    input: ChildStdin,
    output: BufReader<ChildStdout>,
}

impl Child {
    pub fn start(folder: &Folder) -> Self {
        Self::start_with(folder, |_| {})
    }

    /// Starts a child with a changed environment.
    pub fn start_with(folder: &Folder, change: impl FnOnce(&mut Command)) -> Self {
        let mut command = Command::new(env::current_exe().unwrap());
        command
            .args([
                "processes::child::child",
                "--exact",
                "--nocapture",
                "--test-threads=1",
            ])
            .env(VARIABLE, format!("sim:h200@13.0 {}", folder.shared()))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped());
        change(&mut command);
        let mut process = command.spawn().unwrap();
        let input = process.stdin.take().unwrap();
        let output = BufReader::new(process.stdout.take().unwrap());
        let mut child = Self {
            process,
            input,
            output,
        };
        assert_eq!(child.answer().unwrap(), "ready");
        child
    }

    pub fn id(&self) -> u32 {
        self.process.id()
    }

    /// Gives a command, and waits for nothing.
    pub fn tell(&mut self, command: &str) {
        let _ = writeln!(self.input, "{command}"); // a killed child takes none
    }

    /// Waits for an answer; none where the child has ended.
    pub fn answer(&mut self) -> Option<String> {
        let mut line = String::new();
        loop {
            line.clear();
            if self.output.read_line(&mut line).unwrap() == 0 {
                return None;
            }
            if let Some(answer) = line.trim_end().strip_prefix("@ ") {
                return Some(answer.to_owned());
            }
        }
    }

    pub fn ask(&mut self, command: &str) -> Option<String> {
        self.tell(command);
        self.answer()
    }

    /// Gives a command that works; returns the answer.
    #[track_caller]
    pub fn does(&mut self, command: &str) -> String {
        let answer = self.ask(command).unwrap();
        match answer.strip_prefix("ok") {
            Some(answer) => answer.trim().to_owned(),
            None => panic!("{command}: {answer}"),
        }
    }

    /// Gives a command that is refused; returns the reason.
    #[track_caller]
    pub fn fails(&mut self, command: &str) -> String {
        let answer = self.ask(command).unwrap();
        match answer.strip_prefix("sharing ") {
            Some(answer) => answer.to_owned(),
            None => panic!("{command}: {answer}"),
        }
    }

    /// Makes the child stop at a step from now on, by this signal.
    pub fn stop_at(&mut self, step: usize, signal: i32) {
        assert!(step < STEPS.len());
        self.does(&format!("at {step} {signal}"));
    }

    pub fn signal(&self, signal: i32) {
        // SAFETY: the child is this process's, and not waited for yet.
        assert_eq!(unsafe { libc::kill(self.id() as i32, signal) }, 0);
    }

    /// Waits until the child has stopped by `SIGSTOP`.
    pub fn wait_until_stopped(&self) {
        let mut status = 0;
        // SAFETY: the child is this process's, and the output is valid.
        let waited = unsafe { libc::waitpid(self.id() as i32, &mut status, libc::WUNTRACED) };
        assert_eq!(waited, self.id() as i32);
        assert!(libc::WIFSTOPPED(status));
    }

    /// Kills the child, and waits for its end.
    pub fn kill(mut self) {
        self.end();
    }

    /// Waits for the child's end.
    pub fn wait(&mut self) {
        self.process.wait().unwrap();
    }

    fn end(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

impl Drop for Child {
    fn drop(&mut self) {
        self.end();
    }
}

/// Starts two children that hold the two names of [`LIST`].
pub fn two(folder: &Folder) -> (Child, Child) {
    let (mut one, mut other) = (Child::start(folder), Child::start(folder));
    one.does(&format!("join 0 {LIST} a"));
    other.does(&format!("join 0 {LIST} b"));
    (one, other)
}

/// Returns the number of a step at which a child can be stopped.
pub fn step(step: SharingStep) -> usize {
    STEPS.iter().position(|one| *one == step).unwrap()
}

/// Reads an answer of names and their SMs.
pub fn sms(answer: &str) -> BTreeMap<String, Vec<u32>> {
    let names = answer.split(' ').filter(|name| !name.is_empty());
    names
        .map(|one| {
            let (name, ids) = one.split_once(':').unwrap();
            let ids = ids.split(',').map(|id| id.parse().unwrap()).collect();
            (name.to_owned(), ids)
        })
        .collect()
}

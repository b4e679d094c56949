//! Test programs, two at a time. Cargo runs one after the other, and where one ends with a single long test, a core has
//! nothing to do.

use std::{
    fs::File,
    io::{self, Read, Seek, Write},
    path::{Path, PathBuf},
    process::{Command, ExitStatus, Stdio},
    sync::{Mutex, PoisonError},
    thread,
};

use anyhow::{Result, ensure};
use serde_json::Value;
use xshell::{Shell, cmd};

/// How many programs run at once. Each has as many threads as there are cores.
const AT_ONCE: usize = 2;

/// Package and target of the programs that take longest. They start first, in this order.
const LONG: [(&str, &str); 6] = [
    ("driver-matrix", "documents"),
    ("cuda-green", "failures"),
    ("cuda-green", "library"),
    ("cuda-green-cli", "program"),
    ("cuda-green-embed", "library"),
    ("driver-matrix", "suite"),
];

/// Tests that a program leaves out by itself: its package and target, and the filter.
const LEFT_OUT: [(&str, &str, &str); 1] = [
    // Half a minute, so no part of `cargo test`.
    ("cuda-green-embed", "library", "all_glosses"),
];

/// What the name of each doc test has, and that of no other test.
const DOC_TESTS: &str = " (line ";

/// A test program that cargo built.
#[derive(Debug, PartialEq)]
struct Program {
    package: String,
    target: String,
    /// The package's folder, in which cargo runs its tests.
    folder: PathBuf,
    executable: PathBuf,
}

impl Program {
    fn is(&self, package: &str, target: &str) -> bool {
        self.package == package && self.target == target
    }
}

/// A command, and what it is called where its output is shown.
struct Job {
    name: String,
    command: Command,
}

/// Builds all tests of some packages with all features, and runs them, doc tests included. Runs all of them even if one
/// fails.
pub fn run(shell: &Shell, packages: &[&str]) -> Result<()> {
    let messages = cmd!(
        shell,
        "cargo test {packages...} --all-features --no-run --message-format=json-render-diagnostics"
    )
    .read()?;
    let programs = programs(&messages);
    ensure!(!programs.is_empty(), "cargo built no tests");
    let failed = run_all(jobs(shell, programs, packages), &Mutex::new(io::stdout()))?;
    ensure!(failed.is_empty(), "these failed: {}", failed.join(", "));
    Ok(())
}

/// Returns the test programs that cargo's messages tell of.
fn programs(messages: &str) -> Vec<Program> {
    let messages = messages
        .lines()
        .filter_map(|line| serde_json::from_str::<Value>(line).ok());
    messages
        .filter(|message| message["profile"]["test"] == true)
        .filter_map(|message| {
            let executable = message["executable"].as_str()?.into();
            let folder = Path::new(message["manifest_path"].as_str()?).parent()?;
            Some(Program {
                package: package(message["package_id"].as_str()?).to_owned(),
                target: message["target"]["name"].as_str()?.to_owned(),
                folder: folder.to_owned(),
                executable,
            })
        })
        .collect()
}

/// Returns the name in a package's id, `path+file:///folder/name#version` or `path+file:///folder#name@version`.
fn package(id: &str) -> &str {
    let (path, version) = id.rsplit_once('#').unwrap_or((id, ""));
    let in_path = path.rsplit('/').next().unwrap_or(path);
    version.split_once('@').map_or(in_path, |(name, _)| name)
}

/// Returns the jobs in the order in which they start.
fn jobs(shell: &Shell, programs: Vec<Program>, packages: &[&str]) -> Vec<Job> {
    let place = |program: &Program| LONG.iter().position(|(p, t)| program.is(p, t));
    let (mut long, rest): (Vec<_>, Vec<_>) = programs
        .into_iter()
        .partition(|program| place(program).is_some());
    long.sort_by_key(place);
    let mut jobs: Vec<Job> = long.iter().flat_map(|one| jobs_of(shell, one)).collect();
    // No long test is at the end of what comes after these.
    jobs.push(doc_tests(shell, packages));
    jobs.extend(rest.iter().flat_map(|one| jobs_of(shell, one)));
    jobs
}

/// Returns the jobs of a program: all that it runs by itself, and before it what it leaves out.
fn jobs_of(shell: &Shell, program: &Program) -> Vec<Job> {
    let name = format!("{} of {}", program.target, program.package);
    let left_out = LEFT_OUT.iter().filter(|(p, t, _)| program.is(p, t));
    let mut jobs: Vec<Job> = left_out
        .map(|(_, _, filter)| {
            let mut command = command(shell, program);
            command.args([filter, "--ignored"]);
            let name = format!("{filter} in {name}");
            Job { name, command }
        })
        .collect();
    let command = command(shell, program);
    jobs.push(Job { name, command });
    jobs
}

/// Returns the command that runs a program as cargo does.
fn command(shell: &Shell, program: &Program) -> Command {
    let executable = &program.executable;
    let mut command = Command::from(cmd!(shell, "{executable}"));
    command
        .current_dir(&program.folder)
        .env("CARGO_MANIFEST_DIR", &program.folder);
    command
}

/// Returns the job of the doc tests. The option `--doc` leaves out packages without a library, and so cargo would take
/// other features of what all of them need, and build it again. A filter leaves out the other tests.
fn doc_tests(shell: &Shell, packages: &[&str]) -> Job {
    let command = cmd!(
        shell,
        "cargo test {packages...} --all-features --no-fail-fast -- {DOC_TESTS}"
    );
    Job {
        name: "doc tests".to_owned(),
        command: command.into(),
    }
}

/// Runs jobs in their order, [`AT_ONCE`] at a time. Writes what each printed once it has ended, and returns the names of
/// those that failed.
fn run_all(jobs: Vec<Job>, out: &Mutex<impl Write + Send>) -> io::Result<Vec<String>> {
    let jobs = Mutex::new(jobs.into_iter());
    let failed = Mutex::new(Vec::new());
    let next = || lock(&jobs).next();
    let work = || -> io::Result<()> {
        while let Some(mut job) = next() {
            let (status, said) = output(&mut job.command)?;
            let mut out = lock(out);
            writeln!(out, "\n==== {}: {status}", job.name)?;
            out.write_all(&said)?;
            if !status.success() {
                lock(&failed).push(job.name);
            }
        }
        Ok(())
    };
    thread::scope(|scope| {
        let workers: Vec<_> = (0..AT_ONCE).map(|_| scope.spawn(work)).collect();
        let mut ended = workers.into_iter().map(|worker| worker.join());
        ended.try_for_each(|end| end.unwrap_or_else(|panic| std::panic::resume_unwind(panic)))
    })?;
    Ok(failed.into_inner().unwrap_or_else(PoisonError::into_inner))
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Runs a command; returns all that it printed, errors in their place.
fn output(command: &mut Command) -> io::Result<(ExitStatus, Vec<u8>)> {
    let mut file: File = tempfile::tempfile()?;
    let status = command
        .stdin(Stdio::null())
        .stdout(file.try_clone()?)
        .stderr(file.try_clone()?)
        .status()?;
    let mut said = Vec::new();
    file.rewind()?;
    file.read_to_end(&mut said)?;
    Ok((status, said))
}

#[cfg(test)]
mod tests {
    use super::*;

    const MESSAGES: &str = r#"{"reason":"compiler-artifact","package_id":"registry+https://example.org/index#log@0.4.20","manifest_path":"/r/log/Cargo.toml","target":{"name":"log"},"profile":{"test":false},"executable":null}
{"reason":"compiler-artifact","package_id":"path+file:///w/one#0.1.0","manifest_path":"/w/one/Cargo.toml","target":{"name":"program"},"profile":{"test":false},"executable":"/w/target/debug/program"}
{"reason":"compiler-artifact","package_id":"path+file:///w/one#0.1.0","manifest_path":"/w/one/Cargo.toml","target":{"name":"unit"},"profile":{"test":true},"executable":"/w/target/debug/deps/unit-1"}
{"reason":"compiler-artifact","package_id":"path+file:///w#driver-matrix@0.1.0","manifest_path":"/w/Cargo.toml","target":{"name":"suite"},"profile":{"test":true},"executable":"/w/target/debug/deps/suite-2"}
{"reason":"compiler-artifact","package_id":"path+file:///w/cuda-green-embed#0.1.0","manifest_path":"/w/cuda-green-embed/Cargo.toml","target":{"name":"library"},"profile":{"test":true},"executable":"/w/target/debug/deps/library-3"}
{"reason":"build-finished","success":true}"#;

    #[test]
    fn programs_are_those_that_cargo_built_as_tests() {
        let found = programs(MESSAGES);
        let found: Vec<_> = found
            .iter()
            .map(|one| (&*one.package, &*one.target, one.folder.to_str().unwrap()))
            .collect();
        let expected = [
            ("one", "unit", "/w/one"),
            ("driver-matrix", "suite", "/w"),
            ("cuda-green-embed", "library", "/w/cuda-green-embed"),
        ];
        assert_eq!(found, expected);
    }

    #[test]
    fn long_programs_start_first_and_none_is_left_out() {
        let shell = Shell::new().unwrap();
        let jobs = jobs(&shell, programs(MESSAGES), &["--workspace"]);
        let names: Vec<_> = jobs.iter().map(|job| &*job.name).collect();
        let expected = [
            "all_glosses in library of cuda-green-embed",
            "library of cuda-green-embed",
            "suite of driver-matrix",
            "doc tests",
            "unit of one",
        ];
        assert_eq!(names, expected);
    }

    #[test]
    fn what_is_named_exists() {
        let long = LONG.iter().copied();
        for (package, target) in long.chain(LEFT_OUT.map(|(package, target, _)| (package, target)))
        {
            let folder = crate::root().join(if package == "driver-matrix" {
                "."
            } else {
                package
            });
            let file = folder.join("tests").join(target).join("main.rs");
            assert!(file.is_file(), "{package} has no {target}");
        }
    }

    #[test]
    fn each_job_runs_and_those_that_fail_are_named() {
        let folder = tempfile::tempdir().unwrap();
        let job = |name: &str, status: u8| {
            let mut command = Command::new("sh");
            command.current_dir(folder.path()).args([
                "-c",
                &format!("touch {name}; echo {name} ran; exit {status}"),
            ]);
            Job {
                name: name.to_owned(),
                command,
            }
        };
        let jobs = [("a", 0), ("b", 1), ("c", 0), ("d", 101)].map(|(name, end)| job(name, end));
        let out = Mutex::new(Vec::new());
        let mut failed = run_all(jobs.into(), &out).unwrap();
        let out = String::from_utf8(out.into_inner().unwrap()).unwrap();
        for (name, status) in [("a", "exit status: 0"), ("d", "exit status: 101")] {
            let told = format!("==== {name}: {status}\n{name} ran\n");
            assert!(out.contains(&told), "{out}");
        }
        failed.sort();
        assert_eq!(failed, ["b", "d"]);
        assert!(
            ["a", "b", "c", "d"]
                .iter()
                .all(|name| folder.path().join(name).is_file())
        );
    }

    #[test]
    fn what_a_program_prints_is_kept_in_order() {
        let mut command = Command::new("sh");
        command.args(["-c", "echo one; echo two >&2; echo three; exit 3"]);
        let (status, said) = output(&mut command).unwrap();
        assert_eq!(status.code(), Some(3));
        assert_eq!(said, b"one\ntwo\nthree\n");
    }
}

//! The device side of queues on CPU threads: the header as C++, under ThreadSanitizer. What is PTX in it has a twin in
//! `header/machine.h`; all else is the text that GPUs run.

use std::{
    fs, io,
    path::{Path, PathBuf},
    process::Command,
};

use driver_matrix::skip::skip;

/// The orders that `header/machine.h` can break, by number, and what stays whole.
const WHOLE: u32 = 0;
const MUTANTS: [(u32, &str); 3] = [
    (1, "a commit without release order"),
    (2, "credits without acquire and release order"),
    (3, "tails and answers without acquire order"),
];

/// Compiles a program with ThreadSanitizer; returns it, or the compiler's words.
fn compile(source: &Path, name: &str, options: &[String]) -> Result<PathBuf, String> {
    let program = Path::new(env!("CARGO_TARGET_TMPDIR")).join(name);
    let output = Command::new("c++")
        .args(["-std=c++17", "-O1", "-g", "-Wall", "-Wextra", "-Werror"])
        .args(["-fsanitize=thread", "-pthread"])
        .args(options)
        .arg("-o")
        .args([&program, source])
        .output()
        .map_err(|error| format!("c++: {error}"))?;
    if output.status.success() {
        Ok(program)
    } else {
        Err(String::from_utf8_lossy(&output.stderr).into_owned())
    }
}

/// Runs a program; returns whether it ended well, and its words.
fn run(program: &Path) -> io::Result<(bool, String)> {
    let output = Command::new(program)
        .env("TSAN_OPTIONS", "halt_on_error=1")
        .output()?;
    let words = [output.stdout, output.stderr].concat();
    let words = String::from_utf8_lossy(&words).into_owned();
    Ok((output.status.success(), words))
}

/// Returns why programs with ThreadSanitizer cannot be made or run here.
fn why_missing() -> io::Result<Option<String>> {
    let source = Path::new(env!("CARGO_TARGET_TMPDIR")).join("header_empty.cpp");
    fs::write(&source, "int main() {}\n")?;
    Ok(match compile(&source, "header_empty", &[]) {
        Ok(program) => match run(&program)? {
            (true, _) => None,
            (false, words) => Some(words),
        },
        Err(words) => Some(words),
    })
}

#[test]
fn producers_and_their_consumer_have_no_race_and_lose_nothing() {
    if let Some(why) = why_missing().unwrap() {
        skip("the queue's header under ThreadSanitizer", &why);
        return;
    }
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let source = root.join("tests/header/main.cpp");
    let folders = ["cuda-green-queue/src/device", "tests/header"];
    let made = |mutant: u32| {
        let include = |folder| format!("-I{}", root.join(folder).display());
        let mut options = Vec::from(folders.map(include));
        options.push(format!("-DMUTANT={mutant}"));
        compile(&source, &format!("header_{mutant}"), &options)
            .unwrap_or_else(|words| panic!("{words}"))
    };
    let (is_well, words) = run(&made(WHOLE)).unwrap();
    assert!(is_well, "{words}");
    for (mutant, what) in MUTANTS {
        let (is_well, words) = run(&made(mutant)).unwrap();
        assert!(!is_well, "{what} goes unnoticed");
        assert!(words.contains("data race"), "{what}: {words}");
    }
}

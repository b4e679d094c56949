//! The device side of queues on CPU threads: the header as C++, under ThreadSanitizer. What is PTX in it has a twin in
//! `header/machine.h`; all else is the text that GPUs run.

#![allow(clippy::panic, clippy::unwrap_used)] // helpers of tests

use std::{
    fs, io,
    path::{Path, PathBuf},
    process::Command,
    sync::LazyLock,
};

use driver_matrix::skip::skip;

/// The orders that `header/machine.h` can break, by number, and what stays whole.
const WHOLE: u32 = 0;
const MUTANTS: [(u32, &str); 3] = [
    (1, "a commit without release order"),
    (2, "credits without acquire and release order"),
    (3, "tails and answers without acquire order"),
];

/// The header, and its machine.
const FOLDERS: [&str; 2] = ["cuda-green-queue/src/device", "tests/header"];

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
fn why_missing() -> Option<&'static str> {
    static WHY: LazyLock<Option<String>> = LazyLock::new(|| {
        let source = Path::new(env!("CARGO_TARGET_TMPDIR")).join("header_empty.cpp");
        fs::write(&source, "int main() {}\n").unwrap();
        match compile(&source, "header_empty", &[]) {
            Ok(program) => match run(&program).unwrap() {
                (true, _) => None,
                (false, words) => Some(words),
            },
            Err(words) => Some(words),
        }
    });
    WHY.as_deref()
}

/// Compiles one of the programs, with a part of its orders broken.
fn program(source: &str, mutant: u32) -> PathBuf {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let include = |folder| format!("-I{}", root.join(folder).display());
    let mut options = Vec::from(FOLDERS.map(include));
    options.push(format!("-DMUTANT={mutant}"));
    let source = root.join("tests/header").join(source);
    let stem = source.file_stem().unwrap().to_string_lossy();
    compile(&source, &format!("header_{stem}_{mutant}"), &options)
        .unwrap_or_else(|words| panic!("{words}"))
}

#[test]
fn producers_and_their_consumer_have_no_race_and_lose_nothing() {
    if let Some(why) = why_missing() {
        skip("the queue's header under ThreadSanitizer", why);
        return;
    }
    let (is_well, words) = run(&program("main.cpp", WHOLE)).unwrap();
    assert!(is_well, "{words}");
    for (mutant, what) in MUTANTS {
        let (is_well, words) = run(&program("main.cpp", mutant)).unwrap();
        assert!(!is_well, "{what} goes unnoticed");
        assert!(words.contains("data race"), "{what}: {words}");
    }
}

/// Teams of lanes, and a resident kernel that returns before it is told to.
#[test]
fn warps_that_lack_lanes_or_room_come_through() {
    if let Some(why) = why_missing() {
        skip("the queue's header under ThreadSanitizer", why);
        return;
    }
    let (is_well, words) = run(&program("warps.cpp", WHOLE)).unwrap();
    assert!(is_well, "{words}");
}

/// NVRTC of CUDA 12 compiles for `sm_52` unless it is told otherwise, and other compilers for C++14.
#[test]
fn older_gpus_and_languages_are_refused_by_name() {
    let header = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("cuda-green-queue/src/device/cuda_green_queue.cuh");
    for (option, said) in [
        ("-D__CUDA_ARCH__=520", "-arch=sm_70"),
        ("-std=c++14", "-std=c++17"),
    ] {
        let output = Command::new("c++")
            .args(["-std=c++17", "-fsyntax-only", "-xc++", option])
            .arg(&header)
            .output();
        let Ok(output) = output else {
            skip("what the queue's header refuses", "c++ is missing");
            return;
        };
        let words = String::from_utf8_lossy(&output.stderr);
        assert!(!output.status.success(), "{option} is accepted");
        assert!(words.contains(said), "{option}: {words}");
    }
}

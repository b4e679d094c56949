//! Whether a command that the documents name is there, as far as that can be told without running it.

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Command, Output},
    sync::OnceLock,
};

use serde_json::Value;

use crate::{
    document::ROOT,
    typed::{Typed, typed},
};

/// What a command says, if it ends well.
pub fn output(command: &mut Command, what: &str) -> Output {
    let output = command.current_dir(ROOT).output().unwrap();
    let text = format!(
        "{}{}",
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
    assert!(output.status.success(), "{what}: {}\n{text}", output.status);
    output
}

/// The program `cuda-green`, installed as its README says, but from here: a folder that has it.
pub fn installed() -> &'static Path {
    static FOLDER: OnceLock<PathBuf> = OnceLock::new();
    FOLDER.get_or_init(|| {
        let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join("installed");
        let target = Path::new(env!("CARGO_TARGET_TMPDIR")).parent().unwrap();
        let mut command = Command::new(env!("CARGO"));
        // All that it needs was fetched for this test, too.
        command.args([
            "install",
            "--quiet",
            "--debug",
            "--force",
            "--locked",
            "--offline",
        ]);
        command.args(["--path", "cuda-green-cli", "--root"]);
        command.arg(&folder).arg("--target-dir").arg(target);
        output(&mut command, "cargo install");
        folder.join("bin")
    })
}

/// The targets of the workspace: package, kind and name of each.
fn targets() -> &'static [(String, String, String)] {
    static TARGETS: OnceLock<Vec<(String, String, String)>> = OnceLock::new();
    TARGETS.get_or_init(|| {
        let mut command = Command::new(env!("CARGO"));
        command.args(["metadata", "--no-deps", "--format-version=1"]);
        let metadata = output(&mut command, "cargo metadata").stdout;
        let metadata: Value = serde_json::from_slice(&metadata).unwrap();
        let text = |value: &Value| value.as_str().unwrap().to_owned();
        let mut targets = Vec::new();
        for package in metadata["packages"].as_array().unwrap() {
            for target in package["targets"].as_array().unwrap() {
                let kind = text(&target["kind"][0]);
                targets.push((text(&package["name"]), kind, text(&target["name"])));
            }
        }
        targets
    })
}

/// Why there is no such command, as far as that can be told without running it.
fn missing(typed: &Typed) -> Option<String> {
    let (_, words) = typed.parts();
    let words: Vec<&str> = words.iter().map(|word| &**word).collect();
    match words[..] {
        ["cargo", "xtask"] => None,
        ["cargo", "xtask", name, ..] => {
            let xtask = fs::read_to_string(Path::new(ROOT).join("xtask/src/main.rs")).unwrap();
            let variant: String = name.split('-').map(capitalised).collect();
            let has = xtask.contains(&format!("Command::{variant}"));
            (!has).then(|| format!("xtask has no command {name}"))
        }
        [
            "cargo",
            "run" | "test" | "bench" | "build",
            ref options @ ..,
        ] => no_target(options),
        // What they install is a tool of somebody else's, or run by `installed`.
        ["cargo", "install", ..] => None,
        ["cuda-green", ref arguments @ ..] => {
            let output = Command::new(installed().join("cuda-green"))
                .args(arguments)
                .arg("--help")
                .output();
            let output = output.unwrap();
            (!output.status.success()).then(|| String::from_utf8_lossy(&output.stderr).into_owned())
        }
        // Its help, which its own tests compare with what it prints.
        ["cuda-green-embed", command, ref arguments @ ..] => {
            let help = Path::new(ROOT).join("cuda-green-embed/tests/program/commands.md");
            let help = fs::read_to_string(help).unwrap();
            let usage = format!("Usage: cuda-green-embed {command} ");
            let mut options = arguments.iter().filter(|word| word.starts_with("--"));
            let unknown = options.find(|option| !help.contains(&format!(" {option} <")));
            match unknown {
                _ if !help.contains(&usage) => Some(format!("it has no command {command}")),
                unknown => unknown.map(|option| format!("it has no option {option}")),
            }
        }
        ["./gpu-bundle/run.sh", ref steps @ ..] => {
            let script =
                fs::read_to_string(Path::new(ROOT).join("xtask/src/gpu_bundle.sh")).unwrap();
            let no = steps
                .iter()
                .find(|step| !script.contains(&format!("\nstep {step} ")));
            no.map(|step| format!("the script has no step {step}"))
        }
        ["cp" | "curl" | "export" | "mkdir" | "python3", ..] => None,
        // The daemon of MPS, which is NVIDIA's.
        ["nvidia-cuda-mps-control", "-d"] | ["echo", "quit", "|", "nvidia-cuda-mps-control"] => {
            None
        }
        _ => Some("nobody knows this program".to_owned()),
    }
}

fn capitalised(word: &str) -> String {
    let mut letters = word.chars();
    let first = letters
        .next()
        .map(|first| first.to_uppercase().collect::<String>());
    first.unwrap_or_default() + letters.as_str()
}

/// What `--package`, `--example` and the like name, and is not there.
fn no_target(options: &[&str]) -> Option<String> {
    let mut package = None;
    let mut wanted = Vec::new();
    let own = options
        .split(|option| *option == "--")
        .next()
        .unwrap_or_default();
    for pair in own.windows(2) {
        match pair[0] {
            "--package" | "-p" => package = Some(pair[1]),
            "--example" | "--test" | "--bench" | "--bin" => wanted.push((&pair[0][2..], pair[1])),
            _ => {}
        }
    }
    // Where no package is named, that of the root is meant.
    let package = package.unwrap_or("driver-matrix");
    if !targets().iter().any(|target| target.0 == package) {
        return Some(format!("there is no package {package}"));
    }
    let there = |kind: &str, name: &str| {
        targets()
            .iter()
            .any(|target| target.0 == package && target.1 == kind && target.2 == name)
    };
    let absent = wanted.into_iter().find(|(kind, name)| !there(kind, name))?;
    Some(format!("{package} has no {} {}", absent.0, absent.1))
}

/// Nobody finds an example that no page names, and one that never ran on a GPU may not run there.
#[test]
fn examples_are_named_and_go_to_the_gpu() {
    let read = |file: &str| fs::read_to_string(Path::new(ROOT).join(file)).unwrap();
    let (readme, bundle) = (read("README.md"), read("xtask/src/gpu_bundle.rs"));
    let script = read("xtask/src/gpu_bundle.sh");
    let mut number = 0;
    for (package, kind, name) in targets() {
        if kind == "example" && matches!(&**package, "cuda-green-examples" | "driver-matrix") {
            assert!(
                readme.contains(&format!("--example {name}\n")),
                "{name} in README.md"
            );
            let target = format!("(\"{package}\", \"--example\", \"{name}\")");
            assert!(bundle.contains(&target), "{target} in the GPU bundle");
            assert!(
                script.contains(&format!("./{name} ")) || script.contains(&format!("./{name}'")),
                "{name} in its script"
            );
            number += 1;
        }
    }
    assert!(number >= 6, "only {number} examples");
}

#[test]
fn what_is_named_exists() {
    let all = typed();
    let wrong: Vec<String> = all
        .iter()
        .filter_map(|one| Some(format!("{}: {}: {}", one.place, one.text, missing(one)?)))
        .collect();
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn what_does_not_exist_is_told() {
    for text in [
        "cargo xtask tset",
        "cargo run --example quad_partitions",
        "cargo run --package cuda-green-examples --example quad_partition",
        "cargo test --package cuda-grey",
        "cargo tets",
        "cuda-green blan 64",
        "./gpu-bundle/run.sh sweet",
        "pip install cuda-green",
    ] {
        let one = Typed {
            place: String::new(),
            text: text.to_owned(),
            in_block: true,
        };
        assert!(missing(&one).is_some(), "{text}");
    }
}

//! What the documents have people type. A command in a block is run here, on a simulated driver and without
//! optimisation, or stands in [`NOT_RUN`] with the reason. Whatever is named, in a line too, exists.

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Command, Output},
    sync::OnceLock,
};

use serde_json::Value;

use crate::document::{ROOT, prose};

/// Commands of blocks that no test runs as they stand, and why not. What they name must exist all the same.
const NOT_RUN: &[(&str, &str)] = &[
    ("cargo xtask test", "runs these tests"),
    (
        "cargo xtask gpu-bundle",
        "builds the whole workspace anew, optimised",
    ),
    ("./gpu-bundle/run.sh", "needs a GPU"),
    ("./gpu-bundle/run.sh suite conformance", "needs a GPU"),
    (
        "cargo run --release --package cuda-green-cli -- bench isolation",
        "measures for minutes, and without a GPU it measures nothing",
    ),
    (
        "cargo run --release --example cudarc_partition",
        "cudarc loads libcuda.so.1 itself; tests/clients runs it with the simulated one",
    ),
    (
        "mkdir -p simulated",
        "tests/clients makes such a folder, and runs programs of its own with it",
    ),
    (
        "cp target/release/libcuda_green_sim_driver.so simulated/libcuda.so.1",
        "likewise",
    ),
    (
        "export CUDA_GREEN_SIM_PROFILE=h200@13.0 LD_LIBRARY_PATH=simulated",
        "likewise",
    ),
    ("python3 my_program.py", "likewise; it is whoever's program"),
];

/// The driver of commands that name none: a machine of its own may have a GPU, and it may be busy.
const DRIVER: (&str, &str) = ("CUDA_GREEN_DRIVER", "sim:h200@13.0");

struct Typed {
    place: String,
    text: String,
    /// In a block, and not in the middle of a sentence.
    in_block: bool,
}

impl Typed {
    /// Its variables, and its words.
    fn parts(&self) -> (Vec<(String, String)>, Vec<String>) {
        let mut variables = Vec::new();
        let mut words = Vec::new();
        for word in words_of(&self.text) {
            match word.split_once('=') {
                Some((name, value)) if words.is_empty() && is_variable(name) => {
                    variables.push((name.to_owned(), value.to_owned()));
                }
                _ => words.push(word),
            }
        }
        (variables, words)
    }
}

fn is_variable(name: &str) -> bool {
    name.chars()
        .all(|c| c.is_ascii_uppercase() || c.is_ascii_digit() || c == '_')
}

/// Splits at spaces outside single quotes, as a shell does.
fn words_of(text: &str) -> Vec<String> {
    let mut words = Vec::new();
    let mut word = None;
    let mut quoted = false;
    for c in text.chars() {
        match c {
            '\'' => {
                quoted = !quoted;
                word.get_or_insert_with(String::new);
            }
            c if c.is_whitespace() && !quoted => words.extend(word.take()),
            c => word.get_or_insert_with(String::new).push(c),
        }
    }
    words.extend(word);
    words
}

/// Every command of every document, but for the program's outputs that trycmd compares.
fn typed() -> Vec<Typed> {
    let mut all = Vec::new();
    for document in prose() {
        for block in &document.blocks {
            // A line that ends with a backslash goes on in the next.
            let text = block.text.replace("\\\n", "");
            for (line, text) in (block.line..).zip(text.lines()) {
                let text = match &*block.language {
                    "sh" => text,
                    "console" if document.path == "cuda-green-cli/README.md" => continue,
                    "console" => match text.strip_prefix("$ ") {
                        Some(text) => text,
                        None => continue,
                    },
                    _ => continue,
                };
                let text = text.split(" # ").next().unwrap_or_default();
                for text in text
                    .split("&&")
                    .map(str::trim)
                    .filter(|text| !text.is_empty())
                {
                    all.push(Typed {
                        place: format!("{}:{line}", document.path),
                        text: text.to_owned(),
                        in_block: true,
                    });
                }
            }
        }
        for code in &document.codes {
            let one = Typed {
                place: format!("{}:{}", document.path, code.line),
                text: code.text.clone(),
                in_block: false,
            };
            let (_, words) = one.parts();
            let program = words.first().map_or("", |word| &**word);
            if words.len() > 1 && matches!(program, "cargo" | "cuda-green")
                || program.starts_with("./")
            {
                all.push(one);
            }
        }
    }
    all
}

fn output(command: &mut Command, what: &str) -> Output {
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
fn installed() -> &'static Path {
    static FOLDER: OnceLock<PathBuf> = OnceLock::new();
    FOLDER.get_or_init(|| {
        let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join("installed");
        let mut command = Command::new(env!("CARGO"));
        command.args([
            "install",
            "--quiet",
            "--debug",
            "--locked",
            "--force",
            "--path",
            "cuda-green-cli",
        ]);
        command
            .args(["--target-dir", "target", "--root"])
            .arg(&folder);
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
        // `cargo install`, `cargo add`: crates of this workspace or not, these are not ours to check.
        ["cargo", ..] => None,
        ["cuda-green", ref arguments @ ..] => {
            let output = Command::new(installed().join("cuda-green"))
                .args(arguments)
                .arg("--help")
                .output();
            let output = output.unwrap();
            (!output.status.success()).then(|| String::from_utf8_lossy(&output.stderr).into_owned())
        }
        ["./gpu-bundle/run.sh", ref steps @ ..] => {
            let script =
                fs::read_to_string(Path::new(ROOT).join("xtask/src/gpu_bundle.sh")).unwrap();
            let no = steps
                .iter()
                .find(|step| !script.contains(&format!("\nstep {step} ")));
            no.map(|step| format!("the script has no step {step}"))
        }
        ["cp" | "export" | "mkdir" | "python3", ..] => None,
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
        "cargo run --package cuda-green --example quad_partition",
        "cargo test --package cuda-grey",
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

#[test]
fn commands_in_blocks_run() {
    let mut ran = Vec::new();
    for one in typed().into_iter().filter(|one| one.in_block) {
        let listed = NOT_RUN.iter().any(|(text, _)| *text == one.text);
        if listed || ran.contains(&one.text) {
            continue;
        }
        let (variables, words) = one.parts();
        let mut command = match &*words[0] {
            "cargo" if words[1..] == ["install", "cuda-green-cli"] => {
                installed();
                continue;
            }
            "cargo" if matches!(&*words[1], "run" | "build") => {
                let mut command = Command::new(env!("CARGO"));
                // What is optimised would be built only for this.
                command.args(words[1..].iter().filter(|word| *word != "--release"));
                command
            }
            "cuda-green" => {
                let mut command = Command::new(installed().join("cuda-green"));
                command.args(&words[1..]);
                command
            }
            _ => panic!("{}: neither run nor in NOT_RUN: {}", one.place, one.text),
        };
        command.env(DRIVER.0, DRIVER.1).envs(variables);
        let said = output(&mut command, &format!("{}: {}", one.place, one.text)).stdout;
        let said = String::from_utf8_lossy(&said);
        // A person who tries it without a GPU is told so.
        let tells = words[1] == "build" || said.to_uppercase().contains("SIMULATED");
        assert!(
            tells,
            "{}: {} does not say SIMULATED:\n{said}",
            one.place, one.text
        );
        ran.push(one.text);
    }
    assert!(ran.len() > 3, "hardly anything was run: {ran:?}");
    for (text, _) in NOT_RUN {
        assert!(
            typed().iter().any(|one| one.text == *text),
            "nobody is told to type {text}"
        );
    }
}

/// trycmd compares what the program's README shows with what the program prints.
#[test]
fn outputs_that_are_shown_are_compared() {
    let test =
        fs::read_to_string(Path::new(ROOT).join("cuda-green-cli/tests/commands.rs")).unwrap();
    assert!(test.contains("trycmd::TestCases") && test.contains("\"README.md\""));
    for document in prose() {
        let shown = document
            .blocks
            .iter()
            .find(|block| block.language == "console");
        let compared = shown.is_none() || document.path == "cuda-green-cli/README.md";
        assert!(
            compared,
            "{}: nobody compares what its blocks show",
            document.path
        );
    }
}

/// The first program is an example, letter for letter, so that it is compiled and run.
#[test]
fn the_first_program_is_the_example() {
    let example = Path::new(ROOT).join("cuda-green/examples/first_program.rs");
    let example = fs::read_to_string(example).unwrap();
    let example: String = example
        .split_inclusive('\n')
        .filter(|line| !line.starts_with("//!"))
        .collect();
    let readme = prose()
        .find(|document| document.path == "README.md")
        .unwrap();
    let block = readme
        .blocks
        .iter()
        .find(|block| block.language.starts_with("rust"))
        .unwrap();
    assert_eq!(block.text, example.trim_start());
}

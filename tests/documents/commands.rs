//! Each command that a document has in a block is run here, on a simulated driver and without optimisation, or
//! stands in [`NOT_RUN`] with the reason.

use std::{fs, path::Path, process::Command};

use crate::{
    document::{ROOT, prose},
    targets::{cargo, installed, output},
    typed::typed,
};

/// Commands of blocks that no test runs as they stand, and why not. What they name must exist all the same.
const NOT_RUN: &[(&str, &str)] = &[
    ("cargo xtask test", "runs these tests"),
    (
        "cargo test --package cuda-green",
        "the checks run these tests, in the same way",
    ),
    (
        "cargo xtask gpu-bundle",
        "builds the whole workspace anew, optimised",
    ),
    ("./gpu-bundle/run.sh", "needs a GPU"),
    ("./gpu-bundle/run.sh suite conformance", "needs a GPU"),
    (
        "cuda-green bench alloc --json >alloc.json",
        "the program's own tests run it, as a quick measurement",
    ),
    ("cuda-green bench alloc --svg alloc.svg", "likewise"),
    (
        "cuda-green bench alloc --from alloc.json --svg alloc.svg",
        "likewise",
    ),
    (
        "cargo install cuda-green-embed --features cli",
        "the checks build it with that feature",
    ),
    (
        "cuda-green-embed info --model all-MiniLM-L6-v2",
        "the program's own tests run it with a small model",
    ),
    (
        "cuda-green-embed embed --model all-MiniLM-L6-v2 --sms 32 <texts.txt >out.jsonl",
        "likewise",
    ),
    (
        "cargo install cuda-green-embed --features server",
        "the checks build it with that feature",
    ),
    (
        "cuda-green-embed serve --model all-MiniLM-L6-v2",
        "the program's own tests run it with this model",
    ),
    (
        "curl http://127.0.0.1:8080/v1/embeddings -H 'Content-Type: application/json'     -d '{\"input\": \"what is a green context?\"}'",
        "the program's own tests send it, on a free port",
    ),
    (
        "cuda-green completions bash     >~/.local/share/bash-completion/completions/cuda-green",
        "the program's own tests run it, and bash with what it gives",
    ),
    (
        "cuda-green man --dir ~/.local/share/man/man1",
        "the program's own tests run it with a folder of theirs",
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
    (
        "export CUDA_MPS_LOG_DIRECTORY=$HOME/mps/log",
        "see the next",
    ),
    (
        "export CUDA_MPS_PIPE_DIRECTORY=$HOME/mps/pipes",
        "needs a GPU, and a daemon that outlives the command; the GPU bundle's step `holders` does it",
    ),
    (
        "mkdir -p -m 755 $HOME/mps $CUDA_MPS_PIPE_DIRECTORY $CUDA_MPS_LOG_DIRECTORY",
        "likewise",
    ),
    ("nvidia-cuda-mps-control -d", "likewise"),
    ("echo quit | nvidia-cuda-mps-control", "likewise"),
    (
        "mkdir -p ~/.local/share/bash-completion/completions",
        "the home of whoever types it",
    ),
];

/// The driver of commands that name none: a machine of its own may have a GPU, and it may be busy.
const DRIVER: (&str, &str) = ("CUDA_GREEN_DRIVER", "sim:h200@13.0");

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
                let mut command = cargo();
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
    let test = fs::read_to_string(Path::new(ROOT).join("cuda-green-cli/tests/program/commands.rs"))
        .unwrap();
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

/// So is the first one of the queue, with its kernel.
#[test]
fn the_first_task_is_the_example() {
    let readme = prose()
        .find(|document| document.path == "cuda-green-queue/README.md")
        .unwrap();
    for (language, file) in [("cuda", "squares.cu"), ("rust", "main.rs")] {
        let example = Path::new(ROOT).join("cuda-green-queue/examples/first_task");
        let example = fs::read_to_string(example.join(file)).unwrap();
        let mut blocks = readme.blocks.iter();
        let block = blocks
            .find(|block| block.language.starts_with(language))
            .unwrap();
        // But for what stands for the kernel on a simulated GPU.
        let is_shown = |line: &&str| !line.starts_with("//!") && !line.contains("simulated");
        let example: String = example.split_inclusive('\n').filter(is_shown).collect();
        assert_eq!(block.text, example.trim_start());
    }
}

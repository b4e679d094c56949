//! The tests of the program, which run it as a user does: on the simulated driver, with a small model.

#![allow(clippy::unwrap_used)] // helpers of tests

#[cfg(feature = "server")]
mod serve;
#[path = "../library/support.rs"]
#[allow(dead_code)] // more helpers than this needs
mod support;

use std::{
    io::{Read, Write},
    process::{Command, Output, Stdio},
    thread,
};

use cuda_green_embed::{CpuEncoder, Encoder, ModelFolder, model::BertConfig};
use support::SmallModel;

/// Returns a model that the GPU's kernels can run.
fn model() -> SmallModel {
    let mut config = BertConfig::of(64, 2, 2);
    config.vocabulary = 16;
    config.positions = 12;
    config.intermediate_size = 128;
    SmallModel::of(config)
}

fn program() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_cuda-green-embed"));
    for name in [
        "CLICOLOR_FORCE",
        "COLUMNS",
        "CUDA_GREEN_CUBLASLT",
        "CUDA_GREEN_DRIVER",
        "CUDA_GREEN_SIM_FAULTS",
        "NO_COLOR",
    ] {
        command.env_remove(name);
    }
    command
}

/// Runs `embed` on a simulated H200 with small batches.
fn embed(model: &SmallModel, options: &[&str], input: &[u8]) -> Output {
    let mut child = program()
        .arg("embed")
        .arg("--model")
        .arg(model.path())
        .args(["--driver", "sim:h200@13.0", "--batch-tokens", "48"])
        .args(options)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut stdin = child.stdin.take().unwrap();
    let input = input.to_vec();
    // A program that ends early closes its end.
    let writer = thread::spawn(move || drop(stdin.write_all(&input)));
    let output = child.wait_with_output().unwrap();
    writer.join().unwrap();
    let told = text(&output.stderr);
    assert!(!told.contains("panicked"), "{told}");
    output
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).unwrap()
}

fn vectors(output: &Output) -> Vec<Vec<f32>> {
    let lines = text(&output.stdout);
    lines
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect()
}

/// Ensures that each text has its vector by the reference.
fn assert_vectors(model: &SmallModel, output: &Output, prompt: &str, texts: &[&str]) {
    assert!(output.status.success(), "{}", text(&output.stderr));
    let folder = ModelFolder::open(model.path()).unwrap();
    let tokenizer = folder.tokenizer().unwrap().with_prompt(prompt);
    let reference = CpuEncoder::open(&folder).unwrap();
    let batch = tokenizer.encode_batch(texts, 1).unwrap();
    let expected = reference.encode(&batch).unwrap();
    let found = vectors(output);
    assert_eq!(found.len(), texts.len());
    for (found, expected) in found.iter().zip(expected.iter()) {
        let cosine: f32 = found.iter().zip(expected).map(|(a, b)| a * b).sum();
        assert!(cosine > 0.999, "{cosine}");
    }
}

const TEXTS: [&str; 9] = [
    "a b c", "ab!", "", "d e f", "a", "b a", "f f f f", "中", "e",
];

#[test]
fn a_vector_a_line_in_order() {
    let model = model();
    let input = TEXTS.join("\n");
    for options in [
        &[][..],
        &["--precision", "f32"],
        &["--precision", "bf16", "--sms", "16"],
        &["--partition", "embedding", "--threads", "1"],
    ] {
        let output = embed(&model, options, input.as_bytes());
        // The model's default prompt.
        assert_vectors(&model, &output, "query: ", &TEXTS);
        let told = text(&output.stderr);
        assert_eq!(told.lines().count(), 1, "{told}");
        assert!(told.starts_with("SIMULATED"), "{told}");
    }
}

#[test]
fn json_strings_and_prompts() {
    let model = model();
    let texts = ["a\nb", "c", "\u{0}"];
    let lines = texts.map(|text| serde_json::to_string(text).unwrap() + "\r\n");
    for (prompt, expected) in [("", ""), ("query", "query: "), ("b ", "b ")] {
        let options = ["--json-lines", "--prompt", prompt];
        let output = embed(&model, &options, lines.concat().as_bytes());
        assert_vectors(&model, &output, expected, &texts);
    }
}

#[test]
fn nothing_gives_nothing() {
    let output = embed(&model(), &[], b"");
    assert!(output.status.success() && output.stdout.is_empty());
}

#[test]
fn a_bad_line_is_named_once_the_vectors_before_it_are_written() {
    let model = model();
    let good = "\"a b c d e f\"\n".repeat(30);
    let input = format!("{good}oops\n\"a\"\n");
    let output = embed(&model, &["--json-lines"], input.as_bytes());
    assert_eq!(output.status.code(), Some(1));
    assert_eq!(vectors(&output).len(), 30);
    let told = text(&output.stderr);
    let expected = "error: line 31 of standard input: it is not a JSON string";
    assert!(told.contains(expected), "{told}");
}

#[test]
fn a_reader_that_is_gone_is_no_failure() {
    let model = model();
    let mut child = program()
        .arg("embed")
        .arg("--model")
        .arg(model.path())
        .args(["--driver", "sim:h200@13.0", "--batch-tokens", "48"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut stdin = child.stdin.take().unwrap();
    drop(child.stdout.take());
    // More than any buffer holds, so the program must notice.
    let writer = thread::spawn(move || {
        for _ in 0..10_000 {
            if stdin.write_all(b"a b c d e f\n").is_err() {
                return;
            }
        }
    });
    let mut told = String::new();
    child
        .stderr
        .take()
        .unwrap()
        .read_to_string(&mut told)
        .unwrap();
    assert!(child.wait().unwrap().success(), "{told}");
    assert_eq!(told.lines().count(), 1, "{told}");
    writer.join().unwrap();
}

#[test]
fn what_cannot_work_is_told() {
    let model = model();
    let none = tempfile::tempdir().unwrap();
    let folder = none.path().to_str().unwrap();
    for (options, expected) in [
        (&["--model", folder][..], "config.json"),
        (
            &["--max-length", "13"],
            "--max-length 13 is more than the model's 12 positions",
        ),
        (
            &["--batch-tokens", "4"],
            "--batch-tokens 4 has no room for a text of 10 tokens",
        ),
        (&["--sms", "1000"], "1000"),
        (
            &["--driver", "/nowhere/libcuda.so.1"],
            "--driver sim:h200@13.0",
        ),
        (&["--driver", "sim:t4@13.0"], "compute capability 7.5"),
    ] {
        let mut command = program();
        command.arg("embed");
        if !options.contains(&"--model") {
            command.arg("--model").arg(model.path());
        }
        if !options.contains(&"--driver") {
            command.args(["--driver", "sim:h200@13.0"]);
        }
        let output = command.args(options).stdin(Stdio::null()).output().unwrap();
        let told = text(&output.stderr);
        assert_eq!(output.status.code(), Some(1), "{told}");
        assert!(
            told.contains("error: ") && told.contains(expected),
            "{told}"
        );
        assert!(output.stdout.is_empty() && !told.contains("panicked"));
    }
}

#[test]
fn a_model_is_described_with_and_without_a_device() {
    let model = model();
    for (driver, expected) in [
        ("sim:h200@13.0", "precision     f16: NVIDIA H200"),
        ("/nowhere/libcuda.so.1", "no device     "),
    ] {
        let mut command = program();
        command.arg("info").arg("--model").arg(model.path());
        let output = command.args(["--driver", driver]).output().unwrap();
        assert!(output.status.success(), "{}", text(&output.stderr));
        let found = text(&output.stdout);
        assert!(found.contains(expected), "{found}");
        for line in [
            "sizes         2 layers, 2 heads of 32, 64 wide, 128 between\n",
            "vectors       64 values, first token, scaled to length 1\n",
            "texts         up to 10 tokens of 12 positions, 16 in the vocabulary\n",
            "prompt        query: \"query: \" (default)\n",
        ] {
            assert!(found.contains(line), "{found}");
        }
    }
}

/// The help, word for word. `TRYCMD=overwrite` rewrites it.
#[cfg(feature = "server")] // with all commands
#[test]
fn the_program_prints_what_is_written() {
    trycmd::TestCases::new()
        .env("CUDA_GREEN_DRIVER", "system")
        .env("COLUMNS", "80")
        .case("tests/program/*.md");
}

//! `cargo xtask safety`: looks for undefined behaviour and panics with every tool that is installed.
//!
//! `cargo xtask test` runs the quick half, which takes a minute. Where a tool is missing, the check is
//! named as skipped with what would add the tool: none is built or installed here.

use std::path::Path;

use anyhow::{Context, Result, ensure};
use xshell::{Shell, cmd};

use crate::{mutants, skipped::is_there};

/// Seconds for each fuzz target.
const FUZZ_SECONDS: &str = "20";
/// Exit status of valgrind after an error. The report itself never ends with it.
const VALGRIND_ERRORS: i32 = 99;

/// Every check, the long ones too.
pub fn run() -> Result<()> {
    let shell = Shell::new()?;
    shell.change_dir(crate::root());
    let mut skipped = quick(&shell, &["--package=driver-matrix"])?;
    skipped.extend(miri(&shell, &["--package=cuda-green", "--lib"])?);
    skipped.extend(miri(
        &shell,
        &[
            "--package=cuda-green-queue",
            "--lib",
            "--",
            "protocol::",
            "host_rings::",
            "completion::tests::a_result",
        ],
    )?);
    skipped.extend(simulator_in_miri(&shell)?);
    mutants::run()?;
    many_rebalances(&shell)?;
    skipped.extend(address_sanitizer(&shell)?);
    skipped.extend(fuzz(&shell)?);
    println!("nothing found");
    for line in skipped {
        println!("skipped: {line}");
    }
    Ok(())
}

/// Miri over the pure logic, and valgrind over the loading of real drivers, by the program that the tests of these
/// packages have.
pub fn quick(shell: &Shell, packages: &[&str]) -> Result<Vec<String>> {
    let mut skipped = Vec::new();
    // The library tests of `cuda-green` take Miri more than a minute; `run` has them.
    skipped.extend(miri(shell, &["--package=cuda-green-sys", "--lib"])?);
    skipped.extend(valgrind(shell, packages)?);
    Ok(skipped)
}

/// Runs some tests in Miri, which checks every access to memory and every value.
fn miri(shell: &Shell, tests: &[&str]) -> Result<Option<String>> {
    if !is_there(cmd!(shell, "rustup run nightly cargo miri setup")) {
        return Ok(Some(
            "Miri: `rustup toolchain install nightly --component miri --component rust-src` would add it"
                .to_owned(),
        ));
    }
    // proptest seeds itself and looks for its files. A case takes a thousand times as long as usual.
    let _flags = shell.push_env("MIRIFLAGS", "-Zmiri-disable-isolation");
    let _cases = shell.push_env("PROPTEST_CASES", "2");
    cmd!(
        shell,
        "rustup run nightly cargo miri test --target-dir target/miri {tests...}"
    )
    .run()
    .context("Miri found an error, or a test failed in it")?;
    Ok(None)
}

/// The simulated driver's C functions, through which raw pointers go in and out: a few tests that bring
/// each kind of pointer, since all of them would take an hour.
fn simulator_in_miri(shell: &Shell) -> Result<Option<String>> {
    miri(
        shell,
        &[
            "--package=cuda-green-sim",
            "--test=rules",
            "--",
            "a_destroyed_context",
            "forged_resources",
            "kernels_of_ones_own",
            "pinned_memory",
        ],
    )
}

/// Loads each real driver under valgrind, from one thread and from many.
fn valgrind(shell: &Shell, packages: &[&str]) -> Result<Vec<String>> {
    let mut skipped = Vec::new();
    if !is_there(cmd!(shell, "valgrind --version")) {
        skipped.push("valgrind: the Debian package `valgrind` would add it".to_owned());
        return Ok(skipped);
    }
    // As the tests do: for the program alone, cargo would build what it needs with other features once more.
    cmd!(
        shell,
        "cargo test --quiet {packages...} --all-features --no-run"
    )
    .run()?;
    let program = Path::new("target/debug/driver-matrix");
    let drivers = shell.read_dir("target/cuda/drivers").unwrap_or_default();
    if drivers.is_empty() {
        skipped.push("valgrind: no real driver was fetched".to_owned());
    }
    for driver in drivers {
        let library = driver.join("libcuda.so.1");
        for command in ["report", "load"] {
            let _variable = shell.push_env("CUDA_GREEN_DRIVER", &library);
            let errors = VALGRIND_ERRORS.to_string();
            let output = cmd!(
                shell,
                "valgrind --quiet --leak-check=no --error-exitcode={errors} {program} {command}"
            )
            .ignore_status()
            .output()?;
            ensure!(
                output.status.success(),
                "`{command}` on {} ended with {} under valgrind:\n{}",
                library.display(),
                output.status,
                String::from_utf8_lossy(&output.stderr)
            );
        }
    }
    Ok(skipped)
}

/// Random rebalances under load, 20 times as many as `cargo test` has time for.
fn many_rebalances(shell: &Shell) -> Result<()> {
    let _many = shell.push_env("CUDA_GREEN_REBALANCES", "100000");
    cmd!(
        shell,
        "cargo test --release --package cuda-green --test library manager::rebalance"
    )
    .run()
    .context("a rebalance lost or gave away something")
}

/// The matrix, the parsers, the suite and random calls with AddressSanitizer, which needs a nightly compiler.
fn address_sanitizer(shell: &Shell) -> Result<Option<String>> {
    if !is_there(cmd!(shell, "rustup run nightly rustc --version")) {
        return Ok(Some(
            "AddressSanitizer: `rustup toolchain install nightly` would add it".to_owned(),
        ));
    }
    // A sanitizer is for a target named as one, so that build scripts go without it.
    let rustc = cmd!(shell, "rustup run nightly rustc -vV").read()?;
    let target = rustc.lines().find_map(|line| line.strip_prefix("host: "));
    let target = target.context("rustc does not tell its host")?;
    let _flags = shell.push_env("RUSTFLAGS", "-Zsanitizer=address");
    // The suite forgets guards on purpose, and random calls ask for more memory than there is.
    let options = "detect_leaks=0:allocator_may_return_null=1";
    let _options = shell.push_env("ASAN_OPTIONS", options);
    let _cases = shell.push_env("PROPTEST_CASES", "2000");
    cmd!(
        shell,
        "rustup run nightly cargo test --package driver-matrix --test drivers --test parsers --test suite
         --package cuda-green-sim --test random_calls --target {target} --target-dir target/asan"
    )
    .run()
    .context("AddressSanitizer found an error, or a test failed with it")?;
    Ok(None)
}

/// Each fuzz target for a while.
fn fuzz(shell: &Shell) -> Result<Option<String>> {
    if !is_there(cmd!(shell, "rustup run nightly cargo fuzz --version")) {
        return Ok(Some(
            "fuzzing: a nightly toolchain and `cargo install cargo-fuzz` would add it".to_owned(),
        ));
    }
    let targets = cmd!(shell, "rustup run nightly cargo fuzz list").read()?;
    for target in targets.lines() {
        cmd!(
            shell,
            "rustup run nightly cargo fuzz run --target-dir target/fuzz {target}
             -- -max_total_time={FUZZ_SECONDS} -verbosity=0"
        )
        .run()
        .with_context(|| format!("the fuzzer broke {target}"))?;
    }
    Ok(None)
}

//! `cargo xtask test`: every check there is, in the order in which failing is cheapest.

use anyhow::{Context, Result, ensure};
use xshell::{Shell, cmd};

use crate::{fetch, published, safety, skipped};

pub fn run() -> Result<()> {
    let shell = Shell::new()?;
    shell.change_dir(crate::root());
    let required = skipped::matrix_is_required();
    let list = skipped::start().context("cannot make a temporary file")?;
    let _variable = shell.push_env(skipped::FILE_VARIABLE, list.path());

    cmd!(shell, "cargo fmt --all --check").run()?;

    let missing = fetch::fetch()?;
    ensure!(
        missing.is_empty() || !required,
        "CUDA_GREEN_REQUIRE_MATRIX=1, and this could not be fetched:\n{}",
        missing.join("\n")
    );

    cmd!(
        shell,
        "cargo clippy --workspace --all-targets -- -D warnings"
    )
    .run()?;
    // Each feature by itself, so that none needs another without saying so; then all of them.
    for feature in ["metrics", "serde", "test-utils", "tracing"] {
        cmd!(
            shell,
            "cargo clippy --package cuda-green --features {feature} -- -D warnings"
        )
        .run()?;
    }
    cmd!(
        shell,
        "cargo clippy --workspace --all-targets --all-features -- -D warnings"
    )
    .run()?;
    // The same random cases each time, so that a red run can be had again; `cargo test` alone tries others.
    let _seed = shell.push_env("PROPTEST_RNG_SEED", "12345");
    // Doc tests included: the READMEs' examples are among them.
    cmd!(shell, "cargo test --workspace --no-fail-fast").run()?;
    // What needs features that nothing else in the workspace has.
    cmd!(
        shell,
        "cargo test --package cuda-green --all-features --test facades"
    )
    .run()?;
    {
        let _flags = shell.push_env("RUSTDOCFLAGS", "-D warnings");
        cmd!(shell, "cargo doc --workspace --no-deps").run()?;
    }
    let mut unchecked = published::check(&shell)?;
    unchecked.extend(safety::quick(&shell)?);

    let mut lines = skipped::lines(list.path());
    lines.extend(unchecked);
    lines.extend(missing.iter().map(|line| format!("not fetched: {line}")));
    if lines.is_empty() {
        println!("all green, nothing skipped");
    } else {
        println!("all green, but skipped:");
        for line in lines {
            println!("  {line}");
        }
    }
    Ok(())
}

//! `cargo xtask matrix`: prints which entry points, struct fields and constants each CUDA version has, and
//! what each conformance case comes to on each driver.

use anyhow::Result;
use xshell::{Shell, cmd};

use crate::{artifacts, fetch};

#[derive(clap::Args)]
pub struct Options {
    /// Writes cuda-green-sys/MATRIX.md anew instead.
    #[arg(long)]
    pub write: bool,
}

pub fn run(options: &Options) -> Result<()> {
    let shell = Shell::new()?;
    shell.change_dir(crate::root());
    for line in fetch::fetch(|place| !artifacts::is_for_crates(place))? {
        eprintln!("not fetched: {line}");
    }
    if options.write {
        // A table with holes in it must not be written.
        let _bless = shell.push_env("BLESS", "1");
        let _required = shell.push_env("CUDA_GREEN_REQUIRE_MATRIX", "1");
        cmd!(shell, "cargo test --package driver-matrix --test matrix").run()?;
    } else {
        cmd!(shell, "cargo run --quiet --package driver-matrix -- table")
            .quiet()
            .run()?;
        println!();
        let _table = shell.push_env("CUDA_GREEN_CONFORMANCE_TABLE", "1");
        cmd!(
            shell,
            "cargo test --quiet --package driver-matrix --test conformance"
        )
        .quiet()
        .run()?;
    }
    Ok(())
}

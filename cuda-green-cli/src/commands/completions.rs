//! `cuda-green completions`: the script by which a shell completes this program's commands.

use clap::CommandFactory;

use crate::{args::Args, render::output};

/// Prints the completion script of a shell.
pub fn run(shell: clap_complete::Shell) -> anyhow::Result<()> {
    // Into memory first, because the generator panics on a closed pipe.
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut Args::command(), "cuda-green", &mut script);
    let script = String::from_utf8_lossy(&script);
    // For bash, clap_complete (4.6.11) calls a program with a hyphen in its name one thing where it reads the
    // command line and another where it looks up the command's options, and completes none of these.
    let script = script.replace("cuda__subcmd__green", "cuda__green");
    output::print(&script)
}

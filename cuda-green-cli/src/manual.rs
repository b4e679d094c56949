//! `cuda-green completions` and `cuda-green man`: what shells and `man` want.

use std::{fs, path::Path};

use anyhow::Context;
use clap::CommandFactory;
use clap_mangen::Man;

use crate::{args::Args, out};

/// Prints the completions of a shell.
pub fn completions(shell: clap_complete::Shell) -> anyhow::Result<()> {
    // Into memory first, as the generator panics where the pipe is closed.
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut Args::command(), "cuda-green", &mut script);
    let script = String::from_utf8_lossy(&script);
    // For bash, clap_complete (4.6.11) calls a program with a hyphen in its name one thing where it reads the
    // command line and another where it looks up the command's options, and completes none of these.
    let script = script.replace("cuda__subcmd__green", "cuda__green");
    out::print(&script)
}

/// Writes a page for the program and one for each command into a folder, or prints them all in a row.
pub fn pages(folder: Option<&Path>) -> anyhow::Result<()> {
    let mut program = Args::command().disable_help_subcommand(true);
    program.build();
    if let Some(folder) = folder {
        let named = || format!("cannot write into {}", folder.display());
        fs::create_dir_all(folder).with_context(named)?;
        return each_page(&program, &mut |page| {
            page.generate_to(folder).with_context(named).map(drop)
        });
    }
    let mut roff = Vec::new();
    each_page(&program, &mut |page| Ok(page.render(&mut roff)?))?;
    out::print(&String::from_utf8_lossy(&roff))
}

/// The program's page first, then those of its commands, each with its own commands after it.
fn each_page(
    command: &clap::Command,
    take: &mut dyn FnMut(Man) -> anyhow::Result<()>,
) -> anyhow::Result<()> {
    take(Man::new(command.clone()))?;
    for command in command.get_subcommands() {
        each_page(command, take)?;
    }
    Ok(())
}

//! `cuda-green man`: the manual pages.

use std::{fs, path::Path};

use anyhow::Context;
use clap::CommandFactory;
use clap_mangen::Man;

use crate::{args::Args, render::output};

/// Writes a page for the program and one for each command into a folder, or prints them all in a row.
pub fn run(folder: Option<&Path>) -> anyhow::Result<()> {
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
    output::print(&String::from_utf8_lossy(&roff))
}

/// Visits the program's page, then those of its commands, each followed by its own commands.
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

//! `cuda-green map`: the SMs that each partition's blocks really run on, measured and drawn.

use std::{path::Path, process::ExitCode};

use crate::{
    args::{Global, Sizes},
    partitions::partitioned,
    render::{
        json,
        map::Map,
        output::OutputFile,
        page::{Page, heading, wrote},
        style::RED,
    },
};

pub fn run(global: &Global, sizes: &Sizes, svg: Option<&Path>) -> anyhow::Result<ExitCode> {
    let device = global.device()?;
    let file = svg.map(OutputFile::open).transpose()?;
    let total = device.properties().multiprocessor_count;
    let asked = sizes.requests(total);
    let verified = partitioned(&device, &asked)?.verify()?;
    let map = Map::new(total, &verified, asked.iter().map(|(text, _)| text));
    if let Some(file) = file {
        let title = format!("{}: SMs that each partition ran on", device.name());
        let note = device.driver().is_simulated().then_some("SIMULATED");
        file.write(&map.svg(&title, note)?)?;
    }
    if global.json {
        let command = format!("cuda-green map{} --json", sizes.text());
        json::print(&json::report(&device, &command, "map", map.json()))?;
    } else {
        let mut page = Page::new();
        page.line(heading(&device));
        page.gap();
        if let Some(reason) = device.missing_features() {
            page.line(format!(
                "single-context mode, nothing is isolated: {reason}"
            ));
            page.gap();
        }
        map.draw(&mut page);
        if device.missing_features().is_none()
            && let Some(note) = sizes.unequal(&device, &map.sm_counts())
        {
            page.gap();
            page.hanging("", "", note);
        }
        if device.missing_features().is_none() && !map.is_isolated() {
            page.gap();
            page.line(format!(
                "{RED}Partitions do not hold here: see `cuda-green check`.{RED:#}"
            ));
        }
        if let Some(path) = svg {
            page.gap();
            page.line(wrote(path));
        }
        page.print()?;
    }
    Ok(if map.is_isolated() {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

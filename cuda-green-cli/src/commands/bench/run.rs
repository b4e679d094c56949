//! How a measurement is shown: as a table or as JSON, and as a picture; and what must be said of its figures.

use std::{fs, path::Path};

use anyhow::Context;
use cuda_green::CudaDevice;
use indicatif::{ProgressBar, ProgressStyle};
use serde::{Deserialize, Serialize, de::DeserializeOwned};

use crate::{
    args::{Drawing, Global},
    render::{
        json,
        output::{self, OutputFile},
        page::{heading, wrote},
        style::YELLOW,
        svg::{self, Curve, Picture},
    },
};

/// What a measurement is given.
pub struct Work<'a> {
    pub device: &'a CudaDevice,
    /// A small run that only shows that it works.
    pub quick: bool,
    pub progress: &'a ProgressBar,
}

/// What a measurement found.
pub trait Figures: Serialize {
    fn table(&self) -> String;

    /// Whether all was right, beyond how long it took. Asked when the figures are out, which tell what was not.
    fn verdict(&self) -> anyhow::Result<()> {
        Ok(())
    }
}

/// What a measurement found, with a picture.
pub trait Drawn: Figures + DeserializeOwned {
    /// The command's name after `bench`.
    const COMMAND: &str;
    /// What a picture of it shows.
    const TITLE: &str;
    /// What its percentiles are of.
    const OF: &str;
    /// What must be known of its figures.
    const NOTE: Option<&str> = None;

    fn curves(&self) -> Vec<Curve>;
}

/// Why there are no ratios of what was measured on a simulated driver: they would be read as if they were a GPU's.
pub const NO_RATIOS: &str =
    "no ratios: with a simulated driver, these are times of this machine alone";

/// The part of a report that a picture needs.
#[derive(Deserialize)]
pub struct Kept<F> {
    device: String,
    simulated: bool,
    command: String,
    figures: F,
}

/// How the figures are wanted.
pub struct Run<'a> {
    pub global: &'a Global,
    pub quick: bool,
}

impl Run<'_> {
    /// Measures, or takes what was measured before, and draws it if that is wanted.
    pub fn drawn<F: Drawn>(
        &self,
        drawing: &Drawing,
        measure: impl FnOnce(&Work<'_>) -> anyhow::Result<F>,
    ) -> anyhow::Result<()> {
        if let Drawing {
            svg: Some(svg),
            from: Some(from),
        } = drawing
        {
            let kept = read::<F>(from)?;
            let file = OutputFile::open(svg)?;
            file.write(&kept.picture()?)?;
            return output::print(&format!("{}\n", wrote(svg)));
        }
        let file = drawing.svg.as_deref().map(OutputFile::open).transpose()?;
        let (device, figures) = self.measured(F::COMMAND, measure)?;
        if let (Some(file), Some(svg)) = (file, &drawing.svg) {
            let caveat = caveat(device.driver().is_simulated(), self.quick);
            file.write(&picture(device.name(), caveat, &figures)?)?;
            if !self.global.json {
                output::print(&format!("\n{}\n", wrote(svg)))?;
            }
        }
        figures.verdict()
    }

    /// Measures what has no picture.
    pub fn told<F: Figures>(
        &self,
        command: &str,
        measure: impl FnOnce(&Work<'_>) -> anyhow::Result<F>,
    ) -> anyhow::Result<()> {
        self.measured(command, measure)?.1.verdict()
    }

    /// Measures and prints. What is printed first is not lost if the picture cannot be written.
    fn measured<F: Figures>(
        &self,
        command: &str,
        measure: impl FnOnce(&Work<'_>) -> anyhow::Result<F>,
    ) -> anyhow::Result<(CudaDevice, F)> {
        let device = self.global.device()?;
        let caveat = caveat(device.driver().is_simulated(), self.quick);
        if !self.global.json {
            output::print(&format!("{}\n", heading(&device)))?;
            if let Some(caveat) = caveat {
                output::print(&format!("{YELLOW}{caveat}{YELLOW:#}\n"))?;
            }
        }
        let style = ProgressStyle::with_template("{bar:24} {pos}/{len} {wide_msg}")?;
        let progress = ProgressBar::new(0).with_style(style);
        let figures = measure(&Work {
            device: &device,
            // A long run of a simulated driver would mean nothing either.
            quick: self.quick || device.driver().is_simulated(),
            progress: &progress,
        });
        progress.finish_and_clear();
        let figures = figures?;
        if self.global.json {
            let quick = if self.quick { " --quick" } else { "" };
            let command = format!("cuda-green bench {command}{quick} --json");
            let found = serde_json::to_value(&figures)?;
            let mut report = json::report(&device, &command, "figures", found);
            if let Some(caveat) = caveat {
                report["caveat"] = caveat.into();
            }
            json::print(&report)?;
        } else {
            output::print(&format!("\n{}\n", figures.table()))?;
        }
        Ok((device, figures))
    }
}

/// Why the figures mean nothing, where that is so.
fn caveat(simulated: bool, quick: bool) -> Option<&'static str> {
    match (simulated, quick) {
        (true, _) => Some("SIMULATED: these figures mean nothing"),
        (false, true) => Some("--quick: these figures mean nothing"),
        (false, false) => None,
    }
}

fn read<F: Drawn>(path: &Path) -> anyhow::Result<Kept<F>> {
    let text =
        fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))?;
    parse(&text).with_context(|| {
        format!(
            "{} is not the output of `bench {} --json`",
            path.display(),
            F::COMMAND
        )
    })
}

pub fn parse<F: Drawn>(text: &str) -> serde_json::Result<Kept<F>> {
    serde_json::from_str(text)
}

impl<F: Drawn> Kept<F> {
    pub fn picture(&self) -> anyhow::Result<String> {
        let quick = self.command.split(' ').any(|word| word == "--quick");
        picture(&self.device, caveat(self.simulated, quick), &self.figures)
    }
}

fn picture<F: Drawn>(device: &str, caveat: Option<&str>, figures: &F) -> anyhow::Result<String> {
    svg::latencies(&Picture {
        title: &format!("{} ({device})", F::TITLE),
        of: F::OF,
        note: F::NOTE,
        caveat,
        curves: &figures.curves(),
    })
}

//! A run of a measurement: its output as a table or JSON, its picture, and the caveats of its figures.

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

/// The input of a measurement.
pub struct Work<'a> {
    pub device: &'a CudaDevice,
    /// A short run, which shows only that the benchmark works.
    pub quick: bool,
    pub progress: &'a ProgressBar,
}

/// The figures of a measurement.
pub trait Figures: Serialize {
    fn table(&self) -> String;

    /// Fails if the measurement found a defect. It is asked after the figures were printed, which show the defect.
    fn verdict(&self) -> anyhow::Result<()> {
        Ok(())
    }
}

/// Figures with a picture.
pub trait Drawn: Figures + DeserializeOwned {
    /// The command's name after `bench`.
    const COMMAND: &str;
    /// The title of the picture.
    const TITLE: &str;
    /// The subject of the percentiles, in the plural.
    const OF: &str;
    /// A note on the figures.
    const NOTE: Option<&str> = None;

    fn curves(&self) -> Vec<Curve>;

    /// Draws the distributions of the latencies, unless the figures have another picture.
    fn draw(&self, title: &str, caveat: Option<&str>) -> anyhow::Result<String> {
        svg::latencies(&Picture {
            title,
            of: Self::OF,
            note: Self::NOTE,
            caveat,
            curves: &self.curves(),
        })
    }
}

/// The reason why a simulated driver gets no ratios: they would be read as a GPU's.
pub const NO_RATIOS: &str =
    "no ratios: with a simulated driver, these are times of this machine alone";

/// The part of a JSON report that a picture needs.
#[derive(Deserialize)]
pub struct Kept<F> {
    device: String,
    simulated: bool,
    command: String,
    figures: F,
}

/// The options of a run.
pub struct Run<'a> {
    pub global: &'a Global,
    pub quick: bool,
}

impl Run<'_> {
    /// Measures, or reads an earlier report, and draws a picture if that was asked for.
    pub fn with_picture<F: Drawn>(
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

    /// Measures figures without a picture.
    pub fn without_picture<F: Figures>(
        &self,
        command: &str,
        measure: impl FnOnce(&Work<'_>) -> anyhow::Result<F>,
    ) -> anyhow::Result<()> {
        self.measured(command, measure)?.1.verdict()
    }

    /// Does a measured process's part, of which another prints the figures.
    #[cfg(feature = "embed")]
    pub fn quietly(
        &self,
        work: impl FnOnce(&Work<'_>) -> anyhow::Result<()>,
    ) -> anyhow::Result<()> {
        let device = self.global.device()?;
        work(&Work {
            device: &device,
            quick: self.quick || device.driver().is_simulated(),
            progress: &ProgressBar::hidden(),
        })
    }

    /// Measures and prints, before a picture is written, so that no figures are lost if that fails.
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
            // On a simulated driver, a long run would mean nothing either.
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

/// Returns the reason why the figures mean nothing, if they do not.
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
    figures.draw(&format!("{} ({device})", F::TITLE), caveat)
}

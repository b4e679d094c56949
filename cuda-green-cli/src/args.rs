//! The command line.

mod bench;
mod partitions;
mod sizes;

use std::{ffi::OsString, path::PathBuf};

use clap::{
    Parser, Subcommand, ValueEnum,
    builder::{OsStringValueParser, TypedValueParser},
};
use cuda_green::{CudaDevice, Driver, DriverSpec};

#[cfg(feature = "processes")]
pub use bench::ProcessPart;
pub use bench::{Bench, Drawing, Measurement, StartupPart};
#[cfg(feature = "embed")]
pub use bench::{EmbedBench, EmbedSource, ServiceBench};
pub use partitions::{NewShare, Partitions, PlanAction};
pub use sizes::Sizes;

/// Guaranteed shares of an NVIDIA GPU through CUDA green contexts.
#[derive(Parser)]
#[command(name = "cuda-green", version, max_term_width = 80)]
pub struct Args {
    #[command(flatten)]
    pub global: Global,
    #[command(subcommand)]
    pub command: Command,
}

#[derive(clap::Args)]
pub struct Global {
    /// The driver: `system`, the path of a library, or a simulated one such as `sim:h200@13.0`
    ///
    /// By default, the driver that the environment variable CUDA_GREEN_DRIVER names, or else the system's.
    #[arg(long, global = true, value_name = "DRIVER", value_parser = driver_spec())]
    driver: Option<DriverSpec>,
    /// The device, by its number in the driver's list, from 0
    #[arg(
        long,
        global = true,
        value_name = "ORDINAL",
        default_value_t = 0,
        allow_negative_numbers = true
    )]
    device: u32,
    /// Print one JSON object instead of text
    #[arg(long, global = true)]
    pub json: bool,
    /// When to use colours; `auto` means on a terminal only
    #[arg(long, global = true, value_name = "WHEN", default_value = "auto")]
    pub color: Color,
}

#[derive(Subcommand)]
pub enum Command {
    /// Show a request's latency beside background work, without partitions and with them
    ///
    /// Takes less than a minute. If no GPU is found and neither --driver nor CUDA_GREEN_DRIVER names a driver, it runs
    /// on a simulated H200 in virtual time and says SIMULATED in its first line.
    Demo,
    /// List the driver, the devices and their SMs, and what they can and cannot do
    ///
    /// Exits with 0 if the device can be partitioned, with 1 if it cannot. Features of CUDA 13.1 and later were tested
    /// with the real header and the simulated driver only.
    Info,
    /// Print the exact split that the driver would make for these sizes, without making it
    ///
    /// For each partition, prints its SMs and the largest thread-block cluster, in blocks, that is sure to run there.
    Plan(Sizes),
    /// Run a kernel in each partition and draw the chip with the SMs that it ran on
    ///
    /// Exits with 1 if two partitions share an SM.
    Map {
        #[command(flatten)]
        sizes: Sizes,
        /// Also draw the chip as an SVG picture
        #[arg(long, value_name = "FILE")]
        svg: Option<PathBuf>,
    },
    /// Check whether partitions hold on this machine, and say how to fix what is wrong
    ///
    /// Exits with 1 if they do not hold.
    Check {
        /// Also test whether partitions of two processes are apart under MPS, with a second process of this program
        #[arg(long)]
        processes: bool,
    },
    /// Show the plans by which processes share devices, and who holds their partitions
    ///
    /// Reads files and asks the MPS daemon, and needs no GPU. Linux only.
    Partitions(Partitions),
    /// Measure on this machine what the documentation claims
    Bench(Bench),
    /// Serve as the second process of the test whether partitions of two processes are apart
    #[command(hide = true)]
    SeparationPartner,
    /// Print the completion script of a shell
    Completions { shell: clap_complete::Shell },
    /// Print the manual pages of the program and of each command, in roff
    Man {
        /// Write each page to its own file in this folder, such as /usr/local/share/man/man1
        #[arg(long, value_name = "DIR")]
        dir: Option<PathBuf>,
    },
}

#[derive(Clone, Copy, ValueEnum)]
pub enum Color {
    Auto,
    Always,
    Never,
}

impl Color {
    /// Applies this choice to everything that is printed from now on.
    pub fn write_global(self) {
        let choice = match self {
            Self::Auto => anstream::ColorChoice::Auto,
            Self::Always => anstream::ColorChoice::Always,
            Self::Never => anstream::ColorChoice::Never,
        };
        choice.write_global();
    }
}

/// Parses a driver from any bytes, since a path need not be text.
fn driver_spec() -> impl TypedValueParser<Value = DriverSpec> {
    OsStringValueParser::new().try_map(|text| DriverSpec::parse(&text))
}

impl Global {
    /// Loads the driver that was asked for.
    pub fn driver(&self) -> cuda_green::Result<Driver> {
        match &self.driver {
            Some(spec) => Driver::open(spec),
            None => Driver::load(),
        }
    }

    /// Returns the arguments by which another process of this program opens the same driver.
    pub fn driver_arguments(&self) -> Vec<OsString> {
        let driver = match &self.driver {
            Some(DriverSpec::Simulated(profile)) => format!("sim:{profile}").into(),
            Some(DriverSpec::Path(path)) => path.clone().into_os_string(),
            Some(_) => "system".into(),
            None => return Vec::new(), // by the environment, which it has, too
        };
        vec!["--driver".into(), driver]
    }

    /// Returns which driver was asked for; `None` if the environment names something that is no driver.
    pub fn asked(&self) -> Option<DriverSpec> {
        match &self.driver {
            Some(spec) => Some(spec.clone()),
            None => DriverSpec::from_env().ok(),
        }
    }

    /// Returns whether `--driver` or CUDA_GREEN_DRIVER names a driver.
    pub fn names_driver(&self) -> bool {
        let variable = || std::env::var_os("CUDA_GREEN_DRIVER");
        self.driver.is_some() || variable().is_some_and(|value| !value.is_empty())
    }

    /// Returns whether `--driver` or `--device` was given, or `--device 0`, which is as none.
    pub fn names_a_device(&self) -> bool {
        self.driver.is_some() || self.device != 0
    }

    /// Opens the chosen device of this driver, whatever driver was named.
    pub fn device_of(&self, driver: &Driver) -> cuda_green::Result<CudaDevice> {
        driver.device(self.device)
    }

    /// Opens the device that was asked for.
    pub fn device(&self) -> cuda_green::Result<CudaDevice> {
        self.driver()?.device(self.device)
    }
}

//! The command line of `cuda-green partitions`.

use std::{str::FromStr, time::Duration};

use clap::Subcommand;
use cuda_green::planner::SmRequest;

use super::sizes::Size;

#[derive(clap::Args)]
pub struct Partitions {
    #[command(subcommand)]
    pub what: Option<PlanAction>,
    /// Only the device of this UUID, or of the only one that begins so; `cuda-green info` prints them
    #[arg(long, global = true, value_name = "GPU")]
    pub uuid: Option<String>,
}

#[derive(Subcommand)]
pub enum PlanAction {
    /// Show the plans, who holds their partitions, and the MPS servers behind them; what happens without a subcommand
    Show,
    /// Give other shares to partitions of a plan, while their processes work
    ///
    /// Processes that lose SMs leave them first: new work goes to fewer SMs, and the old contexts end once their work is
    /// over and nobody uses them. It is all or nothing: if one has not left in time, everyone keeps what they have.
    /// Partitions with the rest or a share get what the others leave; all that are not named keep what they have.
    Set {
        /// A partition and its share: `serving=96` (at least 96 SMs), `serving=50%`, `serving=16+2` or `serving=rest`
        #[arg(required = true, value_name = "NAME=SIZE")]
        shares: Vec<NewShare>,
        /// How long to wait for processes to leave SMs, and for another change; two seconds at least
        #[arg(long, value_name = "SECONDS", default_value = "5", value_parser = seconds,
              allow_negative_numbers = true)]
        wait: Duration,
    },
    /// End the process that holds a partition, so that its neighbours under MPS keep running
    ///
    /// A client of MPS that is killed with work in flight can fail the others. So the daemon ends its work first
    /// (`terminate_client`); then come SIGTERM and, after another wait, SIGKILL. A process that is not proven to be the
    /// holder, and a client of the server, is left alone.
    End {
        /// The partition
        name: String,
        /// How long to wait for the MPS server, and then for the process, before the next step
        #[arg(long, value_name = "SECONDS", default_value = "5", value_parser = seconds,
              allow_negative_numbers = true)]
        wait: Duration,
    },
}

/// A partition's share, as `set` takes it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NewShare {
    pub name: String,
    pub sms: SmRequest,
}

impl FromStr for NewShare {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        // A name may have the sign in it, and a size has none.
        let (name, size) = text
            .rsplit_once('=')
            .ok_or_else(|| format!("`{text}` names no size; write serving=96"))?;
        Ok(Self {
            name: name.to_owned(),
            sms: size.parse::<Size>()?.sms(),
        })
    }
}

/// Parses a time to wait.
fn seconds(text: &str) -> Result<Duration, String> {
    let seconds: f64 = text.parse().map_err(|_| "it is no number of seconds")?;
    match Duration::try_from_secs_f64(seconds) {
        Ok(wait) if wait <= Duration::from_secs(86_400) => Ok(wait),
        _ => Err("give 0 to 86400 seconds".to_owned()),
    }
}

//! The command line of `cuda-green partitions`.

use std::time::Duration;

use clap::Subcommand;

#[derive(clap::Args)]
pub struct Partitions {
    #[command(subcommand)]
    pub what: Option<PlanAction>,
    /// Only the device of this UUID, or of the only one that begins so; `nvidia-smi -L` prints them
    #[arg(long, global = true, value_name = "GPU")]
    pub uuid: Option<String>,
}

#[derive(Subcommand)]
pub enum PlanAction {
    /// Show the plans, who holds their partitions, and the MPS servers behind them; what happens without a subcommand
    Show,
    /// End the process that holds a partition, so that its neighbours under MPS keep running
    ///
    /// A client of MPS that is killed with work in flight fails the others. So the daemon ends its work first
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

/// Parses a time to wait.
fn seconds(text: &str) -> Result<Duration, String> {
    let seconds: f64 = text.parse().map_err(|_| "it is no number of seconds")?;
    match Duration::try_from_secs_f64(seconds) {
        Ok(wait) if wait <= Duration::from_secs(86_400) => Ok(wait),
        _ => Err("give 0 to 86400 seconds".to_owned()),
    }
}

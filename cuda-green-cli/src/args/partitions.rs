//! The command line of `cuda-green partitions`.

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
}

//! So many tasks that a lost one would show.
use crate::commands::bench::run::{Figures, Work};
use serde::Serialize;
#[derive(Serialize)]
pub struct Soak;
impl Figures for Soak {
    fn table(&self) -> String {
        String::new()
    }
}
pub fn soak(_work: &Work<'_>, _tasks: u64) -> anyhow::Result<Soak> {
    anyhow::bail!("not yet")
}

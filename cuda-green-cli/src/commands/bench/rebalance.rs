//! A provisioned rebalance, from call to return, and the first kernel on the new SMs after it, on an idle GPU. No raw
//! call compares with the first; the second stands beside a launch without a rebalance.

use std::time::Instant;

use cuda_green::{
    ContextId, HandOff, LaunchConfig, Module, RebalanceHint, SmPartitionManager, kernels,
};
use serde::{Deserialize, Serialize};

use super::{
    contexts::must_have_partitions,
    run::{Drawn, Figures, Work},
    samples::{Distribution, Samples},
};
use crate::render::svg::Curve;

#[derive(Serialize, Deserialize)]
pub struct Rebalance {
    contexts_kept: usize,
    hand_offs: Vec<Row>,
}

/// The figures of one kind of hand-off.
#[derive(Serialize, Deserialize)]
struct Row {
    hand_off: String,
    rebalance: Distribution,
    launch_and_sync_after: Distribution,
    launch_and_sync: Distribution,
}

pub fn measure(work: &Work<'_>) -> anyhow::Result<Rebalance> {
    let device = work.device;
    must_have_partitions(device)?;
    let manager = SmPartitionManager::on(device)?;
    manager.init_quad_partition()?;
    let contexts_kept = manager.provision_rebalance()?;
    let kernel = Module::load_ptx(device, kernels::PTX)?.kernel(kernels::BURN)?;
    let stream = manager.create_stream(ContextId::Embedding)?;
    let launch = || -> anyhow::Result<f64> {
        let start = Instant::now();
        // SAFETY: the kernel takes an address, which it does not use, and a number of rounds.
        unsafe { stream.launch(&kernel, &LaunchConfig::linear(1, 32), &[&0u64, &0u32])? };
        stream.synchronize()?;
        Ok(start.elapsed().as_nanos() as f64)
    };
    let rounds = if work.quick { 3 } else { 200 };
    work.progress.set_length(2);
    let mut hand_offs = Vec::new();
    for (hand_off, name) in [(HandOff::Strict, "strict"), (HandOff::Relaxed, "relaxed")] {
        work.progress.set_message(name);
        let (mut times, mut first, mut usual) = (Vec::new(), Vec::new(), Vec::new());
        for round in 0..rounds {
            for hint in RebalanceHint::ALL {
                let start = Instant::now();
                manager.rebalance_with(hint, hand_off)?;
                let elapsed = start.elapsed().as_nanos() as f64;
                let (after, again) = (launch()?, launch()?);
                // The first round makes streams for the new contexts.
                if round > 0 {
                    times.push(elapsed);
                    first.push(after);
                    usual.push(again);
                }
            }
        }
        hand_offs.push(Row {
            hand_off: name.to_owned(),
            rebalance: Samples::of(times).into(),
            launch_and_sync_after: Samples::of(first).into(),
            launch_and_sync: Samples::of(usual).into(),
        });
        work.progress.inc(1);
    }
    Ok(Rebalance {
        contexts_kept,
        hand_offs,
    })
}

impl Rebalance {
    /// Returns each distribution with its name, first those with which the others are compared.
    fn named(&self) -> Vec<(String, &Distribution)> {
        let rows = || self.hand_offs.iter();
        let usual = rows().map(|row| {
            let name = format!("launch + sync otherwise ({} run)", row.hand_off);
            (name, &row.launch_and_sync)
        });
        let after = rows().map(|row| {
            let name = format!("launch + sync after a {} one", row.hand_off);
            (name, &row.launch_and_sync_after)
        });
        let calls = rows().map(|row| (format!("rebalance, {}", row.hand_off), &row.rebalance));
        usual.chain(after).chain(calls).collect()
    }
}

impl Figures for Rebalance {
    fn table(&self) -> String {
        let what = "one call, on an idle GPU";
        let mut table = format!("{what:<40} {}\n", Distribution::headings());
        for (name, times) in self.named().iter().rev() {
            table += &format!("{name:<40} {}\n", times.columns());
        }
        table + &format!("\n{} contexts kept, made ahead", self.contexts_kept)
    }
}

impl Drawn for Rebalance {
    const COMMAND: &str = "rebalance";
    const TITLE: &str = "A rebalance, and the first launch on the new SMs";
    const OF: &str = "rebalances";

    fn curves(&self) -> Vec<Curve> {
        let named = self.named().into_iter();
        named.map(|(name, times)| times.curve(&name)).collect()
    }
}

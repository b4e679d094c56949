//! What calls cost while background work floods the GPU: those that make a green context, for which the driver
//! waits for work that is on the device, and the same calls where all was made ahead.

use std::time::Instant;

use cuda_green::{ContextId, CudaDevice, RebalanceHint, SmPartitionManager};
use serde::{Deserialize, Serialize};

use super::{
    load::{LONG_BLOCKS, Load},
    must_have_partitions,
    samples::{Distribution, Samples},
    show::{Drawn, Figures, Work},
};
use crate::{duration::duration, plot::Curve};

#[derive(Serialize, Deserialize)]
pub struct UnderLoad {
    flood: String,
    calls: Vec<Row>,
}

#[derive(Serialize, Deserialize)]
struct Row {
    call: String,
    times: Distribution,
}

/// A call, and what is made ahead of the flood.
struct Call {
    name: &'static str,
    prepare: fn(&SmPartitionManager) -> cuda_green::Result<()>,
    time: fn(&SmPartitionManager) -> cuda_green::Result<f64>,
}

const CALLS: [Call; 5] = [
    Call {
        name: "rebalance",
        prepare: |_| Ok(()),
        time: rebalance,
    },
    Call {
        name: "rebalance, provisioned",
        prepare: |manager| manager.provision_rebalance().map(drop),
        time: rebalance,
    },
    Call {
        name: "activate, second thread",
        prepare: first_thread,
        time: activate,
    },
    Call {
        name: "activate, second thread, provisioned",
        prepare: |manager| {
            let embedding = manager.get_context(ContextId::Embedding)?;
            embedding.provision_threads(2)?;
            first_thread(manager)
        },
        time: activate,
    },
    Call {
        name: "create_stream",
        prepare: |_| Ok(()),
        time: create_stream,
    },
];

pub fn measure(work: &Work<'_>) -> anyhow::Result<UnderLoad> {
    must_have_partitions(work.device)?;
    let load = Load::new(work.device, work.quick)?;
    let rounds = if work.quick { 2 } else { 50 };
    work.progress.set_length(CALLS.len() as u64 * rounds);
    let mut calls = Vec::new();
    for call in &CALLS {
        work.progress.set_message(call.name);
        let mut times = Vec::new();
        for _ in 0..rounds {
            times.push(once(work.device, &load, call)?);
            work.progress.inc(1);
        }
        calls.push(Row {
            call: call.name.to_owned(),
            times: Samples::of(times).into(),
        });
    }
    Ok(UnderLoad {
        flood: LONG_BLOCKS.name.to_owned(),
        calls,
    })
}

/// One call beside a flood, with contexts of its own: what was made once would be found the next time.
fn once(device: &CudaDevice, load: &Load, call: &Call) -> anyhow::Result<f64> {
    let manager = SmPartitionManager::on(device)?;
    manager.init_quad_partition()?;
    (call.prepare)(&manager)?;
    let background = manager.get_context(ContextId::Training)?.create_stream()?;
    load.beside(LONG_BLOCKS, &background, || Ok((call.time)(&manager)?))
}

fn rebalance(manager: &SmPartitionManager) -> cuda_green::Result<f64> {
    let start = Instant::now();
    manager.rebalance(RebalanceHint::EmbeddingHeavy)?;
    Ok(nanoseconds(start))
}

/// Takes the context itself, so that the next thread needs one more.
fn first_thread(manager: &SmPartitionManager) -> cuda_green::Result<()> {
    manager.activate(ContextId::Embedding)?.close()
}

fn activate(manager: &SmPartitionManager) -> cuda_green::Result<f64> {
    let embedding = manager.get_context(ContextId::Embedding)?;
    let time = || {
        let start = Instant::now();
        let guard = embedding.activate()?;
        let time = nanoseconds(start);
        guard.close().map(|()| time)
    };
    std::thread::scope(|scope| match scope.spawn(time).join() {
        Ok(time) => time,
        Err(panic) => std::panic::resume_unwind(panic),
    })
}

fn create_stream(manager: &SmPartitionManager) -> cuda_green::Result<f64> {
    let embedding = manager.get_context(ContextId::Embedding)?;
    let start = Instant::now();
    let stream = embedding.create_stream()?;
    let time = nanoseconds(start);
    drop(stream);
    Ok(time)
}

fn nanoseconds(start: Instant) -> f64 {
    start.elapsed().as_nanos() as f64
}

impl Figures for UnderLoad {
    fn table(&self) -> String {
        let mut table = format!(
            "{:<40} {:>9} {:>9} {:>9}\n",
            "time of one, beside a flood", "p50", "p99", "max"
        );
        for Row { call, times } in &self.calls {
            let [p50, p99, max] = [times.p50_ns, times.p99_ns, times.max_ns].map(duration);
            table += &format!("{call:<40} {p50:>9} {p99:>9} {max:>9}\n");
        }
        table.trim_end().to_owned()
    }
}

impl Drawn for UnderLoad {
    const COMMAND: &str = "under-load";
    const TITLE: &str = "Calls while background work floods the GPU";
    const OF: &str = "calls";

    fn curves(&self) -> Vec<Curve> {
        let curve = |row: &Row| Curve {
            name: row.call.clone(),
            nanoseconds: row.times.percentiles_by_half_ns.clone(),
        };
        self.calls.iter().map(curve).collect()
    }
}

//! The cost of an allocation and its release on one thread, in alternating batches of one run.

use std::hint::black_box;

use cuda_green::GpuMemoryPool;
use serde::{Deserialize, Serialize};

use super::{
    allocators::{Allocator, Ours, Plain, RawPool},
    sizes::{GIB, LIMIT, MIB},
};
use crate::{
    commands::bench::{
        clock::{self, alternate, each},
        run::Work,
        samples::Distribution,
    },
    render::duration::duration,
};

pub const SIZES: [(&str, usize); 7] = [
    ("256 B", 256),
    ("4 KiB", 4 << 10),
    ("64 KiB", 64 << 10),
    ("1 MiB", MIB),
    ("8 MiB", 8 * MIB),
    ("64 MiB", 64 * MIB),
    ("1 GiB", GIB),
];

/// The medians of batches, and the distributions of single pairs.
#[derive(Serialize, Deserialize)]
pub struct Pair {
    pub size: String,
    pub bytes: usize,
    ours_ns: f64,
    raw_pool_ns: f64,
    cu_mem_alloc_ns: f64,
    rounds: usize,
    pub ours: Distribution,
    pub raw_pool: Distribution,
}

/// The number of rounds, and of pairs in a batch of each allocator.
struct Counts {
    rounds: usize,
    ours: usize,
    raw_pool: usize,
    plain: usize,
    /// Single pairs in each of 20 turns.
    singles: usize,
}

const WHOLE: Counts = Counts {
    rounds: 100,
    ours: 10_000,
    raw_pool: 2_000,
    plain: 10,
    singles: 5_000,
};

const QUICK: Counts = Counts {
    rounds: 3,
    ours: 20,
    raw_pool: 20,
    plain: 2,
    singles: 10,
};

fn pair<A: Allocator>(allocator: &A, size: usize) -> anyhow::Result<()> {
    allocator.give(black_box(allocator.take(size)?))
}

/// Returns the mean nanoseconds of a pair over a batch.
pub fn batch<A: Allocator>(allocator: &A, size: usize, pairs: usize) -> anyhow::Result<f64> {
    clock::batch(pairs, || pair(allocator, size))
}

pub fn measure(work: &Work<'_>, raw: &RawPool<'_>) -> anyhow::Result<Vec<Pair>> {
    let ours = Ours(GpuMemoryPool::on(work.device, LIMIT)?);
    let plain = Plain(work.device.driver().api());
    let counts = if work.quick { QUICK } else { WHOLE };
    let mut pairs = Vec::new();
    for (name, size) in SIZES {
        work.progress.set_message(format!("pairs of {name}"));
        batch(&ours, size, 100)?;
        batch(raw, size, 100)?;
        let [of_ours, of_raw, of_plain] = alternate(
            counts.rounds,
            [
                &mut |times| {
                    times.push(batch(&ours, size, counts.ours)?);
                    Ok(())
                },
                &mut |times| {
                    times.push(batch(raw, size, counts.raw_pool)?);
                    Ok(())
                },
                &mut |times| {
                    times.push(batch(&plain, size, counts.plain)?);
                    Ok(())
                },
            ],
        )?;
        let [each_of_ours, each_of_raw] = alternate(
            20,
            [
                &mut |times| each(counts.singles, times, || pair(&ours, size)),
                &mut |times| each(counts.singles, times, || pair(raw, size)),
            ],
        )?;
        pairs.push(Pair {
            size: name.to_owned(),
            bytes: size,
            ours_ns: of_ours.at(0.5),
            raw_pool_ns: of_raw.at(0.5),
            cu_mem_alloc_ns: of_plain.at(0.5),
            rounds: counts.rounds,
            ours: each_of_ours.into(),
            raw_pool: each_of_raw.into(),
        });
        work.progress.inc(1);
    }
    Ok(pairs)
}

pub fn table(pairs: &[Pair]) -> String {
    let mut table = format!(
        "{:<16} {:>9} {:>9} {:>10}   {:>9} {:>9} {:>9}\n",
        "allocate + free", "ours", "raw pool", "cuMemAlloc", "ours p99", "p99.9", "max"
    );
    for pair in pairs {
        let medians = [pair.ours_ns, pair.raw_pool_ns, pair.cu_mem_alloc_ns];
        let [ours, raw, plain] = medians.map(duration);
        let spread = [pair.ours.p99_ns, pair.ours.p999_ns, pair.ours.max_ns];
        let [p99, p999, max] = spread.map(duration);
        table += &format!(
            "{:<16} {ours:>9} {raw:>9} {plain:>10}   {p99:>9} {p999:>9} {max:>9}\n",
            pair.size
        );
    }
    table
}

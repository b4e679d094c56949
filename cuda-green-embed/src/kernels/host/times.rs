//! The kernels' times on a GPU, for the virtual clock of simulated drivers.

use std::time::Duration;

use cuda_green::sim::{BlockCost, Launch, Sim};

use crate::{cublaslt, kernels::Element};

/// The time of a block of the products for few tokens, of the attention and of the rest of a small pass: they are bound
/// by latency. A text of 14 tokens takes 32 kernels and 0.11 ms from text to vector (`evidence/embed.json`).
const LATENCY: Duration = Duration::from_nanos(2_600);
/// The part of an SM that such a block keeps busy.
const LATENCY_LOAD: f64 = 0.25;
/// The time that a block of a library's product needs for each of its inputs. With [`ROWS`] and [`ATTENTION`], a batch
/// of 16,384 tokens of MiniLM takes 1.26 ms on an H200 (`evidence/embed.json`).
const PRODUCT_BY_INPUT: f64 = 2.6e-9;
/// The time of a block of eight rows that are normalised or activated.
const ROWS: Duration = Duration::from_nanos(400);
/// The time of a block of attention.
const ATTENTION: Duration = Duration::from_nanos(1_000);

/// A function that returns the cost of a launch's blocks.
type Time = fn(&Launch<'_>) -> BlockCost;

/// Makes the encoder's kernels, and the products of the software cuBLASLt, take about the virtual time that they take
/// on an H200, and compute nothing: every vector is meaningless from then on. Call it after the models are loaded, since
/// a model that is loaded later computes again.
pub fn register_times(simulator: &Sim) {
    let times: [(&str, Time); 8] = [
        ("embed", rows),
        ("layer_norm", rows),
        ("bias_gelu", rows),
        ("pool", rows),
        ("attention_32", attention),
        ("attention_64", attention),
        ("linear_2", latency),
        ("linear_3", latency),
    ];
    for (name, time) in times {
        for element in [Element::F16, Element::Bf16, Element::F32] {
            let kernel = format!("cuda_green_{name}_{}", element.suffix());
            simulator.register_kernel(&kernel, |_| {});
            simulator.register_kernel_cost(&kernel, time);
        }
    }
    simulator.register_kernel(cublaslt::SOFTWARE_KERNEL, |_| {});
    simulator.register_kernel_cost(cublaslt::SOFTWARE_KERNEL, product);
}

fn latency(_: &Launch<'_>) -> BlockCost {
    BlockCost::with_load(LATENCY, LATENCY_LOAD)
}

fn rows(launch: &Launch<'_>) -> BlockCost {
    bound_by_latency_if_small(launch, ROWS)
}

fn attention(launch: &Launch<'_>) -> BlockCost {
    bound_by_latency_if_small(launch, ATTENTION)
}

fn bound_by_latency_if_small(launch: &Launch<'_>, time: Duration) -> BlockCost {
    match launch.block_count() {
        0..=64 => latency(launch),
        _ => BlockCost::busy(time),
    }
}

fn product(launch: &Launch<'_>) -> BlockCost {
    let inputs = launch
        .arg_u32(cublaslt::SOFTWARE_KERNEL_INPUTS)
        .unwrap_or(0);
    BlockCost::busy(Duration::from_secs_f64(
        f64::from(inputs) * PRODUCT_BY_INPUT,
    ))
}

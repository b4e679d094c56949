//! The kernels' bodies on the host, for simulated drivers.
//!
//! Each computes what the blocks of its launch would compute, so a grid that is too small shows as missing results. A
//! launch of another block than the kernel is written for computes nothing. Sums are in `f32` in another order than on a
//! GPU; what a kernel stores is rounded as there.

mod arguments;
mod attention;
mod linear;
mod rows;
mod times;

use cuda_green::sim::{Launch, Sim};

pub(crate) use arguments::Arguments;
pub(crate) use linear::product;
pub use times::register_times;

use super::Element;

/// A body; `None` after a fault in memory, which has failed the launch.
type Body = fn(&Launch<'_>, Element) -> Option<()>;

/// Registers the bodies of all the encoder's kernels with a simulator, whose drivers then compute what a GPU would.
pub fn register(simulator: &Sim) {
    let bodies: [(&str, Body); 8] = [
        ("embed", rows::embed),
        ("layer_norm", rows::layer_norm),
        ("bias_gelu", rows::bias_gelu),
        ("pool", rows::pool),
        ("attention_32", |launch, element| {
            attention::attention(launch, element, 32)
        }),
        ("attention_64", |launch, element| {
            attention::attention(launch, element, 64)
        }),
        ("linear_2", |launch, element| {
            linear::linear(launch, element, 2)
        }),
        ("linear_3", |launch, element| {
            linear::linear(launch, element, 3)
        }),
    ];
    for (name, body) in bodies {
        for element in [Element::F16, Element::Bf16, Element::F32] {
            let kernel = format!("cuda_green_{name}_{}", element.suffix());
            simulator.register_kernel(&kernel, move |launch| {
                let _ = body(launch, element);
            });
        }
    }
}

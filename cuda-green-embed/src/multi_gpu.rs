//! Several GPUs that share the work.

mod balancer;
mod call;
mod embedder;
mod queue;
mod worker;

pub use balancer::MultiGpuBalancer;
pub use embedder::{EncoderStatus, MultiGpuEmbedder};

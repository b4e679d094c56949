//! Models from disk: a folder as Hugging Face and sentence-transformers lay it out, read and checked.
//!
//! Nothing in it is trusted: each size, name, shape and type is compared with the others before it is used.

mod config;
mod folder;
pub(crate) mod json;
mod modules;
#[cfg(feature = "test-utils")]
mod random;
mod tensor;
mod weight_file;
mod weights;

pub use config::BertConfig;
pub use folder::ModelFolder;
pub use modules::Pooling;
pub use tensor::{Tensor, TensorType};
pub use weights::{BertLayer, BertWeights, LayerNorm, Linear};

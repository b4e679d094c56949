//! The command line.

use std::path::PathBuf;

use clap::{
    Parser, Subcommand, ValueEnum,
    builder::{OsStringValueParser, TypedValueParser},
    value_parser,
};
use cuda_green::{ContextId, DriverSpec};
use cuda_green_embed::InferencePrecision;

/// Text embeddings inside a guaranteed share of an NVIDIA GPU.
#[derive(Parser)]
#[command(name = "cuda-green-embed", version, max_term_width = 80)]
pub struct Args {
    #[command(subcommand)]
    pub command: Command,
    /// When to use colours; `auto` means on a terminal only
    #[arg(long, global = true, value_name = "WHEN", default_value = "auto")]
    pub color: Color,
}

#[derive(Subcommand)]
pub enum Command {
    /// Read texts from standard input, and write a vector a line, in their order
    ///
    /// A vector is a JSON array of numbers. Vectors are written once a batch is full or the input ends, so memory is
    /// bounded and the input may be of any length. A line that is no text ends the program with 1 and the line's number,
    /// once the vectors of all lines before it are written: a vector's place always tells its text.
    Embed(Embed),
    /// Print a model's architecture and sizes, and what the device would use
    Info(Info),
    /// Serve a model over HTTP, to clients of OpenAI's API and of text-embeddings-inference
    ///
    /// Paths: /v1/embeddings and /v1/models as OpenAI's; /embed, /health, /info and /metrics as text-embeddings-inference's.
    /// Queries and bulk work have SMs of their own. A request is a query if it has few texts, or says so: by the path
    /// (/interactive/v1/embeddings, /bulk/v1/embeddings), the header X-Cuda-Green-Lane, or the field `lane`.
    ///
    /// There is no TLS and no key: what reaches the address can use it. SIGTERM and SIGINT end it once all requests are
    /// answered.
    #[cfg(feature = "server")]
    Serve(Serve),
}

#[derive(clap::Args)]
pub struct Source {
    /// The model's folder, as Hugging Face and sentence-transformers lay it out
    #[arg(long, value_name = "DIR")]
    pub model: PathBuf,
    #[command(flatten)]
    pub place: Place,
}

#[derive(clap::Args)]
pub struct Place {
    /// The driver: `system`, the path of a library, or a simulated one such as `sim:h200@13.0`
    ///
    /// By default, the driver that the environment variable CUDA_GREEN_DRIVER names, or else the system's. A simulated
    /// one computes the same vectors on the CPU, some thousand times as slowly.
    #[arg(long, value_name = "DRIVER", value_parser = driver_spec())]
    pub driver: Option<DriverSpec>,
    /// The device, by its number in the driver's list, from 0
    #[arg(long, value_name = "ORDINAL", default_value_t = 0)]
    pub device: u32,
}

#[derive(clap::Args)]
pub struct Embed {
    #[command(flatten)]
    pub source: Source,
    /// Take each line as a JSON string, which can hold line breaks, instead of as plain text
    #[arg(long)]
    pub json_lines: bool,
    /// The type of weights and activations; `auto` is the device's best
    #[arg(long, value_name = "TYPE", default_value = "auto")]
    pub precision: Precision,
    /// Run in this partition of a GPU that is split into four; by default on the whole GPU
    #[arg(long, value_name = "NAME", conflicts_with = "sms")]
    pub partition: Option<Partition>,
    /// Run in a partition of so many SMs
    #[arg(long, value_name = "N", value_parser = value_parser!(u32).range(1..))]
    pub sms: Option<u32>,
    /// The most tokens in a batch; memory on the GPU grows with it
    #[arg(long, value_name = "N", default_value_t = 16_384, value_parser = value_parser!(u32).range(1..=1 << 20))]
    pub batch_tokens: u32,
    /// Number of threads that tokenise; by default one for each core
    #[arg(long, value_name = "N", value_parser = value_parser!(u16).range(1..=1024))]
    pub threads: Option<u16>,
    /// What to put before each text: the name of one of the model's prompts, or else the text itself
    ///
    /// By default the model's default prompt, if it has one. An empty text means none.
    #[arg(long, value_name = "PROMPT")]
    pub prompt: Option<String>,
    /// The most tokens of a text, special ones included, after which it is cut; by default the model's
    #[arg(long, value_name = "N", value_parser = value_parser!(u32).range(3..))]
    pub max_length: Option<u32>,
}

#[derive(clap::Args)]
pub struct Info {
    #[command(flatten)]
    pub source: Source,
}

#[cfg(feature = "server")]
#[derive(clap::Args)]
pub struct Serve {
    /// The model's folder, and a name for it; without a name, it answers to every name that a client sends
    #[arg(long, value_name = "[NAME=]DIR", value_parser = OsStringValueParser::new().map(named_folder))]
    pub model: crate::serve::NamedFolder,
    #[command(flatten)]
    pub place: Place,
    /// The address to listen on; port 0 takes a free one
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1:8080")]
    pub bind: std::net::SocketAddr,
    /// The type of weights and activations; `auto` is the device's best
    #[arg(long, value_name = "TYPE", default_value = "auto")]
    pub precision: Precision,
    /// The SMs for queries, the others are for bulk work; by default a quarter
    #[arg(long, value_name = "N", value_parser = value_parser!(u32).range(1..))]
    pub interactive_sms: Option<u32>,
    /// Let bulk work have the SMs of queries, but for a few, while there are none
    #[arg(long)]
    pub elastic: bool,
    /// A request of up to so many texts is a query unless it says otherwise
    #[arg(long, value_name = "N", default_value_t = 8)]
    pub interactive_texts: usize,
    /// The most tokens in a batch; memory on the GPU grows with it
    #[arg(long, value_name = "N", default_value_t = 16_384, value_parser = value_parser!(u32).range(1..=1 << 20))]
    pub batch_tokens: u32,
    /// What to put before each text: the name of one of the model's prompts, or else the text itself
    ///
    /// By default the model's default prompt, if it has one. An empty text means none. A request can name another one of the
    /// model's prompts as `prompt_name`.
    #[arg(long, value_name = "PROMPT")]
    pub prompt: Option<String>,
    /// Cut overlong texts, instead of refusing them with 413
    #[arg(long)]
    pub auto_truncate: bool,
    /// The most texts in a request
    #[arg(long, value_name = "N", default_value_t = 2048, value_parser = value_parser!(u32).range(1..=65_536))]
    pub max_texts: u32,
    /// The most MiB in a request's body
    #[arg(long, value_name = "MIB", default_value_t = 8, value_parser = value_parser!(u32).range(1..=1024))]
    pub max_body: u32,
    /// The most connections at a time
    #[arg(long, value_name = "N", default_value_t = 1024, value_parser = value_parser!(u32).range(1..=1 << 20))]
    pub max_connections: u32,
    /// The most seconds that a request may take
    #[arg(long, value_name = "SECONDS", default_value_t = 30, value_parser = value_parser!(u32).range(1..=86_400))]
    pub timeout: u32,
}

#[cfg(feature = "server")]
fn named_folder(text: std::ffi::OsString) -> crate::serve::NamedFolder {
    let named = text.to_str().and_then(|text| text.split_once('='));
    match named {
        // A folder's name may have this character in it, too.
        Some((name, path)) if !name.is_empty() && !std::path::Path::new(&text).is_dir() => {
            crate::serve::NamedFolder {
                name: Some(name.to_owned()),
                path: path.into(),
            }
        }
        _ => crate::serve::NamedFolder {
            name: None,
            path: text.into(),
        },
    }
}

#[derive(Clone, Copy, ValueEnum)]
pub enum Precision {
    Auto,
    F16,
    Bf16,
    F32,
}

impl Precision {
    /// Returns the precision that was asked for by its name.
    pub fn named(self) -> Option<InferencePrecision> {
        match self {
            Self::Auto => None,
            Self::F16 => Some(InferencePrecision::FP16),
            Self::Bf16 => Some(InferencePrecision::BF16),
            Self::F32 => Some(InferencePrecision::FP32),
        }
    }
}

/// The partitions of `SmPartitionManager::init_quad_partition`.
#[derive(Clone, Copy, ValueEnum)]
pub enum Partition {
    Embedding,
    Dream,
    Training,
    Reserved,
}

impl Partition {
    pub fn id(self) -> ContextId {
        match self {
            Self::Embedding => ContextId::Embedding,
            Self::Dream => ContextId::Dream,
            Self::Training => ContextId::Training,
            Self::Reserved => ContextId::Reserved,
        }
    }
}

#[derive(Clone, Copy, ValueEnum)]
pub enum Color {
    Auto,
    Always,
    Never,
}

impl Color {
    /// Applies this choice to everything that is printed from now on.
    pub fn write_global(self) {
        let choice = match self {
            Self::Auto => anstream::ColorChoice::Auto,
            Self::Always => anstream::ColorChoice::Always,
            Self::Never => anstream::ColorChoice::Never,
        };
        choice.write_global();
    }
}

/// Parses a driver from any bytes, since a path need not be text.
fn driver_spec() -> impl TypedValueParser<Value = DriverSpec> {
    OsStringValueParser::new().try_map(|text| DriverSpec::parse(&text))
}

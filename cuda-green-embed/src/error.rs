//! The error type of the crate.

use std::{path::PathBuf, sync::Arc};

/// The result type of this crate's functions.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// The reason why a call failed: what was requested, what is there, and what would help.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The GPU, its driver or a partition refused.
    #[error(transparent)]
    Gpu(#[from] cuda_green::Error),
    /// A file of the model folder cannot be read or says something that does not fit.
    #[error("{}: {reason}", path.display())]
    File {
        /// The file, or the folder.
        path: PathBuf,
        /// The reason.
        reason: String,
    },
    /// A tensor is missing, or has another shape or type than the configuration says.
    #[error("{}: tensor `{tensor}`: expected {expected}, found {found}", path.display())]
    Tensor {
        /// The file of weights.
        path: PathBuf,
        /// The tensor's name in the file.
        tensor: String,
        /// The expected shape and types.
        expected: String,
        /// What the file has.
        found: String,
    },
    /// Weights that do not belong to the configuration they are used with.
    #[error(
        "tensor `{tensor}` has the shape {found:?}; with this configuration it would be {expected:?}"
    )]
    WeightShape {
        /// The tensor's name.
        tensor: String,
        /// The shape that the configuration says.
        expected: Vec<usize>,
        /// The tensor's shape.
        found: Vec<usize>,
    },
    /// A model of a kind that this crate does not run.
    #[error("{}: {property} `{found}` is not supported; supported: {supported}", path.display())]
    UnsupportedModel {
        /// The file that says it.
        path: PathBuf,
        /// The property, by its name in the file.
        property: &'static str,
        /// The property's value.
        found: String,
        /// The values that would work.
        supported: &'static str,
    },
    /// A text that the tokeniser refuses.
    #[error("text {text} cannot be tokenised: {reason}")]
    Tokenize {
        /// The index of the text among those given.
        text: usize,
        /// The tokeniser's reason.
        reason: String,
    },
    /// A batch exceeds what the encoder was made for.
    #[error("a batch of {asked} {unit} exceeds the encoder's {limit}")]
    BatchTooLarge {
        /// `tokens`, `texts`, or `tokens in one text`.
        unit: &'static str,
        /// The batch's number.
        asked: usize,
        /// The encoder's limit.
        limit: usize,
    },
    /// A token is not in the model's vocabulary.
    #[error("token {token} of text {text} is not in the vocabulary of {vocabulary} tokens")]
    UnknownToken {
        /// The index of the text in the batch.
        text: usize,
        /// The token's id.
        token: u32,
        /// The number of tokens in the vocabulary.
        vocabulary: usize,
    },
    /// A text without tokens: each has at least the special ones.
    #[error("text {text} has no tokens, not even the special ones")]
    EmptyText {
        /// The index of the text in the batch.
        text: usize,
    },
    /// A vector came out as infinite or not a number: the precision's range was exceeded, by this text or by one beside
    /// it, since attention computes 16 neighbouring tokens of a batch together.
    #[error(
        "the vector of text {text} is not finite: values exceed the range of {precision}; use bf16 or f32"
    )]
    Overflow {
        /// The index of the text in the batch.
        text: usize,
        /// The precision.
        precision: &'static str,
    },
    /// No encoder of the crate runs in this precision.
    #[error("{precision} is not supported: {reason}; use f32, f16 or bf16")]
    UnsupportedPrecision {
        /// The precision.
        precision: &'static str,
        /// The reason.
        reason: &'static str,
    },
    /// The name of no precision.
    #[error("`{name}` is no precision; use f32, f16, bf16 or int8")]
    UnknownPrecision {
        /// The name.
        name: String,
    },
    /// A finite value that the precision cannot hold.
    #[error("value {value} at index {index} exceeds the range of {precision}; use bf16 or f32")]
    OutOfRange {
        /// The value's index.
        index: usize,
        /// The value.
        value: f32,
        /// The precision.
        precision: &'static str,
    },
    /// An infinity or NaN among values that must be finite.
    #[error("value {value} at index {index} is not finite")]
    NotFinite {
        /// The value's index.
        index: usize,
        /// The value.
        value: f32,
    },
    /// A size that cannot work.
    #[error("{field} is {found}; expected {expected}")]
    InvalidConfig {
        /// The name of the size.
        field: &'static str,
        /// Its value.
        found: usize,
        /// The values that would work.
        expected: String,
    },
    /// As many texts wait as may wait.
    #[error("{limit} texts wait already, which is the most; try again later")]
    QueueFull {
        /// The most texts that may wait.
        limit: usize,
    },
    /// A lane of a service has as many texts as may wait, or would have with those of the call.
    #[error(
        "{waiting} of at most {limit} texts wait already; try again later, or with fewer texts at a time"
    )]
    Overloaded {
        /// The texts that wait.
        waiting: usize,
        /// The most texts that may wait.
        limit: usize,
    },
    /// The deadline of a request passed before the encoder had room for it.
    #[error("the deadline passed before the encoder had room for the text")]
    DeadlineExceeded,
    /// The service ended before the encoder had room for the request.
    #[error("the service was shut down")]
    ShutDown,
    /// A service is dead: its GPU failed and will not recover in this process.
    #[error("the embedding service is dead; its first error was: {first}")]
    ServiceDead {
        /// The first error.
        #[source]
        first: Arc<Error>,
    },
    /// A batch failed as a whole, with all texts in it.
    #[error("the batch failed: {error}")]
    BatchFailed {
        /// The reason.
        #[source]
        error: Arc<Error>,
    },
    /// A service that was made of encoders alone was given a text, not tokens.
    #[error("the service has no tokeniser; give it one when it is built, or use `embed_tokens`")]
    NoTokenizer,
    /// The name of no model of a library.
    #[error("there is no model `{name}`; there are: {}", names.join(", "))]
    NoSuchModel {
        /// The name.
        name: String,
        /// The names of all models.
        names: Vec<String>,
    },
    /// A waker asked for a model that is not loaded, or to evict one. Loading would hold up the other requests of the batch that the waker
    /// belongs to, and might wait for them.
    #[error("a waker cannot load or evict a model; do it on another thread")]
    LoadInWaker,
    /// A stage of a pipeline refused a text.
    #[error("{stage}: {error}")]
    Stage {
        /// `scrub`, `fuse` or `deliver`.
        stage: &'static str,
        /// Its reason.
        #[source]
        error: Box<dyn std::error::Error + Send + Sync>,
    },
    /// A stage of a pipeline panicked.
    #[error("{stage} panicked: {message}")]
    StagePanicked {
        /// `scrub`, `cache`, `fuse` or `deliver`.
        stage: &'static str,
        /// The panic's message.
        message: String,
    },
    /// A future was polled again after it had returned its vectors.
    #[error("the vectors of this request were taken already")]
    AlreadyTaken,
    /// cuBLASLt is not installed, or not where it is looked for.
    #[error(
        "cuBLASLt was not found; `pip install {package}` gets it, or {} names its file; tried {}; looked in {}",
        crate::CUBLASLT_VARIABLE,
        tried_list(tried),
        path_list(folders)
    )]
    CublasLtMissing {
        /// The files that could not be loaded, with the reasons. A name without a folder is looked for by the loader.
        tried: Vec<(PathBuf, String)>,
        /// The folders that were looked in; a `*` stands for any text.
        folders: Vec<PathBuf>,
        /// The package of PyPI that has it.
        package: &'static str,
    },
    /// The file that was named is not a cuBLASLt that can be loaded.
    #[error(
        "{} cannot be loaded as cuBLASLt: {reason}; without {} it is looked for in the usual places",
        path.display(), crate::CUBLASLT_VARIABLE
    )]
    CublasLtUnloadable {
        /// The file.
        path: PathBuf,
        /// The reason.
        reason: String,
    },
    /// cuBLASLt refused a call.
    #[error("{call}: {name} ({status})")]
    CublasLt {
        /// The function.
        call: &'static str,
        /// Its `cublasStatus_t`.
        status: u32,
        /// The status's name in the header.
        name: String,
    },
    /// The system did not start a thread.
    #[error("a thread cannot be started: {0}")]
    Thread(std::io::Error),
    /// The index of no GPU.
    #[error("there is no GPU {asked}: there are {gpus}, counted from 0")]
    NoSuchGpu {
        /// The index.
        asked: usize,
        /// The number of GPUs.
        gpus: usize,
    },
    /// All encoders of a [`MultiGpuEmbedder`](crate::MultiGpuEmbedder) have failed.
    #[error("all encoders have failed; the first error was: {first}")]
    NoGpuLeft {
        /// The first error.
        #[source]
        first: Arc<Error>,
    },
    /// An encoder panicked and is not used any more.
    #[error("the encoder panicked")]
    EncoderPanicked,
    /// The device lacks what the encoder's kernels use.
    #[error(
        "{name} has compute capability {}.{}; the encoder's kernels need {}.{} or later, and there is no fallback to the CPU",
        found.0, found.1, needed.0, needed.1
    )]
    Device {
        /// The device's name.
        name: String,
        /// Its compute capability.
        found: (u32, u32),
        /// The compute capability that the kernels need.
        needed: (u32, u32),
    },
    /// The encoder's kernels cannot run a model of these sizes.
    #[error("the GPU encoder cannot run a model with {found}; it takes {supported}")]
    UnsupportedSizes {
        /// The sizes that do not fit.
        found: String,
        /// The sizes that do.
        supported: &'static str,
    },
    /// An option of an encoder that makes no sense.
    #[error("{name} is {value}: {reason}")]
    InvalidOption {
        /// The option.
        name: &'static str,
        /// Its value.
        value: String,
        /// The reason.
        reason: String,
    },
    /// The vectors of a batch were lost, which only an earlier failure of the GPU can cause.
    #[error("the encoder lost a batch after an earlier failure")]
    EncoderBroken,
    /// A tensor that cannot be converted to the encoder's precision.
    #[error("tensor `{tensor}`: {error}")]
    Weight {
        /// The tensor's name.
        tensor: String,
        /// The reason.
        error: Box<Error>,
    },
    /// The driver is simulated and runs no kernels.
    #[error(
        "the driver is simulated and computes nothing; for vectors without a GPU, open it as `sim:...` with the feature test-utils"
    )]
    Simulated,
}

impl Error {
    /// Returns the error with the index that its text has in the caller's list.
    pub(crate) fn of_text(self, text: usize) -> Self {
        match self {
            Self::UnknownToken {
                token, vocabulary, ..
            } => Self::UnknownToken {
                text,
                token,
                vocabulary,
            },
            Self::EmptyText { .. } => Self::EmptyText { text },
            Self::Overflow { precision, .. } => Self::Overflow { text, precision },
            Self::Tokenize { reason, .. } => Self::Tokenize { text, reason },
            other => other,
        }
    }
}

/// Lists files with the reasons why they were refused.
fn tried_list(tried: &[(PathBuf, String)]) -> String {
    let one = |(path, reason): &(PathBuf, String)| format!("{} ({reason})", path.display());
    tried.iter().map(one).collect::<Vec<_>>().join(", ")
}

fn path_list(paths: &[PathBuf]) -> String {
    let one = |path: &PathBuf| path.display().to_string();
    paths.iter().map(one).collect::<Vec<_>>().join(", ")
}

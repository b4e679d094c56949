//! `cuda-green-embed embed`: texts from standard input, vectors to standard output.

use std::{
    io::{self, BufReader, BufWriter, IsTerminal, Write},
    time::Duration,
};

use anyhow::{Context, ensure};
use cuda_green::GpuMemoryPool;
use cuda_green_embed::{
    BertEncoder, BertModel, BulkEmbedder, CublasLt, EncoderOptions, Error, InferencePrecision,
    ModelFolder, ModelHead, Tokenizer,
};
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

use crate::{
    args::Embed,
    failure::{YELLOW, printable},
    lines::{Failure, texts},
    place,
};

pub fn run(options: &Embed) -> anyhow::Result<()> {
    // What is cheap to find wrong comes first.
    let folder = ModelFolder::open(&options.source.model)?;
    let max_length = max_length(options, &folder)?;
    let batch = options.batch_tokens;
    ensure!(
        batch as usize >= max_length,
        "--batch-tokens {batch} has no room for a text of {max_length} tokens; --max-length cuts texts to fewer"
    );
    let tokenizer = tokenizer(options, &folder)?.with_max_length(max_length);
    let device = options.source.place.device()?;
    BertModel::ensure_supported(folder.config(), &device)?;
    if device.driver().is_simulated() {
        let line = format!("{YELLOW}SIMULATED: no GPU is behind this; the CPU computes{YELLOW:#}");
        writeln!(anstream::stderr(), "{line}").context("cannot write to standard error")?;
    }
    let precision = options.precision.named();
    let precision =
        precision.unwrap_or_else(|| InferencePrecision::detect_optimal(&device).precision);
    let (_manager, stream) = place::stream(&device, options)?;
    let pool = GpuMemoryPool::on(&device, device.free_memory()?)?;
    let head = ModelHead {
        pooling: folder.pooling(),
        normalize: folder.normalize(),
        max_length,
    };
    let model = BertModel::from_weights(
        folder.config(),
        &folder.weights()?,
        head,
        &pool,
        precision,
        CublasLt::load(&device)?,
    )?;
    let sizes = EncoderOptions::default().max_tokens(options.batch_tokens);
    let encoder = BertEncoder::new(&model, stream, sizes)?;
    let mut embedder = BulkEmbedder::new(&tokenizer, &encoder);
    if let Some(threads) = options.threads {
        embedder = embedder.threads(threads.into());
    }
    stream_through(&embedder, options.json_lines)
}

/// Returns the most tokens of a text.
fn max_length(options: &Embed, folder: &ModelFolder) -> anyhow::Result<usize> {
    let Some(length) = options.max_length else {
        return Ok(folder.max_length());
    };
    let positions = folder.config().positions;
    ensure!(
        length as usize <= positions,
        "--max-length {length} is more than the model's {positions} positions"
    );
    Ok(length as usize)
}

fn tokenizer(options: &Embed, folder: &ModelFolder) -> anyhow::Result<Tokenizer> {
    let tokenizer = folder.tokenizer()?;
    let prompt = match &options.prompt {
        Some(asked) => folder.prompts().get(asked).unwrap_or(asked),
        None => folder.default_prompt().unwrap_or_default(),
    };
    Ok(tokenizer.with_prompt(prompt))
}

/// Reads all texts and writes their vectors.
fn stream_through(embedder: &BulkEmbedder<'_>, json_lines: bool) -> anyhow::Result<()> {
    let failure = Failure::default();
    let mut output = Output::new();
    let progress = progress()?;
    let texts = texts(BufReader::new(io::stdin()), json_lines, &failure);
    let done = embedder.embed(texts, |_, vector| {
        progress.inc(1);
        output.write(vector)
    });
    progress.finish_and_clear();
    // Also if it failed: the vectors of all texts before belong to whoever reads.
    let flushed = output.flush();
    if output.is_closed {
        return Ok(());
    }
    match done {
        Ok(_) => flushed.context("cannot write to standard output")?,
        Err(error) => return Err(of_line(error)),
    }
    failure.into_result()
}

/// Names the line instead of the text's number, which starts at 0.
fn of_line(error: Error) -> anyhow::Error {
    let text = match &error {
        Error::Tokenize { text, .. }
        | Error::Overflow { text, .. }
        | Error::EmptyText { text }
        | Error::UnknownToken { text, .. } => *text,
        _ => return error.into(),
    };
    anyhow::Error::from(error).context(format!("line {} of standard input", text + 1))
}

/// Returns a progress bar on standard error if that is a terminal, and the vectors do not go to the same one.
fn progress() -> anyhow::Result<ProgressBar> {
    let style = ProgressStyle::with_template("{spinner} {human_pos} texts, {per_sec}, {elapsed}")?;
    let target = match io::stdout().is_terminal() {
        true => ProgressDrawTarget::hidden(),
        false => ProgressDrawTarget::stderr(),
    };
    let progress = ProgressBar::with_draw_target(None, target).with_style(style);
    progress.enable_steady_tick(Duration::from_millis(200));
    Ok(progress)
}

/// Standard output, whose reader may be gone.
struct Output {
    stdout: BufWriter<io::Stdout>,
    line: Vec<u8>,
    /// The reader is gone, so nothing more is wanted, and that is no error.
    is_closed: bool,
}

impl Output {
    fn new() -> Self {
        Self {
            stdout: BufWriter::with_capacity(1 << 20, io::stdout()),
            line: Vec::new(),
            is_closed: false,
        }
    }

    fn write(&mut self, vector: &[f32]) -> cuda_green_embed::Result<()> {
        self.line.clear();
        let written = serde_json::to_writer(&mut self.line, vector).map_err(io::Error::from);
        self.line.push(b'\n');
        let written = written.and_then(|()| self.stdout.write_all(&self.line));
        written.map_err(|error| self.failed(error))
    }

    fn flush(&mut self) -> cuda_green_embed::Result<()> {
        self.stdout.flush().map_err(|error| self.failed(error))
    }

    fn failed(&mut self, error: io::Error) -> Error {
        self.is_closed |= error.kind() == io::ErrorKind::BrokenPipe;
        Error::File {
            path: "standard output".into(),
            reason: printable(&error.to_string()),
        }
    }
}

//! The time from the start of a process to its first vector.

use std::{process::Command, time::Instant};

use anyhow::{Context, ensure};
use cuda_green_embed::{Encoder, EncoderOptions};

use super::setup::Setup;
use crate::{
    args::EmbedBench,
    commands::bench::{run::Work, samples::Samples},
};

/// Returns the median seconds from the start of a process of this program to its end after one vector, as the peers'
/// are measured.
pub fn measure(setup: &Setup<'_>, options: &EmbedBench) -> anyhow::Result<f64> {
    let (Some(model), Some(texts)) = (&options.source.model, &options.source.texts) else {
        anyhow::bail!("--model and --texts say what to measure");
    };
    let mut times = Vec::new();
    for _ in 0..setup.count(3, 1) {
        let start = Instant::now();
        let output = Command::new(std::env::current_exe()?)
            .args(["bench", "embed", "--only-first", "--model"])
            .arg(model)
            .arg("--texts")
            .arg(texts)
            .args(["--device", &setup.device().ordinal().to_string()])
            .env("CUDA_GREEN_DRIVER", setup.device().driver().source())
            .output()?;
        times.push(start.elapsed().as_secs_f64());
        let told = String::from_utf8_lossy(&output.stderr);
        ensure!(
            output.status.success(),
            "the measuring process failed: {told}"
        );
    }
    Ok(Samples::of(times).at(0.5))
}

/// Makes one vector on the whole GPU, with the encoder's usual sizes: what the measured process does.
pub fn first_vector(work: &Work<'_>, options: &EmbedBench) -> anyhow::Result<()> {
    let setup = Setup::new(work, &options.source)?;
    let tokens = setup.count(EncoderOptions::default().max_tokens as usize, 0) as u32;
    let placed = setup.place(setup.precision, None, tokens)?;
    let texts = setup.texts.first().context("the file of texts is empty")?;
    let batch = setup.tokenizer.encode_batch(&[texts], 1)?;
    placed.encoder.encode(&batch)?;
    Ok(())
}

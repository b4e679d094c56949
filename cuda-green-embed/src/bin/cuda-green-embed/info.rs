//! `cuda-green-embed info`: what a model is, what it needs, and what the device would use.

use std::io::{self, Write};

use anyhow::Context;
use cuda_green_embed::{EncoderOptions, InferencePrecision, ModelFolder, Pooling};

use crate::{args::Info, failure::printable};

pub fn run(options: &Info) -> anyhow::Result<()> {
    let folder = ModelFolder::open(&options.source.model)?;
    let mut text = printable(&model(&folder)?);
    text += "\n";
    text += &printable(&memory(&folder)?);
    text += "\n";
    text += &match options.source.place.device() {
        Ok(device) => {
            let choice = InferencePrecision::detect_optimal(&device);
            let simulated = match device.driver().is_simulated() {
                true => "SIMULATED: no GPU is behind this\n",
                false => "",
            };
            format!(
                "{simulated}precision     {}\n",
                printable(&choice.to_string())
            )
        }
        // What the model is can be said all the same.
        Err(error) => format!("no device     {}\n", printable(&error.to_string())),
    };
    match io::stdout().lock().write_all(text.as_bytes()) {
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        written => written.context("cannot write to standard output"),
    }
}

fn model(folder: &ModelFolder) -> anyhow::Result<String> {
    let config = folder.config();
    let tokenizer = folder.tokenizer()?;
    let pooling = match folder.pooling() {
        Pooling::Mean => "mean of all tokens",
        Pooling::Cls => "first token",
    };
    let normalized = match folder.normalize() {
        true => "scaled to length 1",
        false => "not scaled",
    };
    let mut text = format!("model         {}: BERT\n", folder.name());
    text += &format!(
        "sizes         {} layers, {} heads of {}, {} wide, {} between\n",
        config.layers,
        config.heads,
        config.head_size(),
        config.hidden_size,
        config.intermediate_size
    );
    text += &format!(
        "vectors       {} values, {pooling}, {normalized}\n",
        config.hidden_size
    );
    text += &format!(
        "texts         up to {} tokens of {} positions, {} in the vocabulary\n",
        folder.max_length(),
        config.positions,
        tokenizer.vocabulary()
    );
    for (name, prompt) in folder.prompts() {
        let default = match folder.default_prompt() {
            Some(default) if default == prompt => " (default)",
            _ => "",
        };
        text += &format!("prompt        {name}: {prompt:?}{default}\n");
    }
    Ok(text)
}

/// Returns the memory on the device in each precision.
fn memory(folder: &ModelFolder) -> anyhow::Result<String> {
    let config = folder.config();
    let weights = folder.weights()?;
    let parameters: usize = weights
        .tensors()
        .map(|tensor| tensor.shape().iter().product::<usize>())
        .sum();
    let tokens = EncoderOptions::default().max_tokens as usize;
    // Three rows of states, and one of queries, keys and values or of the feed-forward part.
    let wide = config.intermediate_size.max(3 * config.hidden_size);
    let activations = tokens * (3 * config.hidden_size + wide);
    let mut text = format!("parameters    {:.1} million\n", parameters as f64 / 1e6);
    for precision in InferencePrecision::ALL {
        if precision.is_supported() {
            let mib = |values: usize| (values * precision.bytes()) as f64 / f64::from(1 << 20);
            text += &format!(
                "in {:<10} weights {:.0} MiB, batches of {tokens} tokens {:.0} MiB\n",
                precision.name(),
                mib(parameters),
                mib(activations)
            );
        }
    }
    Ok(text)
}

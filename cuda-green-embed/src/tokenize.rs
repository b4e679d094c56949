//! Texts to tokens, as the model's own tokeniser makes them.

mod cut;
mod load;

use std::{borrow::Cow, fmt, path::Path, sync::Arc};

use cut::Cut;
use tokenizers::pipeline::{EncodeOptions, Override, PipelineToken, PipelineTokenizer};

use crate::{
    batch::PackedBatch,
    error::{Error, Result},
    parallel::in_order,
};

/// The tokeniser of a model: text to ids, with the special tokens around them and cut to the model's length. A clone
/// shares it.
///
/// The padding and truncation that `tokenizer.json` asks for are not done: batches here have no padding, and the length
/// is that of the model.
///
/// The ids are those of Hugging Face's tokenizers 0.23, but for words with one of 143 rare characters, most of them
/// punctuation of historic scripts: the 1.0 that this crate uses knows a later Unicode.
#[derive(Clone)]
pub struct Tokenizer {
    pipeline: PipelineTokenizer,
    options: EncodeOptions,
    /// The special tokens before and after a text's own.
    before: Arc<[u32]>,
    after: Arc<[u32]>,
    max_length: usize,
    vocabulary: usize,
    cut: Cut,
    lowercase: bool,
    prompt: Arc<str>,
}

/// Texts that a worker thread takes at a time: enough that taking them costs nothing, few enough that the last worker
/// to end is not much later than the others.
const BLOCK: usize = 64;

impl Tokenizer {
    /// Reads a `tokenizer.json`. Texts are cut to `max_length` tokens, special ones included, by leaving out the last
    /// of their own.
    ///
    /// # Errors
    /// [`Error::File`] for a file that is missing, damaged or lies; [`Error::UnsupportedModel`] for a tokeniser that
    /// is not WordPiece, that of BERT.
    pub fn from_file(path: impl AsRef<Path>, max_length: usize) -> Result<Self> {
        load::read(path.as_ref(), max_length)
    }

    /// Returns one that cuts texts to another length, and at least to one token beside the special ones.
    #[must_use]
    pub fn with_max_length(mut self, max_length: usize) -> Self {
        self.max_length = max_length.max(self.special_tokens() + 1);
        self
    }

    /// Returns one that puts a prompt before each text, such as a model's `query: `.
    #[must_use]
    pub fn with_prompt(mut self, prompt: &str) -> Self {
        self.prompt = prompt.into();
        self
    }

    /// Returns one that puts texts into lower case first, whatever `tokenizer.json` does.
    #[must_use]
    pub fn with_lowercase(mut self, lowercase: bool) -> Self {
        self.lowercase = lowercase;
        self
    }

    /// Returns the most tokens in a text, special ones included.
    pub fn max_length(&self) -> usize {
        self.max_length
    }

    /// Returns one more than the largest id.
    pub fn vocabulary(&self) -> usize {
        self.vocabulary
    }

    /// Returns the prompt that is put before each text.
    pub fn prompt(&self) -> &str {
        &self.prompt
    }

    /// Returns the ids of a text: the special ones alone for a text without any of its own.
    ///
    /// # Errors
    /// [`Error::Tokenize`] for a text of 4 GiB or more without a space in it, and for one with an unknown word if the
    /// vocabulary lacks the token for these.
    pub fn encode(&self, text: &str) -> Result<Vec<u32>> {
        let mut scratch = Scratch::default();
        self.encode_one(text, &mut scratch)
            .map_err(|reason| Error::Tokenize { text: 0, reason })?;
        Ok(scratch.ids)
    }

    /// Adds texts to a batch.
    ///
    /// # Errors
    /// As [`encode`](Self::encode); the texts before the one at fault are in the batch.
    pub fn encode_into<T: AsRef<str>>(
        &self,
        batch: &mut PackedBatch,
        texts: impl IntoIterator<Item = T>,
    ) -> Result<()> {
        let mut scratch = Scratch::default();
        for (index, text) in texts.into_iter().enumerate() {
            self.encode_one(text.as_ref(), &mut scratch)
                .map_err(|reason| Error::Tokenize {
                    text: index,
                    reason,
                })?;
            batch.push(&scratch.ids);
        }
        Ok(())
    }

    /// Returns a batch of texts in their order, made by so many threads of this call, which is one of them.
    ///
    /// # Errors
    /// As [`encode`](Self::encode), for the first text at fault.
    pub fn encode_batch<T: AsRef<str> + Sync>(
        &self,
        texts: &[T],
        threads: usize,
    ) -> Result<PackedBatch> {
        let blocks = texts.len().div_ceil(BLOCK);
        if threads.min(blocks) <= 1 {
            let mut batch = PackedBatch::new();
            self.encode_into(&mut batch, texts)?;
            return Ok(batch);
        }
        let parts = in_order(blocks, threads, |block| {
            let mut batch = PackedBatch::new();
            let texts = texts.chunks(BLOCK).nth(block).unwrap_or_default();
            self.encode_into(&mut batch, texts).map(|()| batch)
        });
        let mut whole = PackedBatch::new();
        for (block, part) in parts.into_iter().enumerate() {
            let part = part.map_err(|error| later(error, block * BLOCK))?;
            for text in 0..part.texts() {
                whole.push(part.text(text).unwrap_or_default());
            }
        }
        Ok(whole)
    }

    fn special_tokens(&self) -> usize {
        self.before.len() + self.after.len()
    }

    /// Puts the ids of a text into the scratch memory.
    fn encode_one(&self, text: &str, scratch: &mut Scratch) -> Result<(), String> {
        let Scratch {
            tokens,
            ids,
            prompted,
        } = scratch;
        let mut text = text;
        if !self.prompt.is_empty() {
            prompted.clear();
            prompted.push_str(&self.prompt);
            prompted.push_str(text);
            text = prompted;
        }
        let most = self.max_length - self.special_tokens();
        let text = self.cut.cut(text, most);
        let text = match self.lowercase {
            true => Cow::Owned(text.to_lowercase()),
            false => Cow::Borrowed(text),
        };
        tokens.clear();
        let encoded = self.pipeline.encode_into(&text, &self.options, tokens);
        encoded.map_err(|failure| failure.to_string())?;
        tokens.truncate(most);
        ids.clear();
        ids.extend_from_slice(&self.before);
        ids.extend_from_slice(PipelineToken::cast_slice(tokens));
        ids.extend_from_slice(&self.after);
        Ok(())
    }
}

/// Counts the text of an error from the first text of all.
fn later(error: Error, before: usize) -> Error {
    match error {
        Error::Tokenize { text, reason } => Error::Tokenize {
            text: before + text,
            reason,
        },
        other => other,
    }
}

/// Memory that is used again from text to text.
#[derive(Default)]
struct Scratch {
    tokens: Vec<PipelineToken>,
    ids: Vec<u32>,
    prompted: String,
}

/// Returns the options under which the pipeline adds nothing to a text's own tokens and removes none.
fn own_tokens() -> EncodeOptions {
    EncodeOptions {
        add_special_tokens: false,
        encode_special_tokens: false,
        padding: Override::Off,
        truncation: Override::Off,
    }
}

impl fmt::Debug for Tokenizer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Tokenizer")
            .field("max_length", &self.max_length)
            .field("vocabulary", &self.vocabulary)
            .field("lowercase", &self.lowercase)
            .field("prompt", &self.prompt)
            .finish_non_exhaustive()
    }
}

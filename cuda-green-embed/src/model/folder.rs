//! The folder of a model.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
};

use super::{
    config::BertConfig,
    json::{self, JsonFile},
    modules::{Modules, Pooling},
    weight_file::WeightFile,
    weights::BertWeights,
};
use crate::{error::Result, tokenize::Tokenizer};

/// A model's folder as Hugging Face and sentence-transformers lay it out, with all but the tokeniser and the weights
/// read and checked.
///
/// | file | content |
/// |---|---|
/// | `config.json` | the sizes |
/// | `tokenizer.json` | the tokeniser |
/// | `model.safetensors` | the weights, `F32`, `F16` or `BF16` |
/// | `modules.json`, `1_Pooling/config.json` | pooling by mean or `[CLS]`, normalising or not |
/// | `sentence_bert_config.json`, `tokenizer_config.json` | the most tokens in a text |
/// | `config_sentence_transformers.json` | prompts |
///
/// Without `modules.json` it is a plain Hugging Face model, for which sentence-transformers takes the mean of the tokens
/// and does not normalise; so does this crate. The first three must be there.
///
/// ```no_run
/// use cuda_green_embed::ModelFolder;
///
/// # fn main() -> cuda_green_embed::Result<()> {
/// let folder = ModelFolder::open("all-MiniLM-L6-v2")?;
/// let tokenizer = folder.tokenizer()?.with_prompt(folder.default_prompt().unwrap_or_default());
/// let batch = tokenizer.encode_batch(&["A man is eating food.", "Two dogs play."], 4)?;
/// assert_eq!(batch.texts(), 2);
/// let weights = folder.weights()?;
/// println!("{} layers", weights.layers.len());
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Debug)]
pub struct ModelFolder {
    path: PathBuf,
    transformer: PathBuf,
    config: BertConfig,
    pooling: Pooling,
    normalize: bool,
    lowercase: bool,
    max_length: usize,
    prompts: BTreeMap<String, String>,
    default_prompt: Option<String>,
}

impl ModelFolder {
    /// Reads a folder's configuration.
    ///
    /// # Errors
    /// [`Error::File`](crate::Error::File) for a file that is missing, is not JSON, or says what cannot be;
    /// [`Error::UnsupportedModel`](crate::Error::UnsupportedModel) for a model of another kind.
    pub fn open(path: impl AsRef<Path>) -> Result<Self> {
        let path = path.as_ref();
        if !path.is_dir() {
            return Err(json::error(
                path,
                "not a folder; a model's folder holds config.json",
            ));
        }
        let modules = Modules::read(path, |transformer| {
            Ok(read_config(&path.join(transformer))?.hidden_size)
        })?;
        let transformer = path.join(&modules.transformer);
        let config = read_config(&transformer)?;
        let sentence = JsonFile::read_if_present(transformer.join("sentence_bert_config.json"))?;
        let (max_length, lowercase) = match &sentence {
            Some(file) => (
                file.members().size("max_seq_length", usize::MAX)?,
                file.members().boolean("do_lower_case")?.unwrap_or(false),
            ),
            None => (None, false),
        };
        let max_length = match max_length {
            Some(length) => length,
            None => tokenizer_length(&transformer)?.unwrap_or(usize::MAX),
        };
        // Two are the special tokens.
        let max_length = max_length.min(config.positions);
        if max_length < 3 {
            let reason = format!("texts of {max_length} tokens have no place for one of their own");
            return Err(json::error(&transformer, reason));
        }
        let (prompts, default_prompt) = read_prompts(path)?;
        Ok(Self {
            path: path.to_owned(),
            transformer,
            config,
            pooling: modules.pooling,
            normalize: modules.normalize,
            lowercase,
            max_length,
            prompts,
            default_prompt,
        })
    }

    /// Returns the folder's path.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Returns the folder's own name, to tell models apart in reports.
    pub fn name(&self) -> String {
        let name = self.path.file_name().unwrap_or(self.path.as_os_str());
        name.to_string_lossy().into_owned()
    }

    /// Returns the model's sizes.
    pub fn config(&self) -> &BertConfig {
        &self.config
    }

    /// Returns the model's pooling.
    pub fn pooling(&self) -> Pooling {
        self.pooling
    }

    /// Returns whether the model's vectors are scaled to length 1.
    pub fn normalize(&self) -> bool {
        self.normalize
    }

    /// Returns whether texts are put into lower case before the tokeniser, which may do so itself.
    pub fn lowercase(&self) -> bool {
        self.lowercase
    }

    /// Returns the most tokens in a text, special ones included: what the model was trained for, or its number of
    /// positions if that is not said.
    pub fn max_length(&self) -> usize {
        self.max_length
    }

    /// Returns the prompts by name: what to put before a text of that kind, such as a query.
    pub fn prompts(&self) -> &BTreeMap<String, String> {
        &self.prompts
    }

    /// Returns the prompt to put before a text if nothing else is said.
    pub fn default_prompt(&self) -> Option<&str> {
        self.prompts
            .get(self.default_prompt.as_deref()?)
            .map(String::as_str)
    }

    /// Reads the tokeniser, which cuts texts to the model's [`max_length`](Self::max_length).
    ///
    /// # Errors
    /// As [`Tokenizer::from_file`]; [`Error::File`](crate::Error::File) if it has tokens that the model lacks.
    pub fn tokenizer(&self) -> Result<Tokenizer> {
        let path = self.transformer.join("tokenizer.json");
        let tokenizer = Tokenizer::from_file(&path, self.max_length)?;
        let (found, most) = (tokenizer.vocabulary(), self.config.vocabulary);
        if found > most {
            let reason = format!(
                "its ids go to {}, but config.json says {most} tokens",
                found - 1
            );
            return Err(json::error(&path, reason));
        }
        Ok(tokenizer.with_lowercase(self.lowercase))
    }

    /// Maps the file of weights into memory and finds each of the model's tensors in it, with the shape that the
    /// configuration says.
    ///
    /// The file must not be changed or truncated while the weights are in use, nor on any disk that can vanish: a read
    /// would see the change, or end the process (`SIGBUS`). Programs that update models write a new file and rename it,
    /// which is safe: the old one stays mapped.
    ///
    /// # Errors
    /// [`Error::File`](crate::Error::File) for a file that is missing or damaged; [`Error::Tensor`](crate::Error::Tensor)
    /// for a tensor that is missing, or has another shape or type.
    pub fn weights(&self) -> Result<BertWeights> {
        let file = WeightFile::open(&self.transformer)?;
        BertWeights::read(&file, &self.config)
    }
}

fn read_config(transformer: &Path) -> Result<BertConfig> {
    let file = JsonFile::read(transformer.join("config.json"))?;
    BertConfig::read(file.members())
}

/// Reads the tokeniser's own limit. Those without one say 10^30, as a whole number that no integer type holds.
fn tokenizer_length(transformer: &Path) -> Result<Option<usize>> {
    let Some(file) = JsonFile::read_if_present(transformer.join("tokenizer_config.json"))? else {
        return Ok(None);
    };
    let length = file.members().float("model_max_length")?;
    match length {
        Some(length) if length < 1.0 => {
            let reason = format!("`model_max_length`: expected 1 or more, found {length}");
            Err(json::error(file.path(), reason))
        }
        // Saturates.
        length => Ok(length.map(|length| length as usize)),
    }
}

fn read_prompts(folder: &Path) -> Result<(BTreeMap<String, String>, Option<String>)> {
    let path = folder.join("config_sentence_transformers.json");
    let Some(file) = JsonFile::read_if_present(path)? else {
        return Ok(Default::default());
    };
    let members = file.members();
    let mut prompts = BTreeMap::new();
    match members.get("prompts")? {
        None => {}
        Some(serde_json::Value::Object(entries)) => {
            for (name, text) in entries {
                let Some(text) = text.as_str() else {
                    return Err(members.refuse(format!("`prompts`: `{name}` is not a string")));
                };
                prompts.insert(name.clone(), text.to_owned());
            }
        }
        Some(_) => return Err(members.refuse("`prompts`: expected an object of strings")),
    }
    let default = members.string("default_prompt_name")?;
    if let Some(name) = default.filter(|name| !prompts.contains_key(*name)) {
        return Err(members.refuse(format!(
            "`default_prompt_name`: `{name}` is none of the prompts"
        )));
    }
    Ok((prompts, default.map(str::to_owned)))
}

//! The steps of a sentence-transformers model: `modules.json` and the pooling's configuration.

use std::path::{Component, Path};

use super::json::{JsonFile, Members};
use crate::error::Result;

/// The way from the states of a text's tokens to one vector.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pooling {
    /// The mean of all tokens, special ones included.
    Mean,
    /// The state of the first token, `[CLS]`.
    Cls,
}

/// The steps, and the folder of the first.
#[derive(Debug)]
pub(super) struct Modules {
    /// The folder of the transformer, relative to the model's; usually empty.
    pub(super) transformer: String,
    pub(super) pooling: Pooling,
    pub(super) normalize: bool,
}

const STEPS: &str = "Transformer, Pooling, and optionally Normalize, in this order";

impl Modules {
    /// Reads `modules.json` and the pooling's file. `hidden_size` is that of the transformer, once its folder is known.
    pub(super) fn read(
        folder: &Path,
        hidden_size: impl FnOnce(&str) -> Result<usize>,
    ) -> Result<Self> {
        let Some(file) = JsonFile::read_if_present(folder.join("modules.json"))? else {
            // A plain Hugging Face folder: sentence-transformers takes the mean then, and does not normalise.
            return Ok(Self {
                transformer: String::new(),
                pooling: Pooling::Mean,
                normalize: false,
            });
        };
        let mut steps = Vec::new();
        for element in file.elements()? {
            let Some(kind) = element.string("type")? else {
                return Err(element.absent("type"));
            };
            // The modules moved from one Python package to another; their names stayed.
            let name = kind.rsplit('.').next().unwrap_or(kind);
            let path = element.string("path")?.unwrap_or_default();
            let components = Path::new(path).components();
            for component in components {
                if !matches!(component, Component::Normal(_) | Component::CurDir) {
                    return Err(element.refuse(format!("path `{path}` leads out of the folder")));
                }
            }
            steps.push((name, path));
        }
        let names: Vec<_> = steps.iter().map(|(name, _)| *name).collect();
        let (transformer, pooling, normalize) = match steps.as_slice() {
            [("Transformer", transformer), ("Pooling", pooling)] => (*transformer, *pooling, false),
            [
                ("Transformer", transformer),
                ("Pooling", pooling),
                ("Normalize", _),
            ] => (*transformer, *pooling, true),
            _ => {
                let found = names.join(", ");
                return Err(file.members().unsupported("modules", found, STEPS));
            }
        };
        let hidden_size = hidden_size(transformer)?;
        let pooling = JsonFile::read(folder.join(pooling).join("config.json"))?;
        Ok(Self {
            transformer: transformer.to_owned(),
            pooling: read_pooling(pooling.members(), hidden_size)?,
            normalize,
        })
    }
}

/// The ways of pooling, by the names of their flags and by their short ones, and whether each is on by default.
const WAYS: [(&str, &str, bool); 6] = [
    ("pooling_mode_mean_tokens", "mean", true),
    ("pooling_mode_cls_token", "cls", false),
    ("pooling_mode_max_tokens", "max", false),
    (
        "pooling_mode_mean_sqrt_len_tokens",
        "mean_sqrt_len_tokens",
        false,
    ),
    ("pooling_mode_weightedmean_tokens", "weightedmean", false),
    ("pooling_mode_lasttoken", "lasttoken", false),
];

fn read_pooling(file: Members<'_>, hidden_size: usize) -> Result<Pooling> {
    for key in ["word_embedding_dimension", "embedding_dimension"] {
        let dimension = file.size(key, usize::MAX)?;
        if dimension.is_some_and(|dimension| dimension != hidden_size) {
            return Err(file.refuse(format!(
                "`{key}`: expected the model's hidden size {hidden_size}, found {}",
                dimension.unwrap_or_default()
            )));
        }
    }
    if file.boolean("include_prompt")? == Some(false) {
        return Err(file.unsupported("include_prompt", false, "true: the prompt's tokens count"));
    }
    let mut ways = Vec::new();
    match file.get("pooling_mode")? {
        None => {
            for (key, short, default) in WAYS {
                if file.boolean(key)?.unwrap_or(default) {
                    ways.push(short);
                }
            }
        }
        Some(serde_json::Value::Array(list)) => {
            let names = list.iter().map(|name| name.as_str().unwrap_or("?"));
            ways.extend(names);
        }
        Some(_) => ways.extend(file.string("pooling_mode")?),
    }
    match ways.as_slice() {
        ["mean"] => Ok(Pooling::Mean),
        ["cls"] => Ok(Pooling::Cls),
        [] => Err(file.unsupported("pooling_mode", "none", "`mean` or `cls`")),
        ways => Err(file.unsupported("pooling_mode", ways.join(" and "), "`mean` or `cls`")),
    }
}

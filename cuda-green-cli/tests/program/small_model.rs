//! The folder of a small model with random weights, and texts of its words.

use std::{fs, path::PathBuf};

use cuda_green_embed::model::{BertConfig, BertWeights};
use serde_json::{Map, json};
use tempfile::TempDir;

const WORDS: [&str; 12] = [
    "[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "one", "two", "three", "four", "five", "six",
    "seven",
];

pub struct SmallModel {
    folder: TempDir,
}

impl SmallModel {
    pub fn new() -> Self {
        let model = Self {
            folder: tempfile::tempdir().unwrap(),
        };
        let mut config = BertConfig::of(64, 2, 2);
        (config.vocabulary, config.positions) = (WORDS.len(), 64);
        config.intermediate_size = 128;
        let sizes = json!({
            "model_type": "bert", "hidden_size": config.hidden_size, "num_hidden_layers": config.layers,
            "num_attention_heads": config.heads, "intermediate_size": config.intermediate_size,
            "vocab_size": config.vocabulary, "max_position_embeddings": config.positions,
            "type_vocab_size": config.token_types, "layer_norm_eps": 1e-12,
        });
        fs::write(model.path("config.json"), sizes.to_string()).unwrap();
        let ids = WORDS.iter().zip(0..);
        let vocabulary: Map<_, _> = ids
            .map(|(word, id)| (word.to_string(), json!(id)))
            .collect();
        let special = |token: &str, id| json!({"id": token, "ids": [id], "tokens": [token]});
        let part = |kind: &str, name: &str| json!({kind: {"id": name, "type_id": 0}});
        let tokenizer = json!({
            "version": "1.0", "truncation": null, "padding": null, "decoder": null,
            "added_tokens": [],
            "normalizer": {
                "type": "BertNormalizer", "clean_text": true, "handle_chinese_chars": true,
                "strip_accents": null, "lowercase": true,
            },
            "pre_tokenizer": {"type": "BertPreTokenizer"},
            "post_processor": {
                "type": "TemplateProcessing",
                "single": [
                    part("SpecialToken", "[CLS]"), part("Sequence", "A"), part("SpecialToken", "[SEP]"),
                ],
                "pair": [part("Sequence", "A"), part("Sequence", "B")],
                "special_tokens": {"[CLS]": special("[CLS]", 2), "[SEP]": special("[SEP]", 3)},
            },
            "model": {
                "type": "WordPiece", "unk_token": "[UNK]", "continuing_subword_prefix": "##",
                "max_input_chars_per_word": 100, "vocab": vocabulary,
            },
        });
        fs::write(model.path("tokenizer.json"), tokenizer.to_string()).unwrap();
        fs::write(model.path("model.safetensors"), weights(&config)).unwrap();
        let texts: String = (0..30)
            .map(|text| WORDS[5..5 + 1 + text % 7].join(" ") + "\n")
            .collect();
        fs::write(model.path("texts.txt"), texts).unwrap();
        model
    }

    /// Returns the path of a file of it, or of the folder if the name is empty.
    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }
}

/// Returns the weights as safetensors: the header's length, the header, the values.
fn weights(config: &BertConfig) -> Vec<u8> {
    let (mut header, mut values) = (Map::new(), Vec::new());
    for tensor in BertWeights::random(config, 1).tensors() {
        let start = values.len();
        values.extend_from_slice(tensor.bytes());
        header.insert(
            tensor.name().to_owned(),
            json!({"dtype": "F32", "shape": tensor.shape(), "data_offsets": [start, values.len()]}),
        );
    }
    let header = serde_json::Value::from(header).to_string();
    let length = (header.len() as u64).to_le_bytes();
    [&length[..], header.as_bytes(), &values].concat()
}

//! Folders of models: what is read from whole ones, and the errors of the others.

use cuda_green_embed::{
    Error, ModelFolder, Pooling,
    model::{BertConfig, BertWeights, TensorType},
};
use half::{bf16, f16};
use proptest::prelude::*;
use safetensors::Dtype;
use serde_json::{Value, json};

use crate::support::{SmallModel, mini_lm, serialized};

/// Opens the folder and its weights.
fn load(model: &SmallModel) -> Result<(ModelFolder, BertWeights), Error> {
    let folder = ModelFolder::open(model.path())?;
    let weights = folder.weights()?;
    Ok((folder, weights))
}

/// Returns the error's text without the path of the folder.
fn refusal(model: &SmallModel) -> String {
    let error = load(model).map(|_| ()).unwrap_err();
    let folder = model.path().display().to_string();
    error.to_string().replace(&folder, "DIR")
}

#[test]
fn a_whole_folder_is_read() {
    let model = SmallModel::new();
    let (folder, weights) = load(&model).unwrap();
    assert_eq!(*folder.config(), model.config);
    assert_eq!(folder.config().head_size(), 4);
    assert_eq!(folder.pooling(), Pooling::Cls);
    assert!(folder.normalize());
    assert!(!folder.lowercase());
    assert_eq!(folder.max_length(), 10);
    assert_eq!(folder.prompts()["query"], "query: ");
    assert_eq!(folder.default_prompt(), Some("query: "));
    assert_eq!(folder.path(), model.path());
    let pairs = weights.tensors().zip(model.weights.tensors());
    for (read, made) in pairs {
        assert_eq!(read.name(), made.name());
        assert_eq!(read.shape(), made.shape());
        assert_eq!(read.dtype(), TensorType::F32);
        assert_eq!(read.to_f32(), made.to_f32());
    }
    assert_eq!(weights.tensors().count(), 5 + 2 * 16);
    assert_eq!(weights.layers[1].output.weight.shape(), [8, 20]);
}

#[test]
fn a_plain_folder_has_mean_pooling_and_no_norm() {
    let model = SmallModel::new();
    for file in [
        "modules.json",
        "sentence_bert_config.json",
        "config_sentence_transformers.json",
    ] {
        model.remove(file);
    }
    let folder = ModelFolder::open(model.path()).unwrap();
    assert_eq!(folder.pooling(), Pooling::Mean);
    assert!(!folder.normalize());
    assert_eq!(folder.max_length(), 12);
    assert_eq!(folder.default_prompt(), None);
}

#[test]
fn the_length_is_the_least_that_any_file_allows() {
    let model = SmallModel::new();
    let length = || ModelFolder::open(model.path()).unwrap().max_length();
    model.write("sentence_bert_config.json", &json!({"max_seq_length": 512}));
    assert_eq!(length(), 12);
    model.write(
        "sentence_bert_config.json",
        &json!({"max_seq_length": null}),
    );
    assert_eq!(length(), 12);
    model.write("tokenizer_config.json", &json!({"model_max_length": 9}));
    assert_eq!(length(), 9);
    let none = br#"{"model_max_length": 1000000000000000019884624838656}"#;
    model.write_bytes("tokenizer_config.json", none);
    assert_eq!(length(), 12);
    model.write("sentence_bert_config.json", &json!({"max_seq_length": 2}));
    assert!(refusal(&model).contains("2 tokens"));
}

#[test]
fn pooling_is_read_in_both_forms() {
    let model = SmallModel::new();
    let pooling = |content: Value| {
        model.write("1_Pooling/config.json", &content);
        let opened = ModelFolder::open(model.path()).map(|folder| folder.pooling());
        opened.map_err(|error| error.to_string())
    };
    assert_eq!(pooling(json!({"pooling_mode": "mean"})), Ok(Pooling::Mean));
    assert_eq!(pooling(json!({"pooling_mode": ["cls"]})), Ok(Pooling::Cls));
    assert_eq!(
        pooling(json!({"embedding_dimension": 8})),
        Ok(Pooling::Mean)
    );
    let refused = |content: Value, found: &str| {
        let error = pooling(content).unwrap_err();
        assert!(error.contains(found), "{error}");
        assert!(error.contains("1_Pooling"), "{error}");
    };
    refused(json!({"pooling_mode": "max"}), "`max`");
    refused(json!({"pooling_mode": ["cls", "mean"]}), "`cls and mean`");
    refused(json!({"pooling_mode": 3}), "expected a string, found 3");
    refused(json!({"pooling_mode": []}), "`none`");
    refused(json!({"pooling_mode_max_tokens": true}), "`mean and max`");
    refused(
        json!({"word_embedding_dimension": 9}),
        "hidden size 8, found 9",
    );
    refused(json!({"include_prompt": false}), "include_prompt");
    refused(json!([]), "expected an object");
}

#[test]
fn other_architectures_are_refused_by_name() {
    for (key, value, found) in [
        (
            "model_type",
            json!("xlm-roberta"),
            "model_type `xlm-roberta`",
        ),
        ("model_type", json!("new"), "model_type `new`"),
        ("model_type", json!(null), "`model_type` is missing"),
        (
            "architectures",
            json!(["JinaBertModel"]),
            "architectures `JinaBertModel`",
        ),
        ("hidden_act", json!("gelu_new"), "hidden_act `gelu_new`"),
        (
            "position_embedding_type",
            json!("relative_key"),
            "position_embedding_type `relative_key`",
        ),
        ("is_decoder", json!(true), "is_decoder `true`"),
        (
            "hidden_size",
            json!(0),
            "`hidden_size`: expected a whole number from 1 to 65536, found 0",
        ),
        (
            "hidden_size",
            json!(1u64 << 60),
            "found 1152921504606846976",
        ),
        ("hidden_size", json!(-8), "found -8"),
        ("hidden_size", json!("8"), "found \"8\""),
        ("hidden_size", json!(null), "`hidden_size` is missing"),
        (
            "num_attention_heads",
            json!(3),
            "3 does not divide `hidden_size` 8",
        ),
        ("num_hidden_layers", json!(1e300), "found 1e+300"),
        ("layer_norm_eps", json!(1e300), "from 0 to 1, found inf"),
        ("layer_norm_eps", json!(-1), "found -1"),
    ] {
        let model = SmallModel::new();
        let mut config = model.config_json();
        config[key] = value;
        model.write("config.json", &config);
        let text = refusal(&model);
        assert!(text.starts_with("DIR/config.json: "), "{text}");
        assert!(text.contains(found), "{text}");
    }
}

#[test]
fn other_modules_are_refused_by_name() {
    let model = SmallModel::new();
    let kinds = |kinds: &[&str]| {
        let steps = kinds
            .iter()
            .map(|kind| json!({"path": "1_Pooling", "type": kind}));
        model.write("modules.json", &Value::Array(steps.collect()));
        refusal(&model)
    };
    let text = kinds(&["a.Transformer", "a.Pooling", "a.Dense", "a.Normalize"]);
    assert!(
        text.contains("`Transformer, Pooling, Dense, Normalize`"),
        "{text}"
    );
    assert!(text.contains("supported: Transformer, Pooling"), "{text}");
    assert!(kinds(&["a.Transformer"]).contains("`Transformer`"));
    assert!(kinds(&[]).contains("modules"));
    model.write(
        "modules.json",
        &json!([{"path": "../..", "type": "Transformer"}]),
    );
    assert!(refusal(&model).contains("leads out of the folder"));
    model.write("modules.json", &json!({}));
    assert!(refusal(&model).contains("expected a list"));
}

#[test]
fn a_transformer_may_have_a_folder_of_its_own() {
    let model = SmallModel::new();
    model.write(
        "modules.json",
        &json!([
            {"path": "0_Transformer", "type": "sentence_transformers.models.Transformer"},
            {"path": "1_Pooling", "type": "sentence_transformers.models.Pooling"},
        ]),
    );
    assert!(refusal(&model).starts_with("DIR/0_Transformer/config.json: there is no such file"));
    model.write("0_Transformer/config.json", &model.config_json());
    model.write_bytes(
        "0_Transformer/model.safetensors",
        &serialized(&model.tensors()),
    );
    let (folder, _) = load(&model).unwrap();
    assert!(!folder.normalize());
    // The file in the outer folder is not the transformer's.
    assert_eq!(folder.max_length(), 12);
}

#[test]
fn what_is_no_folder_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let open = |path| ModelFolder::open(path).unwrap_err().to_string();
    assert!(open(folder.path().join("none")).contains("not a folder"));
    let text = open(folder.path().to_owned());
    assert!(
        text.ends_with("config.json: there is no such file"),
        "{text}"
    );
    std::fs::write(folder.path().join("config.json"), b"\xff\xfe").unwrap();
    let text = open(folder.path().to_owned());
    assert!(text.contains("not JSON"), "{text}");
    std::fs::write(folder.path().join("config.json"), b"[[[[").unwrap();
    assert!(open(folder.path().to_owned()).contains("not JSON"));
    std::fs::write(folder.path().join("config.json"), "[".repeat(100_000)).unwrap();
    assert!(open(folder.path().to_owned()).contains("recursion limit"));
}

#[test]
fn prompts_must_be_texts() {
    let model = SmallModel::new();
    let prompts = |content: Value| {
        model.write("config_sentence_transformers.json", &content);
        refusal(&model)
    };
    assert!(prompts(json!({"prompts": {"a": 1}})).contains("`a` is not a string"));
    assert!(prompts(json!({"prompts": ["a"]})).contains("expected an object of strings"));
    assert!(prompts(json!({"default_prompt_name": "b"})).contains("`b` is none of the prompts"));
}

#[test]
fn weights_of_each_type_are_read_under_each_name() {
    let model = SmallModel::new();
    let mut tensors = model.tensors();
    for (index, (dtype, _, bytes)) in tensors.values_mut().enumerate() {
        let values: Vec<f32> = (0..bytes.len() / 4)
            .map(|value| value as f32 / 4.0)
            .collect();
        (*dtype, *bytes) = match index % 3 {
            0 => (
                Dtype::F32,
                values
                    .iter()
                    .flat_map(|value| value.to_le_bytes())
                    .collect(),
            ),
            1 => {
                let values = values
                    .iter()
                    .map(|value| f16::from_f32(*value).to_le_bytes());
                (Dtype::F16, values.flatten().collect())
            }
            _ => {
                let values = values
                    .iter()
                    .map(|value| bf16::from_f32(*value).to_le_bytes());
                (Dtype::BF16, values.flatten().collect())
            }
        };
    }
    let renamed = |rename: &dyn Fn(&str) -> String| {
        let entries = tensors
            .iter()
            .map(|(name, tensor)| (rename(name), tensor.clone()));
        let mut renamed: crate::support::Tensors = entries.collect();
        // Tensors that this crate does not use are left alone, whatever their type.
        let more = (Dtype::I64, vec![1, 12], vec![0; 96]);
        renamed.insert("embeddings.position_ids".to_owned(), more);
        renamed
    };
    let old = |name: &str| {
        let name = name.replace("Norm.weight", "Norm.gamma");
        name.replace("Norm.bias", "Norm.beta")
    };
    for rename in [
        &str::to_owned as &dyn Fn(&str) -> String,
        &|name: &str| format!("bert.{name}"),
        &old,
    ] {
        model.write_weights(&renamed(rename));
        let (_, weights) = load(&model).unwrap();
        for tensor in weights.tensors() {
            let (value, step) = (tensor.to_f32()[5], tensor.len().min(6));
            assert_eq!((value, step), (1.25, 6), "{tensor:?}");
        }
        let mut types: Vec<_> = weights
            .tensors()
            .map(|tensor| tensor.dtype().bytes())
            .collect();
        types.sort_unstable();
        types.dedup();
        assert_eq!(types, [2, 4]);
    }
}

#[test]
fn a_tensor_that_is_not_as_the_configuration_says_is_named() {
    let model = SmallModel::new();
    let name = "encoder.layer.1.intermediate.dense.weight";
    let with = |change: &dyn Fn(&mut crate::support::Tensors)| {
        let mut tensors = model.tensors();
        change(&mut tensors);
        model.write_weights(&tensors);
        refusal(&model)
    };
    let start =
        format!("DIR/model.safetensors: tensor `{name}`: expected F32, F16 or BF16 [20, 8]");
    let missing = with(&|tensors| {
        tensors.remove(name);
    });
    assert_eq!(missing, format!("{start}, found none of that name"));
    let shape = with(&|tensors| tensors.get_mut(name).unwrap().1 = vec![8, 20]);
    assert_eq!(shape, format!("{start}, found F32 [8, 20]"));
    let dtype = with(&|tensors| tensors.get_mut(name).unwrap().0 = Dtype::I32);
    assert_eq!(dtype, format!("{start}, found I32 [20, 8]"));
    let empty = with(&|tensors| tensors.clear());
    assert!(
        empty.contains("tensor `embeddings.word_embeddings.weight`"),
        "{empty}"
    );
}

#[test]
fn other_files_of_weights_are_named() {
    let model = SmallModel::new();
    model.remove("model.safetensors");
    assert_eq!(
        refusal(&model),
        "DIR/model.safetensors: there is no such file"
    );
    model.write_bytes("pytorch_model.bin", b"");
    assert!(refusal(&model).contains("save the model as safetensors"));
    model.write_bytes("model.safetensors.index.json", b"");
    assert!(refusal(&model).contains("several files"));
    std::fs::create_dir(model.path().join("model.safetensors")).unwrap();
    assert!(refusal(&model).starts_with("DIR/model.safetensors: "));
}

/// Returns a file with this header and so many bytes behind it.
fn file_with(header: &str, bytes: usize) -> Vec<u8> {
    let mut file = (header.len() as u64).to_le_bytes().to_vec();
    file.extend_from_slice(header.as_bytes());
    file.resize(file.len() + bytes, 0);
    file
}

#[test]
fn lying_headers_are_errors() {
    let model = SmallModel::new();
    let whole = serialized(&model.tensors());
    let mut files = vec![
        Vec::new(),
        vec![0; 7],
        vec![0xff; 8],
        vec![0xff; 64],
        whole[..whole.len() - 1].to_vec(),
        [whole.as_slice(), &[0]].concat(),
        file_with("{}", 0),
        file_with("{}", 1),
        file_with("[]", 0),
    ];
    for (shape, start, end) in [
        (vec![1], 0, 8),
        (vec![2], 4, 12),
        (vec![u64::MAX / 4, 4], 0, 8),
        (vec![1 << 61], 0, 1 << 61),
        (vec![2], 8, 0),
        (vec![0], u64::MAX, u64::MAX),
    ] {
        let header = json!({
            "embeddings.word_embeddings.weight":
                {"dtype": "F32", "shape": shape, "data_offsets": [start, end]}
        });
        files.push(file_with(&header.to_string(), 8));
    }
    // Offsets whose sum is more than a number holds.
    let mut header = serde_json::Map::new();
    let length = (1u64 << 61) - 8;
    for tensor in 0..9 {
        let start = tensor * length;
        let end = if tensor == 8 {
            u64::MAX - 3
        } else {
            start + length
        };
        header.insert(
            tensor.to_string(),
            json!({"dtype": "U8", "shape": [end - start], "data_offsets": [start, end]}),
        );
    }
    files.push(file_with(&Value::Object(header).to_string(), 0));
    for (index, file) in files.iter().enumerate() {
        model.write_bytes("model.safetensors", file);
        let text = refusal(&model);
        assert!(
            text.starts_with("DIR/model.safetensors: "),
            "{index}: {text}"
        );
    }
}

#[test]
fn random_weights_have_the_models_shapes_and_follow_the_seed() {
    let mut config = BertConfig::mini_lm();
    config.layers = 1;
    config.vocabulary = 100;
    let weights = BertWeights::random(&config, 1);
    assert_eq!(weights.word_embeddings.shape(), [100, 384]);
    assert_eq!(weights.layers.len(), 1);
    let query = |weights: &BertWeights| weights.layers[0].query.weight.to_f32();
    let (same, other) = (
        BertWeights::random(&config, 1),
        BertWeights::random(&config, 2),
    );
    assert_eq!(query(&weights), query(&same));
    assert_ne!(query(&weights), query(&other));
    let values = query(&weights);
    let variance = values.iter().map(|value| value * value).sum::<f32>() / values.len() as f32;
    assert!((variance * 384.0 - 1.0).abs() < 0.02, "{variance}");
}

#[test]
fn mini_lm_is_read() {
    let Some(path) = mini_lm() else { return };
    let folder = ModelFolder::open(path).unwrap();
    assert_eq!(*folder.config(), BertConfig::mini_lm());
    assert_eq!(folder.pooling(), Pooling::Mean);
    assert!(folder.normalize());
    assert_eq!(folder.max_length(), 256);
    let weights = folder.weights().unwrap();
    let numbers: usize = weights.tensors().map(|tensor| tensor.len()).sum();
    // All 22,713,216 but for the pooler, which the sentence's vector does not use.
    assert_eq!(numbers, 22_713_216 - 384 * 385);
}

/// The files of the small model that are read.
const FILES: [&str; 6] = [
    "config.json",
    "modules.json",
    "1_Pooling/config.json",
    "sentence_bert_config.json",
    "config_sentence_transformers.json",
    "model.safetensors",
];

proptest! {
    #[test]
    fn a_damaged_file_is_an_error_or_still_a_model(
        file in 0..FILES.len(),
        changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..4),
        inserted in prop::option::of((any::<prop::sample::Index>(), "[0-9\\]\\[{}\",:-]{1,20}")),
        kept in prop::option::of(any::<prop::sample::Index>()),
    ) {
        let model = SmallModel::new();
        let path = model.path().join(FILES[file]);
        let mut content = std::fs::read(&path).unwrap();
        // The interesting part of the weights is their header.
        let head = content.len().min(4000);
        for (place, value) in changes {
            content[place.index(head)] = value;
        }
        if let Some((place, text)) = inserted {
            let place = place.index(head);
            content.splice(place..place, text.bytes());
        }
        if let Some(kept) = kept {
            content.truncate(kept.index(content.len()));
        }
        std::fs::write(&path, content).unwrap();
        match load(&model) {
            Ok((folder, weights)) => {
                prop_assert_eq!(weights.layers.len(), folder.config().layers);
                for tensor in weights.tensors() {
                    let length: usize = tensor.shape().iter().product();
                    prop_assert_eq!(tensor.to_f32().len(), length);
                }
            }
            Err(Error::File { .. } | Error::Tensor { .. } | Error::UnsupportedModel { .. }) => {}
            Err(other) => prop_assert!(false, "{}", other),
        }
    }
}

//! The reference encoder.

use cuda_green_embed::{
    CpuEncoder, Embeddings, Encoder, Error, ModelFolder, PackedBatch, Pooling,
    model::{BertConfig, BertWeights},
};
use proptest::prelude::*;

use crate::support::{SmallModel, glosses, known_vectors, mini_lm, small_config};

/// The first values of all-MiniLM-L6-v2's vector of "A man is eating food.", by sentence-transformers.
const GOLDEN: [f32; 6] = [
    0.033_241_548,
    0.004_406_076,
    -0.006_276_969,
    0.048_378_62,
    -0.138_702_2,
    -0.033_617_303,
];

#[test]
fn mini_lm_gives_the_vector_of_sentence_transformers() {
    let Some(path) = mini_lm() else { return };
    let folder = ModelFolder::open(path).unwrap();
    let tokenizer = folder.tokenizer().unwrap();
    let encoder = CpuEncoder::open(&folder).unwrap();
    let batch = tokenizer
        .encode_batch(&["A man is eating food."], 1)
        .unwrap();
    let vectors = encoder.encode(&batch).unwrap();
    for (value, golden) in vectors.values().iter().zip(GOLDEN) {
        assert!((value - golden).abs() < 1e-6, "{value} {golden}");
    }
}

#[test]
fn hostile_texts_have_the_vectors_of_sentence_transformers() {
    let Some(path) = mini_lm() else { return };
    let folder = ModelFolder::open(path).unwrap();
    let known = known_vectors();
    let texts: Vec<_> = known.iter().map(|known| &known.text).collect();
    let batch = folder.tokenizer().unwrap().encode_batch(&texts, 2).unwrap();
    let vectors = CpuEncoder::open(&folder).unwrap().encode(&batch).unwrap();
    assert_eq!(vectors.len(), known.len());
    for (index, known) in known.iter().enumerate() {
        let start: String = known.text.chars().take(40).collect();
        assert_eq!(batch.text(index).unwrap().len(), known.tokens, "{start:?}");
        for (value, wanted) in vectors.get(index).unwrap().iter().zip(&known.start) {
            assert!((value - wanted).abs() < 1e-6, "{start:?}: {value} {wanted}");
        }
    }
}

#[test]
fn real_glosses_have_one_vector_in_any_batch() {
    let (Some(path), Some(glosses)) = (mini_lm(), glosses()) else {
        return;
    };
    let folder = ModelFolder::open(path).unwrap();
    let tokenizer = folder.tokenizer().unwrap();
    let encoder = CpuEncoder::open(&folder).unwrap();
    let some: Vec<_> = glosses.into_iter().step_by(3000).collect();
    let batch = tokenizer.encode_batch(&some, 1).unwrap();
    let whole = encoder.encode(&batch).unwrap();
    assert_eq!(whole.len(), 40);
    for index in [0, 1, some.len() - 1] {
        let alone = tokenizer.encode_batch(&some[index..=index], 1).unwrap();
        assert_eq!(encoder.encode(&alone).unwrap().get(0), whole.get(index));
    }
}

/// Returns an encoder of the small model's sizes.
fn small(pooling: Pooling, normalize: bool) -> CpuEncoder {
    let config = small_config();
    let weights = BertWeights::random(&config, 7);
    CpuEncoder::new(&config, &weights, pooling, normalize)
}

fn length(vector: &[f32]) -> f32 {
    vector.iter().map(|value| value * value).sum::<f32>().sqrt()
}

#[test]
fn pooling_and_normalising_are_of_the_last_states() {
    let batch = PackedBatch::from_iter([vec![2, 5, 6, 3], vec![2, 3]]);
    let states = small(Pooling::Cls, false).states(&batch, 2).unwrap();
    let states: Vec<_> = states.chunks(8).collect();
    let vectors = |pooling, normalize| small(pooling, normalize).encode(&batch).unwrap();
    let cls = vectors(Pooling::Cls, false);
    assert_eq!(cls.iter().collect::<Vec<_>>(), [states[0], states[4]]);
    let mean = vectors(Pooling::Mean, false);
    for value in 0..8 {
        let expected = states[..4].iter().map(|state| state[value]).sum::<f32>() / 4.0;
        assert!((mean.values()[value] - expected).abs() < 1e-6);
    }
    let normal = vectors(Pooling::Mean, true);
    for (normal, mean) in normal.iter().zip(mean.iter()) {
        assert!((length(normal) - 1.0).abs() < 1e-6);
        for (normal, mean_value) in normal.iter().zip(mean) {
            assert!((normal * length(mean) - mean_value).abs() < 1e-6);
        }
    }
}

#[test]
fn states_before_any_layer_are_the_normalised_embeddings() {
    let config = small_config();
    let weights = BertWeights::random(&config, 7);
    let encoder = CpuEncoder::new(&config, &weights, Pooling::Cls, false);
    let batch = PackedBatch::from_iter([[5], [6]]);
    let states = encoder.states(&batch, 0).unwrap();
    let (word, position) = (
        weights.word_embeddings.to_f32(),
        weights.position_embeddings.to_f32(),
    );
    let (kind, norm) = (
        weights.token_type_embeddings.to_f32(),
        &weights.embedding_norm,
    );
    let sum: Vec<f32> = (0..8)
        .map(|value| word[6 * 8 + value] + position[value] + kind[value])
        .collect();
    let mean = sum.iter().sum::<f32>() / 8.0;
    let variance = sum.iter().map(|value| (value - mean).powi(2)).sum::<f32>() / 8.0;
    let (scale, shift) = (norm.weight.to_f32(), norm.bias.to_f32());
    for value in 0..8 {
        let expected = (sum[value] - mean) / variance.sqrt() * scale[value] + shift[value];
        assert!((states[8 + value] - expected).abs() < 1e-5);
    }
}

#[test]
fn batches_that_do_not_fit_are_refused() {
    let encoder = small(Pooling::Mean, true);
    let refusal = |texts: &[Vec<u32>]| encoder.encode(&PackedBatch::from_iter(texts)).unwrap_err();
    match refusal(&[vec![2, 3], vec![2, 5, 16, 3], vec![99]]) {
        Error::UnknownToken {
            text: 1,
            token: 16,
            vocabulary: 16,
        } => {}
        other => panic!("{other}"),
    }
    match refusal(&[vec![2, 3], vec![], vec![2]]) {
        Error::EmptyText { text: 1 } => {}
        other => panic!("{other}"),
    }
    match refusal(&[vec![2; 12], vec![2; 13]]) {
        Error::BatchTooLarge {
            unit: "tokens in one text",
            asked: 13,
            limit: 12,
        } => {}
        other => panic!("{other}"),
    }
    assert!(encoder.encode(&PackedBatch::new()).unwrap().is_empty());
}

#[test]
fn vectors_that_are_not_finite_are_an_error_that_names_the_text() {
    let model = SmallModel::new();
    let mut tensors = model.tensors();
    let word = tensors
        .get_mut("embeddings.word_embeddings.weight")
        .unwrap();
    word.2[5 * 8 * 4..][..4].copy_from_slice(&f32::NAN.to_le_bytes());
    model.write_weights(&tensors);
    let folder = ModelFolder::open(model.path()).unwrap();
    let encoder = CpuEncoder::open(&folder).unwrap();
    let batch = PackedBatch::from_iter([vec![2, 3], vec![2, 5, 3]]);
    match encoder.encode(&batch) {
        Err(Error::Overflow {
            text: 1,
            precision: "f32",
        }) => {}
        other => panic!("{other:?}"),
    }
}

#[test]
fn weights_of_true_shapes_keep_their_range_through_all_layers() {
    let config = BertConfig::bge_small();
    let weights = BertWeights::random(&config, 1);
    let encoder = CpuEncoder::new(&config, &weights, Pooling::Mean, false);
    let batch = PackedBatch::from_iter([(1000..1016).collect::<Vec<u32>>()]);
    let states = encoder.states(&batch, 12).unwrap();
    assert!(states.iter().all(|value| value.abs() < 10.0));
    let vector = encoder.encode(&batch).unwrap();
    assert!(length(vector.values()) > 1.0);
}

fn batches() -> impl Strategy<Value = Vec<Vec<u32>>> {
    prop::collection::vec(prop::collection::vec(0u32..16, 1..12), 1..60)
}

proptest! {
    #[test]
    fn any_split_and_order_of_a_batch_gives_the_same(
        texts in batches(),
        at in any::<prop::sample::Index>(),
        mean in any::<bool>(),
    ) {
        let encoder = small(if mean { Pooling::Mean } else { Pooling::Cls }, true);
        let encode = |texts: &[Vec<u32>]| -> Embeddings {
            encoder.encode(&PackedBatch::from_iter(texts)).unwrap()
        };
        let whole = encode(&texts);
        prop_assert_eq!((whole.len(), whole.dimension()), (texts.len(), 8));
        for (vector, text) in whole.iter().zip(&texts) {
            let alone = encode(std::slice::from_ref(text));
            prop_assert_eq!(vector, alone.values());
        }
        let (left, right) = texts.split_at(at.index(texts.len()));
        let parts = [encode(left).into_values(), encode(right).into_values()].concat();
        prop_assert_eq!(whole.values(), parts);
        let reversed: Vec<_> = texts.into_iter().rev().collect();
        let reversed = encode(&reversed);
        for (index, vector) in whole.iter().enumerate() {
            prop_assert_eq!(Some(vector), reversed.get(whole.len() - 1 - index));
        }
    }
}

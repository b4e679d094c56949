//! Texts to vectors in order, whatever their number and lengths.

use cuda_green_embed::{BulkEmbedder, Encoder, Error, ModelFolder, PackedBatch};
use proptest::prelude::*;

use crate::{fake_encoder::FakeEncoder, support::SmallModel};

/// Texts of the small model's words, of no token up to more than a text may have.
fn texts() -> impl Strategy<Value = Vec<String>> {
    let word = prop::sample::select(vec!["a", "b", "ab", "c!", "", " ", "zzzzzzzzzzzzzzz"]);
    let text = prop::collection::vec(word, 0..8).prop_map(|words| words.join(" "));
    prop::collection::vec(text, 0..60)
}

proptest! {
    #[test]
    fn each_text_gets_its_vector_in_order(texts in texts(), threads in 1usize..4) {
        let model = SmallModel::new();
        let tokenizer = ModelFolder::open(model.path()).unwrap().tokenizer().unwrap();
        let encoder = FakeEncoder::new();
        let mut delivered = Vec::new();
        BulkEmbedder::new(&tokenizer, &encoder)
            .threads(threads)
            .embed(&texts, |text, vector| {
                assert_eq!(text, delivered.len());
                delivered.push(vector.to_vec());
                Ok(())
            })
            .unwrap();
        let one_by_one = texts.iter().map(|text| {
            let mut batch = PackedBatch::new();
            batch.push(&tokenizer.encode(text).unwrap());
            encoder.encode(&batch).unwrap().into_values()
        });
        prop_assert_eq!(delivered, one_by_one.collect::<Vec<_>>());
    }
}

#[test]
fn an_error_counts_from_the_first_of_all_texts() {
    let model = SmallModel::new();
    let tokenizer = ModelFolder::open(model.path())
        .unwrap()
        .tokenizer()
        .unwrap();
    // Its batches have 8 texts at most, so this is in the third or later.
    let overflow = |_| {
        Err(Error::Overflow {
            text: 1,
            precision: "f16",
        })
    };
    let encoder = FakeEncoder::new().on_wait(move |number| match number {
        2 => overflow(()),
        _ => Ok(()),
    });
    let texts = vec!["a"; 100];
    let mut delivered = 0;
    let result = BulkEmbedder::new(&tokenizer, &encoder).embed(texts, |_, _| {
        delivered += 1;
        Ok(())
    });
    let Err(Error::Overflow { text, .. }) = result else {
        panic!("{result:?}");
    };
    assert_eq!(text, delivered + 1);
    assert_eq!(delivered, 16);
}

#[test]
fn what_the_receiver_refuses_ends_it() {
    let model = SmallModel::new();
    let tokenizer = ModelFolder::open(model.path())
        .unwrap()
        .tokenizer()
        .unwrap();
    let encoder = FakeEncoder::new();
    // Endless, so it must not be read to its end.
    let result = BulkEmbedder::new(&tokenizer, &encoder).embed(
        std::iter::repeat("a"),
        |text, _| match text {
            20 => Err(Error::EncoderBroken),
            _ => Ok(()),
        },
    );
    assert!(matches!(result, Err(Error::EncoderBroken)), "{result:?}");
}

//! The stages: their order, and their failures.

use std::sync::{Arc, Mutex};

use cuda_green_embed::{
    Concatenate, EmbeddingPipeline, Error, Fuse, Lane, Scrub, StageError, WeightedMean,
};
use proptest::prelude::*;

use super::{one, refused, service, vector};
use crate::service::block_on;

#[test]
fn stages_run_in_the_order_of_a_request() {
    let seen = Arc::new(Mutex::new(Vec::new()));
    let note = |what: &'static str| {
        let seen = Arc::clone(&seen);
        move |text: &str| seen.lock().unwrap().push(format!("{what} {text}"))
    };
    let (first, second, taken) = (note("first"), note("second"), note("taken"));
    let fused = note("fused");
    let pipeline = one()
        .scrub(move |text: &str| {
            first(text);
            text.replace('x', "1")
        })
        .scrub(move |text: &str| {
            second(text);
            text.replace('y', "2")
        })
        .fuse(move |vectors: &[&[f32]]| {
            fused(&vectors.len().to_string());
            vectors.concat().iter().map(|value| value * 10.0).collect()
        })
        .deliver(move |text: &str, vector: &[f32]| {
            taken(&format!("{text} {vector:?}"));
            Ok(())
        })
        .build()
        .unwrap();
    let found = pipeline.embed("x y").wait().unwrap();
    assert_eq!(found, [20.0, 30.0, 50.0]);
    assert_eq!(
        *seen.lock().unwrap(),
        [
            "first x y",
            "second 1 y",
            "fused 1",
            "taken 1 2 [20.0, 30.0, 50.0]"
        ]
    );
}

/// Refuses, panics, or does nothing, as the text says.
struct Moody;

impl Scrub for Moody {
    fn scrub(&self, text: &str) -> Result<String, StageError> {
        assert!(!text.contains("scrub panics"), "as asked");
        match text.contains("scrub refuses") {
            true => Err("as asked".into()),
            false => Ok(text.replace(" scrubbed", "")),
        }
    }
}

#[test]
fn a_text_that_a_stage_refuses_fails_alone() {
    let pipeline = one()
        .scrub(Moody)
        .fuse(|vectors: &[&[f32]]| {
            assert_ne!(*vectors[0], vector(&[3, 3]), "as asked");
            vectors.concat()
        })
        .deliver(|text: &str, _: &[f32]| match text {
            "4 4" => refused("as asked"),
            "5 5" => panic!("as asked"),
            _ => Ok(()),
        })
        .build()
        .unwrap();
    let texts = [
        "1 scrubbed",
        "scrub panics",
        "scrub refuses",
        "no number",
        "3 3",
        "4 4",
        "5 5",
        "6",
    ];
    let check = |results: Vec<Result<Vec<f32>, Error>>| {
        let text = |index: usize| results[index].as_ref().unwrap_err().to_string();
        assert_eq!(*results[0].as_ref().unwrap(), vector(&[1]));
        assert_eq!(text(1), "scrub panicked: as asked");
        assert_eq!(text(2), "scrub: as asked");
        // Counted in the caller's list, though the model was given fewer.
        assert_eq!(text(3), "text 3 cannot be tokenised: `no` is no number");
        assert!(text(4).starts_with("fuse panicked: "), "{}", text(4));
        assert_eq!(text(5), "deliver: as asked");
        assert_eq!(text(6), "deliver panicked: as asked");
        assert_eq!(*results[7].as_ref().unwrap(), vector(&[6]));
    };
    for lane in Lane::ALL {
        check(pipeline.lane(lane).embed_batch(&texts).wait().unwrap());
        check(block_on(pipeline.lane(lane).embed_batch(&texts)).unwrap());
    }
    let status = pipeline.status();
    assert_eq!((status.done, status.failed), (8, 24));
    assert_eq!(status.to_string(), "one: 8 done, 24 failed; no cache");
}

#[test]
fn what_cannot_work_is_refused_when_the_pipeline_is_built() {
    let refusal =
        |builder: cuda_green_embed::PipelineBuilder| builder.build().unwrap_err().to_string();
    assert_eq!(
        refusal(EmbeddingPipeline::builder()),
        "models is none: a pipeline has at least one"
    );
    assert_eq!(
        refusal(one().service("one", service().0)),
        "model is one: another model has that name"
    );
    assert_eq!(
        refusal(one().fuse(WeightedMean::new([1.0, 2.0]).unwrap())),
        "fuse: there are 2 weights for 1 models"
    );
    for weights in [
        vec![],
        vec![0.0],
        vec![1.0, -0.5],
        vec![f32::NAN],
        vec![f32::INFINITY],
    ] {
        let refused = WeightedMean::new(weights);
        assert!(matches!(
            refused,
            Err(Error::InvalidOption {
                name: "weights",
                ..
            })
        ));
    }
}

#[test]
fn vectors_of_other_dimensions_have_no_mean() {
    let mean = WeightedMean::new([1.0, 1.0]).unwrap();
    let error = mean.fuse(&[&[1.0, 2.0], &[1.0]]).unwrap_err();
    assert_eq!(error.to_string(), "vectors of [2, 1] values have no mean");
}

proptest! {
    #[test]
    fn fusions_are_what_they_say(
        weights in prop::collection::vec(0.0f32..10.0, 1..6),
        dimension in 0usize..6,
        values in prop::collection::vec(-100.0f32..100.0, 36),
    ) {
        prop_assume!(weights.iter().sum::<f32>() > 0.1);
        let vectors: Vec<&[f32]> = (0..weights.len())
            .map(|model| &values[model * dimension..(model + 1) * dimension])
            .collect();
        let mean = WeightedMean::new(weights.iter().copied()).unwrap().fuse(&vectors).unwrap();
        prop_assert_eq!(mean.len(), dimension);
        let sum: f64 = weights.iter().copied().map(f64::from).sum();
        for (at, found) in mean.iter().enumerate() {
            let terms = weights.iter().zip(&vectors);
            let terms = terms.map(|(weight, vector)| f64::from(*weight) * f64::from(vector[at]));
            let expected = terms.sum::<f64>() / sum;
            prop_assert!((f64::from(*found) - expected).abs() < 1e-4, "{} {}", found, expected);
        }
        let all = Concatenate.fuse(&vectors).unwrap();
        prop_assert_eq!(all, &values[..weights.len() * dimension]);
    }
}

//! What a library refuses, and that a load that fails leaves it as it was.

use std::{
    future::Future,
    pin::Pin,
    sync::{Arc, Mutex, mpsc},
    task::{Context, Poll, Wake, Waker},
};

use cuda_green_embed::{
    ElasticOptions, EncoderOptions, Error, Lane, ModelLibrary, ModelSpec, ModelState,
};

use super::{Models, options};
use crate::fake_encoder::ends;

#[test]
fn an_unknown_name_is_answered_with_all_names() {
    let models = Models::new(2);
    let library = models.library(1);
    let error = library.get(Some("model-7")).unwrap_err();
    assert_eq!(
        error.to_string(),
        "there is no model `model-7`; there are: model-0, model-1"
    );
    for refused in [
        library.pin("x").map(|_| 0),
        library.unpin("x").map(|_| 0),
        library.evict("x"),
        library.get_loaded(Some("x")).map(|_| 0),
    ] {
        assert!(
            matches!(refused, Err(Error::NoSuchModel { .. })),
            "{refused:?}"
        );
    }
    let refused = models.builder().default_model("x").build();
    assert!(
        matches!(refused, Err(Error::NoSuchModel { .. })),
        "{refused:?}"
    );
}

#[test]
fn what_cannot_work_is_refused_when_the_library_is_built() {
    let models = Models::new(2);
    let refusal = |build: Result<ModelLibrary, Error>| build.unwrap_err().to_string();
    let none = ModelLibrary::builder(models.manager()).build();
    assert_eq!(refusal(none), "models is none: a library has at least one");
    let twice = models
        .builder()
        .model(ModelSpec::new("model-1", models.folders[0].path()));
    assert_eq!(
        refusal(twice.build()),
        "model is model-1: another model has that name"
    );
    let bytes = models.bytes();
    let small = models.builder().budget(bytes - 1).build();
    assert_eq!(
        refusal(small),
        format!(
            "model is model-0: it takes {bytes} bytes, and the budget is {}; smaller batches take less",
            bytes - 1
        )
    );
    let nowhere = models
        .builder()
        .model(ModelSpec::new("it", "nowhere"))
        .build();
    assert!(matches!(nowhere, Err(Error::File { .. })));
    let short = EncoderOptions::default().max_tokens(4);
    let short = options().encoder(Lane::Bulk, short);
    let spec = ModelSpec::new("it", models.folders[0].path()).options(short);
    let short = models.builder().model(spec).build();
    assert!(matches!(
        short,
        Err(Error::InvalidOption {
            name: "max_tokens",
            ..
        })
    ));
}

#[test]
fn only_the_lanes_of_one_model_are_elastic() {
    let models = Models::new(1);
    let elastic = || {
        let options = options().elastic(ElasticOptions::default());
        ModelSpec::new("elastic", models.folders[0].path()).options(options)
    };
    let refused = models.builder().model(elastic()).build().unwrap_err();
    assert!(refused.to_string().contains("elastic, which"), "{refused}");
    let alone = ModelLibrary::builder(models.manager()).model(elastic());
    let alone = alone.build().unwrap().get(None).unwrap();
    let status = alone.status();
    assert_eq!(
        status.elastic.unwrap().off,
        None,
        "divided for elastic lanes"
    );
}

#[test]
fn a_load_that_fails_evicts_nobody_and_the_next_one_works() {
    let models = Models::new(3);
    let library = models.library(2);
    drop(library.get(Some("model-0")).unwrap());
    drop(library.get(Some("model-1")).unwrap());
    let broken = &models.folders[2];
    for file in ["model.safetensors", "tokenizer.json", "config.json"] {
        let whole = std::fs::read(broken.path().join(file)).unwrap();
        for content in [None, Some(&b"{"[..])] {
            match content {
                None => broken.remove(file),
                Some(content) => broken.write_bytes(file, content),
            }
            let error = library.get(Some("model-2")).unwrap_err();
            assert!(matches!(error, Error::File { .. }), "{file}: {error}");
        }
        broken.write_bytes(file, &whole);
    }
    let status = library.status();
    assert_eq!(status.evictions, 0);
    assert_eq!(status.models[0].state, ModelState::Loaded);
    let vector = library.get(Some("model-2")).unwrap().embed("a").wait();
    models.assert_is(2, "a", &vector.unwrap());
    let status = library.status();
    assert_eq!(status.models[0].state, ModelState::Unloaded);
    assert!(library.get_loaded(Some("model-0")).unwrap().is_none());
    assert!(library.get_loaded(Some("model-1")).unwrap().is_some());
}

#[test]
fn a_model_in_use_is_not_evicted_and_the_error_says_what_is_held() {
    let models = Models::new(3);
    let library = models.library(1);
    let future = library.get(None).unwrap().embed("a");
    let error = library.get(Some("model-1")).unwrap_err();
    let Error::Gpu(cuda_green::Error::NoRoomForModel { held, .. }) = error else {
        panic!("{error}");
    };
    assert_eq!(held, models.bytes());
    models.assert_is(0, "a", &future.wait().unwrap());
    library.get(Some("model-1")).unwrap();
    library.pin("model-1").unwrap();
    assert!(library.get(Some("model-2")).is_err());
    library.unpin("model-1").unwrap();
    library.get(Some("model-2")).unwrap();
}

/// A waker that asks for models, and tells which it got.
struct Asks(Arc<ModelLibrary>, Mutex<mpsc::Sender<(bool, bool)>>);

impl Wake for Asks {
    fn wake(self: Arc<Self>) {
        let loaded = self.0.get(Some("model-0")).is_ok();
        let refused = matches!(self.0.get(Some("model-1")), Err(Error::LoadInWaker));
        self.1.lock().unwrap().send((loaded, refused)).unwrap();
    }
}

#[test]
fn a_waker_gets_loaded_models_only() {
    ends(|| {
        let models = Models::new(2);
        let library = Arc::new(models.library(2));
        let (tell, told) = mpsc::channel();
        let asks = Arc::new(Asks(Arc::clone(&library), Mutex::new(tell)));
        let waker = Waker::from(asks);
        let mut context = Context::from_waker(&waker);
        let mut future = library.get(None).unwrap().embed("a");
        // Nobody else waits for the GPU, so the lane's thread does once this was polled.
        assert!(Pin::new(&mut future).poll(&mut context).is_pending());
        assert_eq!(told.recv(), Ok((true, true)));
        let Poll::Ready(vector) = Pin::new(&mut future).poll(&mut context) else {
            panic!("it was woken");
        };
        models.assert_is(0, "a", &vector.unwrap());
    });
}

//! A library used by several threads.

use std::{
    sync::atomic::{AtomicUsize, Ordering},
    thread,
};

use cuda_green_embed::{Error, ModelState};

use super::{MODELS, Models, name};
use crate::fake_encoder::ends;

#[test]
fn threads_that_ask_for_more_than_fits_get_the_right_vectors() {
    const THREADS: usize = 4;
    let (models, library) = ends(|| {
        let models = Models::new(MODELS);
        let library = models.library(3);
        let refused = AtomicUsize::new(0);
        thread::scope(|scope| {
            for thread in 0..THREADS {
                let (models, library, refused) = (&models, &library, &refused);
                scope.spawn(move || {
                    for round in 0..12 {
                        // Another order in each thread, and each asks for some twice.
                        let model = (round * (2 * thread + 3) + thread) % (MODELS - thread);
                        match library.get(Some(&name(model))) {
                            Ok(handle) => {
                                let futures =
                                    ["a", "b", "c d"].map(|text| (text, handle.embed(text)));
                                drop(handle);
                                for (text, future) in futures {
                                    models.assert_is(model, text, &future.wait().unwrap());
                                }
                            }
                            // The other three use all the room.
                            Err(Error::Gpu(cuda_green::Error::NoRoomForModel { .. })) => {
                                refused.fetch_add(1, Ordering::SeqCst);
                            }
                            Err(error) => panic!("{error}"),
                        }
                        let status = library.status();
                        assert!(status.reserved <= status.budget, "{status}");
                    }
                });
            }
        });
        let status = library.status();
        let answered = (THREADS * 12 - refused.into_inner()) as u64;
        assert_eq!(status.hits + status.loads.count(), answered, "{status}");
        (models, library)
    });
    drop(library);
    models.sim.assert_no_leaks();
}

#[test]
fn threads_that_ask_for_one_model_load_it_once() {
    let library = ends(|| {
        let models = Models::new(2);
        let library = models.library(1);
        thread::scope(|scope| {
            for _ in 0..6 {
                scope.spawn(|| library.get(None).unwrap().embed("a").wait().unwrap());
            }
        });
        library
    });
    let status = library.status();
    assert_eq!((status.loads.count(), status.hits), (1, 5));
    assert_eq!(status.models[0].state, ModelState::Loaded);
}

//! Driver calls that fail, one after another.
//!
//! Apart from `library`: cuda-green keeps what it could not end in one list for the whole process, and a test that counts
//! what is left must not run beside another.

#![allow(clippy::unwrap_used, clippy::panic)] // tests

#[allow(dead_code)] // as `library` needs it
#[path = "library/fake_encoder.rs"]
mod fake_encoder;
#[allow(dead_code)] // as `library` needs it
#[path = "library/support.rs"]
mod support;

use std::{
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use cuda_green::{
    CUresult, ContextPolicy, Driver, GpuMemoryPool, GreenContext, SmPartitionManager, sim::Sim,
};
use cuda_green_embed::{
    CublasLt, Embedder, EncoderOptions, Error, InferencePrecision, Lane, ModelFolder, ModelLibrary,
    ModelSpec, ProductShape, model::BertConfig,
};
use fake_encoder::ends;
use support::SmallModel;

/// Keeps other tests of this process from running until the guard is dropped.
fn alone() -> MutexGuard<'static, ()> {
    static ALONE: Mutex<()> = Mutex::new(());
    ALONE.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A product of 16 × 16 matrices.
const SHAPE: ProductShape = ProductShape {
    rows: 16,
    inputs: 16,
    outputs: 16,
    precision: InferencePrecision::FP32,
    with_bias: true,
    with_residual: false,
};

/// What a program does with cuBLASLt, from the first call to the last.
fn use_it(sim: &Sim) -> Result<(), Error> {
    let device = Driver::simulated(sim)?.device(0)?;
    let pool = GpuMemoryPool::on(&device, 1 << 20)?;
    let buffer = pool.allocate(1 << 16)?;
    let stream = GreenContext::primary(&device, ContextPolicy::default())?.create_stream()?;
    let cublaslt = CublasLt::load(&device)?;
    let product = cublaslt.product(SHAPE, 0, Some(8))?;
    let at = buffer.address();
    // SAFETY: the matrices lie in the buffer, which lives until the stream was waited for.
    unsafe { product.launch(&stream, at, at, at, 0, at + 4096, 0)? };
    Ok(stream.synchronize()?)
}

/// Does something with a driver, over and over, with another of its calls refused each time. Returns how often it was an
/// error, and how often there was a call to refuse.
fn refuse_each_call(use_it: impl Fn(&Sim) -> Result<(), Error>) -> (u64, u64) {
    let sim = Sim::new("h200@13.0").unwrap();
    sim.start_trace();
    use_it(&sim).unwrap();
    sim.assert_no_leaks();
    let mut failed = 0;
    for nth in 1.. {
        let sim = Sim::new("h200@13.0").unwrap();
        sim.start_trace();
        sim.fail("*", nth, CUresult::CUDA_ERROR_OUT_OF_MEMORY)
            .unwrap();
        let result = catch_unwind(AssertUnwindSafe(|| use_it(&sim)));
        let result = result.unwrap_or_else(|_| panic!("call {nth} ends in a panic"));
        failed += u64::from(result.is_err());
        let Some(refused) = sim.take_trace().get(nth as usize - 1).copied() else {
            return (failed, nth - 1);
        };
        // A driver that refuses to destroy an object keeps it.
        let ends = ["Destroy", "Free", "Unload", "Release"]
            .iter()
            .any(|end| refused.entry_point.contains(end));
        if !ends {
            sim.assert_no_leaks();
        }
    }
    unreachable!("the loop ends by itself")
}

#[test]
fn each_driver_call_that_fails_is_an_error_and_leaves_nothing() {
    let _alone = alone();
    let (failed, calls) = refuse_each_call(use_it);
    assert!(calls > 20 && failed > 10, "{failed} of {calls}");
}

/// What a model answers, a result for each text.
type Answers = Vec<Result<Vec<f32>, Error>>;

/// Two models, and what each makes of the texts.
struct Models {
    folders: [SmallModel; 2],
    expected: [Vec<Vec<f32>>; 2],
}

const TEXTS: [&str; 3] = ["a", "b c", "d"];

impl Models {
    fn new() -> Self {
        let mut config = BertConfig::of(32, 1, 1);
        config.intermediate_size = 32;
        config.vocabulary = 16;
        config.positions = 16;
        let mut models = Self {
            folders: [1, 2].map(|seed| SmallModel::seeded(config.clone(), seed)),
            expected: Default::default(),
        };
        let sim = Sim::new("h200@13.0").unwrap();
        models.expected = models.embed(&sim).unwrap().map(|results| {
            let vectors = results.into_iter().map(Result::unwrap);
            vectors.collect()
        });
        models
    }

    fn options() -> cuda_green_embed::EmbedderBuilder {
        let sizes = EncoderOptions::default().max_tokens(16).max_texts(4);
        Embedder::builder()
            .precision(InferencePrecision::FP32)
            .encoder(Lane::Interactive, sizes)
            .encoder(Lane::Bulk, sizes)
    }

    /// Embeds the texts by one model after the other, of which one at a time has room.
    fn embed(&self, sim: &Sim) -> Result<[Answers; 2], Error> {
        let device = Driver::simulated(sim)?.device(0)?;
        let folder = ModelFolder::open(self.folders[0].path())?;
        let bytes = Self::options().device_bytes(&folder, &device)?;
        let mut library = ModelLibrary::builder(Arc::new(SmPartitionManager::on(&device)?));
        library = library.budget(bytes);
        for (name, folder) in ["0", "1"].into_iter().zip(&self.folders) {
            let spec = ModelSpec::new(name, folder.path()).options(Self::options());
            library = library.model(spec);
        }
        let library = library.build()?;
        let mut results = [Vec::new(), Vec::new()];
        for (name, results) in ["0", "1"].into_iter().zip(&mut results) {
            let model = library.get(Some(name))?;
            // One after another, so that there is a batch of each kind.
            results.push(model.embed(TEXTS[0]).wait());
            results.extend(model.embed_batch(&TEXTS[1..]).wait()?);
        }
        Ok(results)
    }
}

#[test]
fn each_request_of_a_service_is_answered_whatever_driver_call_fails() {
    let _alone = alone();
    let models = Arc::new(Models::new());
    let (failed, calls) = refuse_each_call(|sim| {
        let (models, sim) = (Arc::clone(&models), sim.clone());
        ends(move || {
            let results = models.embed(&sim)?;
            for (found, expected) in results.into_iter().zip(&models.expected) {
                assert_eq!(found.len(), TEXTS.len());
                for (found, expected) in found.into_iter().zip(expected) {
                    assert_eq!(found?, *expected);
                }
            }
            Ok(())
        })
    });
    assert!(calls > 300 && failed > 100, "{failed} of {calls}");
}

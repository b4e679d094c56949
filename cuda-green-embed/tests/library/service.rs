//! The service, with encoders that a test holds up and lets fail, and with the GPU's encoder on the simulated driver.

mod elastic;
mod elastic_gpu;
pub mod gated;
mod gpu;
mod lists;
mod model;
mod replicas;
mod states;
mod threads;

use std::{
    future::Future,
    pin::pin,
    sync::{
        Arc, Condvar, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    task::{Context, Poll, Wake, Waker},
    thread,
    time::{Duration, Instant},
};

use cuda_green_embed::{BatchConfig, Embedder, EmbedderBuilder, Error, Lane, PackedBatch, Result};
use gated::Gated;

use crate::fake_encoder::vectors;

/// Counts how often it is woken.
#[derive(Default)]
struct Woken {
    times: AtomicUsize,
    told: Mutex<bool>,
    changed: Condvar,
}

impl Wake for Woken {
    fn wake(self: Arc<Self>) {
        self.times.fetch_add(1, Ordering::SeqCst);
        *self.told.lock().unwrap() = true;
        self.changed.notify_all();
    }
}

/// Runs a future as the simplest runtime would.
pub fn block_on<F: Future>(future: F) -> F::Output {
    let woken = Arc::new(Woken::default());
    let waker = Waker::from(Arc::clone(&woken));
    let mut future = pin!(future);
    loop {
        if let Poll::Ready(output) = future.as_mut().poll(&mut Context::from_waker(&waker)) {
            return output;
        }
        let mut told = woken.told.lock().unwrap();
        while !*told {
            told = woken.changed.wait(told).unwrap();
        }
        *told = false;
    }
}

/// Polls a future once.
pub fn poll<F: Future + Unpin>(future: &mut F) -> Poll<F::Output> {
    std::pin::Pin::new(future).poll(&mut Context::from_waker(Waker::noop()))
}

/// Waits until something holds. Fails after a time in which anything would have happened, instead of hanging.
pub fn until(what: &str, holds: impl Fn() -> bool) {
    let start = Instant::now();
    while !holds() {
        assert!(start.elapsed() < Duration::from_secs(5), "never: {what}");
        thread::yield_now();
    }
}

/// Returns the vector that the fake encoders give a text.
pub fn vector(tokens: &[u32]) -> Vec<f32> {
    let batch: PackedBatch = [tokens].into_iter().collect();
    vectors(&batch).into_values()
}

/// Takes numbers as texts: `"5 6"` has the tokens 5 and 6. A text with `panic` panics.
fn tokenize(text: &str) -> Result<Vec<u32>> {
    assert!(!text.contains("panic"), "as asked");
    let token = |word: &str| {
        word.parse().map_err(|_| Error::Tokenize {
            text: 0,
            reason: format!("`{word}` is no number"),
        })
    };
    text.split(' ').map(token).collect()
}

/// Returns options whose lanes never wait for more texts.
pub fn eager() -> EmbedderBuilder {
    let config = BatchConfig {
        max_wait: Duration::ZERO,
        min_batch_size: 1,
        max_pending: 1000,
        ..BatchConfig::default()
    };
    Embedder::builder()
        .tokenize_with(tokenize)
        .batches(Lane::Interactive, config.clone())
        .batches(Lane::Bulk, config)
        .submitted(Lane::Bulk, 1)
}

/// Returns a service, and its encoders.
pub fn service(builder: EmbedderBuilder) -> (Embedder, Arc<Gated>, Arc<Gated>) {
    let (interactive, bulk) = (Arc::new(Gated::default()), Arc::new(Gated::default()));
    let embedder = builder.build_with(interactive.clone(), bulk.clone());
    (embedder.unwrap(), interactive, bulk)
}

//! A service for the tests of the generators: its answers come when so many texts were sent.

use std::sync::{
    Arc, Condvar, Mutex, PoisonError,
    atomic::{AtomicUsize, Ordering},
};

use cuda_green_embed::{
    Embedder, Embeddings, Encoder, EncoderLimits, Lane, PackedBatch, PendingEmbeddings, Result,
};

/// An encoder of which no batch ends before so many texts were tokenised.
struct Gated {
    gate: Arc<Gate>,
}

struct Gate {
    state: Mutex<State>,
    opened: Condvar,
    /// The most texts in a batch.
    largest: AtomicUsize,
}

struct State {
    sent: usize,
    opens_at: usize,
}

/// A service that answers once so many texts were sent.
pub struct GatedService {
    pub embedder: Embedder,
    gate: Arc<Gate>,
}

impl GatedService {
    pub fn new(opens_at: usize, queue_limit: usize) -> Self {
        Self::with_hook(opens_at, queue_limit, |_| {})
    }

    /// Makes one whose tokeniser calls a hook with the number of the text, from 1.
    pub fn with_hook(
        opens_at: usize,
        queue_limit: usize,
        hook: impl Fn(usize) + Send + Sync + 'static,
    ) -> Self {
        let gate = Arc::new(Gate {
            state: Mutex::new(State { sent: 0, opens_at }),
            opened: Condvar::new(),
            largest: AtomicUsize::new(0),
        });
        let encoder = || {
            Arc::new(Gated {
                gate: Arc::clone(&gate),
            }) as Arc<dyn Encoder>
        };
        let counting = Arc::clone(&gate);
        let builder = Embedder::builder().tokenize_with(move |_| {
            let mut number = 0;
            counting.change(|state| {
                state.sent += 1;
                number = state.sent;
            });
            hook(number);
            Ok(vec![1, 2, 3])
        });
        let builder = builder.queue_limit(Lane::Interactive, queue_limit);
        Self {
            embedder: builder.build_with(encoder(), encoder()).unwrap(),
            gate,
        }
    }

    /// Lets it answer from now on.
    pub fn open(&self) {
        self.gate.change(|state| state.opens_at = 0);
    }

    /// Returns the most texts in a batch.
    pub fn largest_batch(&self) -> usize {
        self.gate.largest.load(Ordering::Relaxed)
    }
}

impl Gate {
    fn change(&self, change: impl FnOnce(&mut State)) {
        change(&mut self.state.lock().unwrap_or_else(PoisonError::into_inner));
        self.opened.notify_all();
    }

    fn pass(&self) {
        let state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let is_shut = |state: &mut State| state.sent < state.opens_at;
        drop(self.opened.wait_while(state, is_shut));
    }
}

impl Encoder for Gated {
    fn limits(&self) -> EncoderLimits {
        EncoderLimits {
            dimension: 2,
            tokens_of_text: 16,
            tokens: 96,
            texts: 32,
        }
    }

    fn submit(&self, batch: &PackedBatch) -> Result<PendingEmbeddings> {
        let (gate, texts) = (Arc::clone(&self.gate), batch.texts());
        gate.largest.fetch_max(texts, Ordering::Relaxed);
        Ok(PendingEmbeddings::new(move || {
            gate.pass();
            Ok(Embeddings::new(2, vec![0.5; 2 * texts]))
        }))
    }
}

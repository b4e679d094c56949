//! An encoder whose vectors follow from the ids, and whose calls a test can hold up or let fail.

use std::{
    collections::BTreeSet,
    panic,
    sync::{
        Arc, Condvar, Mutex,
        atomic::{AtomicUsize, Ordering},
        mpsc,
    },
    thread,
    time::Duration,
};

use cuda_green_embed::{
    Embeddings, Encoder, EncoderLimits, Error, PackedBatch, PendingEmbeddings, Result,
};

/// Called with the number of the submission, from 0.
type Hook = Arc<dyn Fn(usize) -> Result<()> + Send + Sync>;

pub struct FakeEncoder {
    limits: EncoderLimits,
    submitted: AtomicUsize,
    /// Submitted and not waited for, now and at most.
    in_flight: Arc<(AtomicUsize, AtomicUsize)>,
    on_submit: Hook,
    on_wait: Hook,
}

impl FakeEncoder {
    pub fn new() -> Self {
        Self {
            limits: EncoderLimits {
                dimension: 3,
                tokens_of_text: 16,
                tokens: 64,
                texts: 8,
            },
            submitted: AtomicUsize::new(0),
            in_flight: Arc::default(),
            on_submit: Arc::new(|_| Ok(())),
            on_wait: Arc::new(|_| Ok(())),
        }
    }

    pub fn with_limits(mut self, limits: EncoderLimits) -> Self {
        self.limits = limits;
        self
    }

    pub fn on_submit(mut self, hook: impl Fn(usize) -> Result<()> + Send + Sync + 'static) -> Self {
        self.on_submit = Arc::new(hook);
        self
    }

    pub fn on_wait(mut self, hook: impl Fn(usize) -> Result<()> + Send + Sync + 'static) -> Self {
        self.on_wait = Arc::new(hook);
        self
    }

    /// Returns the most batches that were submitted and not waited for at a time.
    pub fn most_in_flight(&self) -> usize {
        self.in_flight.1.load(Ordering::SeqCst)
    }

    pub fn submitted(&self) -> usize {
        self.submitted.load(Ordering::SeqCst)
    }
}

impl Encoder for FakeEncoder {
    fn limits(&self) -> EncoderLimits {
        self.limits
    }

    fn submit(&self, batch: &PackedBatch) -> Result<PendingEmbeddings> {
        let number = self.submitted.fetch_add(1, Ordering::SeqCst);
        (self.on_submit)(number)?;
        for (unit, asked, limit) in [
            ("texts", batch.texts(), self.limits.texts),
            ("tokens", batch.tokens(), self.limits.tokens),
            (
                "tokens in one text",
                batch.longest(),
                self.limits.tokens_of_text,
            ),
        ] {
            if asked > limit {
                return Err(Error::BatchTooLarge { unit, asked, limit });
            }
        }
        let vectors = vectors(batch);
        let on_wait = Arc::clone(&self.on_wait);
        let in_flight = Arc::clone(&self.in_flight);
        let now = in_flight.0.fetch_add(1, Ordering::SeqCst) + 1;
        in_flight.1.fetch_max(now, Ordering::SeqCst);
        Ok(PendingEmbeddings::new(move || {
            on_wait(number)?;
            in_flight.0.fetch_sub(1, Ordering::SeqCst);
            Ok(vectors)
        }))
    }
}

/// Returns the vectors of such an encoder: each from the tokens of its own text only.
pub fn vectors(batch: &PackedBatch) -> Embeddings {
    let vector = |text| {
        let ids = batch.text(text).unwrap();
        let sum = ids.iter().map(|id| *id as f32).sum::<f32>();
        let weighted = ids
            .iter()
            .zip(1u16..)
            .map(|(id, at)| *id as f32 * f32::from(at));
        [ids.len() as f32, sum, weighted.sum()]
    };
    Embeddings::new(3, (0..batch.texts()).flat_map(vector).collect())
}

/// What has happened so far, for which threads can wait.
#[derive(Default)]
pub struct Events {
    seen: Mutex<BTreeSet<(&'static str, usize)>>,
    more: Condvar,
}

impl Events {
    pub fn tell(&self, what: &'static str, number: usize) {
        self.seen.lock().unwrap().insert((what, number));
        self.more.notify_all();
    }

    /// Waits for an event. Fails after a time in which anything would have happened, instead of hanging.
    pub fn wait_for(&self, what: &'static str, number: usize) {
        let seen = self.seen.lock().unwrap();
        let absent = |seen: &mut BTreeSet<_>| !seen.contains(&(what, number));
        let most = Duration::from_secs(20);
        let (_seen, timeout) = self.more.wait_timeout_while(seen, most, absent).unwrap();
        assert!(
            !timeout.timed_out(),
            "{what} {number} does not run meanwhile"
        );
    }
}

/// Runs an action that would hang for ever if a thread waited for another that has ended. Then it fails instead.
pub fn ends<T: Send + 'static>(action: impl FnOnce() -> T + Send + 'static) -> T {
    let (told, ended) = mpsc::channel();
    let thread = thread::spawn(move || {
        let result = action();
        told.send(()).unwrap();
        result
    });
    // Far longer than it takes. Without a word, the thread has panicked.
    let timeout = ended.recv_timeout(Duration::from_secs(60));
    assert_ne!(timeout, Err(mpsc::RecvTimeoutError::Timeout), "it hangs");
    thread
        .join()
        .unwrap_or_else(|panic| panic::resume_unwind(panic))
}

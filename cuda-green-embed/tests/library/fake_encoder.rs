//! An encoder whose vectors follow from the ids, and whose calls a test can hold up or let fail.

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering},
};

use cuda_green_embed::{
    Embeddings, Encoder, EncoderLimits, Error, PackedBatch, PendingEmbeddings, Result,
};

/// Called with the number of the submission, from 0.
type Hook = Arc<dyn Fn(usize) -> Result<()> + Send + Sync>;

pub struct FakeEncoder {
    limits: EncoderLimits,
    submitted: AtomicUsize,
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
            on_submit: Arc::new(|_| Ok(())),
            on_wait: Arc::new(|_| Ok(())),
        }
    }

    pub fn on_submit(mut self, hook: impl Fn(usize) -> Result<()> + Send + Sync + 'static) -> Self {
        self.on_submit = Arc::new(hook);
        self
    }

    pub fn on_wait(mut self, hook: impl Fn(usize) -> Result<()> + Send + Sync + 'static) -> Self {
        self.on_wait = Arc::new(hook);
        self
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
        Ok(PendingEmbeddings::new(move || {
            on_wait(number)?;
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

//! One call of a pipeline: its texts, and the vectors that the models still owe.

use std::{
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    task::{Context, Poll, Waker},
    time::Duration,
};

use super::{
    cache::CacheKey,
    embedding_pipeline::{Stages, run_stage},
};
use crate::{
    error::{Error, Result},
    service::{EmbedBatchFuture, Lane},
};

/// The texts of a call.
pub(super) struct Call {
    stages: Arc<Stages>,
    texts: Vec<Result<Text>>,
    pending: Vec<Pending>,
}

/// A text that has not failed.
struct Text {
    /// As it is embedded.
    scrubbed: String,
    /// The vector of each model, none while it is not there.
    vectors: Vec<Option<Arc<[f32]>>>,
}

/// The texts of which a model still owes the vectors.
struct Pending {
    model: usize,
    /// Their indices.
    texts: Vec<usize>,
    future: EmbedBatchFuture,
}

/// The results of a model.
type Vectors = Result<Vec<Result<Vec<f32>>>>;

impl Call {
    /// Scrubs the texts, and submits those that are not cached.
    pub(super) fn begin<T: AsRef<str>>(
        stages: Arc<Stages>,
        lane: Lane,
        timeout: Option<Duration>,
        contents: &[T],
    ) -> Result<Self> {
        let texts = contents.iter().map(|text| stages.look_up(text.as_ref()));
        let mut call = Self {
            texts: texts.collect(),
            pending: Vec::new(),
            stages,
        };
        for model in 0..call.stages.models.len() {
            match call.submit(model, lane, timeout) {
                // Maybe for this call's own sake: other models are in use until their vectors are there.
                Err(Error::Gpu(cuda_green::Error::NoRoomForModel { .. }))
                    if !call.pending.is_empty() =>
                {
                    call.wait_for_models()?;
                    call.submit(model, lane, timeout)?;
                }
                result => result?,
            }
        }
        Ok(call)
    }

    /// Submits the texts of which a model's vectors are not there.
    fn submit(&mut self, model: usize, lane: Lane, timeout: Option<Duration>) -> Result<()> {
        let (mut texts, mut missing) = (Vec::new(), Vec::new());
        for (index, text) in self.texts.iter().enumerate() {
            if let Ok(text) = text
                && text.vectors[model].is_none()
            {
                texts.push(index);
                missing.push(&*text.scrubbed);
            }
        }
        if missing.is_empty() {
            return Ok(());
        }
        let future = self.stages.models[model].embed(lane, timeout, &missing)?;
        self.pending.push(Pending {
            model,
            texts,
            future,
        });
        Ok(())
    }

    /// Polls all models, since each makes its vectors only if somebody asks for them.
    pub(super) fn poll_models(&mut self, context: &mut Context<'_>) -> Poll<Result<()>> {
        let mut waiting = Vec::new();
        for mut pending in std::mem::take(&mut self.pending) {
            match Pin::new(&mut pending.future).poll(context) {
                Poll::Pending => waiting.push(pending),
                Poll::Ready(vectors) => self.take(pending.model, &pending.texts, vectors)?,
            }
        }
        self.pending = waiting;
        match self.pending.is_empty() {
            true => Poll::Ready(Ok(())),
            false => Poll::Pending,
        }
    }

    /// Waits for the vectors of all models.
    pub(super) fn wait_for_models(&mut self) -> Result<()> {
        // This thread waits for one model at a time. The others' own threads wait for theirs once they were polled.
        if self.pending.len() > 1
            && let Poll::Ready(result) = self.poll_models(&mut Context::from_waker(Waker::noop()))
        {
            return result;
        }
        for pending in std::mem::take(&mut self.pending) {
            let vectors = pending.future.wait();
            self.take(pending.model, &pending.texts, vectors)?;
        }
        Ok(())
    }

    /// Puts a model's vectors into the cache and to their texts.
    fn take(&mut self, model: usize, texts: &[usize], vectors: Vectors) -> Result<()> {
        for (index, vector) in texts.iter().zip(vectors?) {
            let Some(slot) = self.texts.get_mut(*index) else {
                continue;
            };
            let Ok(text) = slot else { continue };
            let kept = vector
                .map_err(|error| error.of_text(*index))
                .and_then(|vector| self.stages.keep(model, &text.scrubbed, vector.into()));
            match kept {
                Ok(vector) => text.vectors[model] = Some(vector),
                Err(error) => *slot = Err(error),
            }
        }
        Ok(())
    }

    /// Fuses and delivers the vectors, once those of all models are there. Leaves the call empty.
    pub(super) fn end(&mut self) -> Vec<Result<Vec<f32>>> {
        let texts = std::mem::take(&mut self.texts);
        let results = texts
            .into_iter()
            .map(|text| text.and_then(|text| self.stages.finish(&text)));
        let results: Vec<_> = results.collect();
        let done = results.iter().filter(|result| result.is_ok()).count();
        count(&self.stages.done, done);
        count(&self.stages.failed, results.len() - done);
        results
    }
}

fn count(counter: &AtomicU64, number: usize) {
    counter.fetch_add(number as u64, Ordering::Relaxed);
}

impl Stages {
    /// Scrubs a text and looks it up in the cache.
    fn look_up(&self, text: &str) -> Result<Text> {
        let mut scrubbed = text.to_owned();
        for scrub in &self.scrubs {
            scrubbed = run_stage("scrub", || scrub.scrub(&scrubbed))?;
        }
        let mut vectors = vec![None; self.models.len()];
        if let Some(cache) = &self.cache {
            for (vector, model) in vectors.iter_mut().zip(&self.models) {
                let key = CacheKey::new(&model.name, &scrubbed);
                *vector = run_stage("cache", || Ok(cache.get(&key)))?;
            }
            let hits = vectors.iter().flatten().count();
            count(&self.hits, hits);
            count(&self.misses, vectors.len() - hits);
        }
        Ok(Text { scrubbed, vectors })
    }

    /// Puts a vector into the cache.
    fn keep(&self, model: usize, text: &str, vector: Arc<[f32]>) -> Result<Arc<[f32]>> {
        if let Some(cache) = &self.cache {
            let key = CacheKey::new(&self.models[model].name, text);
            let kept = Arc::clone(&vector);
            run_stage("cache", || {
                cache.insert(key, kept);
                Ok(())
            })?;
        }
        Ok(vector)
    }

    /// Fuses and delivers a text's vectors.
    fn finish(&self, text: &Text) -> Result<Vec<f32>> {
        let vectors: Vec<&[f32]> = text.vectors.iter().flatten().map(|one| &**one).collect();
        let vector = run_stage("fuse", || self.fuse.fuse(&vectors))?;
        for deliver in &self.deliver {
            run_stage("deliver", || deliver.deliver(&text.scrubbed, &vector))?;
        }
        Ok(vector)
    }
}

//! A pipeline of three stages: batch n + 1 is prepared while n is computed and n - 1 is delivered.
//!
//! ```text
//! inputs -> prepare (threads) -> submit (thread) -> wait (thread) -> deliver (the caller)
//! ```
//!
//! Places bound the number of batches in all of it: a batch takes one before its input is read and gives it back when it
//! is delivered. So no channel is ever full, and the only waits are for a place, for a batch, for a permit to submit, and
//! for vectors. A stage that ends, by an error or a panic, drops its ends of the channels, on which its neighbours end too.

use std::{
    any::Any,
    collections::BTreeMap,
    panic::{AssertUnwindSafe, catch_unwind, resume_unwind},
    sync::{
        Mutex,
        mpsc::{Receiver, SyncSender, sync_channel},
    },
    thread::{Builder, Scope, ScopedJoinHandle, scope},
    time::{Duration, Instant},
};

use super::timeline::{BatchTimes, Span, Timeline};
use crate::{
    batch::PackedBatch,
    embeddings::Embeddings,
    encoder::{Encoder, PendingEmbeddings},
    error::{Error, Result},
};

/// Runs batches through a pipeline in which preparing, computing and delivering overlap.
///
/// ```
/// use cuda_green_embed::{Embeddings, Encoder, OverlappedExecutor, Result, Tokenizer};
///
/// fn embed(tokenizer: &Tokenizer, encoder: &dyn Encoder, texts: &[String]) -> Result<Vec<f32>> {
///     let mut values = Vec::new();
///     let executor = OverlappedExecutor::new().prepare_threads(8);
///     let timeline = executor.execute_overlapped(
///         texts.chunks(512),
///         |texts| Ok((tokenizer.encode_batch(texts, 1)?, ())),
///         encoder,
///         |(), vectors: Embeddings| {
///             values.extend(vectors.into_values());
///             Ok(())
///         },
///     )?;
///     println!("{timeline}");
///     Ok(values)
/// }
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OverlappedExecutor {
    prepare_threads: usize,
    submitted: usize,
}

impl Default for OverlappedExecutor {
    fn default() -> Self {
        Self::new()
    }
}

impl OverlappedExecutor {
    /// Makes one that prepares on one thread and keeps two batches submitted.
    pub fn new() -> Self {
        Self {
            prepare_threads: 1,
            submitted: 2,
        }
    }

    /// Sets the number of threads that prepare, from 1 to 1,024. Tokenising is the slowest stage on the CPU: where the encoder
    /// waits for it, more threads help.
    #[must_use]
    pub fn prepare_threads(mut self, threads: usize) -> Self {
        self.prepare_threads = threads.clamp(1, 1024);
        self
    }

    /// Sets the number of batches that are submitted and not yet computed, from 1 to 1,024. With 2, the GPU finds the next
    /// batch in its queue when it has computed one.
    #[must_use]
    pub fn submitted(mut self, batches: usize) -> Self {
        self.submitted = batches.clamp(1, 1024);
        self
    }

    /// Returns the most batches on the way at a time: one for each thread that prepares, those submitted, and the one that
    /// is delivered.
    pub fn max_on_the_way(&self) -> usize {
        self.prepare_threads + self.submitted + 1
    }

    /// Prepares each input, encodes its batch, and delivers the vectors, in the order of the inputs.
    ///
    /// `prepare` makes a batch and whatever `deliver` needs to know of it; it runs on threads of its own, also for several
    /// inputs at once. `deliver` runs on the calling thread.
    ///
    /// # Errors
    /// The first error in the order of the batches, of whatever stage. All batches before it have been delivered, and
    /// none from it on. Inputs after it may have been read and prepared; the call returns when those reads and
    /// preparations have ended. [`Error::Thread`] if a thread cannot be started.
    ///
    /// # Panics
    /// If the inputs, `prepare`, `encoder` or `deliver` panic. The panic comes out of this call, once all threads have
    /// ended.
    pub fn execute_overlapped<I: Send, M: Send>(
        &self,
        inputs: impl IntoIterator<Item = I, IntoIter: Send>,
        prepare: impl Fn(I) -> Result<(PackedBatch, M)> + Sync,
        encoder: &dyn Encoder,
        deliver: impl FnMut(M, Embeddings) -> Result<()>,
    ) -> Result<Timeline> {
        let clock = Clock(Instant::now());
        let on_the_way = self.max_on_the_way();
        let (give_place, places) = filled(on_the_way);
        let (give_permit, permits) = filled(self.submitted);
        let inputs = Mutex::new(Inputs {
            places,
            inputs: inputs.into_iter().fuse().enumerate(),
        });
        scope(|scope| {
            // Moved, so that they are dropped, and the threads end, before the scope waits for these.
            let (give_place, give_permit, permits) = (give_place, give_permit, permits);
            let (give_prepared, prepared) = sync_channel(on_the_way);
            let (give_submitted, submitted) = sync_channel(on_the_way);
            let (give_computed, computed) = sync_channel(on_the_way);
            let mut threads = Vec::new();
            for _ in 0..self.prepare_threads {
                let give_prepared = give_prepared.clone();
                let (inputs, prepare) = (&inputs, &prepare);
                let run = move || prepare_all(inputs, prepare, &give_prepared, clock);
                threads.push(start(scope, "embed-prepare", run)?);
            }
            drop(give_prepared);
            let run = move || submit_all(&prepared, &permits, encoder, &give_submitted, clock);
            threads.push(start(scope, "embed-submit", run)?);
            let run = move || wait_all(&submitted, &give_permit, &give_computed, clock);
            threads.push(start(scope, "embed-wait", run)?);

            let result = deliver_all(computed, give_place, deliver, clock);
            for thread in threads {
                if let Err(panic) = thread.join() {
                    resume_unwind(panic);
                }
            }
            result
        })
    }
}

/// The time since the start of the run.
#[derive(Clone, Copy)]
struct Clock(Instant);

impl Clock {
    fn now(self) -> Duration {
        self.0.elapsed()
    }
}

/// The inputs, and the places that each takes one of.
struct Inputs<N> {
    places: Receiver<()>,
    inputs: N,
}

/// A prepared batch, an error, or a panic, with its place in the order.
struct Prepared<M> {
    index: usize,
    outcome: Result<Result<(PackedBatch, M)>, Box<dyn Any + Send>>,
    prepare: Span,
}

/// A submitted batch. Its computation starts at the submission as yet.
struct Submitted<M> {
    about: M,
    pending: PendingEmbeddings,
    times: BatchTimes,
}

/// A computed batch.
struct Computed<M> {
    about: M,
    vectors: Embeddings,
    times: BatchTimes,
}

/// Makes a channel that is full.
fn filled(size: usize) -> (SyncSender<()>, Receiver<()>) {
    let (sender, receiver) = sync_channel(size);
    for _ in 0..size {
        // It neither blocks nor fails: there is room, and the receiver lives.
        let _ = sender.try_send(());
    }
    (sender, receiver)
}

/// Starts a thread of a pipeline.
fn start<'scope>(
    scope: &'scope Scope<'scope, '_>,
    name: &str,
    run: impl FnOnce() + Send + 'scope,
) -> Result<ScopedJoinHandle<'scope, ()>> {
    let thread = Builder::new().name(name.to_owned());
    thread.spawn_scoped(scope, run).map_err(Error::Thread)
}

/// Prepares inputs until there is none, or nobody wants more.
fn prepare_all<I, M>(
    inputs: &Mutex<Inputs<impl Iterator<Item = (usize, I)>>>,
    prepare: impl Fn(I) -> Result<(PackedBatch, M)>,
    prepared: &SyncSender<Prepared<M>>,
    clock: Clock,
) {
    loop {
        let (index, input) = {
            // If the inputs panicked in another thread, there are no more.
            let Ok(mut inputs) = inputs.lock() else {
                return;
            };
            if inputs.places.recv().is_err() {
                return;
            }
            let Some(next) = inputs.inputs.next() else {
                return;
            };
            next
        };
        let start = clock.now();
        // A panic must reach the next stage in its turn: that stage would wait for this batch while the other threads
        // here wait for places.
        let outcome = catch_unwind(AssertUnwindSafe(|| prepare(input)));
        let end = clock.now();
        let done = !matches!(outcome, Ok(Ok(_)));
        let message = Prepared {
            index,
            outcome,
            prepare: Span { start, end },
        };
        if prepared.send(message).is_err() || done {
            return;
        }
    }
}

/// Submits the prepared batches in order.
fn submit_all<M>(
    prepared: &Receiver<Prepared<M>>,
    permits: &Receiver<()>,
    encoder: &dyn Encoder,
    submitted: &SyncSender<Result<Submitted<M>>>,
    clock: Clock,
) {
    let mut early = BTreeMap::new();
    for next in 0.. {
        let message = loop {
            if let Some(message) = early.remove(&next) {
                break message;
            }
            let Ok(message) = prepared.recv() else {
                return;
            };
            early.insert(message.index, message);
        };
        let result = match message.outcome {
            Ok(result) => result,
            Err(panic) => resume_unwind(panic),
        };
        let result = result.and_then(|(batch, about)| {
            if permits.recv().is_err() {
                // The stage that waits has failed, and told so.
                return Ok(None);
            }
            let start = clock.now();
            let pending = encoder.submit(&batch)?;
            let times = BatchTimes {
                texts: batch.texts(),
                tokens: batch.tokens(),
                prepare: message.prepare,
                compute: Span { start, end: start },
                deliver: Span::default(),
            };
            Ok(Some(Submitted {
                about,
                pending,
                times,
            }))
        });
        let Some(result) = result.transpose() else {
            return;
        };
        let failed = result.is_err();
        if submitted.send(result).is_err() || failed {
            return;
        }
    }
}

/// Waits for the vectors of the submitted batches.
fn wait_all<M>(
    submitted: &Receiver<Result<Submitted<M>>>,
    permits: &SyncSender<()>,
    computed: &SyncSender<Result<Computed<M>>>,
    clock: Clock,
) {
    let mut previous_end = Duration::ZERO;
    for message in submitted {
        let result = message.and_then(|message| {
            let vectors = message.pending.wait()?;
            let mut times = message.times;
            times.compute.start = times.compute.start.max(previous_end);
            times.compute.end = clock.now();
            previous_end = times.compute.end;
            Ok(Computed {
                about: message.about,
                vectors,
                times,
            })
        });
        let failed = result.is_err();
        if !failed {
            // Nobody needs it after the last batch.
            let _ = permits.send(());
        }
        if computed.send(result).is_err() || failed {
            return;
        }
    }
}

/// Delivers the vectors and gives the places back.
fn deliver_all<M>(
    computed: Receiver<Result<Computed<M>>>,
    places: SyncSender<()>,
    mut deliver: impl FnMut(M, Embeddings) -> Result<()>,
    clock: Clock,
) -> Result<Timeline> {
    let mut batches = Vec::new();
    for message in computed {
        let mut message = message?;
        let start = clock.now();
        deliver(message.about, message.vectors)?;
        let end = clock.now();
        message.times.deliver = Span { start, end };
        batches.push(message.times);
        // The threads that would take it may have ended.
        let _ = places.send(());
    }
    Ok(Timeline::new(batches))
}

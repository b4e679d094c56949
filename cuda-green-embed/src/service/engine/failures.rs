//! Batches that end without vectors: texts that fail alone, batches that are tried again, GPUs that get no more work, and
//! the end of a service.

use std::{
    panic::{AssertUnwindSafe, catch_unwind},
    sync::Arc,
};

use super::{Engine, dead};
use crate::{
    error::Error,
    service::{
        batch::{Batch, Trouble, refuse},
        lane::{Counts, LaneCore},
        observe,
        request::{Request, Times},
    },
};

/// The batches that a GPU may fail in a row, beside other GPUs, before it gets no more work.
const IN_A_ROW: usize = 3;

impl Engine {
    /// Ends a batch that has no vectors: answers its requests, or keeps those that deserve another attempt.
    pub(super) fn fail(&self, core: &LaneCore, batch: Batch, trouble: Trouble) {
        let texts = batch.texts();
        match trouble {
            Trouble::Text(text, error) if text < texts => {
                let mut requests = batch.requests;
                let bad = requests.remove(text);
                Counts::add(&core.counts.failed, 1);
                let error = error.of_text(bad.text);
                bad.answer(Err(error), Times::default());
                self.again(core, Batch { requests, ..batch }, texts);
            }
            Trouble::Text(_, error) | Trouble::Batch(error) => {
                self.ended(core, batch.seat, texts);
                Counts::add(&core.counts.failed, texts);
                Self::refuse_all(batch.requests, error);
            }
            Trouble::Panic(panic) => {
                // Some other's value, whose drop may panic as well.
                let _ = catch_unwind(AssertUnwindSafe(|| drop(panic)));
                log::error!("the encoder of the {} lane panicked", core.lane);
                self.ended(core, batch.seat, texts);
                Counts::add(&core.counts.failed, texts);
                refuse(batch.requests, || Error::EncoderPanicked);
            }
            Trouble::Gpu(error) => self.fail_by_gpu(core, batch, error),
        }
    }

    /// Ends a batch that the GPU is at fault for. A GPU that fails the same batch twice, or, beside others, some in a row,
    /// is retired, and the others compute them; if there is none, the service is dead.
    fn fail_by_gpu(&self, core: &LaneCore, mut batch: Batch, error: Error) {
        let texts = batch.texts();
        let seat = batch.seat;
        let error = Arc::new(error);
        let is_bad = core.note_failure(seat) >= IN_A_ROW;
        let mut failures = batch.failures.iter();
        let first = match failures.position(|(failed, _)| *failed == seat) {
            Some(before) => batch.failures.swap_remove(before).1,
            None if is_bad => error,
            None => {
                log::warn!(
                    "GPU {seat} failed a batch of the {} lane, which is tried once more: {error}",
                    core.lane
                );
                batch.failures.push((seat, error));
                return self.again(core, batch, texts);
            }
        };
        if Self::retire(core, seat, &first) {
            log::error!(
                "GPU {seat} gets no more work of the {} lane: {first}",
                core.lane
            );
            return self.again(core, batch, texts);
        }
        // Before there is room for another batch, which might still succeed.
        self.die(core.first_failure.get().unwrap_or(&first));
        self.ended(core, seat, texts);
        let first = self.dead.get().unwrap_or(&first);
        Counts::add(&core.counts.failed, texts);
        refuse(batch.requests, || dead(first));
    }

    /// Gives a seat no work any more. Returns whether another is left.
    fn retire(core: &LaneCore, seat: usize, error: &Arc<Error>) -> bool {
        let mut state = core.lock();
        state.seats[seat].retired = true;
        // The first error of each counts.
        let _ = core.seats[seat].retired.set(Arc::clone(error));
        let _ = core.first_failure.set(Arc::clone(error));
        state.seats.iter().any(|seat| !seat.retired)
    }

    /// Keeps a batch to be submitted again. It had so many texts before.
    fn again(&self, core: &LaneCore, batch: Batch, texts: usize) {
        let mut state = core.lock();
        state.seats[batch.seat].batches -= 1;
        state.texts -= texts;
        // Under the lock, as in `LaneCore::add`.
        let wake = state.closing || state.wanted || core.has_many_seats();
        let Some(first) = self.dead.get() else {
            if batch.texts() > 0 {
                state.again.push_back(batch);
            }
            drop(state);
            if wake {
                core.wake();
            }
            self.tell_ended(core);
            return;
        };
        drop(state);
        if wake {
            core.wake();
        }
        self.tell_ended(core);
        Counts::add(&core.counts.failed, batch.texts());
        refuse(batch.requests, || dead(first));
    }

    /// Answers all with one error.
    fn refuse_all(requests: Vec<Arc<Request>>, error: Error) {
        if let [only] = &requests[..] {
            only.answer(Err(error.of_text(only.text)), Times::default());
            return;
        }
        let error = Arc::new(error);
        refuse(requests, || Error::BatchFailed {
            error: Arc::clone(&error),
        });
    }

    /// Fails all that wait or are on the way, in both lanes. The first cause counts.
    fn die(&self, first: &Arc<Error>) {
        if self.dead.set(Arc::clone(first)).is_err() {
            return;
        }
        log::error!("the embedding service is dead: {first}");
        for core in &self.lanes {
            let mut state = core.lock();
            let mut requests = Vec::new();
            let mut pending = Vec::new();
            let mut texts = 0;
            for seat in &mut state.seats {
                for flying in std::mem::take(&mut seat.flying) {
                    seat.batches -= 1;
                    texts += flying.batch.texts();
                    requests.extend(flying.batch.requests);
                    pending.push(flying.pending);
                }
            }
            state.texts -= texts;
            for batch in std::mem::take(&mut state.again) {
                requests.extend(batch.requests);
            }
            for batch in state.queue.flush() {
                requests.extend(batch.into_arrival_order());
            }
            drop(state);
            Counts::add(&core.counts.failed, requests.len());
            refuse(requests, || dead(first));
            observe::queue_size(core);
            core.wake();
            self.tell_ended(core);
            // An encoder's own code.
            let _ = catch_unwind(AssertUnwindSafe(|| drop(pending)));
        }
    }
}

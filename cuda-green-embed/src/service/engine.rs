//! The threads' work: submitting batches, waiting for them, answering requests. Any thread may do it: the caller's that
//! adds a request or waits for one, or the lane's own.

use std::{
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{Arc, OnceLock, PoisonError, atomic::Ordering},
    time::Instant,
};

use super::{
    batch::{Batch, Flying, Trouble, attempt, of_text, refuse},
    elastic::Elastic,
    lane::{Counts, LaneCore},
    observe,
    request::{NO_SEAT, Request, Times},
    status::Lane,
};
use crate::{
    batch::Ticket,
    embeddings::Embeddings,
    error::{Error, Result},
    lock::wait,
};

/// The batches that a GPU may fail in a row, beside other GPUs, before it gets no more work.
const IN_A_ROW: usize = 3;

/// Both lanes, and whether the GPU is dead.
pub(super) struct Engine {
    lanes: [LaneCore; 2],
    pub(super) dead: OnceLock<Arc<Error>>,
    pub(super) elastic: Option<Elastic>,
}

impl Engine {
    pub(super) fn new(interactive: LaneCore, bulk: LaneCore, elastic: Option<Elastic>) -> Self {
        Self {
            lanes: [interactive, bulk],
            dead: OnceLock::new(),
            elastic,
        }
    }

    pub(super) fn lane(&self, lane: Lane) -> &LaneCore {
        let [interactive, bulk] = &self.lanes;
        match lane {
            Lane::Interactive => interactive,
            Lane::Bulk => bulk,
        }
    }

    /// Reserves places in a lane's queue.
    pub(super) fn reserve(&self, lane: Lane, texts: usize) -> Result<()> {
        match self.dead.get() {
            Some(first) => Err(dead(first)),
            None => self.lane(lane).reserve(texts),
        }
    }

    /// Adds requests, in places that are reserved, and submits what the encoder has room for.
    pub(super) fn add(&self, lane: Lane, requests: &[Arc<Request>]) -> Result<Vec<Ticket>> {
        let core = self.lane(lane);
        let tickets = core.add(requests, &self.dead)?;
        observe::queue_size(core);
        if let Some(elastic) = &self.elastic
            && !requests.is_empty()
        {
            elastic.added(lane, &self.lane(Lane::Bulk).hold);
        }
        self.launch_due(core);
        if !core.lock().queue.is_empty() {
            core.want();
        }
        Ok(tickets)
    }

    /// Submits the batches that are due and have room.
    fn launch_due(&self, core: &LaneCore) {
        loop {
            let due = core.take_due(&self.dead);
            Counts::add(&core.counts.expired, due.late.len());
            refuse(due.late, || Error::DeadlineExceeded);
            let Some(batch) = due.batch else {
                return;
            };
            self.launch(core, batch);
        }
    }

    /// Submits a batch that was taken.
    fn launch(&self, core: &LaneCore, batch: Batch) {
        observe::launched(core, &batch);
        let packed = batch.packed();
        let seat = batch.seat;
        let submitted = attempt(|| core.seats[seat].encoder.submit(&packed));
        let mut state = core.lock();
        state.seats[seat].launching = false;
        match submitted {
            Ok(pending) => {
                Counts::add(&core.counts.batches, 1);
                Counts::add(&core.seats[seat].batches, 1);
                state.seats[seat]
                    .flying
                    .push_back(Flying { batch, pending });
                let acts = state.wanted || state.closing || core.has_many_seats();
                let wake = !state.seats[seat].driving && acts;
                drop(state);
                if wake {
                    core.wake();
                }
            }
            Err(trouble) => {
                drop(state);
                self.fail(core, batch, trouble);
            }
        }
    }

    /// Waits for the oldest batch of the GPU that has a request, unless another thread does, and answers its requests.
    /// Returns whether it did.
    pub(super) fn drive_for(&self, core: &LaneCore, request: &Request) -> bool {
        // With one GPU, a request that waits in the queue is next when the oldest batch ends. With several, that may be
        // the slowest GPU's batch, and the lane's threads are there.
        let seat = match core.has_many_seats() {
            true => request.seat.load(Ordering::Relaxed),
            false => 0,
        };
        seat != NO_SEAT && self.drive(core, seat)
    }

    /// Waits for the oldest batch of a seat, unless another thread does, and answers its requests. Returns whether it did.
    fn drive(&self, core: &LaneCore, seat: usize) -> bool {
        let mut state = core.lock();
        let Some(of_seat) = state.seats.get_mut(seat).filter(|seat| !seat.driving) else {
            return false;
        };
        let Some(Flying { batch, pending }) = of_seat.flying.pop_front() else {
            return false;
        };
        of_seat.driving = true;
        drop(state);
        match attempt(|| pending.wait()) {
            Ok(vectors) => self.finish(core, batch, &vectors),
            Err(trouble) => self.fail(core, batch, trouble),
        }
        self.launch_due(core);
        let mut state = core.lock();
        state.seats[seat].driving = false;
        let left = !state.is_empty();
        // Whoever waits for the rest was not the one to wake the lane's thread.
        state.wanted |= left;
        let wake = left || state.closing;
        drop(state);
        if wake {
            core.wake();
        }
        true
    }

    fn finish(&self, core: &LaneCore, batch: Batch, vectors: &Embeddings) {
        let texts = batch.texts();
        let missing = texts.saturating_sub(vectors.len());
        Counts::add(&core.counts.done, texts - missing);
        Counts::add(&core.counts.failed, missing);
        core.lock().seats[batch.seat].failures = 0;
        self.ended(core, batch.seat, texts);
        // The GPU first: it has nothing to do.
        self.launch_due(core);
        batch.deliver(vectors);
    }

    /// Ends a batch that has no vectors: answers its requests, or keeps those that deserve another attempt.
    fn fail(&self, core: &LaneCore, batch: Batch, trouble: Trouble) {
        let texts = batch.texts();
        match trouble {
            Trouble::Text(text, error) if text < texts => {
                let mut requests = batch.requests;
                let bad = requests.remove(text);
                Counts::add(&core.counts.failed, 1);
                let error = of_text(error, bad.text);
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

    /// Notes that a batch is no longer on the way. The lane's thread may have waited for that, to end or to go on.
    fn ended(&self, core: &LaneCore, seat: usize, texts: usize) {
        let mut state = core.lock();
        state.seats[seat].batches -= 1;
        state.texts -= texts;
        let wake = state.closing || state.wanted || core.has_many_seats();
        drop(state);
        if wake {
            core.wake();
        }
        self.tell_ended(core);
    }

    /// Tells the elastic lanes' thread that a bulk batch is no longer on the way.
    fn tell_ended(&self, core: &LaneCore) {
        if let Some(elastic) = self.elastic.as_ref().filter(|_| core.lane == Lane::Bulk) {
            elastic.bulk_ended();
        }
    }

    /// Answers all with one error.
    fn refuse_all(requests: Vec<Arc<Request>>, error: Error) {
        if let [only] = &requests[..] {
            only.answer(Err(of_text(error, only.text)), Times::default());
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

    /// Lets nothing in any more. What waits is still encoded, or else fails.
    pub(super) fn close(&self, drain: bool) {
        for core in &self.lanes {
            let mut state = core.lock();
            state.closing = true;
            let mut requests = Vec::new();
            if !drain {
                for batch in state.queue.flush() {
                    requests.extend(batch.into_arrival_order());
                }
            }
            drop(state);
            Counts::add(&core.counts.cancelled, requests.len());
            refuse(requests, || Error::ShutDown);
            core.wake();
        }
    }

    /// Returns a lane and a seat for each thread that the service has.
    pub(super) fn threads(&self) -> impl Iterator<Item = (Lane, usize)> {
        let seats = |core: &LaneCore| {
            (0..core.seats.len()).map({
                let lane = core.lane;
                move |seat| (lane, seat)
            })
        };
        self.lanes.iter().flat_map(seats)
    }

    /// Works for a seat until its lane is closed and empty. The only seat of a lane sleeps while nobody wants it to work:
    /// then callers do.
    pub(super) fn run(&self, lane: Lane, seat: usize) {
        self.serve(self.lane(lane), seat);
        if let Some(elastic) = &self.elastic {
            elastic.thread_ended();
        }
    }

    fn serve(&self, core: &LaneCore, seat: usize) {
        let mut state = core.lock();
        loop {
            let acts = state.wanted || state.closing || core.has_many_seats();
            // A dead service launches nothing: whoever found it dead is about to empty the queue, and needs the lock.
            let launches = acts && self.dead.get().is_none();
            let driving = state.seats[seat].driving;
            if launches && core.can_launch_now(&state) {
                drop(state);
                self.launch_due(core);
                state = core.lock();
            } else if acts && !driving && !state.seats[seat].flying.is_empty() {
                drop(state);
                self.drive(core, seat);
                state = core.lock();
            } else if state.is_empty() && !driving {
                if state.closing {
                    return;
                }
                state.wanted = false;
                state = wait(&core.changed, state);
            } else if let Some(deadline) = state.next_deadline(core).filter(|_| launches) {
                let time = deadline.saturating_duration_since(Instant::now());
                let woken = core.changed.wait_timeout(state, time);
                (state, _) = woken.unwrap_or_else(PoisonError::into_inner);
            } else {
                state = wait(&core.changed, state);
            }
        }
    }
}

/// Returns an error of a request that a dead service cannot answer.
fn dead(first: &Arc<Error>) -> Error {
    Error::ServiceDead {
        first: Arc::clone(first),
    }
}

//! A lane against a model of it: what is in which batch, and what becomes of each request.

use std::{collections::VecDeque, sync::Arc, time::Duration};

use cuda_green_embed::{EmbedFuture, Embedder, Error, Lane, LaneStatus};
use proptest::{prelude::*, test_runner::Config};

use super::{
    block_on, eager,
    gated::{BATCH, Gated, OVERFLOW, PANIC_IN_WAIT, UNKNOWN},
    poll, service, until, vector,
};

const LIMIT: usize = 6;
/// Of the fake encoder.
const TEXTS: usize = 8;

#[derive(Clone, Debug)]
enum Step {
    /// A request with so many tokens, one of which may be bad.
    Embed(usize, Option<u32>),
    /// A request whose deadline has passed.
    Late,
    /// A text that is not tokenised.
    Bad,
    Poll(usize),
    Drop(usize),
    /// Lets the batch on the way end.
    End,
}

fn step() -> impl Strategy<Value = Step> {
    let bad = vec![UNKNOWN, OVERFLOW, PANIC_IN_WAIT, BATCH];
    let bad = prop::option::weighted(0.2, prop::sample::select(bad));
    prop_oneof![
        8 => (1..16usize, bad).prop_map(|(tokens, bad)| Step::Embed(tokens, bad)),
        1 => Just(Step::Late),
        1 => Just(Step::Bad),
        2 => (0..20usize).prop_map(Step::Poll),
        2 => (0..20usize).prop_map(Step::Drop),
        4 => Just(Step::End),
    ]
}

#[derive(Clone, Debug, PartialEq)]
enum Fate {
    Vector,
    Alone,
    Batch,
    Expired,
}

/// A request, by its number.
#[derive(Clone, Debug)]
struct Request {
    number: usize,
    tokens: Vec<u32>,
    is_late: bool,
    is_dropped: bool,
}

/// The lane as it should be.
#[derive(Default)]
struct Model {
    queue: VecDeque<Request>,
    running: Vec<Request>,
    submitted: Vec<Vec<Vec<u32>>>,
    fates: Vec<Option<Fate>>,
    status: LaneStatus,
}

impl Model {
    fn submit(&mut self, mut batch: Vec<Request>) {
        let texts = |batch: &[Request]| {
            let mut texts: Vec<_> = batch.iter().map(|one| one.tokens.clone()).collect();
            texts.sort();
            texts
        };
        loop {
            if batch.is_empty() {
                return self.launch();
            }
            self.submitted.push(texts(&batch));
            // The encoder has the longest first, of equal ones the oldest.
            let place = (0..batch.len())
                .filter(|at| batch[*at].tokens.contains(&UNKNOWN))
                .max_by_key(|at| (batch[*at].tokens.len(), usize::MAX - at));
            let Some(place) = place else { break };
            let bad = batch.remove(place);
            self.fates[bad.number] = Some(Fate::Alone);
            self.status.failed += 1;
            self.skip_dropped(&mut batch);
        }
        if batch.iter().any(|one| one.tokens.contains(&BATCH)) {
            for one in batch {
                self.fates[one.number] = Some(Fate::Batch);
                self.status.failed += 1;
            }
            return self.launch();
        }
        self.status.batches += 1;
        self.running = batch;
    }

    /// What is submitted again is not, where nobody wants it any more.
    fn skip_dropped(&mut self, batch: &mut Vec<Request>) {
        let all = batch.len();
        batch.retain(|one| !one.is_dropped);
        self.status.cancelled += (all - batch.len()) as u64;
    }

    /// Submits the next batch if none is on the way.
    fn launch(&mut self) {
        while self.running.is_empty() && !self.queue.is_empty() {
            let (mut batch, mut tokens) = (Vec::new(), 0);
            while let Some(next) = self.queue.front()
                && tokens + next.tokens.len() <= 64
                && batch.len() < TEXTS.min(LIMIT)
            {
                tokens += next.tokens.len();
                batch.extend(self.queue.pop_front());
            }
            batch.retain(|one: &Request| {
                if one.is_late {
                    self.fates[one.number] = Some(Fate::Expired);
                    self.status.expired += 1;
                }
                !one.is_late
            });
            if !batch.is_empty() {
                return self.submit(batch);
            }
        }
    }

    fn end(&mut self) {
        let mut batch = std::mem::take(&mut self.running);
        if batch.iter().any(|one| one.tokens.contains(&PANIC_IN_WAIT)) {
            for one in batch {
                self.fates[one.number] = Some(Fate::Batch);
                self.status.failed += 1;
            }
            return self.launch();
        }
        let place = (0..batch.len())
            .filter(|at| batch[*at].tokens.contains(&OVERFLOW))
            .max_by_key(|at| (batch[*at].tokens.len(), usize::MAX - at));
        if let Some(place) = place {
            let bad = batch.remove(place);
            self.fates[bad.number] = Some(Fate::Alone);
            self.status.failed += 1;
            self.skip_dropped(&mut batch);
            return self.submit(batch);
        }
        for one in batch {
            self.fates[one.number] = Some(Fate::Vector);
            self.status.done += 1;
        }
        self.launch();
    }
}

/// The service and its model.
struct Run {
    embedder: Embedder,
    encoder: Arc<Gated>,
    bulk: Arc<Gated>,
    futures: Vec<Option<EmbedFuture>>,
    tokens: Vec<Vec<u32>>,
    model: Model,
}

impl Run {
    fn embed(&mut self, tokens: Vec<u32>, is_late: bool) {
        let lane = self.embedder.interactive();
        let lane = if is_late {
            lane.timeout(Duration::ZERO)
        } else {
            lane
        };
        let number = self.futures.len();
        let future = lane.embed_tokens(tokens.clone());
        self.model.fates.push(None);
        self.tokens.push(tokens.clone());
        if self.model.queue.len() >= LIMIT {
            self.futures.push(None);
            self.model.status.overloaded += 1;
            let refused = future.wait();
            assert!(matches!(
                refused,
                Err(Error::Overloaded {
                    waiting: LIMIT,
                    limit: LIMIT
                })
            ));
            return;
        }
        self.futures.push(Some(future));
        self.model.queue.push_back(Request {
            number,
            tokens,
            is_late,
            is_dropped: false,
        });
        self.model.launch();
    }

    fn step(&mut self, step: Step) {
        match step {
            Step::Embed(length, bad) => {
                // All texts differ.
                let first = self.futures.len() as u32;
                let mut tokens = vec![first; length];
                tokens.extend(bad);
                self.embed(tokens, false);
            }
            Step::Late => self.embed(vec![self.futures.len() as u32], true),
            Step::Bad => {
                // Whether there is room is asked first.
                match self.embedder.embed("no number").wait() {
                    Err(Error::Tokenize { .. }) if self.model.queue.len() < LIMIT => {
                        self.model.status.failed += 1;
                    }
                    Err(Error::Overloaded { .. }) if self.model.queue.len() == LIMIT => {
                        self.model.status.overloaded += 1;
                    }
                    other => panic!("{other:?}"),
                }
            }
            Step::Poll(at) => {
                if !matches!(self.futures.get(at), Some(Some(_))) {
                    return;
                }
                if self.model.fates[at].is_none() {
                    let future = self.futures[at].as_mut().unwrap();
                    assert!(poll(future).is_pending(), "request {at}");
                } else if let Some(future) = self.futures[at].take() {
                    self.check(at, block_on(future));
                }
            }
            Step::Drop(at) => {
                let Some(Some(future)) = self.futures.get_mut(at).map(Option::take) else {
                    return;
                };
                drop(future);
                let waited = self.model.queue.len();
                self.model.queue.retain(|one| one.number != at);
                let removed = waited - self.model.queue.len();
                self.model.status.cancelled += removed as u64;
                for one in self.model.running.iter_mut().filter(|one| one.number == at) {
                    one.is_dropped = true;
                }
            }
            Step::End => {
                if self.model.running.is_empty() {
                    return;
                }
                // It is waited for by the lane's thread once somebody asks who cannot wait.
                let mut asks = self.embedder.embed_tokens(vec![1]);
                let overloaded = self.model.queue.len() >= LIMIT;
                let _ = poll(&mut asks);
                drop(asks);
                match overloaded {
                    true => self.model.status.overloaded += 1,
                    false => self.model.status.cancelled += 1,
                }
                self.encoder.permit();
                self.model.end();
                self.settle();
            }
        }
        self.settle();
        assert_eq!(self.encoder.submitted(), self.model.submitted);
    }

    /// Waits until the service is where the model is.
    fn settle(&mut self) {
        let model = &mut self.model;
        model.status.queued = model.queue.len();
        model.status.on_the_way = model.running.len();
        model.status.limit = LIMIT;
        let (embedder, status) = (&self.embedder, &model.status);
        until("the service is where the model is", || {
            embedder.status().interactive == *status
        });
    }

    fn check(&self, number: usize, result: Result<Vec<f32>, Error>) {
        let fate = self.model.fates[number].as_ref();
        let found = match result {
            Ok(result) => {
                assert_eq!(result, vector(&self.tokens[number]));
                Fate::Vector
            }
            Err(Error::DeadlineExceeded) => Fate::Expired,
            Err(Error::EncoderPanicked | Error::BatchFailed { .. }) => Fate::Batch,
            Err(Error::UnsupportedPrecision { .. }) => Fate::Batch,
            Err(Error::UnknownToken { text: 0, .. } | Error::Overflow { text: 0, .. }) => {
                Fate::Alone
            }
            Err(other) => panic!("{other}"),
        };
        assert_eq!(Some(&found), fate, "request {number}");
    }
}

impl Drop for Run {
    /// Lets the service end, also after a failure.
    fn drop(&mut self) {
        self.encoder.open();
        self.bulk.open();
    }
}

proptest! {
    #![proptest_config(Config { max_shrink_iters: 30, ..Config::default() })]

    #[test]
    fn a_lane_does_what_its_model_does(steps in prop::collection::vec(step(), 1..40)) {
        let (embedder, encoder, bulk) = service(eager().queue_limit(Lane::Interactive, LIMIT));
        encoder.hold();
        // What is in the other lane is of no account.
        bulk.hold();
        let flood = embedder.embed_batch(&["1"; 50]);
        let mut run = Run {
            embedder,
            encoder,
            bulk,
            futures: Vec::new(),
            tokens: Vec::new(),
            model: Model::default(),
        };
        for step in steps {
            run.step(step);
        }
        while !run.model.running.is_empty() {
            run.step(Step::End);
        }
        for at in 0..run.futures.len() {
            if let Some(future) = run.futures[at].take() {
                let result = block_on(future);
                run.check(at, result);
            }
        }
        drop(flood);
    }
}

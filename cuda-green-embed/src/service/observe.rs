//! The service's figures for the `metrics` facade and its spans for `tracing`. Without the features, nothing.
//!
//! Names that begin with `te_` are those of text-embeddings-inference, so that its dashboards show this service too:
//! `te_request_*` from `router/src/http/server.rs` and `router/src/lib.rs` of huggingface/text-embeddings-inference,
//! `te_request_failure` and `te_embed_*` from `core/src/infer.rs`, `te_request_input_length` from
//! `core/src/tokenization.rs`, `te_batch_next_*` and `te_queue_size` from `core/src/queue.rs`. Durations are in seconds, as
//! there. The labels `method`, `single` or `batch`, and `err` are theirs; the labels `lane` and, in a library,
//! `model` are ours.

use std::time::Instant;
#[cfg(feature = "metrics")]
use std::{sync::Arc, time::Duration};

use super::{batch::Batch, lane::LaneCore, request::Times, status::Lane};
use crate::error::Error;

/// One call: a text, or a list of texts.
#[derive(Clone, Copy)]
#[cfg_attr(not(feature = "metrics"), allow(dead_code))] // only recorded there
pub(super) struct Call {
    lane: Lane,
    method: &'static str,
    started: Instant,
}

impl Call {
    /// Counts a call.
    #[cfg_attr(not(feature = "metrics"), allow(unused_variables))]
    pub(super) fn begin(lane: Lane, method: &'static str, texts: usize) -> Self {
        #[cfg(feature = "metrics")]
        {
            use metrics::counter;

            let label = lane.name();
            counter!("te_request_count", "method" => method, "lane" => label).increment(1);
            counter!("te_embed_count", "lane" => label).increment(texts as u64);
        }
        Self {
            lane,
            method,
            started: Instant::now(),
        }
    }

    /// Counts it as failed, for its first text at fault.
    #[cfg_attr(not(feature = "metrics"), allow(unused_variables))]
    pub(super) fn failed(self, error: &Error) {
        #[cfg(feature = "metrics")]
        {
            let reason = match error {
                Error::Overloaded { .. } => "overloaded",
                Error::Tokenize { .. } | Error::NoTokenizer => "tokenization",
                Error::EmptyText { .. }
                | Error::UnknownToken { .. }
                | Error::BatchTooLarge { .. } => "validation",
                // Those that they do not have.
                Error::DeadlineExceeded => "deadline",
                Error::ShutDown => "shut_down",
                _ => "inference",
            };
            let lane = self.lane.name();
            metrics::counter!("te_request_failure", "err" => reason, "lane" => lane).increment(1);
        }
    }

    /// Counts it as answered, with the means of its texts' times.
    #[cfg_attr(not(feature = "metrics"), allow(unused_variables))]
    pub(super) fn succeeded(self, sum: Times, texts: usize) {
        #[cfg(feature = "metrics")]
        {
            use metrics::{counter, histogram};

            let (lane, method) = (self.lane.name(), self.method);
            counter!("te_request_success", "method" => method, "lane" => lane).increment(1);
            let mean = |time: Duration| time.as_secs_f64() / texts.max(1) as f64;
            let total = self.started.elapsed().as_secs_f64();
            for (name, seconds) in [
                ("te_request_duration", total),
                ("te_request_tokenization_duration", mean(sum.tokenize)),
                ("te_request_queue_duration", mean(sum.queue)),
                ("te_request_inference_duration", mean(sum.inference)),
            ] {
                histogram!(name, "lane" => lane).record(seconds);
            }
        }
    }
}

/// Records that a batch leaves the queue.
#[cfg_attr(not(feature = "metrics"), allow(unused_variables))]
pub(super) fn launched(core: &LaneCore, batch: &Batch) {
    #[cfg(feature = "metrics")]
    {
        use metrics::histogram;

        let tokens: usize = batch.requests.iter().map(|one| one.tokens.len()).sum();
        let lane = core.lane.name();
        histogram!("te_batch_next_size", "lane" => lane).record(batch.texts() as f64);
        histogram!("te_batch_next_tokens", "lane" => lane).record(tokens as f64);
        let lengths = histogram!("te_request_input_length", "lane" => lane);
        for request in &batch.requests {
            lengths.record(request.tokens.len() as f64);
        }
    }
    queue_size(core);
    for request in &batch.requests {
        request.trace.computing();
    }
}

/// Records the texts of a batch whose vectors were computed.
#[cfg_attr(not(feature = "metrics"), allow(unused_variables))]
pub(super) fn embedded(lane: Lane, texts: &[Times]) {
    #[cfg(feature = "metrics")]
    {
        use metrics::{counter, histogram};

        let lane = lane.name();
        counter!("te_embed_success", "lane" => lane).increment(texts.len() as u64);
        let whole = histogram!("te_embed_duration", "lane" => lane);
        let tokenize = histogram!("te_embed_tokenization_duration", "lane" => lane);
        let queue = histogram!("te_embed_queue_duration", "lane" => lane);
        let inference = histogram!("te_embed_inference_duration", "lane" => lane);
        for times in texts {
            whole.record(times.tokenize + times.queue + times.inference);
            tokenize.record(times.tokenize);
            queue.record(times.queue);
            inference.record(times.inference);
        }
    }
}

/// Records the number of texts that wait, and of those that did not get so far.
#[cfg_attr(not(feature = "metrics"), allow(unused_variables))]
pub(super) fn queue_size(core: &LaneCore) {
    #[cfg(feature = "metrics")]
    {
        let queued = core.lock().queue.len();
        metrics::gauge!("te_queue_size", labels(core)).set(queued as f64);
    }
}

/// Returns the labels of a lane: `lane`, and `model` in a library.
#[cfg(feature = "metrics")]
fn labels(core: &LaneCore) -> Vec<metrics::Label> {
    let model = core.model.get().map(Arc::clone);
    let model = model.map(|model| metrics::Label::new("model", model));
    let lane = metrics::Label::new("lane", core.lane.name());
    [lane].into_iter().chain(model).collect()
}

/// Records the state of a service.
#[cfg(feature = "metrics")]
pub(super) fn export(status: &super::EmbedderStatus, engine: &super::engine::Engine) {
    use metrics::{Label, counter, gauge};

    use super::ServiceMode;

    let flag = |on: bool| f64::from(u8::from(on));
    let is_single = matches!(status.mode, ServiceMode::SingleContext { .. });
    gauge!("cuda_green_embed_single_context_mode").set(flag(is_single));
    // All but the lane.
    let model = labels(engine.lane(Lane::Interactive)).split_off(1);
    gauge!("cuda_green_embed_dead", model).set(flag(status.dead.is_some()));
    if let Some(elastic) = &status.elastic {
        gauge!("cuda_green_embed_wide").set(flag(elastic.layout == super::LaneLayout::Wide));
        counter!("cuda_green_embed_rebalances").absolute(elastic.rebalances);
        counter!("cuda_green_embed_failed_rebalances").absolute(elastic.failed);
    }
    for (index, gpu) in status.gpus.iter().enumerate() {
        for lane in Lane::ALL {
            let mut labels = labels(engine.lane(lane));
            labels.push(Label::new("gpu", index.to_string()));
            let failed = gpu.lane(lane).failed.is_some();
            gauge!("cuda_green_embed_gpu_failed", labels).set(flag(failed));
        }
    }
    for lane in Lane::ALL {
        let figures = status.lane(lane);
        if let Some(sms) = figures.sms {
            gauge!("cuda_green_embed_lane_sms", "lane" => lane.name()).set(f64::from(sms));
        }
        // Texts that were given up left the queue without a word.
        queue_size(engine.lane(lane));
        let of_lane = labels(engine.lane(lane));
        gauge!("cuda_green_embed_texts_on_the_way", of_lane.clone()).set(figures.on_the_way as f64);
        for (outcome, texts) in [
            ("done", figures.done),
            ("failed", figures.failed),
            ("cancelled", figures.cancelled),
            ("expired", figures.expired),
            ("overloaded", figures.overloaded),
        ] {
            let mut labels = of_lane.clone();
            labels.push(Label::new("outcome", outcome));
            counter!("cuda_green_embed_texts", labels).absolute(texts);
        }
    }
}

/// The spans of one request: `embed`, and within it `tokenize`, `queue`, `gpu` and `deliver`, one after another. They are
/// of the target `cuda_green_embed::service` and of the level debug, and are not entered: no thread stays with a request.
#[cfg(feature = "tracing")]
pub(super) struct Trace {
    whole: tracing::Span,
    stage: std::sync::Mutex<tracing::Span>,
}

#[cfg(not(feature = "tracing"))]
pub(super) struct Trace;

#[cfg(feature = "tracing")]
macro_rules! stage {
    ($trace:expr, $name:literal) => {
        $trace.enter_stage(
            tracing::debug_span!(target: "cuda_green_embed::service", parent: &$trace.whole, $name),
        )
    };
}

#[cfg(feature = "tracing")]
impl Trace {
    /// Begins with the tokeniser.
    pub(super) fn tokenizing(lane: Lane) -> Self {
        let target = tracing::debug_span!(
            target: "cuda_green_embed::service",
            "embed",
            lane = lane.name()
        );
        let trace = Self {
            whole: target,
            stage: std::sync::Mutex::new(tracing::Span::none()),
        };
        stage!(trace, "tokenize");
        trace
    }

    pub(super) fn queuing(&self) {
        stage!(self, "queue");
    }

    pub(super) fn computing(&self) {
        stage!(self, "gpu");
    }

    pub(super) fn delivering(&self) {
        stage!(self, "deliver");
    }

    pub(super) fn end(&self) {
        self.enter_stage(tracing::Span::none());
    }

    fn enter_stage(&self, span: tracing::Span) {
        let old = std::mem::replace(&mut *crate::lock::lock(&self.stage), span);
        // The end of a span is the subscriber's code: without the lock.
        drop(old);
    }
}

#[cfg(not(feature = "tracing"))]
#[allow(clippy::unused_self)] // as with the feature
impl Trace {
    pub(super) fn tokenizing(_: Lane) -> Self {
        Self
    }
    pub(super) fn queuing(&self) {}
    pub(super) fn computing(&self) {}
    pub(super) fn delivering(&self) {}
    pub(super) fn end(&self) {}
}

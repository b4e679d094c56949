//! A subscriber for the `tracing` facade that writes the events of a target down.

use std::{
    fmt,
    sync::{Arc, Mutex},
};

/// Does something at each event, too.
#[derive(Clone)]
pub struct Subscriber {
    target: &'static str,
    heard: Arc<Mutex<Vec<String>>>,
    at_each: Arc<dyn Fn() + Send + Sync>,
}

impl Subscriber {
    pub fn new(target: &'static str, at_each: impl Fn() + Send + Sync + 'static) -> Self {
        Self {
            target,
            heard: Arc::default(),
            at_each: Arc::new(at_each),
        }
    }

    /// Each event's level and fields, but for times.
    pub fn heard(&self) -> Vec<String> {
        self.heard.lock().unwrap().clone()
    }
}

struct Fields(String);

impl tracing::field::Visit for Fields {
    fn record_debug(&mut self, field: &tracing::field::Field, value: &dyn fmt::Debug) {
        if field.name() != "seconds" {
            self.0 += &format!(" {field}={value:?}");
        }
    }
}

impl tracing::Subscriber for Subscriber {
    fn enabled(&self, metadata: &tracing::Metadata<'_>) -> bool {
        metadata.target() == self.target
    }
    fn new_span(&self, _: &tracing::span::Attributes<'_>) -> tracing::span::Id {
        tracing::span::Id::from_u64(1)
    }
    fn record(&self, _: &tracing::span::Id, _: &tracing::span::Record<'_>) {}
    fn record_follows_from(&self, _: &tracing::span::Id, _: &tracing::span::Id) {}
    fn event(&self, event: &tracing::Event<'_>) {
        let mut fields = Fields(event.metadata().level().to_string());
        event.record(&mut fields);
        self.heard.lock().unwrap().push(fields.0);
        (self.at_each)();
    }
    fn enter(&self, _: &tracing::span::Id) {}
    fn exit(&self, _: &tracing::span::Id) {}
}

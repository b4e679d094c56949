//! What pools and slots tell the `tracing` facade. Alone in its process: whether a place in the code is listened
//! to, the facade decides once for all threads, and other tests listen to nothing.

#![allow(clippy::unwrap_used, clippy::panic, missing_docs)] // helpers of tests

mod models;

use std::{
    fmt,
    sync::{Arc, Mutex},
};

use cuda_green::sim::Sim;
use models::{needs, slots};

/// A subscriber that writes the events of a target down.
#[derive(Clone, Default)]
struct Subscriber(Arc<Mutex<Vec<String>>>);

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
        metadata.target() == "cuda_green::memory"
    }
    fn new_span(&self, _: &tracing::span::Attributes<'_>) -> tracing::span::Id {
        tracing::span::Id::from_u64(1)
    }
    fn record(&self, _: &tracing::span::Id, _: &tracing::span::Record<'_>) {}
    fn record_follows_from(&self, _: &tracing::span::Id, _: &tracing::span::Id) {}
    fn event(&self, event: &tracing::Event<'_>) {
        let mut fields = Fields(event.metadata().level().to_string());
        event.record(&mut fields);
        self.0.lock().unwrap().push(fields.0);
    }
    fn enter(&self, _: &tracing::span::Id) {}
    fn exit(&self, _: &tracing::span::Id) {}
}

#[test]
fn the_tracing_facade_hears_what_happens() {
    let simulator = Sim::new("h200@13.0").unwrap();
    let subscriber = Subscriber::default();
    tracing::subscriber::with_default(subscriber.clone(), || {
        let slots = slots(&simulator);
        assert!(slots.pool().allocate(100 << 20).is_err());
        let failed = slots.get_or_load("broken", needs(10), |_| {
            Err(cuda_green::Error::ForeignBuffer)
        });
        assert!(failed.is_err());
        slots.evict("second").unwrap();
    });
    let heard = subscriber.0.lock().unwrap().clone();
    let expected = [
        "DEBUG message=took memory from the driver bytes=1048576 from_driver=1048576",
        "INFO message=loaded a model model=\"first\" bytes=62914560",
        "INFO message=evicted a model model=\"first\" bytes=62914560",
        "INFO message=loaded a model model=\"second\" bytes=62914560",
        "WARN message=refused memory asked=104857600 available=41943040 limit=104857600",
        "WARN message=a model did not load model=\"broken\" bytes=10485760",
        "INFO message=evicted a model model=\"second\" bytes=62914560",
        "DEBUG message=gave memory back to the driver bytes=1048576 from_driver=0",
    ];
    assert_eq!(heard, expected);
}

//! What the facades `serde` and `tracing` are told.

#[cfg(feature = "serde")]
#[test]
fn figures_are_serialised_by_their_names() {
    let gpu = super::gpu::Gpu::new("h200@13.0", |_| {});
    let queue = super::builder().build(&gpu.device).unwrap();
    assert_eq!(queue.submit(super::Double(2)).unwrap().wait(), Ok(4));
    let submitter = queue.submitter().clone();
    let with_devices = serde_json::to_value(queue.stats()).unwrap();
    assert_eq!(with_devices["devices"][0]["rings"][5]["depth"], 16);
    queue.shutdown().unwrap();
    let stats = serde_json::to_value(submitter.stats()).unwrap();
    assert_eq!(stats["pointers"]["submitted"], 1);
    assert_eq!(stats["methods"][0]["done"], 1);
    assert_eq!(stats["methods"][0]["method"], 3);
}

#[cfg(feature = "tracing")]
mod events {
    use std::{
        sync::{Arc, Mutex, OnceLock},
        thread::{self, ThreadId},
    };

    use tracing::{
        Event, Metadata, Subscriber,
        field::{Field, Visit},
        span,
    };

    use crate::tests::{Fail, builder, gpu::Gpu};

    /// Keeps the events of queues as text, each with its thread.
    #[derive(Clone, Default)]
    struct Lines(Arc<Mutex<Vec<(ThreadId, String)>>>);

    /// Returns the events that this thread emits meanwhile. One subscriber is there for all tests: which callsites are
    /// wanted is a state of the process, and subscribers that come and go beside each other change it.
    fn lines_of(run: impl FnOnce()) -> Vec<String> {
        static LINES: OnceLock<Lines> = OnceLock::new();
        let lines = LINES.get_or_init(|| {
            let lines = Lines::default();
            tracing::subscriber::set_global_default(lines.clone()).unwrap();
            lines
        });
        let before = lines.0.lock().unwrap().len();
        run();
        let lines = lines.0.lock().unwrap();
        let mine = lines[before..]
            .iter()
            .filter(|(thread, _)| *thread == thread::current().id());
        mine.map(|(_, line)| line.clone()).collect()
    }

    struct Line(String);

    impl Visit for Line {
        fn record_debug(&mut self, field: &Field, value: &dyn std::fmt::Debug) {
            self.0 += &format!("{}={value:?} ", field.name());
        }
    }

    impl Subscriber for Lines {
        fn enabled(&self, metadata: &Metadata<'_>) -> bool {
            metadata.target() == "cuda_green::queues"
        }

        fn event(&self, event: &Event<'_>) {
            let mut line = Line(String::new());
            event.record(&mut line);
            self.0
                .lock()
                .unwrap()
                .push((thread::current().id(), line.0));
        }

        fn new_span(&self, _: &span::Attributes<'_>) -> span::Id {
            span::Id::from_u64(1)
        }

        fn record(&self, _: &span::Id, _: &span::Record<'_>) {}
        fn record_follows_from(&self, _: &span::Id, _: &span::Id) {}
        fn enter(&self, _: &span::Id) {}
        fn exit(&self, _: &span::Id) {}
    }

    #[test]
    fn a_queue_says_when_it_is_made_closed_and_ended() {
        let lines = lines_of(|| {
            let gpu = Gpu::new("h200@13.0", |_| {});
            let queue = builder().build(&gpu.device).unwrap();
            queue.submit(Fail(1)).unwrap().wait().unwrap_err();
            queue.shutdown().unwrap();
        });
        let messages = ["task queue made", "task queue closed", "task queue ended"];
        assert_eq!(lines.len(), messages.len(), "{lines:?}");
        for (line, message) in lines.iter().zip(messages) {
            assert!(
                line.contains(message) && line.contains("device=0"),
                "{lines:?}"
            );
        }
        assert!(
            lines[0].contains("lanes=2") && lines[0].contains("depth=16"),
            "{lines:?}"
        );
        assert!(lines[2].contains("discards=false"), "{lines:?}");
    }

    /// And one that fails is not.
    #[test]
    fn a_handler_that_panics_is_said_once() {
        let lines = lines_of(|| {
            let mut registry = crate::registry::Registry::new();
            registry.add(true, crate::tests::fail).unwrap();
            let method = registry.get(0).unwrap();
            let panicked = crate::TaskError::Panicked;
            assert_eq!(method.run_typed(Fail(0)), Err(panicked));
            assert!(
                method
                    .run_typed(Fail(1))
                    .is_err_and(|error| error != panicked)
            );
        });
        assert_eq!(lines.len(), 1, "{lines:?}");
        assert!(lines[0].contains("handler panicked"), "{lines:?}");
    }
}

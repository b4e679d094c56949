//! Loads that wait for each other, of all slots of the process.
//!
//! A load runs the caller's function, which may ask for other models and wait for their loads. If that comes round to
//! itself, all of them wait for ever. Whoever would close such a circle gets an error instead.

use std::collections::BTreeMap;

use crate::sync::native::{Mutex, MutexGuard};

/// A model by the address of its slots, which live as long as their loads, and its name.
type Model = (usize, String);

/// A number that no other living thread has. Not the standard library's: asking for that may panic in a thread that
/// is ending, in the destructors of a C library's keys (it does not any more with Rust 1.95).
#[derive(Clone, Copy, PartialEq, Eq)]
struct Thread(usize);

impl Thread {
    fn current() -> Self {
        thread_local! {
            // Without a destructor, so it is there until the thread's end.
            static PLACE: u8 = const { 0 };
        }
        // Some platforms have none at the very end: what loads then, is taken for one thread.
        Self(
            PLACE
                .try_with(|place| std::ptr::from_ref(place).addr())
                .unwrap_or(0),
        )
    }
}

/// The loads and waits of the process. Few, and looked at only where a load begins or is waited for.
struct Loads {
    loaders: BTreeMap<Model, Thread>,
    /// The threads that wait for a load, with the model.
    waiting: Vec<(Thread, Model)>,
}

static LOADS: Mutex<Loads> = Mutex::new(Loads {
    loaders: BTreeMap::new(),
    waiting: Vec::new(),
});

fn loads() -> MutexGuard<'static, Loads> {
    LOADS.lock()
}

/// Notes that this thread loads a model, until it is dropped.
pub(super) struct Loading(Model);

impl Loading {
    pub(super) fn begin(slots: usize, name: &str) -> Self {
        let model = (slots, name.to_owned());
        loads().loaders.insert(model.clone(), Thread::current());
        Self(model)
    }
}

impl Drop for Loading {
    fn drop(&mut self) {
        loads().loaders.remove(&self.0);
    }
}

/// Notes that this thread waits for a load, until it is dropped.
pub(super) struct Waiting(());

impl Waiting {
    /// # Errors
    /// The models that would wait for each other, from one that this thread loads on.
    pub(super) fn begin(slots: usize, name: &str) -> Result<Self, Vec<String>> {
        let me = Thread::current();
        let mut loads = loads();
        let first = (slots, name.to_owned());
        let (mut model, mut chain) = (first.clone(), Vec::new());
        // Each step is another thread, and each thread waits for one load at most.
        while let Some(loader) = loads.loaders.get(&model).copied() {
            chain.push(model.1.clone());
            if loader == me {
                return Err(chain);
            }
            let Some((_, next)) = loads.waiting.iter().find(|(thread, _)| *thread == loader) else {
                break;
            };
            model = next.clone();
        }
        loads.waiting.push((me, first));
        Ok(Self(()))
    }
}

impl Drop for Waiting {
    fn drop(&mut self) {
        let me = Thread::current();
        loads().waiting.retain(|(thread, _)| *thread != me);
    }
}

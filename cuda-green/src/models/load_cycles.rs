//! Detection of loads that wait for each other, across all slots of the process.
//!
//! A load runs the caller's function, which may ask for other models and wait for their loads. A cycle of such waits
//! would never end, so the wait that would close it is an error instead.

use std::collections::BTreeMap;

use crate::sync::native::{Mutex, MutexGuard};

/// A model, by the address of its slots, which live as long as their loads, and by its name.
type ModelKey = (usize, String);

/// A number that no other living thread has. It is not the standard library's thread id: asking for that may panic in a
/// thread that is ending, in the destructors of a C library's keys (until Rust 1.95).
#[derive(Clone, Copy, PartialEq, Eq)]
struct ThreadKey(usize);

impl ThreadKey {
    fn current() -> Self {
        thread_local! {
            // It has no destructor, so it exists until the thread's end.
            static PLACE: u8 = const { 0 };
        }
        // On some platforms it is gone at the very end: all loads at that moment count as one thread's.
        Self(
            PLACE
                .try_with(|place| std::ptr::from_ref(place).addr())
                .unwrap_or(0),
        )
    }
}

/// The loads and waits of the process. There are few, and they are looked at only when a load or a wait begins.
struct Loads {
    loaders: BTreeMap<ModelKey, ThreadKey>,
    /// The threads that wait for a load, with the model.
    waiting: Vec<(ThreadKey, ModelKey)>,
}

static LOADS: Mutex<Loads> = Mutex::new(Loads {
    loaders: BTreeMap::new(),
    waiting: Vec::new(),
});

fn loads() -> MutexGuard<'static, Loads> {
    LOADS.lock()
}

/// Records that this thread loads a model, until it is dropped.
pub(super) struct ActiveLoad(ModelKey);

impl ActiveLoad {
    pub(super) fn begin(slots: usize, name: &str) -> Self {
        let model = (slots, name.to_owned());
        loads().loaders.insert(model.clone(), ThreadKey::current());
        Self(model)
    }
}

impl Drop for ActiveLoad {
    fn drop(&mut self) {
        loads().loaders.remove(&self.0);
    }
}

/// Records that this thread waits for a load, until it is dropped.
pub(super) struct LoadWait(());

impl LoadWait {
    /// Begins a wait for the load of a model.
    ///
    /// # Errors
    /// The models whose loads would wait for each other, up to the one that this thread is loading.
    pub(super) fn begin(slots: usize, name: &str) -> Result<Self, Vec<String>> {
        let me = ThreadKey::current();
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

impl Drop for LoadWait {
    fn drop(&mut self) {
        let me = ThreadKey::current();
        loads().waiting.retain(|(thread, _)| *thread != me);
    }
}

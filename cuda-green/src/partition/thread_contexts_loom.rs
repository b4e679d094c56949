//! A model check by loom of how a partition's contexts are assigned to threads: in every interleaving, no context is
//! current to two threads, and a hand-off reaches every context.

use std::{convert::Infallible, sync::Arc};

use loom::{cell::UnsafeCell, thread};

use super::thread_contexts::{ThreadContext, ThreadContexts};
use crate::sync::model;

/// A context; loom fails where two threads have it open at once, or one after the other without order.
type Context = UnsafeCell<u32>;

fn make() -> Context {
    UnsafeCell::new(0)
}

/// Uses the context, as code between the start and the end of a guard does.
fn use_it(context: &ThreadContext<Context>) {
    // SAFETY: loom detects it if another thread is in here.
    context.context.with_mut(|uses| unsafe { *uses += 1 });
}

/// Activates twice, one within the other, as `guard.rs` does.
fn activate(contexts: &ThreadContexts<Context, ()>, thread: usize) {
    if contexts.main.acquire(thread) {
        use_it(&contexts.main);
        assert!(contexts.main.acquire(thread), "it is this thread's");
        use_it(&contexts.main);
        assert_eq!(contexts.main.release_biased(), 1);
        use_it(&contexts.main);
        contexts.main.release_biased();
        return;
    }
    let sibling = || contexts.acquire_sibling(thread, |_| Ok::<_, Infallible>(make()));
    let outer = sibling().unwrap();
    use_it(&outer);
    let inner = sibling().unwrap();
    assert!(Arc::ptr_eq(&outer, &inner), "a thread needs one sibling");
    use_it(&inner);
    inner.release();
    use_it(&outer);
    outer.release();
}

#[test]
fn a_context_is_current_to_one_thread_at_a_time() {
    model(3, || {
        let contexts = Arc::new(ThreadContexts::<Context, ()>::new(make()));
        let threads = [1, 2].map(|token| {
            let contexts = Arc::clone(&contexts);
            thread::spawn(move || activate(&contexts, token))
        });
        activate(&contexts, 3);
        for thread in threads {
            thread.join().unwrap();
        }
        assert_eq!(contexts.use_count(), 0);
        assert!(
            (1..=3).contains(&contexts.count()),
            "as many as were active at once"
        );
    });
}

/// One thread after the other needs the same sibling.
#[test]
fn a_sibling_goes_from_hand_to_hand() {
    model(3, || {
        let contexts = Arc::new(ThreadContexts::<Context, ()>::new(make()));
        assert!(contexts.main.acquire(9), "so that all others need siblings");
        let first = {
            let contexts = Arc::clone(&contexts);
            thread::spawn(move || {
                activate(&contexts, 1);
                activate(&contexts, 1);
            })
        };
        activate(&contexts, 2);
        first.join().unwrap();
        assert_eq!(contexts.use_count(), 1);
        assert!((2..=3).contains(&contexts.count()));
    });
}

/// From 13.5 on: any number of threads in one context, which is in use until the last has left.
#[test]
fn threads_that_share_are_all_counted() {
    model(3, || {
        let contexts = Arc::new(ThreadContexts::<(), ()>::new(()));
        let threads = [1, 2].map(|_| {
            let contexts = Arc::clone(&contexts);
            thread::spawn(move || {
                contexts.main.acquire_shared();
                assert!(contexts.use_count() > 0);
                contexts.main.release_shared();
            })
        });
        for thread in threads {
            thread.join().unwrap();
        }
        assert_eq!(contexts.use_count(), 0);
    });
}

/// The events that a context was made to wait for. Loom does not switch threads in driver calls.
#[derive(Default)]
struct Waits(std::sync::Mutex<Vec<usize>>);

impl Waits {
    fn add(&self, event: &usize) {
        self.0.lock().unwrap().push(*event);
    }
}

/// Siblings are provisioned while a thread acquires and releases one: it finds one, and no more are made than
/// were asked for, or than threads needed before.
#[test]
fn provisioned_siblings_are_found() {
    model(2, || {
        let contexts = Arc::new(ThreadContexts::<Context, ()>::new(make()));
        assert!(contexts.main.acquire(9));
        let thread = thread::spawn({
            let contexts = Arc::clone(&contexts);
            move || activate(&contexts, 1)
        });
        contexts
            .provision(3, |_| Ok::<_, Infallible>(make()))
            .unwrap();
        let provisioned = contexts.count();
        activate(&contexts, 2);
        thread.join().unwrap();
        assert_eq!((provisioned, contexts.count()), (3, 3));
    });
}

/// Two hand-offs, while two threads come to need siblings: each context waits for both.
#[test]
fn a_hand_off_reaches_later_siblings() {
    model(2, || {
        let contexts = Arc::new(ThreadContexts::<Waits, usize>::new(Waits::default()));
        assert!(contexts.main.acquire(9));
        let events = [10, 11].map(Arc::new);
        let threads = [1, 2].map(|token| {
            let contexts = Arc::clone(&contexts);
            thread::spawn(move || {
                let make = |awaited: &[Arc<usize>]| {
                    let waits = Waits::default();
                    awaited.iter().for_each(|event| waits.add(event));
                    Ok::<_, Infallible>(waits)
                };
                contexts.acquire_sibling(token, make).unwrap().release();
            })
        });
        for event in &events {
            let wait = |waits: &Waits, event: &usize| {
                waits.add(event);
                Ok::<_, Infallible>(())
            };
            contexts
                .hand_off(std::slice::from_ref(event), wait)
                .unwrap();
        }
        for thread in threads {
            thread.join().unwrap();
        }
        for waits in contexts.map(|waits| waits.0.lock().unwrap().clone()) {
            assert!(waits.contains(&10) && waits.contains(&11), "{waits:?}");
        }
    });
}

/// The events of partitions that ended are not kept for ever.
#[test]
fn what_has_ended_is_not_waited_for() {
    model(1, || {
        let contexts = ThreadContexts::<Waits, usize>::new(Waits::default());
        let wait = |_: &Waits, _: &usize| Ok::<_, Infallible>(());
        for event in 0..3 {
            contexts.hand_off(&[Arc::new(event)], wait).unwrap();
        }
        let sibling = contexts.acquire_sibling(1, |awaited| {
            assert_eq!(awaited.len(), 1, "all but the last have no holder any more");
            Ok::<_, Infallible>(Waits::default())
        });
        sibling.unwrap().release();
    });
}

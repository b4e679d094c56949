//! Every interleaving of a few threads over the seats of a partition, by loom: no context is ever current to two
//! threads, and a hand-off reaches every seat.

use std::{convert::Infallible, sync::Arc};

use loom::{cell::UnsafeCell, thread};

use super::thread_seats::{Seat, Seats};

/// A context; loom fails where two threads have it open at once, or one after the other without order.
type Context = UnsafeCell<u32>;

fn make() -> Context {
    UnsafeCell::new(0)
}

/// What a guard does between its beginning and its end.
fn use_it(seat: &Seat<Context>) {
    // SAFETY: loom finds it out if another thread is in here.
    seat.context.with_mut(|uses| unsafe { *uses += 1 });
}

/// Activates twice, one within the other, as `guard.rs` does.
fn activate(seats: &Seats<Context, ()>, thread: usize) {
    if seats.main.take(thread) {
        use_it(&seats.main);
        assert!(seats.main.take(thread), "it is this thread's");
        use_it(&seats.main);
        assert_eq!(seats.main.leave_biased(), 1);
        use_it(&seats.main);
        seats.main.leave_biased();
        return;
    }
    let sibling = || seats.sibling(thread, |_| Ok::<_, Infallible>(make()));
    let outer = sibling().unwrap();
    use_it(&outer);
    let inner = sibling().unwrap();
    assert!(Arc::ptr_eq(&outer, &inner), "a thread needs one sibling");
    use_it(&inner);
    inner.leave();
    use_it(&outer);
    outer.leave();
}

/// Bounded, as all interleavings of three threads would take minutes.
fn model(preemptions: usize, run: impl Fn() + Send + Sync + 'static) {
    let mut builder = loom::model::Builder::new();
    builder.preemption_bound = Some(preemptions);
    builder.check(run);
}

#[test]
fn a_context_is_current_to_one_thread_at_a_time() {
    model(3, || {
        let seats = Arc::new(Seats::<Context, ()>::new(make()));
        let threads = [1, 2].map(|token| {
            let seats = Arc::clone(&seats);
            thread::spawn(move || activate(&seats, token))
        });
        activate(&seats, 3);
        for thread in threads {
            thread.join().unwrap();
        }
        assert_eq!(seats.taken(), 0);
        assert!(
            (1..=3).contains(&seats.count()),
            "as many as were active at once"
        );
    });
}

/// One thread after the other needs the same sibling.
#[test]
fn a_sibling_goes_from_hand_to_hand() {
    model(3, || {
        let seats = Arc::new(Seats::<Context, ()>::new(make()));
        assert!(seats.main.take(9), "so that all others need siblings");
        let first = {
            let seats = Arc::clone(&seats);
            thread::spawn(move || {
                activate(&seats, 1);
                activate(&seats, 1);
            })
        };
        activate(&seats, 2);
        first.join().unwrap();
        assert_eq!(seats.taken(), 1);
        assert!((2..=3).contains(&seats.count()));
    });
}

/// From 13.5 on: any number of threads in one context, which is in use until the last has left.
#[test]
fn threads_that_share_are_all_counted() {
    model(3, || {
        let seats = Arc::new(Seats::<(), ()>::new(()));
        let threads = [1, 2].map(|_| {
            let seats = Arc::clone(&seats);
            thread::spawn(move || {
                seats.main.take_shared();
                assert!(seats.taken() > 0);
                seats.main.leave_shared();
            })
        });
        for thread in threads {
            thread.join().unwrap();
        }
        assert_eq!(seats.taken(), 0);
    });
}

/// What a context was made to wait for. The driver's calls are no place where loom would switch.
#[derive(Default)]
struct Waits(std::sync::Mutex<Vec<usize>>);

impl Waits {
    fn add(&self, event: &usize) {
        self.0.lock().unwrap().push(*event);
    }
}

/// Seats are provided while a thread needs one and gives it back: it finds one, and no more are made than
/// were asked for, or than threads needed before.
#[test]
fn what_is_provided_is_found() {
    model(2, || {
        let seats = Arc::new(Seats::<Context, ()>::new(make()));
        assert!(seats.main.take(9));
        let thread = thread::spawn({
            let seats = Arc::clone(&seats);
            move || activate(&seats, 1)
        });
        seats.provide(3, |_| Ok::<_, Infallible>(make())).unwrap();
        let provided = seats.count();
        activate(&seats, 2);
        thread.join().unwrap();
        assert_eq!((provided, seats.count()), (3, 3));
    });
}

/// Two hand-offs, while two threads come to need siblings: each seat waits for all of both.
#[test]
fn a_hand_off_reaches_the_seats_that_come_later() {
    model(2, || {
        let seats = Arc::new(Seats::<Waits, usize>::new(Waits::default()));
        assert!(seats.main.take(9));
        let events = [10, 11].map(Arc::new);
        let threads = [1, 2].map(|token| {
            let seats = Arc::clone(&seats);
            thread::spawn(move || {
                let make = |awaited: &[Arc<usize>]| {
                    let waits = Waits::default();
                    awaited.iter().for_each(|event| waits.add(event));
                    Ok::<_, Infallible>(waits)
                };
                seats.sibling(token, make).unwrap().leave();
            })
        });
        for event in &events {
            let wait = |waits: &Waits, event: &usize| {
                waits.add(event);
                Ok::<_, Infallible>(())
            };
            seats.hand_off(std::slice::from_ref(event), wait).unwrap();
        }
        for thread in threads {
            thread.join().unwrap();
        }
        for waits in seats.map(|waits| waits.0.lock().unwrap().clone()) {
            assert!(waits.contains(&10) && waits.contains(&11), "{waits:?}");
        }
    });
}

/// The events of partitions that ended are not kept for ever.
#[test]
fn what_has_ended_is_not_waited_for() {
    model(1, || {
        let seats = Seats::<Waits, usize>::new(Waits::default());
        let wait = |_: &Waits, _: &usize| Ok::<_, Infallible>(());
        for event in 0..3 {
            seats.hand_off(&[Arc::new(event)], wait).unwrap();
        }
        let sibling = seats.sibling(1, |awaited| {
            assert_eq!(awaited.len(), 1, "all but the last are nobody's any more");
            Ok::<_, Infallible>(Waits::default())
        });
        sibling.unwrap().leave();
    });
}

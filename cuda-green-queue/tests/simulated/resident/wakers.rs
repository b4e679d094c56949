//! Wakers that run code of their own.

use super::*;

/// A waker whose end drops a future of the same queue.
struct Drops(Mutex<Option<Box<dyn Send>>>);

impl Wake for Drops {
    fn wake(self: Arc<Self>) {}
}

impl Drop for Drops {
    fn drop(&mut self) {
        self.0.lock().unwrap().take();
    }
}

/// Panics, with what panics again when it is dropped, if it says so.
struct Panics(bool);

struct PanicsToo;

impl Drop for PanicsToo {
    fn drop(&mut self) {
        panic!("what a waker panicked with panics");
    }
}

impl Wake for Panics {
    fn wake(self: Arc<Self>) {
        if self.0 {
            std::panic::panic_any(PanicsToo);
        }
        panic!("this waker panics");
    }
}

/// A waker may come back to the queue when it is replaced, and may panic: others are woken all the same.
#[test]
fn wakers_may_come_back_and_panic() {
    let gpu = Gpu::new();
    let kernel = squares(&gpu);
    let queue = two_lanes(&gpu);
    let watched = |n, waker: &Waker| {
        let mut future = queue.try_submit(Square(n)).unwrap();
        let polled = pin!(&mut future).poll(&mut Context::from_waker(waker));
        assert_eq!(polled, Poll::Pending);
        future
    };
    let inner = watched(1, Waker::noop());
    let drops = Waker::from(Arc::new(Drops(Mutex::new(Some(Box::new(inner))))));
    let mut outer = watched(2, &drops);
    drop(drops);
    // Replaces the waker that owns the inner future.
    let polled = pin!(&mut outer).poll(&mut Context::from_waker(Waker::noop()));
    assert_eq!(polled, Poll::Pending);

    let panics = [false, true].map(|twice| Waker::from(Arc::new(Panics(twice))));
    let panicking = panics.each_ref().map(|panics| watched(3, panics));
    launch(&queue, &gpu.stream(), &kernel).unwrap();
    while !panicking.iter().all(|future| future.is_done()) {
        thread::yield_now();
    }
    for n in 0..50 {
        let future = queue.try_submit(Square(n)).unwrap();
        assert_eq!(block_on(future), Ok(n * n));
    }
    // Of those that wait when the queue ends, too.
    queue.finish();
    queue.wait().unwrap();
    let (_panicking, last) = (watched(4, &panics[0]), watched(5, Waker::noop()));
    let waiting = thread::spawn(move || block_on(last));
    thread::sleep(Duration::from_millis(20));
    drop(queue);
    assert_eq!(waiting.join().unwrap(), Err(TaskError::Closed));
}

//! Which tasks a resident kernel takes, and when there is room for others.

use super::*;

/// A kernel that returns before it is told to has taken what it has taken.
#[test]
fn a_kernel_that_returns_on_its_own_does_nothing_twice() {
    let gpu = Gpu::new();
    let seen: Arc<Mutex<Vec<u64>>> = Arc::default();
    let order = seen.clone();
    let kernel = gpu.kernel("resident", move |launch| {
        let mut block = InboxSide::argument(launch, 0, 0).unwrap();
        for _ in 0..3 {
            let Next::Task(taken) = block.take_next() else {
                return;
            };
            let Square(n) = taken.task().unwrap();
            order.lock().unwrap().push(n);
            block.answer::<Square>(taken, Ok(n * n)).unwrap();
        }
    });
    let queue = ResidentQueue::builder().build(&gpu.device).unwrap();
    let futures: Vec<_> = (0..20)
        .map(|n| queue.try_submit(Square(n)).unwrap())
        .collect();
    let stream = gpu.stream();
    for _ in 0..7 {
        launch(&queue, &stream, &kernel).unwrap();
        queue.wait().unwrap();
    }
    for (n, mut future) in (0..).zip(futures) {
        let answer = future.wait_timeout(Duration::from_secs(60));
        assert_eq!(answer, Some(Ok(n * n)));
    }
    assert_eq!(*seen.lock().unwrap(), (0..20).collect::<Vec<_>>());
}

/// While urgent tasks never end, the less urgent ones have a turn each.
#[test]
fn no_priority_is_starved() {
    let gpu = Gpu::new();
    let seen: Arc<Mutex<Vec<u64>>> = Arc::default();
    let order = seen.clone();
    let kernel = gpu.kernel("resident", move |launch| {
        let block = InboxSide::argument(launch, 0, 0).unwrap();
        block.serve(|Square(n)| {
            order.lock().unwrap().push(n);
            Ok(n)
        });
    });
    let queue = ResidentQueue::builder()
        .priorities(3)
        .depth(64)
        .build(&gpu.device)
        .unwrap();
    for priority in 0..3 {
        for _ in 0..64 {
            let task = Square(u64::from(priority));
            drop(queue.try_submit_to(0, priority, task).unwrap());
        }
    }
    launch(&queue, &gpu.stream(), &kernel).unwrap();
    queue.shutdown().unwrap();
    let seen = seen.lock().unwrap();
    let first_of = |priority| seen.iter().position(|&of| of == priority).unwrap();
    assert!(first_of(1) < 32 && first_of(2) < 32, "{seen:?}");
    assert_eq!(seen[..7], [0; 7]);
}

/// However many futures are held beside each other, one that is given back is found.
#[test]
fn held_futures_do_not_fill_the_queue() {
    let gpu = Gpu::new();
    let kernel = squares(&gpu);
    let queue = ResidentQueue::builder()
        .lanes(2)
        .futures(128)
        .build(&gpu.device)
        .unwrap();
    let stream = gpu.stream();
    let mut held: Vec<_> = (0..128)
        .map(|n| queue.try_submit(Square(n)).unwrap())
        .collect();
    assert!(matches!(
        queue.try_submit(Square(0)),
        Err(SubmitError::Full(_))
    ));
    launch(&queue, &stream, &kernel).unwrap();
    // Half of them go, and as many find room.
    for future in held.drain(64..) {
        future.wait().unwrap();
    }
    for n in 0..64 {
        held.push(queue.try_submit(Square(n)).unwrap());
    }
    drop(held);
    queue.shutdown().unwrap();
}

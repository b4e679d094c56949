//! What is logged: kernels that do nothing on a simulated driver, and tasks that nobody began.

use std::sync::{Mutex, Once, PoisonError};

use bytemuck::{Pod, Zeroable};
use cuda_green::LaunchConfig;
use cuda_green_queue::{
    KernelQueue, ResidentQueue, Task, TaskQueue,
    simulated::{DeviceSide, Place},
};

use crate::fixture::{Add, Gpu, Square};

/// Everything that is logged, by whichever test.
struct Logged(Mutex<Vec<String>>);

static LOGGED: Logged = Logged(Mutex::new(Vec::new()));

impl log::Log for Logged {
    fn enabled(&self, _: &log::Metadata<'_>) -> bool {
        true
    }

    fn log(&self, record: &log::Record<'_>) {
        let line = record.args().to_string();
        let is_refused = line.contains(&format!("method {}", Unheard::METHOD));
        let mut lines = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        lines.push(line);
        drop(lines);
        assert!(!is_refused, "this logger panics");
    }

    fn flush(&self) {}
}

/// Returns how many lines were logged so far that have this text.
fn said(text: &str) -> usize {
    let logged = LOGGED.0.lock().unwrap_or_else(PoisonError::into_inner);
    logged.iter().filter(|line| line.contains(text)).count()
}

/// A task of a method that no queue has a handler for.
#[derive(Clone, Copy, Debug, Pod, Zeroable)]
#[repr(C)]
struct Unheard(u64);

impl Task for Unheard {
    const METHOD: u16 = 4711;
    type Output = ();
}

fn log_all() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        log::set_logger(&LOGGED).unwrap();
        log::set_max_level(log::LevelFilter::Warn);
    });
}

#[test]
fn tasks_that_nobody_began_are_counted() {
    log_all();
    let gpu = Gpu::new();
    let queue = ResidentQueue::builder()
        .lanes(2)
        .build(&gpu.device)
        .unwrap();
    for n in 0..53 {
        drop(queue.try_submit(Square(n)).unwrap());
    }
    drop(queue);
    assert_eq!(said("ended with 53 tasks"), 1);

    let queue = KernelQueue::builder().lanes(2).build(&gpu.device).unwrap();
    let submits = gpu.kernel("submits", |launch| {
        let queue = DeviceSide::argument(launch, 0).unwrap();
        for n in 0..59 {
            let place = Place {
                lane: n % 2,
                ..Place::default()
            };
            queue.try_submit(place, &Add(n.into())).unwrap();
        }
    });
    let stream = gpu.stream();
    let config = LaunchConfig::linear(1, 32);
    // SAFETY: the arguments are those of the kernel, and the queue is fenced.
    unsafe {
        let args = [&queue.device_queue() as _, &0_u64 as _];
        stream.launch(&submits, &config, &args).unwrap();
    }
    queue.fence_on(&stream).unwrap();
    queue.shutdown().unwrap();
    assert_eq!(said("ended with 59 tasks"), 1);
}

#[test]
fn a_kernel_that_does_nothing_is_named_once() {
    log_all();
    let gpu = Gpu::new();
    let queue = TaskQueue::builder().build(&gpu.device).unwrap();
    let (empty, full) = (gpu.bare("does_nothing"), gpu.kernel("submits", |_| {}));
    let stream = gpu.stream();
    for kernel in [&empty, &empty, &full] {
        let config = LaunchConfig::linear(1, 32);
        // SAFETY: the arguments are those of the kernels, and nothing uses them.
        unsafe {
            let args = [&queue.device_queue() as _, &0_u64 as _];
            queue.launch(&stream, kernel, &config, &args).unwrap();
        }
    }
    queue.shutdown().unwrap();
    assert_eq!(said("the kernel does_nothing "), 1);
    assert_eq!(said("the kernel submits "), 0);
}

/// A logger may panic, as one does that prints to a closed pipe. The polling thread goes on.
#[test]
fn a_logger_that_panics_ends_no_thread() {
    log_all();
    let gpu = Gpu::new();
    let queue = TaskQueue::builder()
        .inline_handler(|Square(n)| Ok(n * n))
        .build(&gpu.device)
        .unwrap();
    let kernel = gpu.kernel("submits", |launch| {
        let side = DeviceSide::argument(launch, 0).unwrap();
        side.try_submit(Place::default(), &Unheard(1)).unwrap();
        let future = side.try_call(Place::default(), &Square(5));
        assert_eq!(future.unwrap().wait(), Ok(25));
    });
    let stream = gpu.stream();
    let args = [&queue.device_queue() as _, &0_u64 as _];
    // SAFETY: the arguments are those of the kernel.
    unsafe { queue.launch(&stream, &kernel, &LaunchConfig::linear(1, 32), &args) }.unwrap();
    stream.synchronize().unwrap();
    let stats = queue.shutdown().unwrap();
    assert_eq!(stats.unknown_methods, 1);
    assert!(said("method 4711") > 0);
}

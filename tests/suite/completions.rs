//! The end of work as a future and as a callback, over several streams, and beside captures of other threads.

use std::{
    future::Future,
    pin::pin,
    sync::{Arc, mpsc},
    task::{Context, Poll, Wake, Waker},
    thread::Thread,
    time::{Duration, Instant},
};

use cuda_green::{CaptureMode, Driver, Event, Kernel, LaunchConfig, Result, Stream, kernels};

use crate::{
    Case,
    support::{contexts, kernel, quad},
};

pub const CASES: &[Case] = &[
    ("completions/each_in_its_streams_order", in_order),
    ("completions/of_an_event_that_is_gone", of_events),
    (
        "completions/spoil_no_capture_of_another_thread",
        beside_a_capture,
    ),
];

/// More than this nothing here takes.
const PATIENCE: Duration = Duration::from_secs(10);

struct Unpark(Thread);

impl Wake for Unpark {
    fn wake(self: Arc<Self>) {
        self.0.unpark();
    }
}

/// Polls a future to its end; a panic where it hangs.
fn block_on<F: Future>(future: F) -> F::Output {
    let mut future = pin!(future);
    let waker = Waker::from(Arc::new(Unpark(std::thread::current())));
    let end = Instant::now() + PATIENCE;
    loop {
        match future.as_mut().poll(&mut Context::from_waker(&waker)) {
            Poll::Ready(output) => return output,
            Poll::Pending => std::thread::park_timeout(Duration::from_millis(100)),
        }
        assert!(Instant::now() < end, "the future hangs");
    }
}

/// Work of some 7 ns a round.
fn burn(stream: &Stream, kernel: &Kernel, rounds: u32) -> Result<()> {
    let config = LaunchConfig::linear(4, 1024);
    // SAFETY: an address that is never written, and a number of rounds; the kernel outlives its launches, which are
    // all waited for.
    unsafe { stream.launch(kernel, &config, &[&0_u64, &rounds]) }
}

/// Streams of each partition, with as much work in each as their number says.
fn streams(driver: &Driver) -> Result<(Kernel, Vec<Stream>)> {
    let (device, manager) = quad(driver)?;
    let streams = contexts(&manager)?
        .iter()
        .map(|context| context.create_stream())
        .collect::<Result<_>>()?;
    Ok((kernel(&device, kernels::BURN)?, streams))
}

fn in_order(driver: &Driver) -> Result<()> {
    const EACH: usize = 40;
    let (kernel, streams) = streams(driver)?;
    let (done, ends) = mpsc::channel();
    let mut futures = Vec::new();
    for number in 0..EACH {
        for (of, stream) in streams.iter().enumerate() {
            burn(stream, &kernel, 2_000 * (of as u32 + 1))?;
            let done = done.clone();
            stream.completion().on_done(move |result| {
                // Nobody listens any more where the case has failed.
                let _ = done.send((of, number, result));
            })?;
            futures.push(stream.completion());
        }
    }
    for future in futures {
        block_on(future)?;
    }
    let mut next = vec![0; streams.len()];
    for _ in 0..EACH * streams.len() {
        let (of, number, result) = ends.recv_timeout(PATIENCE).unwrap();
        result?;
        assert_eq!(number, next[of], "stream {of}");
        next[of] += 1;
    }
    for stream in &streams {
        assert!(stream.is_done()?);
        block_on(stream.completion())?;
    }
    Ok(())
}

fn of_events(driver: &Driver) -> Result<()> {
    let (kernel, streams) = streams(driver)?;
    let event = Event::new(kernel.module().device())?;
    block_on(event.completion())?; // of nothing
    burn(&streams[0], &kernel, 100_000)?;
    streams[0].record(&event)?;
    let (future, callback) = (event.completion(), event.completion());
    drop(event);
    let (done, ends) = mpsc::channel();
    callback.on_done(move |result| drop(done.send(result)))?;
    block_on(future)?;
    ends.recv_timeout(PATIENCE).unwrap()?;
    assert!(streams[0].is_done()?);
    Ok(())
}

/// Another thread captures in each mode, and meanwhile ends are waited for here.
fn beside_a_capture(driver: &Driver) -> Result<()> {
    let (kernel, streams) = streams(driver)?;
    let (captured, others) = streams.split_first().unwrap();
    for mode in [
        CaptureMode::Global,
        CaptureMode::ThreadLocal,
        CaptureMode::Relaxed,
    ] {
        let (begun, begins) = mpsc::channel();
        let (waited, waits) = mpsc::channel();
        let graph = std::thread::scope(|scope| {
            let kernel = &kernel;
            let capturing = scope.spawn(move || {
                captured.capture(mode, |capture| {
                    begun.send(()).unwrap();
                    waits.recv_timeout(PATIENCE).unwrap();
                    // SAFETY: an address that is never written, and a number of rounds.
                    unsafe {
                        capture.launch(kernel, &LaunchConfig::linear(4, 32), &[&0_u64, &10_u32])
                    }
                })
            });
            begins.recv_timeout(PATIENCE).unwrap();
            let meanwhile = || {
                let (done, ends) = mpsc::channel();
                for stream in others {
                    burn(stream, kernel, 20_000)?;
                    let done = done.clone();
                    let told = move |result| drop(done.send(result));
                    stream.completion().on_done(told)?;
                    block_on(stream.completion())?;
                }
                for _ in others {
                    ends.recv_timeout(PATIENCE).unwrap()?;
                }
                Ok(())
            };
            let ended = meanwhile();
            waited.send(()).unwrap();
            let graph = capturing.join().unwrap();
            ended.and(graph)
        })?;
        let exec = graph.instantiate()?;
        // SAFETY: the graph keeps its kernel.
        unsafe { exec.launch(captured)? };
        block_on(captured.completion())?;
    }
    Ok(())
}

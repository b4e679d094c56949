//! The end of work as a future and as a callback.

use std::{
    future::Future,
    pin::{Pin, pin},
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
        mpsc,
    },
    task::{Context, Poll, Wake, Waker},
    thread::Thread,
    time::{Duration, Instant},
};

use cuda_green::{
    CaptureMode, Completion, ContextId, CudaDevice, Driver, Error, Event, Kernel, LaunchConfig,
    Module, Result, SmPartitionManager, Stream, kernels, sim::Sim, sys::CUresult,
};

/// More than this nothing here takes.
const PATIENCE: Duration = Duration::from_secs(30);

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
            Poll::Pending => std::thread::park_timeout(Duration::from_secs(1)),
        }
        assert!(Instant::now() < end, "the future hangs");
    }
}

struct Ready {
    simulator: Sim,
    device: CudaDevice,
    manager: SmPartitionManager,
    kernel: Kernel,
}

impl Ready {
    fn new(profile: &str) -> Self {
        let simulator = Sim::new(profile).unwrap();
        let device = Driver::simulated(&simulator).unwrap().device(0).unwrap();
        let manager = SmPartitionManager::on(&device).unwrap();
        manager.init_quad_partition().unwrap();
        let module = Module::load_ptx(&device, kernels::PTX).unwrap();
        Self {
            kernel: module.kernel(kernels::BURN).unwrap(),
            simulator,
            device,
            manager,
        }
    }

    fn stream(&self) -> Stream {
        let context = self.manager.get_context(ContextId::Embedding).unwrap();
        context.create_stream().unwrap()
    }

    /// Work of about 7 ns a round.
    fn launch(&self, stream: &Stream, rounds: u32) {
        let config = LaunchConfig::linear(1, 1024);
        // SAFETY: an address that is never written, and a number of rounds.
        unsafe { stream.launch(&self.kernel, &config, &[&0_u64, &rounds]) }.unwrap();
    }
}

#[test]
fn a_future_ends_when_the_work_does() {
    for profile in ["t4@11.4", "h200@12.4", "h200@13.0", "rtx5090@newest"] {
        let ready = Ready::new(profile);
        let stream = ready.stream();
        assert!(block_on(stream.completion()).is_ok(), "nothing to do");
        ready.launch(&stream, 100_000);
        let start = ready.simulator.now();
        let completion = stream.completion();
        assert!(format!("{completion:?}").starts_with("Completion"));
        assert!(block_on(completion).is_ok());
        assert!(stream.is_done().unwrap());
        let taken = ready.simulator.now() - start;
        assert!(taken >= Duration::from_micros(600), "{taken:?}");
    }
}

#[test]
fn an_event_ends_too_and_may_be_dropped() {
    let ready = Ready::new("h200@13.0");
    let event = Event::new(&ready.device).unwrap();
    assert!(block_on(event.completion()).is_ok(), "never recorded");
    let stream = ready.stream();
    ready.launch(&stream, 10_000);
    stream.record(&event).unwrap();
    let (one, two) = (event.completion(), event.completion());
    drop((event, stream));
    assert!(block_on(one).is_ok() && block_on(two).is_ok());
}

#[test]
fn thousands_at_once_end_each_in_its_streams_order() {
    let ready = Ready::new("h200@13.0");
    let streams: Vec<Stream> = (0..8).map(|_| ready.stream()).collect();
    let ended: Arc<Mutex<Vec<Vec<usize>>>> = Arc::new(Mutex::new(vec![Vec::new(); streams.len()]));
    let (done, ends) = mpsc::channel();
    let mut futures = Vec::new();
    for number in 0..2_000 {
        let of = number % streams.len();
        ready.launch(&streams[of], 10);
        let (ended, done) = (Arc::clone(&ended), done.clone());
        let called = move |result: Result<()>| {
            result.unwrap();
            ended.lock().unwrap()[of].push(number);
            done.send(()).unwrap();
        };
        streams[of].completion().on_done(called).unwrap();
        futures.push(streams[of].completion());
    }
    for future in futures {
        block_on(future).unwrap();
    }
    for _ in 0..2_000 {
        ends.recv_timeout(PATIENCE).unwrap();
    }
    assert!(
        ended
            .lock()
            .unwrap()
            .iter()
            .all(|of| of.is_sorted() && of.len() == 250)
    );
}

#[test]
fn whatever_is_dropped_leaves_nothing() {
    let ready = Ready::new("h200@13.0");
    let stream = ready.stream();
    let wakes = Arc::new(AtomicUsize::new(0));
    struct Count(Arc<AtomicUsize>);
    impl Wake for Count {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, Ordering::Relaxed);
        }
    }
    let waker = Waker::from(Arc::new(Count(Arc::clone(&wakes))));
    for round in 0..200 {
        ready.launch(&stream, 1000);
        let mut completion = stream.completion();
        if round % 2 == 0 {
            let _ = Pin::new(&mut completion).poll(&mut Context::from_waker(&waker));
        }
        if round % 3 == 0 {
            std::mem::forget(completion);
        } else {
            drop(completion);
        }
    }
    // Forgotten futures are woken, dropped ones need not be; none of them holds an event for long.
    block_on(stream.completion()).unwrap();
    drop(waker);
    let simulator = ready.simulator.clone();
    drop((stream, ready));
    let end = Instant::now() + PATIENCE;
    while !simulator.live_objects().is_empty() {
        assert!(
            Instant::now() < end,
            "left behind: {}",
            simulator.live_objects()
        );
        std::thread::sleep(Duration::from_millis(1));
    }
}

#[test]
fn a_fault_ends_all_of_them() {
    let ready = Ready::new("h200@13.0");
    let (good, bad) = (ready.stream(), ready.stream());
    ready.launch(&good, 100_000_000);
    let (done, ends) = mpsc::channel();
    let before = good.completion();
    let called = move |result| done.send(result).unwrap();
    good.completion().on_done(called).unwrap();
    ready.simulator.register_kernel(kernels::BURN, |launch| {
        let _ = launch.write(0xdead_0000, &[0]);
    });
    ready.launch(&bad, 1);
    let poisoned = |result: Result<()>| matches!(result, Err(Error::Poisoned { .. }));
    assert!(poisoned(ends.recv_timeout(PATIENCE).unwrap()));
    assert!(poisoned(block_on(before)));
    assert!(poisoned(block_on(bad.completion())), "and later ones");
}

#[test]
fn a_capture_is_refused_and_not_spoilt() {
    let ready = Ready::new("h200@13.0");
    let (stream, forked, other) = (ready.stream(), ready.stream(), ready.stream());
    for mode in [
        CaptureMode::Global,
        CaptureMode::ThreadLocal,
        CaptureMode::Relaxed,
    ] {
        ready.launch(&other, 1000);
        // One is waited for while the capture goes on, by a thread that the mode forbids to ask.
        let meanwhile = other.completion();
        let graph = stream.capture(mode, |capture| {
            capture.fork(&forked)?;
            for captured in [&stream, &forked] {
                let ended = block_on(captured.completion());
                let refused = matches!(ended, Err(Error::InvalidArgument { name: "stream", .. }));
                assert!(refused, "{ended:?}");
            }
            block_on(meanwhile)?;
            ready.launch(&other, 1000);
            block_on(other.completion())?;
            capture.join(&forked)
        });
        graph.unwrap();
        assert!(block_on(stream.completion()).is_ok());
    }
}

#[test]
fn a_callback_may_call_cuda_and_may_panic() {
    let ready = Ready::new("h200@13.0");
    let stream = Arc::new(ready.stream());
    let (done, ends) = mpsc::channel();
    let hook = std::panic::take_hook();
    std::panic::set_hook(Box::new(|_| {}));
    stream
        .completion()
        .on_done(|_| panic!("as intended"))
        .unwrap();
    let (within, device) = (Arc::clone(&stream), ready.device.clone());
    let called = move |result: Result<()>| {
        let name = std::thread::current().name().map(str::to_owned);
        // Whatever it calls, another future's end included.
        let event = Event::new(&device).and_then(|event| {
            within.record(&event)?;
            within.synchronize()?;
            block_on(within.completion())
        });
        done.send((result, name, event)).unwrap();
    };
    stream.completion().on_done(called).unwrap();
    let (result, name, event) = ends.recv_timeout(PATIENCE).unwrap();
    std::panic::set_hook(hook);
    assert!(result.is_ok() && event.is_ok());
    assert_eq!(name.as_deref(), Some("green-callbacks"));
    // One that comes after the end is called as well.
    let completion = stream.completion();
    while !format!("{completion:?}").contains("is_done: true") {
        std::thread::yield_now();
    }
    let (done, ends) = mpsc::channel();
    completion
        .on_done(move |result| done.send(result).unwrap())
        .unwrap();
    assert!(ends.recv_timeout(PATIENCE).unwrap().is_ok());
}

/// Each call that a completion makes, refused: it ends with that error.
#[test]
fn each_refusal_is_told() {
    for call in [
        "cuStreamIsCapturing",
        "cuEventCreate",
        "cuEventRecord",
        "cuEventQuery",
    ] {
        let ready = Ready::new("h200@13.0");
        let stream = ready.stream();
        let code = CUresult::CUDA_ERROR_INVALID_VALUE;
        ready.simulator.fail(call, 1, code).unwrap();
        let ended = block_on(stream.completion());
        assert!(
            matches!(ended, Err(Error::Driver { code: c, .. }) if c == code),
            "{call}: {ended:?}"
        );
    }
}

/// A future may go from thread to thread, and outlives what it was made from.
#[test]
fn it_is_owned() {
    fn owned<T: Send + Sync + Unpin + 'static>(_: &T) {}
    let completion: Completion = {
        let ready = Ready::new("h200@13.0");
        let stream = ready.stream();
        ready.launch(&stream, 1000);
        stream.completion()
    };
    owned(&completion);
    let ended = std::thread::spawn(|| block_on(completion)).join().unwrap();
    assert!(ended.is_ok(), "{ended:?}");
}

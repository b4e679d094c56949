//! Tasks that kernels submit to the CPU: each is run once and answered, whatever the handler, the deadline, the room in the
//! rings and the end of the queue.

#[path = "queue_bodies.rs"]
mod bodies;

use std::{
    sync::{
        Arc, Condvar, Mutex,
        atomic::{AtomicU8, AtomicU64, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use bodies::{Ask, Fail, Huge, Long, Note, Panic};
use cuda_green::{
    ContextId, CudaDevice, Driver, GpuMemoryPool, Kernel, KernelArg, LaunchConfig, Module,
    PinnedBuffer, Result, SmPartitionManager, Stream, TypedBuffer,
};
use cuda_green_queue::{TaskFailure, TaskQueue, TaskQueueBuilder};

use crate::{
    Case,
    support::{is_partitioned, quad, times},
};

pub const CASES: &[Case] = &[
    ("queue/each_task_is_run_once", once_each),
    ("queue/full_is_a_value", full),
    ("queue/a_deadline_passes_and_the_answer_comes", deadline),
    ("queue/each_outcome_has_its_answer", outcomes),
    ("queue/a_shutdown_answers_all_that_wait", shut_down),
    ("queue/a_drop_answers_all_that_wait", dropped),
];

const KERNELS: &str = include_str!("kernels/queue.ptx");
/// More than this nothing here takes.
const PATIENCE: Duration = Duration::from_secs(30);
/// The words that a kernel reports in.
const WORDS: usize = 16;

// Numbers of `cuda_green::Status` in the header.
const PENDING: u64 = 0;
const DONE: u64 = 1;
const FAILED: u64 = 2;
const PANICKED: u64 = 3;
const UNKNOWN_METHOD: u64 = 4;
const BAD_PAYLOAD: u64 = 5;
const FULL: u64 = 7;
const TIMEOUT: u64 = 8;
const INVALID: u64 = 9;

/// A gate that handlers wait at. Dropped, it is open, so that a failed case ends.
#[derive(Clone, Default)]
struct Gate(Arc<(Mutex<bool>, Condvar)>);

impl Gate {
    fn pass(&self) {
        let (open, changed) = &*self.0;
        let closed = |open: &mut bool| !*open;
        drop(changed.wait_while(open.lock().unwrap(), closed).unwrap());
    }

    fn open(&self) {
        *self.0.0.lock().unwrap() = true;
        self.0.1.notify_all();
    }
}

struct OpenAtEnd<'a>(&'a Gate);

impl Drop for OpenAtEnd<'_> {
    fn drop(&mut self) {
        self.0.open();
    }
}

/// The kernels, and a stream of a partition.
struct Ready {
    device: CudaDevice,
    manager: SmPartitionManager,
    stream: Stream,
    module: Module,
    pool: GpuMemoryPool,
}

impl Ready {
    /// Returns `None` for drivers that cannot read the kernels.
    fn new(driver: &Driver) -> Result<Option<Self>> {
        if !is_partitioned(driver) {
            return Ok(None);
        }
        if let Some(simulator) = driver.simulator() {
            bodies::register(simulator);
        }
        let (device, manager) = quad(driver)?;
        Ok(Some(Self {
            stream: manager.get_context(ContextId::Dream)?.create_stream()?,
            module: Module::load_ptx(&device, KERNELS)?,
            pool: GpuMemoryPool::on(&device, 16 << 20)?,
            device,
            manager,
        }))
    }

    fn kernel(&self, name: &str) -> Result<Kernel> {
        self.module.kernel(name)
    }

    /// Words for a kernel to report in.
    fn words(&self) -> Result<TypedBuffer<u64>> {
        let words = self.pool.allocate_typed(WORDS)?;
        words.copy_from(&[0; WORDS])?;
        Ok(words)
    }

    /// Launches a kernel whose first arguments are the queue and the words that it reports in.
    fn launch(
        &self,
        queue: &TaskQueue,
        (kernel, stream, warps): (&Kernel, &Stream, u32),
        words: &TypedBuffer<u64>,
        args: &[&dyn KernelArg],
    ) {
        let (argument, address) = (queue.device_queue(), words.address());
        let mut all: Vec<&dyn KernelArg> = vec![&argument, &address];
        all.extend(args);
        let config = LaunchConfig::linear(warps.div_ceil(4), 128.min(warps * 32));
        // SAFETY: the arguments are those of the kernel in `queue.cu`, and each case waits for the end of its kernels
        // while their memory lives.
        unsafe { queue.launch(stream, kernel, &config, &all) }.unwrap();
    }

    /// Launches it in this stream, for one thread, and returns the words.
    fn report(
        &self,
        queue: &TaskQueue,
        name: &str,
        args: &[&dyn KernelArg],
    ) -> Result<[u64; WORDS]> {
        let words = self.words()?;
        self.launch(queue, (&self.kernel(name)?, &self.stream, 1), &words, args);
        self.end(&self.stream)?;
        read(&words)
    }

    /// Waits for the end of a stream.
    fn end(&self, stream: &Stream) -> Result<()> {
        until("the kernel's end", || stream.is_done())?;
        stream.synchronize()
    }
}

fn read(words: &TypedBuffer<u64>) -> Result<[u64; WORDS]> {
    let mut found = [0; WORDS];
    words.copy_to(&mut found)?;
    Ok(found)
}

/// A queue of little memory, which simulated drivers fill with zeros.
fn small() -> TaskQueueBuilder {
    TaskQueue::builder().segment_bytes(4 << 20)
}

/// Waits until something is so; panics where it never is.
fn until(what: &str, mut is_so: impl FnMut() -> Result<bool>) -> Result<()> {
    let begin = Instant::now();
    while !is_so()? {
        assert!(begin.elapsed() < PATIENCE, "waiting for {what}");
        thread::yield_now();
    }
    Ok(())
}

/// Kernels in two partitions submit to rings that are always full, thread by thread and warp by warp.
fn once_each(driver: &Driver) -> Result<()> {
    let Some(ready) = Ready::new(driver)? else {
        return Ok(());
    };
    let (warps, each) = (times(driver, 2, 528) as u32, times(driver, 5, 20) as u32);
    let of_one = u64::from(warps * 32 * each);
    let kernel = ready.kernel("suite_submit")?;
    let other = ready
        .manager
        .get_context(ContextId::Embedding)?
        .create_stream()?;
    for is_inline in [true, false] {
        let seen: Arc<[AtomicU8]> = (0..2 * of_one).map(|_| AtomicU8::new(0)).collect();
        let marked = Arc::clone(&seen);
        let mark = move |Note { number }| {
            let mark = marked.get(number as usize).ok_or(TaskFailure(1))?;
            mark.fetch_add(1, Ordering::Relaxed);
            Ok(())
        };
        let builder = small().lanes(3).priorities(2).depth(64).polling_threads(2);
        let builder = match is_inline {
            true => builder.inline_handler(mark),
            false => builder.handler(mark),
        };
        let queue = builder.build(&ready.device).unwrap();
        let found = [ready.words()?, ready.words()?];
        for ((stream, words), first) in [&ready.stream, &other]
            .into_iter()
            .zip(&found)
            .zip([0, of_one])
        {
            ready.launch(&queue, (&kernel, stream, warps), words, &[&first, &each]);
        }
        ready.end(&ready.stream)?;
        ready.end(&other)?;
        for words in &found {
            assert_eq!(read(words)?[0], of_one, "tasks accepted");
        }
        until("the last task", || {
            Ok(queue
                .stats()
                .methods
                .iter()
                .map(|method| method.done)
                .sum::<u64>()
                == 2 * of_one)
        })?;
        let stats = queue.stats();
        let rings = || stats.devices.iter().flat_map(|device| &device.rings);
        assert_eq!(rings().map(|ring| ring.taken).sum::<u64>(), 2 * of_one);
        assert_eq!(
            rings().filter_map(|ring| ring.submitted).sum::<u64>(),
            2 * of_one
        );
        queue.shutdown().unwrap();
        let wrong = seen
            .iter()
            .position(|mark| mark.load(Ordering::Relaxed) != 1);
        assert_eq!(wrong, None, "a task was lost, or run twice");
    }
    Ok(())
}

/// A handler stands still: a ring takes as many tasks as it has slots, and then says so. All that it took is run.
fn full(driver: &Driver) -> Result<()> {
    let Some(ready) = Ready::new(driver)? else {
        return Ok(());
    };
    let (gate, runs) = (Gate::default(), Arc::new(AtomicU64::new(0)));
    let (still, counted) = (gate.clone(), Arc::clone(&runs));
    let queue = small()
        .lanes(1)
        .priorities(1)
        .depth(8)
        .inline_handler(move |_: Note| {
            still.pass();
            counted.fetch_add(1, Ordering::Relaxed);
            Ok(())
        })
        .build(&ready.device)
        .unwrap();
    let guard = OpenAtEnd(&gate);
    let [accepted, tried, waited, ..] = ready.report(&queue, "suite_fill", &[])?;
    assert_eq!((tried, waited), (FULL, TIMEOUT));
    // One more if the handler's own was given back by then.
    assert!((8..=9).contains(&accepted), "{accepted} tasks in 8 slots");
    let refused: u64 = {
        let stats = queue.stats();
        let rings = stats.devices.iter().flat_map(|device| &device.rings);
        rings.filter_map(|ring| ring.refused).sum()
    };
    assert!(refused >= 2, "{refused} refusals were counted");
    drop(guard);
    queue.shutdown().unwrap();
    assert_eq!(runs.load(Ordering::Relaxed), accepted);
    Ok(())
}

/// A kernel whose time is up goes on, and waits for the same answer again.
fn deadline(driver: &Driver) -> Result<()> {
    let Some(ready) = Ready::new(driver)? else {
        return Ok(());
    };
    let gate = Gate::default();
    let still = gate.clone();
    let queue = small()
        .handler(move |Ask { number }| {
            still.pass();
            Ok(number + 1)
        })
        .build(&ready.device)
        .unwrap();
    let guard = OpenAtEnd(&gate);
    let mut said = PinnedBuffer::<u64>::new(&ready.device, 1)?;
    said.as_mut_slice()?.fill(0);
    let (words, address) = (ready.words()?, said.device_address()?);
    let kernel = ready.kernel("suite_deadline")?;
    ready.launch(&queue, (&kernel, &ready.stream, 1), &words, &[&address]);
    // SAFETY: the word is aligned and lives; kernels and this thread access it as a whole.
    let word = unsafe { AtomicU64::from_ptr(said.as_ptr().cast_mut()) };
    until("the deadline", || {
        Ok(word.load(Ordering::Acquire) == 1 || ready.stream.is_done()?)
    })?;
    drop(guard);
    ready.end(&ready.stream)?;
    assert_eq!(read(&words)?[..4], [PENDING, TIMEOUT, DONE, 42]);
    queue.shutdown().unwrap();
    Ok(())
}

fn outcomes(driver: &Driver) -> Result<()> {
    let Some(ready) = Ready::new(driver)? else {
        return Ok(());
    };
    for is_inline in [true, false] {
        let ask = |Ask { number }| Ok(number + 1);
        let fail = |Fail { number }| Err(TaskFailure(number));
        // Without the message of a panic.
        let panic = |_: Panic| std::panic::resume_unwind(Box::new(()));
        let long = |task: Long| Ok([task.words[0], task.words[11], task.words.iter().sum()]);
        let builder = small().output_bytes(24);
        let builder = match is_inline {
            true => builder
                .inline_handler(ask)
                .inline_handler(fail)
                .inline_handler(panic)
                .inline_handler(long),
            false => builder
                .handler(ask)
                .handler(fail)
                .handler(panic)
                .handler(long),
        };
        let queue = builder.build(&ready.device).unwrap();
        let found = ready.report(&queue, "suite_outcomes", &[])?;
        let expected = [
            [DONE, 2].as_slice(),
            &[FAILED, 77, PANICKED, UNKNOWN_METHOD, BAD_PAYLOAD],
            &[DONE, 1, 12, 78],
            &[INVALID, INVALID],
        ];
        assert_eq!(found[..13], expected.concat());
        queue.shutdown().unwrap();
    }
    // A task that fits no slot is refused where its handler is added, too.
    let huge = small().handler(|_: Huge| Ok(()));
    assert!(huge.build(&ready.device).is_err());
    Ok(())
}

fn shut_down(driver: &Driver) -> Result<()> {
    until_closed(driver, false)
}

fn dropped(driver: &Driver) -> Result<()> {
    until_closed(driver, true)
}

/// As many warps as the partition can hold, and more, ask until the queue ends, which it does while all of them wait.
fn until_closed(driver: &Driver, is_dropped: bool) -> Result<()> {
    let Some(ready) = Ready::new(driver)? else {
        return Ok(());
    };
    let sms = ready.device.properties().multiprocessor_count;
    let warps = times(driver, 4, sms as usize * 64) as u32;
    let runs = Arc::new(AtomicU64::new(0));
    let counted = Arc::clone(&runs);
    let queue = small()
        .inline_handler(move |Ask { number }| {
            counted.fetch_add(1, Ordering::Relaxed);
            Ok(number.wrapping_add(1))
        })
        .build(&ready.device)
        .unwrap();
    let words = ready.words()?;
    let kernel = ready.kernel("suite_until_closed")?;
    let launched = (&kernel, &ready.stream, warps);
    ready.launch(&queue, launched, &words, &[]);
    until("the first answers", || {
        assert!(!ready.stream.is_done()?, "the kernel ended by itself");
        Ok(runs.load(Ordering::Relaxed) >= u64::from(warps))
    })?;
    match is_dropped {
        true => drop(queue),
        false => drop(queue.shutdown().unwrap()),
    }
    ready.end(&ready.stream)?;
    let [answered, closed, ended, otherwise, ..] = read(&words)?;
    assert_eq!((ended, otherwise), (u64::from(warps), 0));
    assert_eq!(answered, runs.load(Ordering::Relaxed));
    assert!(
        is_dropped || closed == 0,
        "{closed} accepted tasks were not run"
    );
    Ok(())
}

//! Tasks to a resident kernel, of the CPU and of kernels of another partition: each is done once and answered, over launches
//! in several partitions too.

use std::thread;

use cuda_green::{ContextId, Driver, KernelArg, LaunchConfig, Result, Stream, TypedBuffer};
use cuda_green_queue::{KernelQueue, ResidentQueue, SubmitError, Task, TaskError, TaskFailure};

use super::{
    PATIENCE, Ready, WORDS,
    bodies::{Ask, Fail, Huge, Long, Panic},
    read,
};
use crate::{Case, support::times};

pub const CASES: &[Case] = &[
    ("queue/a_resident_kernel_answers_the_cpu", of_the_cpu),
    ("queue/a_resident_kernel_goes_on_elsewhere", elsewhere),
    ("queue/a_resident_kernel_answers_a_kernel", of_a_kernel),
];

/// Blocks of the resident kernel, and so lanes of its queue.
const BLOCKS: u32 = 2;

fn config() -> LaunchConfig {
    LaunchConfig::linear(BLOCKS, 128)
}

fn queue(ready: &Ready) -> ResidentQueue {
    let builder = ResidentQueue::builder().lanes(BLOCKS).depth(16);
    let builder = builder.payload_bytes(96).output_bytes(24);
    builder.segment_bytes(4 << 20).build(&ready.device).unwrap()
}

/// Launches the resident kernel, which counts its tasks by block in the words.
fn serve(
    ready: &Ready,
    queue: &ResidentQueue,
    stream: &Stream,
    words: &TypedBuffer<u64>,
) -> Result<()> {
    let kernel = ready.kernel("suite_serve")?;
    let args: [&dyn KernelArg; 2] = [&queue.device_inbox(), &words.address()];
    // SAFETY: the arguments are those of the kernel in `queue.cu`, and the words live until the queue has ended.
    unsafe { queue.launch(stream, &kernel, &config(), &args) }.unwrap();
    Ok(())
}

/// Submits a task, and waits for its answer.
fn answer<T: Task>(
    queue: &ResidentQueue,
    task: T,
) -> Option<std::result::Result<T::Output, TaskError>> {
    let mut future = queue.submit_timeout(task, PATIENCE).ok()?;
    future.wait_timeout(PATIENCE)
}

/// Threads ask one by one and many at a time; each answer is that of its own task.
fn of_the_cpu(driver: &Driver) -> Result<()> {
    let Some(ready) = Ready::new(driver)? else {
        return Ok(());
    };
    let (queue, words) = (queue(&ready), ready.words()?);
    serve(&ready, &queue, &ready.stream, &words)?;
    let each = times(driver, 40, 20_000) as u64;
    thread::scope(|scope| {
        for thread in 0..3 {
            let queue = &queue;
            scope.spawn(move || {
                let numbers: Vec<u64> = (0..each).map(|n| thread << 32 | n).collect();
                for numbers in numbers.chunks(20) {
                    let ask =
                        |number: &u64| queue.submit_timeout(Ask { number: *number }, PATIENCE);
                    let futures: Vec<_> =
                        numbers.iter().map(|number| ask(number).unwrap()).collect();
                    for (number, mut future) in numbers.iter().zip(futures) {
                        assert_eq!(future.wait_timeout(PATIENCE), Some(Ok(number + 1)));
                    }
                }
            });
        }
    });
    let failed = answer(&queue, Fail { number: 77 });
    assert_eq!(failed, Some(Err(TaskError::Failed(TaskFailure(77)))));
    let unknown = answer(&queue, Panic {});
    assert_eq!(unknown, Some(Err(TaskError::UnknownMethod)));
    let words_of = |n| {
        let mut words = [0; 12];
        words.iter_mut().zip(n..).for_each(|(word, n)| *word = n);
        words
    };
    let long = answer(&queue, Long { words: words_of(1) });
    assert_eq!(long, Some(Ok([1, 12, 78])));
    let huge = queue.try_submit(Huge { words: [0; 64] });
    assert!(matches!(huge, Err(SubmitError::TooLarge(_))));
    queue.finish();
    ready.end(&ready.stream)?;
    let (stats, done) = (queue.stats(), 3 * each + 3);
    assert_eq!((stats.submitted(), stats.taken()), (done, done));
    assert_eq!(read(&words)?[..WORDS].iter().sum::<u64>(), done);
    queue.shutdown().unwrap();
    Ok(())
}

/// A kernel that is told to leave does so, and the next one goes on in another partition with what it left.
fn elsewhere(driver: &Driver) -> Result<()> {
    let Some(ready) = Ready::new(driver)? else {
        return Ok(());
    };
    let (queue, words) = (queue(&ready), ready.words()?);
    let other = ready.manager.get_context(ContextId::Embedding)?;
    let streams = [&ready.stream, &other.create_stream()?];
    let rounds = times(driver, 4, 40) as u64;
    let mut futures = Vec::new();
    for round in 0..rounds {
        // Those wait while no kernel is resident.
        for number in 0..10 {
            let number = round * 100 + number;
            let future = queue.submit_timeout(Ask { number }, PATIENCE).unwrap();
            futures.push((number, future));
        }
        let stream = streams[round as usize % 2];
        serve(&ready, &queue, stream, &words)?;
        // It leaves at once, or in the middle.
        if round % 3 > 0 {
            let waited = futures.len() - 5;
            for (number, mut future) in futures.drain(..waited) {
                assert_eq!(future.wait_timeout(PATIENCE), Some(Ok(number + 1)));
            }
        }
        queue.leave();
        ready.end(stream)?;
        assert_eq!(queue.stats().submitted(), (round + 1) * 10);
    }
    serve(&ready, &queue, &ready.stream, &words)?;
    for (number, future) in &mut futures {
        assert_eq!(future.wait_timeout(PATIENCE), Some(Ok(*number + 1)));
    }
    queue.finish();
    ready.end(&ready.stream)?;
    let stats = queue.stats();
    assert_eq!(
        (stats.submitted(), stats.taken()),
        (rounds * 10, rounds * 10)
    );
    assert_eq!(read(&words)?.iter().sum::<u64>(), rounds * 10);
    queue.shutdown().unwrap();
    Ok(())
}

/// A kernel of one partition submits to one that is resident in another, through rings that are full.
fn of_a_kernel(driver: &Driver) -> Result<()> {
    let Some(ready) = Ready::new(driver)? else {
        return Ok(());
    };
    let builder = KernelQueue::builder().lanes(3).priorities(2).depth(64);
    let queue = builder.segment_bytes(4 << 20).build(&ready.device).unwrap();
    let resident = ready.manager.get_context(ContextId::Embedding)?;
    let resident = resident.create_stream()?;
    let (serve, submit) = (ready.kernel("suite_serve")?, ready.kernel("suite_submit")?);
    let (accepted, done) = (ready.words()?, ready.words()?);
    let warps = times(driver, 2, 528) as u32;
    let launch_submit = |each: u32| {
        let (argument, address) = (queue.device_queue(), accepted.address());
        let args: [&dyn KernelArg; 4] = [&argument, &address, &0_u64, &each];
        let config = LaunchConfig::linear(warps.div_ceil(4), 128.min(warps * 32));
        // SAFETY: the arguments are those of the kernel in `queue.cu`, and live until its end, which is waited for.
        unsafe { ready.stream.launch(&submit, &config, &args) }?;
        queue.fence_on(&ready.stream).unwrap();
        Ok::<_, cuda_green::Error>(())
    };
    // The first launch of a kernel may wait for the end of all others.
    launch_submit(0)?;
    ready.end(&ready.stream)?;
    let args: [&dyn KernelArg; 2] = [&queue.device_inbox(), &done.address()];
    // SAFETY: as above.
    unsafe { queue.launch(&resident, &serve, &LaunchConfig::linear(3, 128), &args) }.unwrap();
    let each = times(driver, 5, 20) as u32;
    launch_submit(each)?;
    ready.end(&ready.stream)?;
    queue.finish();
    ready.end(&resident)?;
    let submitted = u64::from(warps * 32 * each);
    assert_eq!(read(&accepted)?[0], submitted);
    assert_eq!(read(&done)?.iter().sum::<u64>(), submitted);
    queue.shutdown().unwrap();
    Ok(())
}

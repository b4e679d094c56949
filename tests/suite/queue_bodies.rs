//! The tasks of `kernels/queue.cu`, and its kernels in Rust, for drivers that run no machine code. Threads stand for warps.

use std::thread;

use bytemuck::{Pod, Zeroable};
use cuda_green::sim::{Launch, Sim};
use cuda_green_queue::{
    Task, TaskFailure,
    simulated::{DeviceSide, InboxSide, Place, Status},
};

use super::{DONE, FULL, TIMEOUT};

/// Attempts that stand for the time of a short wait.
const LOOKS: u32 = 200;

macro_rules! tasks {
    ($($name:ident($method:expr) { $($field:ident: $type:ty)? } -> $output:ty;)*) => {$(
        #[derive(Clone, Copy, Pod, Zeroable)]
        #[repr(C)]
        pub struct $name { $(pub $field: $type)? }

        impl Task for $name {
            const METHOD: u16 = $method;
            type Output = $output;
        }
    )*};
}

tasks! {
    Note(1) { number: u64 } -> ();
    Ask(2) { number: u64 } -> u64;
    Fail(3) { number: u32 } -> u32;
    Panic(4) {} -> ();
    Unknown(99) {} -> ();
    Short(Ask::METHOD) { number: u32 } -> u64;
    Long(5) { words: [u64; 12] } -> [u64; 3];
    Huge(6) { words: [u64; 64] } -> ();
}

/// What a kernel's body sees: the queue, and the words that it reports in.
struct Side<'a> {
    launch: &'a Launch<'a>,
    queue: DeviceSide<'a>,
    words: u64,
}

impl Side<'_> {
    /// Writes a word. A fault ends the launch, whose caller is told of it.
    fn report(&self, index: u64, value: u64) {
        let _ = self.launch.store_u64(self.words + 8 * index, value);
    }

    fn add(&self, index: u64, value: u64) {
        let _ = self.launch.atomic_add_u64(self.words + 8 * index, value);
    }

    /// Runs a function for each warp at once.
    fn warps(&self, run: impl Fn(u64) + Sync) {
        let warps = self.launch.block_count() * u64::from(self.launch.block()[0]) / 32;
        thread::scope(|scope| {
            for warp in 0..warps {
                let run = &run;
                scope.spawn(move || run(warp));
            }
        });
    }
}

type Body = fn(&Side<'_>);

/// Registers the bodies.
pub fn register(simulator: &Sim) {
    let bodies: [(&str, Body); 5] = [
        ("suite_submit", submit),
        ("suite_fill", fill),
        ("suite_deadline", deadline),
        ("suite_outcomes", outcomes),
        ("suite_until_closed", until_closed),
    ];
    for (name, body) in bodies {
        simulator.register_concurrent_kernel(name, move |launch| {
            let queue = DeviceSide::argument(launch, 0);
            if let (Some(queue), Some(words)) = (queue, launch.arg_u64(1)) {
                body(&Side {
                    launch,
                    queue,
                    words,
                });
            }
        });
    }
    simulator.register_concurrent_kernel("suite_serve", serve);
}

/// Each block takes the tasks of its lane.
fn serve(launch: &Launch<'_>) {
    let Some(words) = launch.arg_u64(1) else {
        return;
    };
    thread::scope(|scope| {
        for block in 0..launch.block_count() {
            scope.spawn(move || {
                let Some(mut inbox) = InboxSide::argument(launch, 0, block as u32) else {
                    return;
                };
                while let Some(taken) = inbox.wait_next() {
                    let _ = launch.atomic_add_u64(words + 8 * block, 1);
                    if let Some(Ask { number }) = taken.task() {
                        let _ = inbox.answer::<Ask>(taken, Ok(number + 1));
                    } else if let Some(Fail { number }) = taken.task() {
                        let _ = inbox.answer::<Fail>(taken, Err(TaskFailure(number)));
                    } else if let Some(Long { words }) = taken.task() {
                        let output = [words[0], words[11], words.iter().sum()];
                        let _ = inbox.answer::<Long>(taken, Ok(output));
                    } else {
                        inbox.refuse(taken);
                    }
                }
            });
        }
    });
}

/// Returns the number of a status in the header.
fn number(status: Status) -> u64 {
    match status {
        Status::Pending => 0,
        Status::Failed(_) => 2,
        Status::Panicked => 3,
        Status::UnknownMethod => 4,
        Status::BadPayload => 5,
        Status::Closed => 6,
        Status::Full => 7,
        Status::Invalid => 9,
        _ => u64::MAX,
    }
}

/// Submits a task and waits for its answer.
fn answer<T: Task>(queue: &DeviceSide<'_>, task: &T) -> Result<T::Output, Status> {
    queue.call(Place::default(), task)?.wait()
}

fn ended<O>(result: Result<O, Status>) -> u64 {
    result.map_or_else(number, |_| DONE)
}

fn submit(side: &Side<'_>) {
    let first = side.launch.arg_u64(2).unwrap_or_default();
    let each = side.launch.arg_u32(3).unwrap_or_default();
    side.warps(|warp| {
        let mut accepted = 0;
        for turn in 0..each {
            let place = Place {
                lane: (warp as u32 + turn) % 3,
                priority: turn / 2 % 2,
            };
            let note = |lane: u64| Note {
                number: first + (warp * 32 + lane) * u64::from(each) + u64::from(turn),
            };
            let notes: Vec<_> = (0..32).map(note).collect();
            let by = if turn % 2 == 0 { 1 } else { 32 };
            for notes in notes.chunks(by) {
                let end = loop {
                    match side.queue.try_submit_warp(place, notes) {
                        Err(Status::Full) => thread::yield_now(),
                        end => break end,
                    }
                };
                accepted += end.map_or(0, |()| notes.len() as u64);
            }
        }
        side.add(0, accepted);
    });
}

fn fill(side: &Side<'_>) {
    let note = || side.queue.try_submit(Place::default(), &Note { number: 0 });
    let mut accepted = 0;
    let mut refused = 0;
    let mut tried = None;
    while refused < LOOKS {
        match note() {
            Ok(()) => (accepted, refused) = (accepted + 1, 0),
            Err(status) => {
                tried.get_or_insert(number(status));
                refused += 1;
                thread::yield_now();
            }
        }
    }
    side.report(0, accepted);
    side.report(1, tried.unwrap_or(FULL));
    side.report(2, TIMEOUT);
}

fn deadline(side: &Side<'_>) {
    let said = side.launch.arg_u64(2).unwrap_or_default();
    let Ok(mut future) = side.queue.call(Place::default(), &Ask { number: 41 }) else {
        return;
    };
    side.report(0, ended(future.poll()));
    let pending = (0..LOOKS).all(|_| future.poll() == Err(Status::Pending));
    side.report(1, if pending { TIMEOUT } else { u64::MAX });
    let _ = side.launch.store_u64(said, 1);
    let end = future.wait();
    side.report(2, ended(end));
    side.report(3, end.unwrap_or_default());
}

fn outcomes(side: &Side<'_>) {
    let queue = &side.queue;
    let asked = answer(queue, &Ask { number: 1 });
    side.report(0, ended(asked));
    side.report(1, asked.unwrap_or_default());
    let failed = answer(queue, &Fail { number: 77 });
    side.report(2, ended(failed));
    let code = match failed {
        Err(Status::Failed(code)) => code.into(),
        _ => 0,
    };
    side.report(3, code);
    side.report(4, ended(answer(queue, &Panic {})));
    side.report(5, ended(answer(queue, &Unknown {})));
    side.report(6, ended(answer(queue, &Short { number: 1 })));
    let mut words = [0; 12];
    for (word, number) in words.iter_mut().zip(1..) {
        *word = number;
    }
    let long = answer(queue, &Long { words });
    side.report(7, ended(long));
    for (index, word) in (8..).zip(long.unwrap_or_default()) {
        side.report(index, word);
    }
    let huge = queue.try_submit(Place::default(), &Huge { words: [0; 64] });
    side.report(11, ended(huge));
    let nowhere = Place {
        lane: u32::MAX,
        priority: 0,
    };
    side.report(12, ended(queue.try_submit(nowhere, &Note { number: 0 })));
    drop(queue.call(Place::default(), &Ask { number: 2 }));
}

fn until_closed(side: &Side<'_>) {
    side.warps(|warp| {
        for turn in 0.. {
            let task = Ask {
                number: warp << 32 | turn,
            };
            let mut future = match side.queue.call(Place::default(), &task) {
                Ok(future) => future,
                Err(status) => return side.add(if status == Status::Closed { 2 } else { 3 }, 1),
            };
            match future.wait() {
                Ok(answer) if answer == task.number + 1 => side.add(0, 1),
                Err(Status::Closed) => side.add(1, 1),
                _ => return side.add(3, 1),
            }
        }
    });
}

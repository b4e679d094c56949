//! The figures of queues, as values.

use std::{fmt, time::Duration};

use crate::{histogram::Histogram, numa::Placement, pool::Pool};

/// The figures of a queue, or of a set of queues, at one moment.
///
/// Counts are exact for what has ended; those of threads at work may be a few tasks behind each other.
#[derive(Clone, Debug, Default)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
#[non_exhaustive]
pub struct QueueStats {
    /// The rings of each device.
    pub devices: Vec<DeviceStats>,
    /// The handlers, in the order in which they were added. Those of all queues of a set.
    pub methods: Vec<MethodStats>,
    /// Tasks without a handler.
    pub unknown_methods: u64,
    /// The method number of the first of them.
    pub unknown_method: Option<u16>,
    /// Tasks that were answered as closed without being run.
    pub discarded: u64,
    /// Panics on the queue's threads of code that is no handler: of wakers, and of tasks and outputs when they were
    /// dropped. The thread went on, and an answer was not lost.
    pub caught_panics: u64,
    /// Tasks that CPU code submitted by moving them.
    pub pointers: SubmissionStats,
    /// Tasks that CPU code submitted by copying them.
    pub copies: SubmissionStats,
}

/// The figures of a queue on one device.
#[derive(Clone, Debug)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
#[non_exhaustive]
pub struct DeviceStats {
    /// The device's ordinal.
    pub device: u32,
    /// The NUMA node of the segment.
    pub placement: Placement,
    /// The rings, by lane and priority.
    pub rings: Vec<RingStats>,
    /// The polling threads.
    pub pollers: Vec<PollerStats>,
    /// Answers to futures that do not exist: a kernel wrote a number of its own.
    pub invalid_answers: u64,
    /// The reason why the figures in device memory could not be read, if they could not.
    pub unreadable: Option<String>,
}

/// The figures of one ring.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
#[non_exhaustive]
pub struct RingStats {
    /// The ring's lane.
    pub lane: u32,
    /// The ring's priority; 0 is the most urgent.
    pub priority: u32,
    /// The number of slots.
    pub depth: u32,
    /// Tasks that kernels submitted. Read from device memory; `None` if that failed.
    pub submitted: Option<u64>,
    /// Tasks that the polling thread took.
    pub taken: u64,
    /// Submissions that were refused because the ring was full, or because no entry for the answer was free. Read from
    /// device memory.
    pub refused: Option<u64>,
    /// The most tasks that waited in the ring when the polling thread began to take some, the first of them included.
    pub deepest: u64,
    /// Looks at which the ring had to wait, because all jobs were with the workers, or its share of them.
    pub out_of_jobs: u64,
}

/// The figures of one handler.
#[derive(Clone, Debug)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
#[non_exhaustive]
pub struct MethodStats {
    /// The name of the task's type.
    pub name: &'static str,
    /// The method number, if kernels can submit the task.
    pub method: Option<u16>,
    /// Tasks whose handler returned an output.
    pub done: u64,
    /// Tasks whose handler returned a failure.
    pub failed: u64,
    /// Tasks whose handler panicked.
    pub panicked: u64,
    /// Tasks whose payload was not of the length of their type.
    pub bad_payloads: u64,
    /// Times from when the polling thread found a task, or CPU code submitted it by moving it, to the start of its
    /// handler on a worker. A task's time in the ring before that is not known. Handlers that run on the polling thread
    /// have none. The first 64 tasks of a thread are timed, and then one in 64, as those of `handling`.
    pub waiting: Histogram,
    /// Times that the handler took.
    pub handling: Histogram,
}

/// Submissions of one kind by CPU code.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
#[non_exhaustive]
pub struct SubmissionStats {
    /// Tasks that were submitted.
    pub submitted: u64,
    /// Submissions that were refused because there was no room.
    pub refused: u64,
}

/// The figures of a polling thread.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
#[non_exhaustive]
pub struct PollerStats {
    /// How often it slept between two looks.
    pub sleeps: u64,
    /// How often it rested, since no kernel was known to be at work.
    pub rests: u64,
    /// The thread's CPU time, on Linux.
    pub cpu_time: Option<Duration>,
}

impl QueueStats {
    /// Returns the figures of a pool.
    pub(crate) fn of_pool(pool: &Pool) -> Self {
        let threads = pool.all_counters();
        let mut stats = Self::default();
        for thread in &threads {
            stats.unknown_methods += thread.unknown_methods.get();
            stats.discarded += thread.discarded.get();
            stats.caught_panics += thread.caught.get();
        }
        stats.discarded += pool.discarded();
        stats.unknown_method = pool.unknown_method();
        let methods = pool.registry().methods().iter().enumerate();
        stats.methods = methods
            .map(|(index, method)| {
                let mut sum = MethodStats {
                    name: method.name,
                    method: method.number,
                    done: 0,
                    failed: 0,
                    panicked: 0,
                    bad_payloads: 0,
                    waiting: Histogram::default(),
                    handling: Histogram::default(),
                };
                for counters in threads
                    .iter()
                    .filter_map(|thread| thread.methods.get(index))
                {
                    sum.done += counters.done.get();
                    sum.failed += counters.failed.get();
                    sum.panicked += counters.panicked.get();
                    sum.bad_payloads += counters.bad_payload.get();
                    counters.waiting.add_to(&mut sum.waiting);
                    counters.handling.add_to(&mut sum.handling);
                }
                sum
            })
            .collect();
        let of = |(submitted, refused)| SubmissionStats { submitted, refused };
        // After the ends, so that there are at least as many.
        stats.pointers = of(pool.pointers().get());
        stats.copies = of(pool.copies().get());
        stats
    }

    /// Returns the number of tasks whose handlers have ended, in whatever way.
    pub fn handled(&self) -> u64 {
        let methods = self.methods.iter();
        methods
            .map(|method| method.done + method.failed + method.panicked)
            .sum()
    }
}

impl fmt::Display for QueueStats {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.devices.is_empty() {
            writeln!(f, "no figures of a GPU")?;
        }
        for device in &self.devices {
            writeln!(f, "GPU {}: {}", device.device, device.placement)?;
            if let Some(reason) = &device.unreadable {
                writeln!(f, "  submitted and refused are not known: {reason}")?;
            }
            let is_empty = |ring: &&RingStats| {
                ring.taken == 0
                    && [ring.submitted, ring.refused]
                        .iter()
                        .all(|n| n.unwrap_or(0) == 0)
            };
            let empty = device.rings.iter().filter(is_empty).count();
            if empty > 0 {
                let s = if empty == 1 { "" } else { "s" };
                writeln!(f, "  {empty} ring{s} without a task")?;
            }
            for ring in device.rings.iter().filter(|ring| !is_empty(ring)) {
                let known = |number: Option<u64>| number.map_or("?".to_owned(), |n| n.to_string());
                writeln!(
                    f,
                    "  lane {}, priority {}: {} submitted, {} taken, {} refused, deepest {} of {}",
                    ring.lane,
                    ring.priority,
                    known(ring.submitted),
                    ring.taken,
                    known(ring.refused),
                    ring.deepest,
                    ring.depth
                )?;
            }
            for poller in &device.pollers {
                write!(
                    f,
                    "  polling thread: {} sleeps, {} rests",
                    poller.sleeps, poller.rests
                )?;
                match poller.cpu_time {
                    Some(time) => writeln!(f, ", {:.3} s of CPU time", time.as_secs_f64())?,
                    None => writeln!(f)?,
                }
            }
            if device.invalid_answers > 0 {
                writeln!(
                    f,
                    "  {} answers to futures that do not exist",
                    device.invalid_answers
                )?;
            }
        }
        for (name, counts) in [("moved", self.pointers), ("copied", self.copies)] {
            writeln!(
                f,
                "CPU, {name}: {} submitted, {} refused",
                counts.submitted, counts.refused
            )?;
        }
        for method in &self.methods {
            writeln!(
                f,
                "{}: {} done, {} failed, {} panicked, {} bad payloads; waiting {}; handling {}",
                method.name,
                method.done,
                method.failed,
                method.panicked,
                method.bad_payloads,
                method.waiting,
                method.handling
            )?;
        }
        if self.caught_panics > 0 {
            let count = self.caught_panics;
            writeln!(
                f,
                "{count} panics of wakers or of dropped tasks and outputs"
            )?;
        }
        write!(f, "{} tasks of unknown methods", self.unknown_methods)?;
        if let Some(method) = self.unknown_method {
            write!(f, " (the first: {method})")?;
        }
        write!(f, ", {} discarded", self.discarded)
    }
}

//! A queue's part on one device: its memory, its polling threads, and their end.

use std::{
    sync::Arc,
    thread::{self, JoinHandle},
    time::Duration,
};

use cuda_green::CudaDevice;

use crate::{
    control::Control,
    counters::{PollerCounters, RingCounters},
    error::{Error, Result},
    events::{self, QueueEvent},
    idle::IdlePolicy,
    layout::Layout,
    poller::{PolledRing, Poller},
    pool::Pool,
    segment::Segment,
    stats::{PollerStats, RingStats},
    watcher::Watcher,
    workers::is_own_thread,
};

/// A ring's place and figures.
struct RingFigures {
    lane: u32,
    priority: u32,
    counters: Arc<RingCounters>,
}

/// A polling thread and its figures.
struct PollingThread {
    counters: Arc<PollerCounters>,
    /// `None` when it has ended.
    thread: Option<JoinHandle<()>>,
}

/// The part of a queue on one device. Dropped, it answers what waits as closed, and ends.
pub(crate) struct DeviceSide {
    pool: Arc<Pool>,
    segment: Arc<Segment>,
    control: Arc<Control>,
    rings: Vec<RingFigures>,
    pollers: Vec<PollingThread>,
    watcher: Watcher,
}

impl DeviceSide {
    /// Allocates the memory, and starts the polling threads.
    pub(crate) fn start(
        pool: &Arc<Pool>,
        device: &CudaDevice,
        layout: Layout,
        segment_bytes: u64,
        polling_threads: u32,
        policy: IdlePolicy,
    ) -> Result<Self> {
        let segment = Arc::new(Segment::new(device, layout, segment_bytes)?);
        let control = Arc::default();
        let watcher = Watcher::start(&segment, &control)?;
        let mut side = Self {
            pool: pool.clone(),
            segment,
            control,
            rings: Vec::new(),
            pollers: Vec::new(),
            watcher,
        };
        let threads = polling_threads.clamp(1, layout.lanes);
        let mut shares: Vec<Vec<PolledRing>> = (0..threads).map(|_| Vec::new()).collect();
        for lane in 0..layout.lanes {
            for priority in 0..layout.priorities {
                let consumer = side.segment.consumer(lane, priority);
                let share = shares.get_mut((lane % threads) as usize);
                let (Some(consumer), Some(share)) = (consumer, share) else {
                    continue;
                };
                let counters = Arc::new(RingCounters::default());
                share.push(PolledRing::new(consumer, priority, &counters));
                side.rings.push(RingFigures {
                    lane,
                    priority,
                    counters,
                });
            }
        }
        for (number, rings) in shares.into_iter().enumerate() {
            let counters = Arc::new(PollerCounters::default());
            let poller = Poller::new(pool, &side.segment, &side.control, rings, &counters);
            let thread = thread::Builder::new()
                .name(format!("queue-poller-{}-{number}", device.ordinal()))
                .spawn(move || poller.poll(policy))
                .map_err(Error::Thread)?;
            side.pollers.push(PollingThread {
                counters,
                thread: Some(thread),
            });
        }
        events::emit(QueueEvent::Made {
            device: device.ordinal(),
            lanes: layout.lanes,
            priorities: layout.priorities,
            depth: layout.depth,
        });
        Ok(side)
    }

    pub(crate) fn segment(&self) -> &Arc<Segment> {
        &self.segment
    }

    pub(crate) fn control(&self) -> &Control {
        &self.control
    }

    /// Announces work that may submit: polling threads look for its tasks at once, and do not rest until it is over.
    pub(crate) fn announce(&self) {
        self.control.announce();
        self.watcher.announce();
    }

    /// Closes the rings, and answers what waits in them as closed if that is to be discarded. Does not wait.
    pub(crate) fn begin_end(&self, discard: bool) {
        if discard {
            self.control.discard();
        }
        self.control.close();
    }

    /// Closes the rings, waits for the work that the memory was fenced on, and ends the polling threads. Until then
    /// these go on, since kernels wait for them.
    pub(crate) fn end(&mut self, discard: bool) -> Result<()> {
        self.begin_end(discard);
        if self.pollers.iter().all(|poller| poller.thread.is_none()) {
            return Ok(());
        }
        let waited = self.segment.wait();
        self.control.finish();
        let own = is_own_thread(&self.pool);
        self.watcher.end(!own);
        let threads = self.pollers.iter_mut();
        for thread in threads.filter_map(|poller| poller.thread.take()) {
            // One of them cannot wait for itself: it ends after this.
            if !own && thread.join().is_err() {
                log::error!("a polling thread panicked");
            }
        }
        events::emit(QueueEvent::Ended {
            device: self.segment.device().ordinal(),
            discards: discard,
        });
        waited
    }

    /// Returns the figures of the rings, and the reason why those of the device could not be read.
    pub(crate) fn ring_stats(&self) -> (Vec<RingStats>, Option<String>) {
        // Before the device's numbers, which are then at least as large.
        let taken = self.rings.iter().map(|ring| ring.counters.taken.get());
        let taken: Vec<u64> = taken.collect();
        let (states, error) = match self.segment.ring_states() {
            Ok(states) => (states, None),
            Err(error) => (Vec::new(), Some(error.to_string())),
        };
        let rings = self.rings.iter().zip(taken).enumerate();
        let rings = rings.map(|(index, (ring, taken))| {
            let state = states.get(index);
            RingStats {
                lane: ring.lane,
                priority: ring.priority,
                depth: self.segment.layout().depth,
                submitted: state.map(|state| state.head),
                taken,
                refused: state.map(|state| state.refused),
                deepest: ring.counters.deepest.get(),
                out_of_jobs: ring.counters.out_of_jobs.get(),
            }
        });
        (rings.collect(), error)
    }

    /// Returns the figures of the polling threads.
    pub(crate) fn poller_stats(&self) -> Vec<PollerStats> {
        let pollers = self.pollers.iter();
        pollers
            .map(|PollingThread { counters, thread }| PollerStats {
                sleeps: counters.sleeps.get(),
                rests: counters.rests.get(),
                cpu_time: match counters.cpu_time.get() {
                    0 => thread.as_ref().and_then(cpu_time),
                    last => Some(Duration::from_nanos(last)),
                },
            })
            .collect()
    }
}

impl Drop for DeviceSide {
    fn drop(&mut self) {
        // Only where a queue could not be made: its owner ends it otherwise.
        if let Err(error) = self.end(true) {
            log::error!("a queue ended without waiting for its kernels: {error}");
        }
    }
}

/// Returns the CPU time of a thread.
#[cfg(target_os = "linux")]
fn cpu_time(thread: &JoinHandle<()>) -> Option<Duration> {
    use std::os::unix::thread::JoinHandleExt;

    let mut clock = 0;
    // SAFETY: the thread was not joined, so its handle is valid, and the output is.
    let got = unsafe { libc::pthread_getcpuclockid(thread.as_pthread_t() as _, &mut clock) };
    if got != 0 {
        return None;
    }
    time_of(clock)
}

#[cfg(not(target_os = "linux"))]
fn cpu_time(_: &JoinHandle<()>) -> Option<Duration> {
    None
}

/// Returns the CPU time of this thread.
#[cfg(target_os = "linux")]
pub(crate) fn own_cpu_time() -> Option<Duration> {
    time_of(libc::CLOCK_THREAD_CPUTIME_ID)
}

#[cfg(not(target_os = "linux"))]
pub(crate) fn own_cpu_time() -> Option<Duration> {
    None
}

#[cfg(target_os = "linux")]
fn time_of(clock: libc::clockid_t) -> Option<Duration> {
    let mut time = libc::timespec {
        tv_sec: 0,
        tv_nsec: 0,
    };
    // SAFETY: the output is valid. For a thread that has ended, the call fails.
    let got = unsafe { libc::clock_gettime(clock, &mut time) };
    if got != 0 {
        return None;
    }
    let seconds = Duration::from_secs(u64::try_from(time.tv_sec).ok()?);
    Some(seconds + Duration::from_nanos(u64::try_from(time.tv_nsec).ok()?))
}

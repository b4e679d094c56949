//! Virtual time: when each piece of work starts and ends, on which SMs, by a model of the hardware.
//!
//! Nothing here runs anything. Work is put into lanes (streams), waits for what it depends on, and then
//! for room on its SMs. The clock is the host's: it moves where the host waits or spends time, and what
//! the GPU does up to then is worked out in the order of its events, so the same calls in the same order
//! always give the same times.
//!
//! The model of a GPU: a kernel's blocks go to the SM with the most room, highest priority and oldest
//! kernel first. A kernel with blocks left to place keeps later ones off its SMs, even from room that
//! only they could use. Blocks stay where they are until they end; nothing is preempted. The blocks of an
//! SM share it evenly once they ask for more than it has.

use std::{
    cmp::Reverse,
    collections::{BTreeSet, BinaryHeap, HashMap},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    thread::ThreadId,
};

/// What the host spends on a launch, and between a kernel's end and the end of the wait for it. Together
/// the 7.6 us that launch and synchronisation take for an empty kernel (measured on an H200).
pub(crate) const LAUNCH_NS: u64 = 2_600;
const WAKE_NS: u64 = 5_000;

/// What the host spends on asking whether work is done, so that a loop of questions comes to an end.
pub(crate) const QUERY_NS: u64 = 1_000;

/// Kernels that a stream holds before the next launch waits.
const LANE_DEPTH: usize = 1024;

/// Blocks that fill a kernel's SMs more often than this are put together, to bound the work of the model.
const MAX_WAVES: u64 = 256;

/// Work that ends less than this many nanoseconds too late has ended.
const EPSILON: f64 = 1e-3;

/// What one SM holds at once.
#[derive(Clone, Copy, Debug)]
pub(crate) struct SmLimits {
    pub(crate) threads: u32,
    pub(crate) blocks: u32,
    pub(crate) shared: u32,
}

/// A kernel that takes time.
#[derive(Clone, Debug)]
pub(crate) struct Work {
    pub(crate) blocks: u64,
    /// Threads and bytes of shared memory of a block.
    pub(crate) threads: u32,
    pub(crate) shared: u32,
    /// What a block takes with an SM to itself, in nanoseconds.
    pub(crate) block_ns: f64,
    /// The part of an SM that a block keeps busy meanwhile.
    pub(crate) load: f64,
    /// Lower numbers come first.
    pub(crate) priority: i32,
    pub(crate) sms: Vec<u32>,
}

impl Work {
    fn takes_time(&self) -> bool {
        self.block_ns > 0.0 && self.blocks > 0
    }
}

/// One node of a graph that is launched.
#[derive(Debug)]
pub(crate) struct GraphNode {
    pub(crate) work: Option<Work>,
    /// The nodes before it, by their places in the graph; they come first there.
    pub(crate) after: Vec<usize>,
    /// What else it waits for.
    pub(crate) waits: Vec<Mark>,
}

/// Where work is in order: a stream, or one of a context's default streams.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Lane {
    Stream(u64),
    Legacy(u64),
    PerThread(u64, ThreadId),
}

/// A lane's place: its device, its context's number, and whether it waits for the legacy default stream.
#[derive(Clone, Copy, Debug)]
pub(crate) struct LaneOf {
    pub(crate) lane: Lane,
    pub(crate) device: usize,
    pub(crate) context: u64,
    pub(crate) blocking: bool,
}

/// When recorded work is done; shared between an event and the work before it.
#[derive(Clone, Debug)]
pub(crate) struct Mark {
    op: u64,
    done: Arc<AtomicU64>,
}

impl Mark {
    /// The time in nanoseconds, once the work is done.
    pub(crate) fn time(&self) -> Option<u64> {
        Some(self.done.load(Ordering::Relaxed)).filter(|time| *time != u64::MAX)
    }
}

#[derive(Debug)]
struct LaneState {
    device: usize,
    context: u64,
    blocking: bool,
    /// The newest piece of work; it may be done.
    tail: u64,
    /// Kernels that are not done.
    kernels: usize,
}

#[derive(Debug)]
struct Op {
    lane: Option<Lane>,
    device: usize,
    context: u64,
    /// Pieces of work that must be done first.
    missing: usize,
    dependents: Vec<u64>,
    work: Option<Work>,
    /// Blocks on SMs now.
    running: u64,
    mark: Option<Arc<AtomicU64>>,
}

/// Blocks of one kernel that started together on one SM.
#[derive(Debug)]
struct Batch {
    op: u64,
    blocks: u32,
    threads: u32,
    shared: u32,
    load: f64,
    /// Nanoseconds that each would still take by itself.
    left: f64,
}

#[derive(Debug)]
struct Sm {
    free: SmLimits,
    batches: Vec<Batch>,
    /// The time up to which `left` is right.
    updated: u64,
    /// The event in the queue that counts; older ones are stale.
    version: u64,
}

#[derive(Debug)]
struct Gpu {
    sms: Vec<Sm>,
    /// Kernels with blocks left to place, by priority and age.
    waiting: BTreeSet<(i32, u64)>,
}

/// The clock and all work that is not done.
#[derive(Debug)]
pub(crate) struct Timeline {
    now: u64,
    /// The time of the last event that was worked out: never later than `now`, except within a wait.
    clock: u64,
    next: u64,
    ops: HashMap<u64, Op>,
    lanes: HashMap<Lane, LaneState>,
    /// What work submitted to a context from now on has to wait for.
    barriers: HashMap<u64, u64>,
    gpus: Vec<Gpu>,
    events: BinaryHeap<Reverse<(u64, usize, usize, u64)>>,
}

impl Timeline {
    /// Devices of so many SMs each.
    pub(crate) fn new(devices: usize, sms: u32, limits: SmLimits) -> Self {
        let sm = || Sm {
            free: limits,
            batches: Vec::new(),
            updated: 0,
            version: 0,
        };
        let gpu = || Gpu {
            sms: (0..sms).map(|_| sm()).collect(),
            waiting: BTreeSet::new(),
        };
        Self {
            now: 0,
            clock: 0,
            next: 1,
            ops: HashMap::new(),
            lanes: HashMap::new(),
            barriers: HashMap::new(),
            gpus: (0..devices).map(|_| gpu()).collect(),
            events: BinaryHeap::new(),
        }
    }

    /// The host's time in nanoseconds.
    pub(crate) fn now(&self) -> u64 {
        self.now
    }

    /// Lets time pass on the host.
    pub(crate) fn spend(&mut self, ns: u64) {
        self.now = self.now.saturating_add(ns);
        while self.next_event().is_some_and(|time| time <= self.now) {
            self.step();
        }
        self.clock = self.now;
    }

    /// Puts work into a lane, or, without work, a point that is reached when all before it is done and
    /// so are `after`. Where the lane is full, the host waits first.
    pub(crate) fn submit(&mut self, of: LaneOf, work: Option<Work>, after: &[&Mark]) {
        let work = work.filter(Work::takes_time);
        if work.is_some() {
            self.spend(LAUNCH_NS);
            while self
                .lanes
                .get(&of.lane)
                .is_some_and(|lane| lane.kernels >= LANE_DEPTH)
                && self.step()
            {}
            self.catch_up(0);
        }
        let mut deps = self.before(of);
        deps.extend(after.iter().map(|mark| mark.op));
        let op = self.add(Some(of.lane), of.device, of.context, &deps, work, None);
        self.set_tail(of, op);
    }

    /// Puts a graph into a lane: its first nodes follow the lane's work and `after`, later work of the lane
    /// follows all of it. Gives each node's end, and that of the whole.
    pub(crate) fn submit_graph(
        &mut self,
        of: LaneOf,
        nodes: Vec<GraphNode>,
        after: &[&Mark],
    ) -> (Vec<Mark>, Mark) {
        let takes_time = |node: &GraphNode| node.work.as_ref().is_some_and(Work::takes_time);
        if nodes.iter().any(takes_time) {
            self.spend(LAUNCH_NS);
        }
        let mut before = self.before(of);
        before.extend(after.iter().map(|mark| mark.op));
        let mut ends: Vec<Mark> = Vec::with_capacity(nodes.len());
        for node in nodes {
            let mut deps: Vec<u64> = node
                .after
                .iter()
                .filter_map(|index| ends.get(*index))
                .map(|mark| mark.op)
                .collect();
            if deps.is_empty() {
                deps.clone_from(&before);
            }
            deps.extend(node.waits.iter().map(|mark| mark.op));
            let work = node.work.filter(Work::takes_time);
            let op = self.add(None, of.device, of.context, &deps, work, None);
            ends.push(self.add_mark(None, of.device, of.context, &[op]));
        }
        let mut deps: Vec<u64> = ends.iter().map(|mark| mark.op).collect();
        deps.append(&mut before);
        let end = self.add_mark(Some(of.lane), of.device, of.context, &deps);
        self.set_tail(of, end.op);
        (ends, end)
    }

    /// Marks the end of all work in a lane.
    pub(crate) fn mark(&mut self, of: LaneOf) -> Mark {
        let deps = self.before(of);
        let mark = self.add_mark(Some(of.lane), of.device, of.context, &deps);
        self.set_tail(of, mark.op);
        mark
    }

    /// Marks the end of all work in all lanes of a context.
    pub(crate) fn mark_context(&mut self, device: usize, context: u64) -> Mark {
        let deps = self.tails(context);
        self.add_mark(None, device, context, &deps)
    }

    /// Marks the end of all work of a device.
    pub(crate) fn mark_device(&mut self, device: usize) -> Mark {
        let lanes = self.lanes.values().filter(|lane| lane.device == device);
        let deps: Vec<u64> = lanes.map(|lane| lane.tail).collect();
        self.add_mark(None, device, 0, &deps)
    }

    /// Makes later work of a context wait, in lanes that exist and in those to come.
    pub(crate) fn context_waits(&mut self, device: usize, context: u64, mark: &Mark) {
        let mut deps = vec![mark.op];
        deps.extend(self.barriers.get(&context));
        let barrier = self.add(None, device, context, &deps, None, None);
        self.barriers.insert(context, barrier);
        let lanes: Vec<Lane> = self
            .lanes
            .iter()
            .filter(|(_, state)| state.context == context)
            .map(|(lane, _)| *lane)
            .collect();
        for lane in lanes {
            let tail = self.lanes.get(&lane).map_or(0, |state| state.tail);
            let op = self.add(Some(lane), device, context, &[tail, barrier], None, None);
            if let Some(state) = self.lanes.get_mut(&lane) {
                state.tail = op;
            }
        }
    }

    /// Whether a lane's work is done.
    pub(crate) fn lane_is_done(&self, of: LaneOf) -> bool {
        self.lanes
            .get(&of.lane)
            .is_none_or(|state| !self.ops.contains_key(&state.tail))
    }

    /// The host waits for what was recorded.
    pub(crate) fn wait_mark(&mut self, mark: &Mark) {
        self.wait(mark.op);
    }

    /// The host waits for all work of a context, or of a device.
    pub(crate) fn wait_all(&mut self, device: usize, context: Option<u64>) {
        let waits: Vec<u64> = self
            .ops
            .iter()
            .filter(|(_, op)| {
                op.device == device && context.is_none_or(|context| op.context == context)
            })
            .map(|(id, _)| *id)
            .collect();
        // In any order: the host goes on when the last one is done.
        let mut waited = false;
        for op in waits {
            while self.ops.contains_key(&op) && self.step() {
                waited = true;
            }
        }
        self.catch_up(if waited { WAKE_NS } else { 0 });
    }

    /// Forgets a lane. Its work goes on.
    pub(crate) fn forget_lane(&mut self, lane: Lane) {
        self.lanes.remove(&lane);
    }

    /// Forgets a context and its lanes. Its work goes on.
    pub(crate) fn forget_context(&mut self, context: u64) {
        self.lanes.retain(|_, state| state.context != context);
        self.barriers.remove(&context);
    }

    fn wait(&mut self, op: u64) {
        let mut waited = false;
        while self.ops.contains_key(&op) && self.step() {
            waited = true;
        }
        self.catch_up(if waited { WAKE_NS } else { 0 });
    }

    /// The host is not behind what was worked out.
    fn catch_up(&mut self, extra: u64) {
        let late = self.clock.saturating_sub(self.now);
        self.spend(late.saturating_add(extra));
    }

    /// What new work in a lane follows: the lane's own, its context's barrier, and the default stream's
    /// for blocking streams, as theirs is for it.
    fn before(&self, of: LaneOf) -> Vec<u64> {
        let mut deps = Vec::new();
        match self.lanes.get(&of.lane) {
            Some(state) => deps.push(state.tail),
            None => deps.extend(self.barriers.get(&of.context)),
        }
        if matches!(of.lane, Lane::Legacy(_)) {
            let blocking = self
                .lanes
                .values()
                .filter(|state| state.context == of.context && state.blocking);
            deps.extend(blocking.map(|state| state.tail));
        } else if of.blocking
            && let Some(legacy) = self.lanes.get(&Lane::Legacy(of.context))
        {
            deps.push(legacy.tail);
        }
        deps
    }

    fn tails(&self, context: u64) -> Vec<u64> {
        let lanes = self.lanes.values().filter(|lane| lane.context == context);
        let mut tails: Vec<u64> = lanes.map(|lane| lane.tail).collect();
        tails.extend(self.barriers.get(&context));
        tails
    }

    fn set_tail(&mut self, of: LaneOf, op: u64) {
        let state = self.lanes.entry(of.lane).or_insert(LaneState {
            device: of.device,
            context: of.context,
            blocking: of.blocking,
            tail: 0,
            kernels: 0,
        });
        debug_assert_eq!(state.device, of.device);
        state.tail = op;
        if self.ops.get(&op).is_some_and(|op| op.work.is_some()) {
            state.kernels += 1;
        }
    }

    fn add_mark(&mut self, lane: Option<Lane>, device: usize, context: u64, deps: &[u64]) -> Mark {
        let done = Arc::new(AtomicU64::new(u64::MAX));
        let op = self.add(lane, device, context, deps, None, Some(Arc::clone(&done)));
        Mark { op, done }
    }

    /// Adds a piece of work. One without blocks that has nothing to wait for is done at once.
    fn add(
        &mut self,
        lane: Option<Lane>,
        device: usize,
        context: u64,
        deps: &[u64],
        work: Option<Work>,
        mark: Option<Arc<AtomicU64>>,
    ) -> u64 {
        let id = self.next;
        self.next += 1;
        let mut missing = 0;
        for dep in deps {
            if let Some(dep) = self.ops.get_mut(dep) {
                dep.dependents.push(id);
                missing += 1;
            }
        }
        if missing == 0 && work.is_none() {
            if let Some(mark) = mark {
                mark.store(self.now, Ordering::Relaxed);
            }
            return id;
        }
        let work = work.map(|work| self.in_waves(device, work));
        let op = Op {
            lane,
            device,
            context,
            missing,
            dependents: Vec::new(),
            work,
            running: 0,
            mark,
        };
        self.ops.insert(id, op);
        if missing == 0 {
            self.ready(id);
            self.dispatch(device, self.now);
        }
        id
    }

    /// Puts blocks together where there are too many to follow one by one.
    fn in_waves(&self, device: usize, mut work: Work) -> Work {
        let sms = &self.gpus[device].sms;
        let at_once: u64 = work
            .sms
            .iter()
            .filter_map(|id| sms.get(*id as usize))
            .map(|sm| u64::from(room(&sm.capacity(), &work)))
            .sum();
        let waves = work.blocks / at_once.max(1);
        if waves > MAX_WAVES {
            let together = waves.div_ceil(MAX_WAVES);
            work.blocks = work.blocks.div_ceil(together);
            work.block_ns *= together as f64;
        }
        // About eleven days: nothing may overflow.
        work.block_ns = work.block_ns.min(1e15);
        work
    }

    /// A kernel has all it waited for: it queues for its SMs.
    fn ready(&mut self, id: u64) {
        if let Some(op) = self.ops.get(&id)
            && let Some(work) = &op.work
        {
            self.gpus[op.device].waiting.insert((work.priority, id));
        }
    }

    fn next_event(&self) -> Option<u64> {
        self.events.peek().map(|Reverse((time, ..))| *time)
    }

    /// Works out everything that happens at the time of the next event. False if there is none.
    fn step(&mut self) -> bool {
        let Some(time) = self.next_event() else {
            return false;
        };
        self.clock = self.clock.max(time);
        let mut ended = Vec::new();
        let mut touched = BTreeSet::new();
        while self.next_event() == Some(time) {
            let Some(Reverse((_, device, sm, version))) = self.events.pop() else {
                break;
            };
            let place = &mut self.gpus[device].sms[sm];
            if place.version == version {
                place.advance(time);
                place.end(&mut ended);
                self.reschedule(device, sm);
                touched.insert(device);
            }
        }
        for (id, blocks) in ended {
            let Some(op) = self.ops.get_mut(&id) else {
                continue;
            };
            op.running -= u64::from(blocks);
            if op.running == 0 && op.work.as_ref().is_none_or(|work| work.blocks == 0) {
                self.complete(id, time, &mut touched);
            }
        }
        for device in touched {
            self.dispatch(device, time);
        }
        true
    }

    /// Work is done: so is, or may start, what waited for it.
    fn complete(&mut self, id: u64, time: u64, touched: &mut BTreeSet<usize>) {
        let mut done = vec![id];
        while let Some(id) = done.pop() {
            let Some(op) = self.ops.remove(&id) else {
                continue;
            };
            if let Some(mark) = &op.mark {
                mark.store(time, Ordering::Relaxed);
            }
            if op.work.is_some()
                && let Some(lane) = op.lane.and_then(|lane| self.lanes.get_mut(&lane))
            {
                lane.kernels = lane.kernels.saturating_sub(1);
            }
            for next in op.dependents {
                let Some(waiting) = self.ops.get_mut(&next) else {
                    continue;
                };
                waiting.missing -= 1;
                if waiting.missing == 0 {
                    if waiting.work.is_some() {
                        touched.insert(waiting.device);
                        self.ready(next);
                    } else {
                        done.push(next);
                    }
                }
            }
        }
    }

    /// Gives blocks that wait to SMs that have room.
    fn dispatch(&mut self, device: usize, time: u64) {
        let Gpu { sms, waiting } = &mut self.gpus[device];
        let mut taken = vec![false; sms.len()];
        let mut changed = BTreeSet::new();
        let mut placed_all = Vec::new();
        for key in waiting.iter() {
            let Some(op) = self.ops.get_mut(&key.1) else {
                continue;
            };
            let Some(work) = &mut op.work else {
                continue;
            };
            let mut places: BinaryHeap<_> = work
                .sms
                .iter()
                .map(|id| *id as usize)
                .filter(|id| !taken.get(*id).copied().unwrap_or(true))
                .filter(|id| room(&sms[*id].free, work) > 0)
                .map(|id| (sms[id].free.threads, Reverse(id)))
                .collect();
            let mut new: HashMap<usize, u32> = HashMap::new();
            while work.blocks > 0
                && let Some((_, Reverse(id))) = places.pop()
            {
                let free = &mut sms[id].free;
                free.threads -= work.threads;
                free.blocks -= 1;
                free.shared -= work.shared;
                work.blocks -= 1;
                op.running += 1;
                *new.entry(id).or_default() += 1;
                if room(free, work) > 0 {
                    places.push((free.threads, Reverse(id)));
                }
            }
            for (id, blocks) in new {
                sms[id].advance(time);
                sms[id].batches.push(Batch {
                    op: key.1,
                    blocks,
                    threads: work.threads,
                    shared: work.shared,
                    load: work.load,
                    left: work.block_ns,
                });
                changed.insert(id);
            }
            if work.blocks == 0 {
                placed_all.push(*key);
            } else {
                for id in &work.sms {
                    if let Some(taken) = taken.get_mut(*id as usize) {
                        *taken = true;
                    }
                }
            }
        }
        for key in placed_all {
            waiting.remove(&key);
        }
        for sm in changed {
            self.reschedule(device, sm);
        }
    }

    /// Puts an SM's next end into the queue of events.
    fn reschedule(&mut self, device: usize, index: usize) {
        let sm = &mut self.gpus[device].sms[index];
        sm.version += 1;
        let rate = sm.rate();
        let next = sm
            .batches
            .iter()
            .map(|batch| batch.left / if batch.load > 0.0 { rate } else { 1.0 })
            .min_by(f64::total_cmp);
        if let Some(next) = next {
            let time = sm.updated.saturating_add(next.max(0.0).ceil() as u64);
            self.events.push(Reverse((time, device, index, sm.version)));
        }
    }
}

impl Sm {
    /// What it holds when it is empty.
    fn capacity(&self) -> SmLimits {
        let mut all = self.free;
        for batch in &self.batches {
            all.threads += batch.threads * batch.blocks;
            all.blocks += batch.blocks;
            all.shared += batch.shared * batch.blocks;
        }
        all
    }

    /// How fast its blocks are, compared to one that is alone.
    fn rate(&self) -> f64 {
        let load: f64 = self
            .batches
            .iter()
            .map(|batch| batch.load * f64::from(batch.blocks))
            .sum();
        1.0 / load.max(1.0)
    }

    /// Lets its blocks run until `time`.
    fn advance(&mut self, time: u64) {
        let passed = time.saturating_sub(self.updated) as f64;
        self.updated = time;
        let rate = self.rate();
        for batch in &mut self.batches {
            batch.left -= passed * if batch.load > 0.0 { rate } else { 1.0 };
        }
    }

    /// Takes out the blocks that have ended: kernel, and how many.
    fn end(&mut self, ended: &mut Vec<(u64, u32)>) {
        let free = &mut self.free;
        self.batches.retain(|batch| {
            let goes_on = batch.left > EPSILON;
            if !goes_on {
                free.threads += batch.threads * batch.blocks;
                free.blocks += batch.blocks;
                free.shared += batch.shared * batch.blocks;
                ended.push((batch.op, batch.blocks));
            }
            goes_on
        });
    }
}

/// How many more blocks fit.
fn room(free: &SmLimits, work: &Work) -> u32 {
    let by_shared = free.shared.checked_div(work.shared).unwrap_or(u32::MAX);
    free.blocks
        .min(free.threads / work.threads.max(1))
        .min(by_shared)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const LIMITS: SmLimits = SmLimits {
        threads: 2048,
        blocks: 32,
        shared: 228 << 10,
    };

    /// A kernel of a random client: its stream, and its blocks, their threads, time and load.
    type Kernel = (u64, u64, u32, u32, bool);

    fn kernels() -> impl Strategy<Value = Vec<Kernel>> {
        let kernel = (
            0_u64..4,
            1_u64..200,
            1_u32..33,
            1_u32..100_000,
            any::<bool>(),
        );
        prop::collection::vec(kernel, 1..30)
    }

    fn lane(stream: u64, context: u64) -> LaneOf {
        LaneOf {
            lane: Lane::Stream(context * 100 + stream),
            device: 0,
            context,
            blocking: false,
        }
    }

    fn submit(
        timeline: &mut Timeline,
        kernel: Kernel,
        context: u64,
        sms: std::ops::Range<u32>,
    ) -> Mark {
        let (stream, blocks, warps, ns, busy) = kernel;
        let lane = lane(stream, context);
        let work = Work {
            blocks,
            threads: warps * 32,
            shared: 1024,
            block_ns: ns.into(),
            load: busy.into(),
            priority: -(stream as i32),
            sms: sms.collect(),
        };
        timeline.submit(lane, Some(work), &[]);
        timeline.mark(lane)
    }

    fn assert_empty(timeline: &Timeline) {
        assert!(timeline.ops.is_empty() && timeline.gpus[0].waiting.is_empty());
        for sm in &timeline.gpus[0].sms {
            assert!(sm.batches.is_empty());
            assert_eq!(sm.free.threads, LIMITS.threads);
            assert_eq!(sm.free.blocks, LIMITS.blocks);
            assert_eq!(sm.free.shared, LIMITS.shared);
        }
        assert!(timeline.lanes.values().all(|lane| lane.kernels == 0));
    }

    proptest! {
        /// Whatever the work: it all ends, in its stream's order, no sooner than the SMs allow, and no
        /// later than one block after the other would.
        #[test]
        fn everything_ends_in_time(kernels in kernels()) {
            let mut timeline = Timeline::new(1, 8, LIMITS);
            let marks: Vec<(u64, Mark)> = kernels
                .iter()
                .map(|kernel| (kernel.0, submit(&mut timeline, *kernel, 0, 0..8)))
                .collect();
            timeline.wait_all(0, None);
            assert_empty(&timeline);
            let times: Vec<(u64, u64)> =
                marks.iter().map(|(stream, mark)| (*stream, mark.time().unwrap())).collect();
            for stream in 0..4 {
                let own: Vec<u64> =
                    times.iter().filter(|(of, _)| *of == stream).map(|(_, time)| *time).collect();
                prop_assert!(own.is_sorted());
            }
            let end = times.iter().map(|(_, time)| *time).max().unwrap();
            prop_assert!(timeline.now() >= end);
            let total = |busy: bool| -> u64 {
                let of = kernels.iter().filter(|kernel| !busy || kernel.4);
                of.map(|(_, blocks, _, ns, _)| blocks * u64::from(*ns)).sum()
            };
            prop_assert!(end * 8 >= total(true), "{end} ns for {} of work", total(true));
            let launches = kernels.len() as u64 * LAUNCH_NS;
            prop_assert!(end <= total(false) + launches + 100_000);
        }

        /// What runs on other SMs changes nothing, and the same calls give the same times.
        #[test]
        fn disjoint_sms_do_not_meet(ours in kernels(), theirs in kernels()) {
            let run = |with: bool| {
                let mut timeline = Timeline::new(1, 8, LIMITS);
                let mut marks = Vec::new();
                for (index, kernel) in ours.iter().enumerate() {
                    if with && let Some(other) = theirs.get(index) {
                        submit(&mut timeline, *other, 1, 3..8);
                    } else {
                        // The host takes its time all the same.
                        timeline.spend(LAUNCH_NS);
                    }
                    marks.push(submit(&mut timeline, *kernel, 0, 0..3));
                }
                timeline.wait_all(0, None);
                assert_empty(&timeline);
                marks.iter().map(|mark| mark.time().unwrap()).collect::<Vec<_>>()
            };
            let alone = run(false);
            prop_assert_eq!(&alone, &run(false));
            prop_assert_eq!(&alone, &run(true));
        }
    }
}

//! The order of work: work that waits for other work, in its lane, its context, and beyond.

use std::{
    collections::BTreeSet,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use super::{Effect, Lane, LaneOf, Mark, Timeline, Work};

#[derive(Debug)]
pub(super) struct LaneState {
    pub(super) device: usize,
    pub(super) context: u64,
    pub(super) blocking: bool,
    /// The newest piece of work, which may be done.
    pub(super) tail: u64,
    /// Kernels that are not done.
    pub(super) kernels: usize,
}

#[derive(Debug)]
pub(super) struct Op {
    pub(super) lane: Option<Lane>,
    pub(super) device: usize,
    pub(super) context: u64,
    /// Pieces of work that must be done first, and its own gate.
    pub(super) missing: usize,
    pub(super) dependents: Vec<u64>,
    pub(super) work: Option<Work>,
    /// Blocks on SMs now.
    pub(super) running: u64,
    pub(super) mark: Option<Arc<AtomicU64>>,
    /// Its own gate, or else the nearest gates before it; those that are open meanwhile do not count.
    pub(super) gates: Vec<u64>,
    pub(super) effect: Effect,
}

impl Op {
    /// Makes a point in the order, without work and without an effect.
    pub(super) fn point(lane: Option<Lane>, device: usize, context: u64) -> Self {
        Self {
            lane,
            device,
            context,
            missing: 0,
            dependents: Vec::new(),
            work: None,
            running: 0,
            mark: None,
            gates: Vec::new(),
            effect: Effect::None,
        }
    }
}

impl Timeline {
    /// Returns the work that new work in a lane follows: the lane's own, its context's barrier, and the default
    /// stream's for blocking streams, as theirs is for it.
    pub(super) fn before(&self, of: LaneOf) -> Vec<u64> {
        let mut deps = Vec::new();
        match self.lanes.get(&of.lane) {
            Some(state) => deps.push(state.tail),
            None => deps.extend(self.barriers.get(&of.context)),
        }
        if matches!(of.lane, Lane::Legacy(_)) {
            let blocking = self
                .all_lanes()
                .filter(|state| state.context == of.context && state.blocking);
            deps.extend(blocking.map(|state| state.tail));
        } else if of.blocking
            && let Some(legacy) = self.lanes.get(&Lane::Legacy(of.context))
        {
            deps.push(legacy.tail);
        }
        deps
    }

    /// Returns the lanes that there are, and those that ended before their work.
    pub(super) fn all_lanes(&self) -> impl Iterator<Item = &LaneState> {
        self.lanes.values().chain(&self.ended)
    }

    pub(super) fn tails(&self, context: u64) -> Vec<u64> {
        let lanes = self.all_lanes().filter(|lane| lane.context == context);
        let mut tails: Vec<u64> = lanes.map(|lane| lane.tail).collect();
        tails.extend(self.barriers.get(&context));
        tails
    }

    pub(super) fn set_tail(&mut self, of: LaneOf, op: u64) {
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

    pub(super) fn add_mark(
        &mut self,
        lane: Option<Lane>,
        device: usize,
        context: u64,
        deps: &[u64],
    ) -> Mark {
        let done = Arc::new(AtomicU64::new(u64::MAX));
        let point = Op {
            mark: Some(Arc::clone(&done)),
            ..Op::point(lane, device, context)
        };
        let op = self.add(deps, point);
        Mark { op, done }
    }

    /// Adds a piece of work. One without blocks, without dependencies and without a gate is done at once.
    pub(super) fn add(&mut self, deps: &[u64], mut op: Op) -> u64 {
        let id = self.next;
        self.next += 1;
        for dep in deps {
            if let Some(dep) = self.ops.get_mut(dep) {
                dep.dependents.push(id);
                op.missing += 1;
            }
        }
        op.gates = self.gates_before(deps);
        let has_gate = match op.effect {
            Effect::None => false,
            Effect::AtOnce => !op.gates.is_empty(),
            Effect::OnThread => true,
        };
        if has_gate {
            self.close(id, &op.gates);
            op.gates = vec![id];
            op.missing += 1;
        }
        if op.missing == 0 && op.work.is_none() {
            if let Some(mark) = op.mark {
                mark.store(self.now, Ordering::Relaxed);
            }
            return id;
        }
        let (missing, device) = (op.missing, op.device);
        op.work = op.work.map(|work| self.in_waves(device, work));
        self.ops.insert(id, op);
        if missing == 0 {
            self.ready(id);
            self.dispatch(device, self.now);
        }
        id
    }

    /// Lets a piece of work go on whose gate was opened.
    pub(super) fn pass_gate(&mut self, id: u64) {
        let Some(op) = self.ops.get_mut(&id) else {
            return;
        };
        op.missing -= 1;
        if op.missing > 0 {
            return;
        }
        let mut touched = BTreeSet::new();
        if op.work.is_some() {
            touched.insert(op.device);
            self.ready(id);
        } else {
            self.complete(id, self.now, &mut touched);
        }
        for device in touched {
            self.dispatch(device, self.now);
        }
    }

    /// Queues a kernel for its SMs, because everything that it waited for is done.
    pub(super) fn ready(&mut self, id: u64) {
        if let Some(op) = self.ops.get(&id)
            && let Some(work) = &op.work
        {
            self.gpus[op.device].waiting.insert((work.priority, id));
        }
    }

    /// Marks work as done, which may complete or start the work that waited for it.
    pub(super) fn complete(&mut self, id: u64, time: u64, touched: &mut BTreeSet<usize>) {
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
}

//! Gates: work whose effect is still to come, because it runs on a thread or follows work that does.
//!
//! A piece of work with a closed gate is not done in virtual time, and neither is anything that follows it. Gates open
//! in the order of the work, whatever virtual time says: no effect ever waits for virtual time.

use super::{LaneOf, Mark, Timeline, order::Op};

/// The moment of an action's effect.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Effect {
    /// There is none, only a place in the order.
    None,
    /// At the submission, or when the gates before it are open.
    AtOnce,
    /// On a thread, from the same moment on.
    OnThread,
}

/// The gates that have to open before this one may.
#[derive(Debug)]
pub(super) struct Gate {
    missing: usize,
    later: Vec<u64>,
}

/// A closed gate before an effect.
#[derive(Debug)]
pub(crate) struct Held {
    pub(crate) op: u64,
    /// Whether no other gate is before it, so that the effect may begin.
    pub(crate) is_next: bool,
}

impl Timeline {
    /// Returns the nearest closed gates before work with these dependencies.
    pub(super) fn gates_before(&self, deps: &[u64]) -> Vec<u64> {
        let mut gates = Vec::new();
        if self.gates.is_empty() {
            return gates;
        }
        for dep in deps.iter().filter_map(|dep| self.ops.get(dep)) {
            let closed = dep.gates.iter().filter(|gate| self.is_closed(gate));
            gates.extend(closed);
        }
        gates.sort_unstable();
        gates.dedup();
        gates
    }

    fn is_closed(&self, gate: &u64) -> bool {
        self.gates.contains_key(gate)
    }

    /// Closes a gate at new work, behind others.
    pub(super) fn close(&mut self, op: u64, before: &[u64]) {
        for gate in before {
            if let Some(gate) = self.gates.get_mut(gate) {
                gate.later.push(op);
            }
        }
        let gate = Gate {
            missing: before.len(),
            later: Vec::new(),
        };
        self.gates.insert(op, gate);
    }

    /// Returns the closed gate at a piece of work, if it has one.
    pub(super) fn held(&self, op: u64) -> Option<Held> {
        self.gates.get(&op).map(|gate| Held {
            op,
            is_next: gate.missing == 0,
        })
    }

    /// Opens a gate, because its effect is over. Returns the gates whose effects may begin now.
    pub(crate) fn open(&mut self, op: u64) -> Vec<u64> {
        let Some(gate) = self.gates.remove(&op) else {
            return Vec::new();
        };
        let mut next = Vec::new();
        for later in gate.later {
            if let Some(gate) = self.gates.get_mut(&later) {
                gate.missing -= 1;
                if gate.missing == 0 {
                    next.push(later);
                }
            }
        }
        self.pass_gate(op);
        next
    }

    /// Returns whether a piece of work has a closed gate, or follows one.
    pub(crate) fn waits_for_gate(&self, op: u64) -> bool {
        let of = |op: &Op| op.gates.iter().any(|gate| self.is_closed(gate));
        !self.gates.is_empty() && self.ops.get(&op).is_some_and(of)
    }

    /// Returns whether the last work of a lane has a closed gate, or follows one.
    pub(crate) fn lane_waits_for_gate(&self, of: LaneOf) -> bool {
        let lane = self.lanes.get(&of.lane);
        lane.is_some_and(|lane| self.waits_for_gate(lane.tail))
    }

    /// Returns whether the next work of a lane would have a closed gate before it.
    pub(crate) fn next_waits_for_gate(&self, of: LaneOf) -> bool {
        !self.gates.is_empty() && !self.gates_before(&self.before(of)).is_empty()
    }

    /// Returns whether recorded work has a closed gate before it.
    pub(crate) fn mark_waits_for_gate(&self, mark: &Mark) -> bool {
        self.waits_for_gate(mark.op)
    }
}

//! A model of the protocol, which is run in every order of its steps: two names, three who change the plan or finish
//! what others began, and deaths at any step. A step is one access to a file, or one thing that happens on the GPU.

use std::collections::{HashMap, HashSet};

use super::*;

/// SMs, each a bit.
type Sms = u8;

/// A rule that is broken on purpose, so that the model is seen to notice.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Mistake {
    None,
    /// A holder says that it left while its work still runs.
    LeavesEarly,
    /// A number that was withdrawn is used again.
    NumberAgain,
    /// Who claims a name does not look for an announced change.
    ClaimsBlindly,
    /// A dead holder's work is not waited for.
    ForgetsTheDead,
    /// A holder takes what the next plan gives to it before that is in force.
    TakesEarly,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Plan {
    number: u64,
    names: [Sms; 2],
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Step {
    /// Nobody has the name.
    Absent,
    /// Read the plan in force, and will lock the name.
    Locking,
    /// Has the lock and wrote its record, and will look for a change.
    Claiming,
    /// Will look whether the plan is still in force.
    Checking,
    /// Will look for an announced plan.
    Idle,
    /// Will look at the plan in force.
    Looked,
    /// Knows both, and will move.
    Moving,
    /// Moved, and will write that it left.
    Leaving,
    /// Destroyed its contexts, and will clear its record.
    Clearing,
    /// Will unlock the name.
    Unlocking,
    /// Dead, and its work may still run.
    Dirty,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Holder {
    step: Step,
    /// The SMs of its contexts.
    used: Sms,
    /// Those that it left, where its work still runs.
    busy: Sms,
    left_for: u64,
    has_record: bool,
    seen_next: Option<Plan>,
    seen: Plan,
    /// Claims after it was given back, or its holder died.
    claims_left: u8,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum ChangerStep {
    Waiting,
    /// Has the lock, and will look for what another left.
    Locked,
    /// Finishes what another began: looks at this name next.
    Settling(u8),
    /// Will take a number.
    Numbering,
    /// Will announce the plan.
    Announcing(u64),
    /// Looks at this name next.
    Asking(u8),
    Unlocking,
    Done,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Changer {
    step: ChangerStep,
    /// What it changes to; none for one that only finishes what others began.
    wants: Option<[Sms; 2]>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct State {
    plan: Plan,
    next: Option<Plan>,
    last: u64,
    /// The changer that has the lock of changes.
    lock: Option<u8>,
    holders: [Holder; 2],
    changers: [Changer; 3],
    deaths_left: u8,
}

fn list(sms: Sms) -> Vec<u8> {
    (0..8).filter(|bit| sms & (1 << bit) != 0).collect()
}

fn set(list: &[u8]) -> Sms {
    list.iter().fold(0, |set, bit| set | 1 << bit)
}

fn first() -> State {
    let plan = Plan {
        number: 1,
        names: [0b0011, 0b1100],
    };
    let holder = |name: usize| Holder {
        step: Step::Idle,
        used: plan.names[name],
        busy: 0,
        left_for: 0,
        has_record: true,
        seen_next: None,
        seen: plan,
        claims_left: u8::from(name == 0),
    };
    let changer = |wants| Changer {
        step: ChangerStep::Waiting,
        wants,
    };
    State {
        plan,
        next: None,
        last: 0,
        lock: None,
        holders: [holder(0), holder(1)],
        changers: [
            changer(Some([0b0001, 0b1110])),
            changer(Some([0b0111, 0b1000])),
            changer(None),
        ],
        deaths_left: 1,
    }
}

struct Model {
    mistake: Mistake,
}

impl Model {
    /// Returns what a holder may do next: first what it does of itself, then what may befall it.
    fn of_holder(&self, state: &State, name: usize, chance: bool) -> Vec<State> {
        let holder = &state.holders[name];
        let mut all = Vec::new();
        let mut step = |change: &dyn Fn(&mut Holder)| {
            let mut next = *state;
            change(&mut next.holders[name]);
            all.push(next);
        };
        let announced = |holder: &Holder| {
            let next = holder.seen_next;
            next.filter(|next| is_announced(holder.seen.number, next.number))
        };
        match holder.step {
            // It looks at both again once it has the lock.
            Step::Absent if holder.claims_left > 0 && state.next.is_none() => step(&|holder| {
                holder.seen = state.plan;
                holder.claims_left -= 1;
                holder.step = Step::Locking;
            }),
            Step::Locking => step(&|holder| {
                holder.has_record = true;
                holder.left_for = 0;
                holder.step = Step::Claiming;
            }),
            Step::Claiming => step(&|holder| {
                let is_seen = state.next.is_some() && self.mistake != Mistake::ClaimsBlindly;
                holder.step = if is_seen {
                    Step::Clearing
                } else {
                    Step::Checking
                };
            }),
            Step::Checking => step(&|holder| {
                if state.plan == holder.seen {
                    holder.used = state.plan.names[name];
                    holder.step = Step::Idle;
                } else {
                    holder.step = Step::Clearing;
                }
            }),
            Step::Idle => {
                step(&|holder| {
                    holder.seen_next = state.next;
                    holder.step = Step::Looked;
                });
                if chance && holder.claims_left > 0 {
                    step(&|holder| {
                        (holder.used, holder.busy) = (0, 0);
                        holder.step = Step::Clearing;
                    });
                }
            }
            Step::Looked => step(&|holder| {
                holder.seen = state.plan;
                holder.step = Step::Moving;
            }),
            Step::Moving => step(&|holder| {
                let next = announced(holder).map(|next| list(next.names[name]));
                let (used, own) = (list(holder.used), list(holder.seen.names[name]));
                let mut target = set(&parts_to_use(&used, &own, next.as_deref()));
                if self.mistake == Mistake::TakesEarly
                    && let Some(next) = next
                {
                    target = set(&next);
                }
                holder.busy |= holder.used & !target;
                holder.busy &= !target;
                holder.used = target;
                holder.step = Step::Leaving;
            }),
            Step::Leaving => {
                let is_idle = holder.busy == 0 || self.mistake == Mistake::LeavesEarly;
                if holder.busy != 0 {
                    step(&|holder| holder.busy = 0);
                }
                if is_idle {
                    step(&|holder| {
                        holder.left_for = announced(holder).map_or(0, |next| next.number);
                        holder.step = Step::Idle;
                    });
                } else {
                    // It looks again meanwhile.
                    step(&|holder| holder.step = Step::Idle);
                }
            }
            Step::Clearing => step(&|holder| {
                holder.has_record = false;
                holder.step = Step::Unlocking;
            }),
            Step::Unlocking => step(&|holder| holder.step = Step::Absent),
            Step::Dirty => step(&|holder| {
                (holder.used, holder.busy) = (0, 0);
                holder.step = Step::Absent;
            }),
            Step::Absent => {}
        }
        if chance && state.deaths_left > 0 && !matches!(holder.step, Step::Absent | Step::Dirty) {
            let mut next = *state;
            next.deaths_left -= 1;
            next.holders[name].step = Step::Dirty;
            all.push(next);
        }
        all
    }

    /// Returns whether a name is in the way of the announced plan no more, as who changes the plan sees it.
    fn has_left(&self, state: &State, next: &Plan, name: usize) -> bool {
        let holder = &state.holders[name];
        let is_idle = match holder.step {
            Step::Absent => true,
            Step::Dirty => self.mistake == Mistake::ForgetsTheDead,
            // It has no lock yet.
            Step::Locking => true,
            _ => false,
        };
        let left_for = if holder.has_record {
            holder.left_for
        } else {
            0
        };
        let name_state = if is_idle {
            NameState::Idle
        } else {
            NameState::InUse { left_for }
        };
        let (own, next_own) = (list(state.plan.names[name]), list(next.names[name]));
        has_left(&own, &next_own, next.number, name_state)
    }

    fn of_changer(&self, state: &State, index: usize, chance: bool) -> Vec<State> {
        let changer = state.changers[index];
        let mut all = Vec::new();
        let mut push = |change: &dyn Fn(&mut State)| {
            let mut next = *state;
            change(&mut next);
            all.push(next);
        };
        let at = |next: &mut State, step| next.changers[index].step = step;
        match changer.step {
            ChangerStep::Waiting => {
                let has_reason = changer.wants.is_some() || state.next.is_some();
                if state.lock.is_none() && has_reason {
                    push(&|next| {
                        next.lock = Some(index as u8);
                        at(next, ChangerStep::Locked);
                    });
                }
            }
            ChangerStep::Locked => push(&|next| {
                let step = match (state.next, changer.wants) {
                    (Some(_), _) => ChangerStep::Settling(0),
                    (None, Some(_)) => ChangerStep::Numbering,
                    (None, None) => ChangerStep::Unlocking,
                };
                at(next, step);
            }),
            ChangerStep::Settling(name) => push(&|next| {
                let after = match changer.wants {
                    Some(_) => ChangerStep::Numbering,
                    None => ChangerStep::Unlocking,
                };
                let Some(announced) = state.next else {
                    return at(next, after);
                };
                if usize::from(name) == state.holders.len() {
                    (next.plan, next.next) = (announced, None);
                    at(next, after);
                } else if self.has_left(state, &announced, name.into()) {
                    at(next, ChangerStep::Settling(name + 1));
                } else {
                    next.next = None;
                    at(next, after);
                }
            }),
            ChangerStep::Numbering => push(&|next| {
                let number = next_number(state.plan.number, state.last);
                if self.mistake != Mistake::NumberAgain {
                    next.last = number;
                }
                at(next, ChangerStep::Announcing(number));
            }),
            ChangerStep::Announcing(number) => push(&|next| {
                next.next = changer.wants.map(|names| Plan { number, names });
                at(next, ChangerStep::Asking(0));
            }),
            ChangerStep::Asking(name) => {
                let Some(announced) = state.next else {
                    unreachable!("only who has the lock withdraws");
                };
                if usize::from(name) == state.holders.len() {
                    push(&|next| {
                        (next.plan, next.next) = (announced, None);
                        at(next, ChangerStep::Unlocking);
                    });
                } else if self.has_left(state, &announced, name.into()) {
                    push(&|next| at(next, ChangerStep::Asking(name + 1)));
                }
                // It waits no longer.
                if chance {
                    push(&|next| {
                        next.next = None;
                        at(next, ChangerStep::Unlocking);
                    });
                }
            }
            ChangerStep::Unlocking => push(&|next| {
                next.lock = None;
                let step = match changer.wants {
                    Some(_) => ChangerStep::Done,
                    None => ChangerStep::Waiting,
                };
                at(next, step);
            }),
            ChangerStep::Done => {}
        }
        let has_begun = !matches!(changer.step, ChangerStep::Waiting | ChangerStep::Done);
        if chance && state.deaths_left > 0 && has_begun {
            push(&|next| {
                next.deaths_left -= 1;
                next.lock = None;
                let step = match changer.wants {
                    Some(_) => ChangerStep::Done,
                    None => ChangerStep::Waiting, // another one
                };
                at(next, step);
            });
        }
        all
    }

    /// Returns all that may happen next.
    fn successors(&self, state: &State) -> Vec<State> {
        let holders = (0..state.holders.len()).flat_map(|name| self.of_holder(state, name, true));
        let changers = 0..state.changers.len();
        let changers = changers.flat_map(|index| self.of_changer(state, index, true));
        holders.chain(changers).collect()
    }

    /// Returns what happens next where everyone goes on, nobody dies, and nobody stops waiting; none once all is quiet.
    fn goes_on(&self, state: &State) -> Option<State> {
        let changers = 0..state.changers.len();
        let mut changers = changers.flat_map(|index| self.of_changer(state, index, false));
        if let Some(next) = changers.next() {
            return Some(next);
        }
        // Who has not yet seen what there is goes on, the first such one.
        (0..state.holders.len()).find_map(|name| {
            let holder = &state.holders[name];
            let is_quiet = holder.step == Step::Idle
                && holder.busy == 0
                && match state.next {
                    Some(next) => holder.left_for == next.number,
                    None => holder.used == state.plan.names[name],
                };
            if is_quiet {
                return None;
            }
            self.of_holder(state, name, false).into_iter().next()
        })
    }

    /// Runs the model in every order; returns the number of states, or one in which two processes have an SM.
    fn run(&self) -> Result<usize, Box<State>> {
        let mut seen = HashSet::from([first()]);
        let mut open = vec![first()];
        while let Some(state) = open.pop() {
            let [a, b] = &state.holders;
            if (a.used | a.busy) & (b.used | b.busy) != 0 {
                return Err(Box::new(state));
            }
            for next in self.successors(&state) {
                if seen.insert(next) {
                    open.push(next);
                }
            }
        }
        if self.mistake == Mistake::None {
            self.check_ends(&seen);
        }
        Ok(seen.len())
    }

    /// Ensures that from every state the change ends, and all have what the plan gives to them, once all go on.
    fn check_ends(&self, states: &HashSet<State>) {
        let mut ends: HashMap<State, bool> = HashMap::new();
        for state in states {
            let mut way = Vec::new();
            let mut at = *state;
            while !ends.contains_key(&at) {
                way.push(at);
                assert!(way.len() < 1000, "no end from {state:?}");
                match self.goes_on(&at) {
                    Some(next) => at = next,
                    None => {
                        assert!(at.next.is_none() && at.lock.is_none(), "{state:?} {at:?}");
                        for (holder, own) in at.holders.iter().zip(at.plan.names) {
                            let has_all = holder.step == Step::Idle && holder.used == own;
                            assert!(has_all || holder.step == Step::Absent, "{at:?}");
                        }
                        break;
                    }
                }
            }
            ends.extend(way.into_iter().map(|state| (state, true)));
        }
    }
}

#[test]
#[cfg_attr(miri, ignore)] // hundreds of thousands of states
fn no_sm_is_two_processes_and_every_change_ends() {
    let model = Model {
        mistake: Mistake::None,
    };
    match model.run() {
        Ok(states) => assert!(states > 10_000, "{states}"),
        Err(state) => panic!("{state:?}"),
    }
}

#[test]
#[cfg_attr(miri, ignore)] // as above
fn the_model_notices_each_rule_that_is_broken() {
    for mistake in [
        Mistake::LeavesEarly,
        Mistake::NumberAgain,
        Mistake::ClaimsBlindly,
        Mistake::ForgetsTheDead,
        Mistake::TakesEarly,
    ] {
        assert!(Model { mistake }.run().is_err(), "{mistake:?}");
    }
}

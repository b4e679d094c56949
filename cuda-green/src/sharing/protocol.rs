//! The rules by which SMs change hands among processes: pure, and the same in the library and in the model of its tests.
//!
//! A change is announced as the next plan, with a number that is never used again. A holder that loses SMs by it leaves
//! them and writes the number into its record. Once nobody uses what another gets, the next plan replaces the one in
//! force. Three rules keep an SM from being given to two processes, whoever dies at whatever step:
//!
//! - A holder uses only what the plan in force gives to its name; once it has written the number of an announced plan,
//!   only what that one gives to it as well.
//! - The next plan replaces the one in force only when every name that loses SMs by it has left them: its record says so,
//!   or nobody has it.
//! - Who claims a name while a change is announced gives it back, and waits.
//!
//! So a number that was withdrawn needs no trace: nobody asks for it again.

/// What is known of a name whose SMs are to be left.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum NameState {
    /// Nobody has it, and nothing runs on its SMs.
    Idle,
    /// A process has it, or had it and may have work on its SMs; its record says that it left for this plan.
    InUse { left_for: u64 },
}

/// Returns whether a name with these parts has fewer, or others, by the next plan.
pub(super) fn loses<T: PartialEq>(parts: &[T], next: &[T]) -> bool {
    parts.iter().any(|part| !next.contains(part))
}

/// Returns whether a plan that lies beside the one in force is still to come. One that is not was read just before it
/// replaced the other.
pub(super) fn is_announced(in_force: u64, next: u64) -> bool {
    next > in_force
}

/// Returns the parts that a holder is to use, which uses some now. Once it uses no others, it may write that it left
/// for the next plan.
pub(super) fn parts_to_use<T: PartialEq + Copy>(
    used: &[T],
    in_force: &[T],
    next: Option<&[T]>,
) -> Vec<T> {
    match next {
        None => in_force.to_vec(),
        // It gets more only when the others have left.
        Some(next) if !loses(used, next) => used.to_vec(),
        Some(next) => {
            let both = in_force.iter().filter(|part| next.contains(part));
            both.copied().collect()
        }
    }
}

/// Returns whether a name is in the way of the next plan no more.
pub(super) fn has_left<T: PartialEq>(
    in_force: &[T],
    next: &[T],
    number: u64,
    state: NameState,
) -> bool {
    match state {
        NameState::Idle => true,
        NameState::InUse { left_for } => left_for == number || !loses(in_force, next),
    }
}

/// Returns the number of the next plan, which no plan had before.
pub(super) fn next_number(in_force: u64, last_announced: u64) -> u64 {
    in_force.max(last_announced).saturating_add(1)
}

#[cfg(test)]
#[path = "protocol_model.rs"]
mod model;

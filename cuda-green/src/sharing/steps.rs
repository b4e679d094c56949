//! The steps of joining, changing and leaving, where tests stop or kill a process.

/// A step of joining, changing or leaving a plan among processes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
#[cfg_attr(not(feature = "test-utils"), allow(dead_code))]
pub enum SharingStep {
    /// The plan is about to be made, and no other process can.
    Planning,
    /// The plan is written beside the old one.
    PlanWritten,
    /// The plan has replaced the old one.
    PlanReplaced,
    /// The plan in force is known, and no name is locked.
    Agreed,
    /// The lock of a name is taken, and nothing is written.
    NameLocked,
    /// The record of a name is written.
    NameRecorded,
    /// All names are claimed, and no context is made.
    Claimed,
    /// The contexts are made.
    Made,
    /// The number of the next plan is taken, and nobody knows it.
    Numbered,
    /// The next plan is written, and not in its place.
    NextWritten,
    /// The next plan is announced.
    Announced,
    /// Everyone has left what others get.
    AllLeft,
    /// The next plan is in force, and nobody was told.
    InForce,
    /// The next plan is withdrawn, and nobody was told.
    Withdrawn,
    /// The contexts of a name are on fewer SMs, and its record does not say so.
    Left,
    /// The record of a name says that it left.
    LeftRecorded,
    /// The contexts of a name are on its new SMs, and its record does not say so.
    Taken,
    /// A name's contexts are destroyed, and it is still claimed.
    Leaving,
    /// The record of a name is cleared, and the lock is still held.
    RecordCleared,
}

#[cfg(feature = "test-utils")]
mod hook {
    use std::sync::OnceLock;

    use super::SharingStep;

    static HOOK: OnceLock<fn(SharingStep)> = OnceLock::new();

    /// Calls this function at each step of joining and leaving a plan, in this process, from now on; only the first
    /// function counts.
    pub fn on_sharing_step(hook: fn(SharingStep)) {
        let _ = HOOK.set(hook);
    }

    pub(crate) fn reached(step: SharingStep) {
        if let Some(hook) = HOOK.get() {
            hook(step);
        }
    }
}

#[cfg(feature = "test-utils")]
pub use hook::on_sharing_step;
#[cfg(feature = "test-utils")]
pub(crate) use hook::reached;

/// Does nothing outside of tests.
#[cfg(not(feature = "test-utils"))]
#[cfg_attr(not(target_os = "linux"), allow(dead_code))]
pub(crate) fn reached(_: SharingStep) {}

//! The exchange of generations: other contexts come into force under their names, all at once.

use super::generation::{Entry, Generation};
use crate::Result;

/// What happens between the old work on an SM and the new.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Default)]
#[non_exhaustive]
pub enum HandOff {
    /// New work waits on the GPU until all work that was submitted before for the SMs it gets has ended,
    /// through old handles and in threads that come later too. The host does not wait.
    #[default]
    Strict,
    /// New work starts at once, and may share SMs with old work until that has ended.
    Relaxed,
}

/// Puts other generations into force, all at once for everyone who follows a name.
pub(super) fn exchange<Id>(
    contexts: &mut [Entry<Id>],
    targets: &[usize],
    hand_off: HandOff,
) -> Result<()> {
    let mut slots: Vec<_> = contexts
        .iter()
        .zip(targets)
        .filter(|(entry, target)| entry.current != **target)
        .map(|(entry, target)| (entry.slot.write(), &entry.generations[*target]))
        .collect();
    if hand_off == HandOff::Strict {
        // Those that are not in force count too: a relaxed hand-off, or an old handle, may have left work.
        for old in contexts.iter().flat_map(|entry| &entry.generations) {
            let mut waiting = slots
                .iter()
                .map(|(_, new)| *new)
                .filter(|new| !std::ptr::eq(*new, old) && new.shares_pieces_with(old))
                .peekable();
            if waiting.peek().is_some() {
                let marks = old.context.mark_work()?;
                waiting.try_for_each(|new| new.context.wait_for_marked(&marks))?;
            }
        }
    }
    for (slot, new) in &mut slots {
        **slot = new.context.clone();
    }
    drop(slots);
    for (entry, target) in contexts.iter_mut().zip(targets) {
        entry.current = *target;
    }
    Ok(())
}

impl Generation {
    fn shares_pieces_with(&self, other: &Self) -> bool {
        self.pieces.iter().any(|piece| other.pieces.contains(piece))
    }
}

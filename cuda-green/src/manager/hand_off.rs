//! The exchange of generations: other contexts come into force under their names, all at once.

use super::{
    generation::{Entry, Generation, Slot},
    registry::Names,
};
use crate::{error::Result, sync::Arc};

/// What happens between the old work on an SM and the new.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Default)]
#[non_exhaustive]
pub enum HandOff {
    /// New work waits on the GPU until all work that was submitted before for the SMs it gets has ended,
    /// through old handles and in threads that come later too. The host does not wait. Of contexts that were made
    /// of a managed context's own resource it knows nothing. It is refused while a stream that this crate made
    /// in one of those contexts is in a capture; a capture of a stream that foreign code made there is lost.
    #[default]
    Strict,
    /// New work starts at once, and may share SMs with old work until that has ended.
    Relaxed,
}

impl HandOff {
    /// Its name in metrics and events.
    #[cfg(any(feature = "metrics", feature = "tracing"))]
    pub(crate) fn label(self) -> &'static str {
        match self {
            Self::Strict => "strict",
            Self::Relaxed => "relaxed",
        }
    }
}

/// Puts other generations into force, all at once for everyone who follows a name: of each entry, that of this
/// index. Waits for whoever uses a stream of a name that changes; names can be looked up meanwhile.
pub(super) fn exchange<Id>(names: &Names<Id>, targets: &[usize], hand_off: HandOff) -> Result<()> {
    let slots: Vec<Option<Arc<Slot>>> = names.read(|entries| {
        let entries = entries.iter().zip(targets);
        let slot = |(entry, target): (&Entry<Id>, &usize)| {
            (entry.current != *target).then(|| Arc::clone(&entry.slot))
        };
        entries.map(slot).collect()
    });
    let mut held: Vec<_> = slots
        .iter()
        .map(|slot| slot.as_ref().map(|slot| slot.write()))
        .collect();
    if hand_off == HandOff::Strict {
        names.read(|entries| hand_over(entries, targets))?;
    }
    names.write(|entries| {
        for ((entry, target), slot) in entries.iter_mut().zip(targets).zip(&mut held) {
            if let Some(slot) = slot {
                **slot = entry.generations[*target].context.clone();
                entry.current = *target;
            }
        }
    });
    Ok(())
}

/// Makes the generations that are to come into force wait for the work of all that share pieces with them. Those
/// that are not in force count too: a relaxed hand-off, or an old handle, may have left work.
fn hand_over<Id>(entries: &[Entry<Id>], targets: &[usize]) -> Result<()> {
    let changing = entries.iter().zip(targets);
    let changing = changing.filter(|(entry, target)| entry.current != **target);
    let new: Vec<&Generation> = changing
        .map(|(entry, target)| &entry.generations[*target])
        .collect();
    for old in entries.iter().flat_map(|entry| &entry.generations) {
        let shares = |new: &&&Generation| !std::ptr::eq(**new, old) && new.shares_pieces_with(old);
        let mut waiting = new.iter().filter(shares).peekable();
        if waiting.peek().is_some() {
            let marks = old.context.mark_work()?;
            waiting.try_for_each(|new| new.context.wait_for_marked(&marks))?;
        }
    }
    Ok(())
}

impl Generation {
    fn shares_pieces_with(&self, other: &Self) -> bool {
        self.pieces.iter().any(|piece| other.pieces.contains(piece))
    }
}

//! The hand-off: other generations are put into force, and the work of old and new ones is ordered on the SMs that
//! change hands.

use super::{
    generation::{ContextInForce, Generation},
    named_partition::NamedPartition,
    registry::RegistryChange,
};
use crate::{error::Result, sync::Arc};

/// The order between the old work on an SM and the new.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Default)]
#[non_exhaustive]
pub enum HandOff {
    /// New work waits on the GPU until all work that was submitted before for the SMs it gets has ended,
    /// through old handles and in threads that come later too. The host does not wait. Contexts that were made
    /// of a managed context's resource are not covered. It is refused while a stream that this crate made
    /// in one of those contexts is in a capture; a capture of a stream that foreign code made there is lost.
    #[default]
    Strict,
    /// New work starts at once, and may share SMs with old work until that has ended.
    Relaxed,
}

impl HandOff {
    /// Returns its name in metrics and events.
    pub(crate) fn label(self) -> &'static str {
        match self {
            Self::Strict => "strict",
            Self::Relaxed => "relaxed",
        }
    }
}

impl<Id> RegistryChange<'_, Id> {
    /// Puts a generation of each partition into force, given in their order, all at once for everyone who follows a
    /// name. Waits for the users of streams that follow a name whose generation changes; names can be looked up
    /// meanwhile.
    pub(crate) fn put_in_force(
        &self,
        generations: &[(usize, usize)],
        hand_off: HandOff,
    ) -> Result<()> {
        let followed: Vec<Option<Arc<ContextInForce>>> = self.registry.read(|partitions| {
            let partitions = partitions.iter().zip(generations);
            let followed = partitions.map(|(partition, (_, generation))| {
                let changes = partition.in_force() != *generation;
                changes.then(|| Arc::clone(partition.followed()))
            });
            followed.collect()
        });
        let mut held: Vec<_> = followed
            .iter()
            .map(|followed| followed.as_ref().map(|followed| followed.write()))
            .collect();
        if hand_off == HandOff::Strict {
            self.registry.read(|partitions| {
                let changing = partitions.iter().zip(generations);
                let changing =
                    changing.filter(|(partition, (_, new))| partition.in_force() != *new);
                let new: Vec<&Generation> = changing
                    .map(|(partition, (_, new))| &partition.generations()[*new])
                    .collect();
                wait_for_old_work(
                    &new,
                    partitions.iter().flat_map(NamedPartition::generations),
                )
            })?;
        }
        self.write(|partitions| {
            for ((partition, (_, generation)), followed) in
                partitions.iter_mut().zip(generations).zip(&mut held)
            {
                if let Some(followed) = followed {
                    partition.put_in_force(*generation, followed);
                }
            }
        });
        Ok(())
    }
}

/// Makes the new generations wait, on the GPU, for the work of all generations that share pieces with them. Retired
/// ones count too: a relaxed hand-off, or an old handle, may have left work there.
fn wait_for_old_work<'a>(
    new: &[&Generation],
    all: impl Iterator<Item = &'a Generation>,
) -> Result<()> {
    for old in all {
        let shares = |new: &&&Generation| !std::ptr::eq(**new, old) && new.shares_pieces_with(old);
        let mut waiting = new.iter().filter(shares).peekable();
        if waiting.peek().is_some() {
            let marks = old.context.mark_work()?;
            waiting.try_for_each(|new| new.context.wait_for_marked(&marks))?;
        }
    }
    Ok(())
}

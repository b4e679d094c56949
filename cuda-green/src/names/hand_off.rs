//! The hand-off: ordering the work of old and new generations on the SMs that change hands in a rebalance.

use super::generation::Generation;
use crate::error::Result;

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

/// Makes the new generations wait, on the GPU, for the work of all generations that share pieces with them. Retired
/// ones count too: a relaxed hand-off, or an old handle, may have left work there.
pub(crate) fn wait_for_old_work<'a>(
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

//! The time of a change of the plan, with both processes idle, until both run on the new SMs.

use super::{figures::Change, pair::Pair};
use crate::commands::bench::found::Found;

/// Measures changes; the reason where the plan does not change.
pub fn measure(pair: &mut Pair<'_>) -> anyhow::Result<Result<Change, String>> {
    Ok(pair.changes()?.map(|times| Change {
        change_us: Found::of(times),
    }))
}

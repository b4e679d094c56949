//! The time of a change of the plan, with both processes idle, until both run on the new SMs.

use super::{figures::Change, pair::Pair};

/// Measures a change; the reason where there is none to measure.
pub fn measure(_: &mut Pair<'_>) -> anyhow::Result<Result<Change, String>> {
    Ok(Err(
        "the plan does not change while processes hold it".to_owned()
    ))
}

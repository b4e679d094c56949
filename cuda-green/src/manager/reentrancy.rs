//! Whether this thread is in the closure of a [`PartitionStream::with`](super::PartitionStream::with), which holds
//! rebalances off: what waits for a rebalance there would wait for itself.

use std::{cell::Cell, marker::PhantomData};

use crate::error::{Error, Result};

thread_local! {
    static INSIDE: Cell<bool> = const { Cell::new(false) };
}

/// The time of such a closure.
pub(super) struct Inside(PhantomData<*mut ()>);

impl Inside {
    /// Begins it, where none goes on.
    pub(super) fn begin() -> Result<Self> {
        refuse_inside()?;
        INSIDE.set(true);
        Ok(Self(PhantomData))
    }
}

impl Drop for Inside {
    fn drop(&mut self) {
        INSIDE.set(false);
    }
}

/// Refuses what waits for rebalances.
pub(super) fn refuse_inside() -> Result<()> {
    if INSIDE.get() {
        Err(Error::InsidePartitionStream)
    } else {
        Ok(())
    }
}

//! Reentrancy: a thread inside the closure of a [`PartitionStream::with`](super::PartitionStream::with), which holds
//! rebalances off, must not wait for a rebalance, since it would wait for itself.

use std::{cell::Cell, marker::PhantomData};

use crate::error::{Error, Result};

thread_local! {
    static INSIDE: Cell<bool> = const { Cell::new(false) };
}

/// A guard for the time of such a closure.
pub(super) struct InClosure(PhantomData<*mut ()>);

impl InClosure {
    /// Begins it, unless this thread is in one.
    pub(super) fn begin() -> Result<Self> {
        refuse_inside()?;
        INSIDE.set(true);
        Ok(Self(PhantomData))
    }
}

impl Drop for InClosure {
    fn drop(&mut self) {
        INSIDE.set(false);
    }
}

/// Refuses calls that wait for rebalances, inside such a closure.
pub(super) fn refuse_inside() -> Result<()> {
    if INSIDE.get() {
        Err(Error::InsidePartitionStream)
    } else {
        Ok(())
    }
}

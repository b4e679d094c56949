//! Reentrancy: a thread inside the closure of a [`PartitionStream::with`](super::PartitionStream::with), which holds
//! rebalances off, must not wait for a rebalance, since it would wait for itself.

use std::{cell::Cell, marker::PhantomData};

use crate::error::{Error, Result};

#[cfg(not(all(test, loom)))]
thread_local! {
    static INSIDE: Cell<bool> = const { Cell::new(false) };
}

// All threads of a model run on one of the system's.
#[cfg(all(test, loom))]
loom::thread_local! {
    static INSIDE: Cell<bool> = Cell::new(false);
}

/// A guard for the time of such a closure.
pub(crate) struct InClosure(PhantomData<*mut ()>);

impl InClosure {
    /// Begins it, unless this thread is in one.
    pub(crate) fn begin() -> Result<Self> {
        refuse_inside()?;
        INSIDE.with(|inside| inside.set(true));
        Ok(Self(PhantomData))
    }
}

impl Drop for InClosure {
    fn drop(&mut self) {
        INSIDE.with(|inside| inside.set(false));
    }
}

/// Refuses calls that wait for rebalances, inside such a closure.
pub(crate) fn refuse_inside() -> Result<()> {
    if INSIDE.with(Cell::get) {
        Err(Error::InsidePartitionStream)
    } else {
        Ok(())
    }
}

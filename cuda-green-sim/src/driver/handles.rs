//! Handles: what stands for an object outside of the driver.

use super::{Driver, State};

/// Handles are made up of a driver's number, a running number and a kind, and never point to anything.
/// So a handle that is stale, of another kind or of another driver is always told apart.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Context = 1,
    Green,
    Stream,
    Event,
    Module,
    Function,
    Pool,
    Descriptor,
    Resource,
    Split,
    Workqueue,
    Graph,
    GraphExec,
    Library,
    LibraryKernel,
    Physical,
    Link,
}

impl Driver {
    /// Whether this driver gave the handle out, some time or other.
    pub(super) fn was_mine(&self, state: &State, handle: u64, kind: Kind) -> bool {
        handle >> 40 == self.number
            && (handle >> 3) & 0x1f == kind as u64
            && (handle >> 8) & 0xffff_ffff < state.serial
    }
}

impl State {
    /// A new handle; kinds do not share numbers, and no number comes twice.
    pub(super) fn new_handle(&mut self, driver: u64, kind: Kind) -> u64 {
        let serial = self.serial;
        self.serial += 1;
        (driver << 40) | ((serial & 0xffff_ffff) << 8) | ((kind as u64) << 3)
    }
}

/// A handle as the C type that it has outside.
pub(super) fn as_pointer<T>(handle: u64) -> *mut T {
    std::ptr::without_provenance_mut(handle as usize)
}

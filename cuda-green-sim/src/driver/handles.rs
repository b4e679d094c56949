//! Handles, which stand for objects outside of the driver.

use super::{Driver, State};

/// A handle is made up of a driver's number, a running number and a kind, and never points to anything. So a handle
/// that is stale, of another kind or of another driver is always detected.
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
    /// Returns whether this driver ever gave the handle out.
    pub(super) fn was_mine(&self, state: &State, handle: u64, kind: Kind) -> bool {
        handle >> 40 == self.number
            && (handle >> 3) & 0x1f == kind as u64
            && (handle >> 8) & 0xffff_ffff < state.serial
    }
}

impl State {
    /// Returns a new handle; no two kinds share a number, and no number is used twice.
    pub(super) fn new_handle(&mut self, driver: u64, kind: Kind) -> u64 {
        let serial = self.serial;
        self.serial += 1;
        (driver << 40) | ((serial & 0xffff_ffff) << 8) | ((kind as u64) << 3)
    }
}

/// Converts a handle to its C type.
pub(super) fn as_pointer<T>(handle: u64) -> *mut T {
    std::ptr::without_provenance_mut(handle as usize)
}

//! The lock-free protocol of a queue: non-blocking steps over a small trait of word accesses.
//!
//! The format is that of [`layout`](crate::layout). The device side in `cuda_green_queue.cuh` does the same steps; these
//! are for the consumers on the CPU, for producers on the CPU, and for kernels of the simulator. No step waits: each
//! returns what it found, and the caller decides whether to try again.
//!
//! # Two kinds of memory
//! [`Shared`] is accessed by both sides of a queue, over the bus, and has loads and stores alone, since a
//! read-modify-write over PCIe is not atomic. [`Local`] is accessed by producers alone and has read-modify-writes as
//! well. A step takes each by its type, so none can do to host memory what the bus cannot do.
//!
//! # Submitting
//! 1. [`Ring::reserve`] subtracts credits, then takes tickets. `depth` credits exist at the start, and each slot that
//!    was consumed gives one more, so a ticket is given only after its slot's earlier ticket was consumed. A refusal
//!    gives credits back and never a ticket: a ticket that is not used would be a slot that is never written, and the
//!    consumer would wait at it for ever.
//! 2. [`Ring::commit`] writes the payload, then the slot's first word with release semantics.
//! 3. [`Ring::replenish`] reads the consumer's tail now and then, so that credits rarely run out.
//!
//! # Why the slot is free
//! Both `credits` and `head` are accessed by read-modify-writes with acquire and release semantics. A ticket `t` is the
//! last of `t + 1` credits that were taken before, each before its owner's step on `head`; so through `head` the owner
//! of `t` sees the refill that granted the last of them, and through the acquire load of that refill the consumption
//! of `t - depth`.
//!
//! # Consuming
//! One [`Consumer`] a ring. It copies a payload before it stores the tail that gives the slot back.
//!
//! # Answers
//! [`FutureTable`] has an entry for each call that waits; the generation in each word of an answer says which call it
//! is of.

mod answers;
mod consumer;
mod futures;
mod inbox;
mod mapped;
mod memory;
mod reserve;
mod ring;
#[cfg(feature = "test-utils")]
pub(crate) mod sim;
mod slot;

#[cfg(test)]
mod tests;

pub(crate) use answers::{Answer, answer};
pub(crate) use consumer::Consumer;
pub(crate) use futures::{Call, FutureTable, closed_answer};
pub(crate) use mapped::{Mapped, Private};
#[cfg(test)]
pub(crate) use memory::Local;
pub(crate) use memory::Shared;
pub(crate) use reserve::Reservation;
pub(crate) use ring::{Places, Ring, first_futures, first_state};
pub(crate) use slot::TaskHeader;

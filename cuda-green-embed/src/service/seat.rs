//! A lane's places for batches, one on each GPU.

use std::{
    collections::VecDeque,
    sync::{Arc, OnceLock, atomic::AtomicU64},
};

use super::batch::Flying;
use crate::{encoder::Encoder, error::Error};

/// A place for batches: the lane's encoder on one GPU.
pub(super) struct Seat {
    pub(super) encoder: Arc<dyn Encoder>,
    /// The error for which it gets no work any more.
    pub(super) retired: OnceLock<Arc<Error>>,
    pub(super) batches: AtomicU64,
}

/// The batches of one seat.
#[derive(Default)]
pub(super) struct SeatState {
    /// Whether a thread is submitting a batch. One at a time does, so batches are submitted in order.
    pub(super) launching: bool,
    /// Submitted batches, the oldest first, but for the one that is waited for.
    pub(super) flying: VecDeque<Flying>,
    /// Whether a thread waits for a batch. One at a time does, so batches are delivered in order.
    pub(super) driving: bool,
    /// The batches that were taken from the queue and have not ended.
    pub(super) batches: usize,
    /// The batches in a row that the GPU has failed.
    pub(super) failures: usize,
    /// Whether it gets no work any more.
    pub(super) retired: bool,
}

impl Seat {
    pub(super) fn new(encoder: Arc<dyn Encoder>) -> Self {
        Self {
            encoder,
            retired: OnceLock::new(),
            batches: AtomicU64::new(0),
        }
    }
}

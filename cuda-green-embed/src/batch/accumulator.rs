//! The queue of texts that wait for a batch.
//!
//! A state machine without threads and without a clock: the caller passes the time in. What waits is in the order of
//! arrival, and each batch is a beginning of it, so no text is overtaken by a later one into an earlier batch.

use std::{
    collections::VecDeque,
    error, fmt,
    sync::atomic::{AtomicU64, Ordering},
    time::Instant,
};

use super::BatchConfig;
use crate::error::{Error, Result};

/// Collects texts into batches. An item is all that belongs to a text: its tokens and, in a service, the way back to
/// whoever asked.
///
/// A service asks [`should_flush`](Self::should_flush) after each arrival and after each end of a batch, and sleeps until
/// [`next_deadline`](Self::next_deadline) otherwise.
///
/// ```
/// use std::time::Instant;
///
/// use cuda_green_embed::{BatchAccumulator, BatchConfig, PackedBatch};
///
/// let mut waiting = BatchAccumulator::new(BatchConfig::default())?;
/// let now = Instant::now();
/// for tokens in [vec![101, 2023, 102], vec![101, 2023, 2003, 102]] {
///     let length = tokens.len();
///     waiting.add(tokens, length, now)?;
/// }
/// assert!(!waiting.should_flush(now, false));
/// let deadline = now + waiting.config().max_wait;
/// assert!(waiting.should_flush(deadline, false));
/// for batch in waiting.flush() {
///     let packed: PackedBatch = batch.items().iter().collect();
///     assert_eq!(packed.tokens(), 7);
/// }
/// # Ok::<(), cuda_green_embed::Error>(())
/// ```
#[derive(Debug)]
pub struct BatchAccumulator<T> {
    config: BatchConfig,
    /// In the order of arrival, thus with ascending tickets.
    pending: VecDeque<Pending<T>>,
    tokens: usize,
}

#[derive(Debug)]
struct Pending<T> {
    ticket: Ticket,
    item: T,
    tokens: usize,
    arrived: Instant,
}

/// The place of an item in a queue, by which it can be cancelled. No two tickets of a process are equal.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Ticket(u64);

/// An item that was not added, and the reason.
pub struct AddError<T> {
    /// The item.
    pub item: T,
    /// The reason.
    pub error: Error,
}

/// A batch of collected items, the longest first.
///
/// Kernels start their blocks roughly in the order of the texts. With the longest text first, the short ones fill the
/// gaps at the end instead of waiting for a long one that started last.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CollectedBatch<T> {
    items: Vec<T>,
    arrivals: Vec<usize>,
    tokens: usize,
}

impl<T> BatchAccumulator<T> {
    /// Makes an empty one.
    ///
    /// # Errors
    /// As [`BatchConfig::check`].
    pub fn new(config: BatchConfig) -> Result<Self> {
        config.check()?;
        Ok(Self {
            config,
            pending: VecDeque::new(),
            tokens: 0,
        })
    }

    /// Returns the sizes and times.
    pub fn config(&self) -> &BatchConfig {
        &self.config
    }

    /// Adds an item that has this number of tokens and arrives `now`. The time must not run backwards from one call to
    /// the next.
    ///
    /// # Errors
    /// The item is given back with [`Error::QueueFull`], [`Error::BatchTooLarge`] for an item with more tokens than a
    /// batch may have, or [`Error::EmptyText`] for one without any.
    pub fn add(&mut self, item: T, tokens: usize, now: Instant) -> Result<Ticket, AddError<T>> {
        let error = if tokens == 0 {
            Error::EmptyText { text: 0 }
        } else if tokens > self.config.max_tokens {
            Error::BatchTooLarge {
                unit: "tokens in one text",
                asked: tokens,
                limit: self.config.max_tokens,
            }
        } else if self.pending.len() >= self.config.max_pending {
            Error::QueueFull {
                limit: self.config.max_pending,
            }
        } else {
            static NEXT: AtomicU64 = AtomicU64::new(0);
            let ticket = Ticket(NEXT.fetch_add(1, Ordering::Relaxed));
            self.tokens += tokens;
            self.pending.push_back(Pending {
                ticket,
                item,
                tokens,
                arrived: now,
            });
            return Ok(ticket);
        };
        Err(AddError { item, error })
    }

    /// Removes an item that still waits and gives it back. An item that is in a batch already stays there.
    pub fn cancel(&mut self, ticket: Ticket) -> Option<T> {
        let place = self.pending.binary_search_by_key(&ticket, |p| p.ticket);
        let removed = self.pending.remove(place.ok()?)?;
        self.tokens -= removed.tokens;
        Some(removed.item)
    }

    /// Drops the items that are not to be kept: for items that know themselves whether anybody still waits for them.
    pub fn retain(&mut self, mut keep: impl FnMut(&T) -> bool) {
        self.pending.retain(|pending| keep(&pending.item));
        self.tokens = self.pending.iter().map(|pending| pending.tokens).sum();
    }

    /// Returns whether a batch is due: it is full, the oldest item has waited for `max_wait`, or the encoder is idle and
    /// `min_batch_size` items are there.
    pub fn should_flush(&self, now: Instant, encoder_is_idle: bool) -> bool {
        let full =
            self.len() >= self.config.max_batch_size || self.tokens >= self.config.max_tokens;
        full || (encoder_is_idle && self.len() >= self.config.min_batch_size)
            || self.next_deadline().is_some_and(|deadline| deadline <= now)
    }

    /// Returns the time at which the oldest item has waited for `max_wait`, or `None` if none waits, or `max_wait` is
    /// longer than time is counted.
    pub fn next_deadline(&self) -> Option<Instant> {
        let oldest = self.pending.front()?;
        oldest.arrived.checked_add(self.config.max_wait)
    }

    /// Returns the number of items that wait.
    pub fn len(&self) -> usize {
        self.pending.len()
    }

    /// Returns whether no item waits.
    pub fn is_empty(&self) -> bool {
        self.pending.is_empty()
    }

    /// Returns the number of tokens of all items that wait.
    pub fn tokens(&self) -> usize {
        self.tokens
    }

    /// Takes the oldest items, as many as fit a batch, whether or not they are due.
    pub fn next_batch(&mut self) -> Option<CollectedBatch<T>> {
        let mut tokens = 0;
        let mut count = 0;
        for pending in self.pending.iter().take(self.config.max_batch_size) {
            if tokens + pending.tokens > self.config.max_tokens {
                break;
            }
            tokens += pending.tokens;
            count += 1;
        }
        if count == 0 {
            return None;
        }
        self.tokens -= tokens;
        let mut taken: Vec<_> = self.pending.drain(..count).enumerate().collect();
        taken.sort_by_key(|(_, pending)| std::cmp::Reverse(pending.tokens));
        let (arrivals, items) = taken
            .into_iter()
            .map(|(arrival, pending)| (arrival, pending.item))
            .unzip();
        Some(CollectedBatch {
            items,
            arrivals,
            tokens,
        })
    }

    /// Takes all items, in as many batches as they need, the oldest in the first.
    pub fn flush(&mut self) -> Vec<CollectedBatch<T>> {
        std::iter::from_fn(|| self.next_batch()).collect()
    }
}

impl<T> CollectedBatch<T> {
    /// Returns the items, the longest first; of equal ones the oldest first.
    pub fn items(&self) -> &[T] {
        &self.items
    }

    /// Returns each item's place in the order of arrival, within this batch.
    pub fn arrivals(&self) -> &[usize] {
        &self.arrivals
    }

    /// Returns the number of items.
    pub fn len(&self) -> usize {
        self.items.len()
    }

    /// Returns whether there is no item. [`BatchAccumulator`] makes none such.
    pub fn is_empty(&self) -> bool {
        self.items.is_empty()
    }

    /// Returns the number of tokens of all items.
    pub fn tokens(&self) -> usize {
        self.tokens
    }

    /// Returns the items, the longest first.
    pub fn into_items(self) -> Vec<T> {
        self.items
    }

    /// Returns the items in the order of arrival.
    pub fn into_arrival_order(self) -> Vec<T> {
        let mut items: Vec<_> = self.arrivals.into_iter().zip(self.items).collect();
        items.sort_by_key(|(arrival, _)| *arrival);
        items.into_iter().map(|(_, item)| item).collect()
    }
}

impl<T> fmt::Debug for AddError<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AddError")
            .field("error", &self.error)
            .finish_non_exhaustive()
    }
}

impl<T> fmt::Display for AddError<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.error.fmt(f)
    }
}

impl<T> error::Error for AddError<T> {
    fn source(&self) -> Option<&(dyn error::Error + 'static)> {
        self.error.source()
    }
}

impl<T> From<AddError<T>> for Error {
    /// Drops the item and keeps the reason.
    fn from(error: AddError<T>) -> Self {
        error.error
    }
}

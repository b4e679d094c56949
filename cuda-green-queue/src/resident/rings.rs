//! The rings that CPU threads fill for a resident kernel.

use std::{
    ptr::NonNull,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering},
    },
    thread,
};

use super::{Inbox, watcher::Watcher};
use crate::{
    error::Result,
    layout::{DeviceQueue, Layout},
    protocol::{Answer, Call, FutureTable, Mapped, Places, Private, Reservation, Ring, TaskHeader},
    task::{SubmitError, Task},
};

/// The method number that is reserved.
const RESERVED: u16 = u16::MAX;

/// The reason why a task was not submitted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Refusal {
    Full,
    Closed,
    NoSuchRing,
    TooLarge,
    ReservedMethod,
}

impl Refusal {
    /// Puts the task into an error.
    pub(super) fn of<T>(self, task: T) -> SubmitError<T> {
        match self {
            Self::Full => SubmitError::Full(task),
            Self::Closed => SubmitError::Closed(task),
            Self::NoSuchRing => SubmitError::NoSuchRing(task),
            Self::TooLarge => SubmitError::TooLarge(task),
            Self::ReservedMethod => SubmitError::ReservedMethod(task),
        }
    }
}

/// An inbox with its producers' side, which lies in memory of this process.
pub(super) struct InboxRings {
    /// By offsets: the segment in the inbox's memory, the rest in `local`.
    queue: DeviceQueue,
    table: FutureTable,
    local: Private,
    /// The lane of the next task that may go to any.
    lane: AtomicU32,
    /// The entry for an answer at which the next call begins to look.
    near: AtomicU32,
    /// Whether no kernel will answer any more.
    ended: AtomicBool,
    watcher: Arc<Watcher>,
    inbox: Inbox,
    /// What `local` accesses. Not in a box, whose move would end the pointer that `local` has.
    _words: Arc<[AtomicU64]>,
}

impl InboxRings {
    pub(super) fn new(inbox: Inbox) -> Self {
        let layout: &Layout = inbox.layout();
        let futures = DeviceQueue::ring_state_bytes(layout);
        let bytes = futures + DeviceQueue::future_bytes(layout);
        let words: Arc<[AtomicU64]> = (0..bytes.div_ceil(8)).map(|_| AtomicU64::new(0)).collect();
        let base = NonNull::from(&*words).cast();
        // SAFETY: the words are atomics and as many, and live as long as the value, whose field they are; moving an `Arc`
        // neither moves nor claims them.
        let local = Private::new(unsafe { Mapped::new(base, words.len() as u64 * 8) });
        let places = Places {
            segment: 0,
            rings: 0,
            futures,
        };
        let queue = DeviceQueue::new(layout, &places, 0);
        for lane in 0..layout.lanes {
            for priority in 0..layout.priorities {
                if let Some(ring) = queue.ring(lane, priority) {
                    ring.initialize(inbox.shared(), &local, 0);
                }
            }
        }
        let table = queue.future_table();
        table.initialize(inbox.shared(), &local);
        Self {
            queue,
            table,
            local,
            lane: AtomicU32::new(0),
            near: AtomicU32::new(0),
            ended: AtomicBool::new(false),
            watcher: Arc::default(),
            inbox,
            _words: words,
        }
    }

    pub(super) fn inbox(&self) -> &Inbox {
        &self.inbox
    }

    pub(super) fn watcher(&self) -> &Arc<Watcher> {
        &self.watcher
    }

    /// Returns the lane whose turn it is.
    pub(super) fn next_lane(&self) -> u32 {
        self.lane.fetch_add(1, Ordering::Relaxed) % self.inbox.layout().lanes
    }

    /// Copies a task into a ring, and returns the call whose answer is to come.
    pub(super) fn submit<T: Task>(
        &self,
        lane: u32,
        priority: u32,
        task: &T,
    ) -> Result<Call, Refusal> {
        let ring = self.queue.ring(lane, priority).ok_or(Refusal::NoSuchRing)?;
        if T::METHOD == RESERVED {
            return Err(Refusal::ReservedMethod);
        }
        if size_of::<T>() > ring.inbox_payload_bytes()
            || size_of::<T::Output>() > self.table.output_bytes()
        {
            return Err(Refusal::TooLarge);
        }
        if !self.inbox.is_open() {
            return Err(Refusal::Closed);
        }
        let (shared, local) = (self.inbox.shared(), &self.local);
        let near = self.near.fetch_add(1, Ordering::Relaxed);
        let call = self.table.take(shared, local, near).ok_or(Refusal::Full)?;
        let ticket = self.reserve(&ring).inspect_err(|_| {
            self.table.give_back(local, call);
        })?;
        let header = TaskHeader {
            method: T::METHOD,
            // It fits into a slot, which has fewer bytes than this can count.
            length: size_of::<T>() as u16,
            future: call.future,
            generation: call.generation,
        };
        ring.commit_words(shared, ticket, &header, bytemuck::bytes_of(task));
        ring.replenish(shared, local, ticket, 1);
        Ok(call)
    }

    fn reserve(&self, ring: &Ring) -> Result<u64, Refusal> {
        let (shared, local) = (self.inbox.shared(), &self.local);
        match ring.reserve_after_refill(shared, local, 1) {
            Reservation::Tickets(ticket) => Ok(ticket),
            Reservation::Closed => Err(Refusal::Closed),
            Reservation::Full | Reservation::Refilling => {
                ring.count_refused(local, 1);
                Err(Refusal::Full)
            }
        }
    }

    /// Returns how many tasks of a ring were taken, submitted and refused.
    pub(super) fn counts(&self, lane: u32, priority: u32) -> Option<(u64, u64, u64)> {
        let ring = self.queue.ring(lane, priority)?;
        Some(ring.counts(self.inbox.shared(), &self.local))
    }

    /// Returns the answer to a call if it has arrived, and copies as much of the output as `out` has room for.
    #[inline]
    pub(super) fn poll(&self, call: Call, out: &mut [u8]) -> Option<Answer> {
        self.table.poll(self.inbox.shared(), call, out)
    }

    /// Returns whether a call's end is known: its answer has arrived, or will not.
    pub(super) fn is_over(&self, call: Call) -> bool {
        self.has_ended() || self.poll(call, &mut []).is_some()
    }

    /// Gives the entry of a call back whose answer was read, or abandons one whose answer may still come.
    pub(super) fn give_up(&self, call: Call, answered: bool) {
        if answered {
            self.table.give_back(&self.local, call);
        } else {
            self.table.abandon(&self.local, call);
        }
    }

    /// Returns whether no kernel will answer any more. An answer that has not arrived after this was `true` never will.
    #[inline]
    pub(super) fn has_ended(&self) -> bool {
        self.ended.load(Ordering::Acquire)
    }

    /// Takes no more tasks, tells the resident kernel what to do, and waits for it.
    pub(super) fn end(&self, command: u64) -> Result<()> {
        if self.has_ended() {
            return Ok(());
        }
        let ended = self.inbox.end(command);
        self.ended.store(true, Ordering::Release);
        self.watcher.end();
        let left = self.waiting();
        if left > 0 {
            log::warn!(
                "a queue of a resident kernel ended with {left} tasks that it did not begin"
            );
        }
        ended
    }

    /// Waits until each slot that is reserved now is committed, which takes no longer than a thread is preempted. A kernel
    /// takes no task behind one that is not.
    pub(super) fn wait_for_commits(&self) {
        let (shared, local) = (self.inbox.shared(), &self.local);
        for ring in self.all() {
            let (taken, submitted, _) = ring.counts(shared, local);
            for ticket in taken..submitted {
                while !ring.is_committed(shared, ticket) {
                    thread::yield_now();
                }
            }
        }
    }

    /// Returns the number of tasks that no kernel has begun, once none runs.
    fn waiting(&self) -> u64 {
        let rings = self.all();
        rings
            .map(|ring| ring.waiting(self.inbox.shared(), &self.local))
            .sum()
    }

    fn all(&self) -> impl Iterator<Item = Ring> {
        let layout = self.inbox.layout();
        let places = (0..layout.lanes)
            .flat_map(|lane| (0..layout.priorities).map(move |priority| (lane, priority)));
        places.filter_map(|(lane, priority)| self.queue.ring(lane, priority))
    }
}

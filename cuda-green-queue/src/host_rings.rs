//! Rings in host memory, which CPU threads fill by the protocol of kernels, and workers empty.

use std::{
    ptr::NonNull,
    sync::{Arc, Mutex, MutexGuard, PoisonError, TryLockError, atomic::AtomicU64},
};

use crossbeam_queue::ArrayQueue;

use crate::{
    error::Result,
    jobs::Reply,
    layout::{DeviceQueue, Layout, LayoutRequest, RingState},
    protocol::{Consumer, Mapped, Places, Private, Reservation, Ring, TaskHeader},
};

/// A task that was taken out of a ring; its payload was copied.
pub(crate) struct HostTaken {
    pub(crate) method: u16,
    pub(crate) length: u16,
    pub(crate) reply: Reply,
}

/// The outcome of a submission.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Submitted {
    Accepted,
    Full,
    Closed,
}

/// A ring for each priority.
pub(crate) struct HostRings {
    rings: Box<[(Ring, Mutex<Consumer>)]>,
    shared: Mapped,
    local: Private,
    calls: HostCalls,
    /// What `shared` and `local` access. Shared, since a box that moves has its words to itself.
    _words: Arc<[AtomicU64]>,
}

impl HostRings {
    /// Allocates the rings.
    pub(crate) fn new(priorities: u32, depth: u32, payload_bytes: u32) -> Result<Self> {
        let layout = Layout::new(&LayoutRequest {
            lanes: 1,
            priorities,
            depth,
            payload_bytes,
            output_bytes: 0,
            futures: 1,
            segment_bytes: u64::MAX,
        })?;
        let states = layout
            .end()
            .next_multiple_of(align_of::<RingState>() as u64);
        let bytes = states + DeviceQueue::ring_state_bytes(&layout);
        let words: Arc<[AtomicU64]> = (0..bytes.div_ceil(8)).map(|_| AtomicU64::new(0)).collect();
        let base = NonNull::from(&*words).cast();
        // SAFETY: the words are atomics and as many, and live as long as the rings, whose field they are; moving that does
        // not move them.
        let shared = unsafe { Mapped::new(base, words.len() as u64 * 8) };
        let local = Private::new(shared);
        let places = Places {
            segment: 0,
            rings: states,
            futures: 0,
        };
        let queue = DeviceQueue::new(&layout, &places, 0);
        let rings = (0..layout.priorities)
            .filter_map(|priority| queue.ring(0, priority))
            .map(|ring| {
                ring.initialize(&shared, &local, 0);
                (ring, Mutex::new(Consumer::new(ring, &shared)))
            })
            .collect();
        Ok(Self {
            rings,
            shared,
            local,
            calls: HostCalls::new(layout.depth.saturating_mul(layout.priorities)),
            _words: words,
        })
    }

    /// Copies a task into the ring of a priority.
    pub(crate) fn submit(
        &self,
        priority: u32,
        method: u16,
        payload: &[u8],
        reply: Reply,
    ) -> Submitted {
        let (Some((ring, _)), Ok(length)) = (
            self.rings.get(priority as usize),
            u16::try_from(payload.len()),
        ) else {
            reply.forget();
            return Submitted::Full;
        };
        let Some(future) = self.calls.begin(reply) else {
            return Submitted::Full;
        };
        let (shared, local) = (&self.shared, &self.local);
        match ring.reserve_after_refill(shared, local, 1) {
            Reservation::Tickets(ticket) => {
                let header = TaskHeader {
                    method,
                    length,
                    future,
                    generation: 0,
                };
                ring.commit(shared, ticket, &header, payload);
                ring.replenish(shared, local, ticket, 1);
                Submitted::Accepted
            }
            Reservation::Closed => {
                self.calls.forget(future);
                Submitted::Closed
            }
            Reservation::Full | Reservation::Refilling => {
                self.calls.forget(future);
                Submitted::Full
            }
        }
    }

    /// Takes a task out of the ring of a priority, and copies its payload into `payload`. Returns `None` if there is
    /// none, or if another thread is taking one.
    pub(crate) fn take(&self, priority: u32, payload: &mut [u8]) -> Option<HostTaken> {
        let (_, consumer) = self.rings.get(priority as usize)?;
        let consumer = match consumer.try_lock() {
            Ok(consumer) => consumer,
            Err(TryLockError::WouldBlock) => return None,
            Err(TryLockError::Poisoned(poisoned)) => poisoned.into_inner(),
        };
        self.take_by(consumer, payload)
    }

    /// Takes a task as [`take`](Self::take) does, without its payload, and after the thread that is taking one.
    pub(crate) fn take_waiting(&self, priority: u32) -> Option<HostTaken> {
        let (_, consumer) = self.rings.get(priority as usize)?;
        self.take_by(
            consumer.lock().unwrap_or_else(PoisonError::into_inner),
            &mut [],
        )
    }

    fn take_by(
        &self,
        mut consumer: MutexGuard<'_, Consumer>,
        payload: &mut [u8],
    ) -> Option<HostTaken> {
        let Some(header) = consumer.peek(&self.shared) else {
            consumer.tell(&self.shared);
            return None;
        };
        if let Some(payload) = payload.get_mut(..usize::from(header.length)) {
            consumer.copy(&self.shared, payload);
        }
        consumer.advance(&self.shared);
        drop(consumer);
        Some(HostTaken {
            method: header.method,
            length: header.length,
            reply: self.calls.end(header.future).unwrap_or_else(Reply::nobody),
        })
    }

    /// Returns whether a task is there, or another thread is taking one.
    pub(crate) fn has_task(&self) -> bool {
        self.rings
            .iter()
            .any(|(_, consumer)| match consumer.try_lock() {
                Ok(consumer) => consumer.peek(&self.shared).is_some(),
                Err(TryLockError::WouldBlock) => true,
                Err(TryLockError::Poisoned(poisoned)) => {
                    poisoned.into_inner().peek(&self.shared).is_some()
                }
            })
    }

    /// Keeps other threads from taking tasks of a priority, as a thread that takes one does.
    #[cfg(test)]
    #[cfg(not(loom))]
    pub(crate) fn hold(&self, priority: u32) -> Option<MutexGuard<'_, Consumer>> {
        let (_, consumer) = self.rings.get(priority as usize)?;
        Some(consumer.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Closes all rings: at most as many tasks as they have slots are accepted from now on.
    pub(crate) fn close(&self) {
        for (_, consumer) in &self.rings {
            let mut consumer = consumer.lock().unwrap_or_else(PoisonError::into_inner);
            consumer.close(&self.shared);
        }
    }
}

/// The replies of tasks in rings, by number.
struct HostCalls {
    replies: Box<[Mutex<Option<Reply>>]>,
    free: ArrayQueue<u32>,
}

impl HostCalls {
    fn new(count: u32) -> Self {
        let count = count.max(1);
        let free = ArrayQueue::new(count as usize);
        for number in 0..count {
            // There is room for each.
            let _ = free.push(number);
        }
        Self {
            replies: (0..count).map(|_| Mutex::new(None)).collect(),
            free,
        }
    }

    /// Gives a reply a number, if one is free. It answers nothing otherwise.
    fn begin(&self, reply: Reply) -> Option<u32> {
        let found = self.free.pop();
        let entry = found.and_then(|number| self.replies.get(number as usize));
        let Some(entry) = entry else {
            reply.forget();
            return None;
        };
        *entry.lock().unwrap_or_else(PoisonError::into_inner) = Some(reply);
        found
    }

    /// Takes the reply of a number out, which is free from then on.
    fn end(&self, number: u32) -> Option<Reply> {
        let entry = self.replies.get(number as usize)?;
        let reply = entry
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .take()?;
        let _ = self.free.push(number);
        Some(reply)
    }
    /// Takes the reply of a number out that nobody is to get: its task was not submitted.
    fn forget(&self, number: u32) {
        if let Some(reply) = self.end(number) {
            reply.forget();
        }
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;
    use crate::{jobs::CpuTask, tests::Double};

    /// The words stay where they are when the rings move, which Miri checks, and all slots are there in each lap.
    #[test]
    fn rings_that_move_keep_their_tasks() {
        let mut rings = HostRings::new(2, 8, 8).unwrap();
        for lap in 0..4_u64 {
            let priority = lap as u32 % 2;
            let submit = |rings: &HostRings, n: u64| {
                let reply = Reply::host(CpuTask::new(Double(n), 0, 0, None));
                rings.submit(priority, 3, &n.to_le_bytes(), reply)
            };
            for n in 0..8 {
                assert_eq!(submit(&rings, lap + n), Submitted::Accepted);
            }
            assert_eq!(submit(&rings, 0), Submitted::Full);
            rings = *Box::new(rings);
            assert!(rings.has_task());
            for n in 0..8 {
                let mut payload = [0; 16];
                let taken = rings.take(priority, &mut payload).unwrap();
                assert_eq!((taken.method, taken.length), (3, 8));
                assert_eq!(payload[..8], (lap + n).to_le_bytes());
                assert!(taken.reply.close());
            }
            assert!(rings.take(priority, &mut []).is_none() && !rings.has_task());
        }
    }
}

//! The layout of a queue's memory, which the host and the device side share.
//!
//! A queue has a *ring* of slots for each lane and priority. The consumer polls the slots of a ring in order; producers
//! take tickets, which number the slots of all laps. What both sides access lies in pinned host memory, in one
//! *segment*:
//!
//! | part | contents |
//! |---|---|
//! | header | [`SegmentHeader`], 4 KiB |
//! | tails | for each ring a line of 128 bytes: the number of tickets that were consumed, written by the consumer |
//! | slots | for each ring `depth` slots |
//! | answers | an entry for each future |
//!
//! What only kernels access lies in device memory: a [`RingState`] for each ring, and a word for each future.
//!
//! # A slot
//! 16 bytes of header, then the payload. `word 0 = sequence << 32 | method << 16 | length`, written last, by a store
//! with release semantics; `word 1 = generation << 32 | future`, where `future` is the number of an answer's entry, or
//! [`NO_FUTURE`]. The sequence of ticket `t` is the low half of `(t >> depth_log2) + 1`: a slot of zeros has nothing, and
//! one of an earlier lap another number.
//!
//! # An answer
//! `word 0 = generation << 32 | length << 8 | status`, written last, by a store with release semantics; then the output.
//! A reader that loads the first 16 bytes at once, with acquire semantics, has an output of up to 8 bytes in one trip over
//! the bus: if word 0 is of its call, word 1 is too. Loads of several words would be served one after the other. A status
//! of 0 is no answer.
//!
//! # A future's word in device memory
//! `generation << 2 | abandoned << 1 | taken`. A kernel takes an entry by setting bit 0, which tells it the generation of
//! its call; adding 3 gives the entry back and begins the next generation. An abandoned entry stays taken until its
//! answer has arrived, so that a late answer can never be read as one to a later call; then a compare-and-swap from
//! `generation << 2 | 3` to `(generation + 1) << 2 | 1` takes it for the next call. A table begins with
//! [`FIRST_FUTURE`] in each word, generation 1: answers begin as zeros, which are of no call.
//!
//! # An inbox: tasks to a resident kernel
//! A ring for each lane and priority; block `b` of the kernel consumes the rings of lane `b`. There are two kinds,
//! which bit 0 of [`DeviceInbox::flags`] tells apart:
//!
//! - *From the CPU* (0). Tails, controls, slots and answers lie in pinned host memory. A slot is an array of words of 8
//!   bytes, each `sequence << 32 | data`, so that a warp reads a task in one trip: the data of word 0 is
//!   `method << 16 | length`, of word 1 the future, of word 2 the generation, of word `3 + i` the bytes `4 * i ..` of
//!   the payload. A task is there when all words that its length tells have the ticket's sequence; words after them may
//!   be of earlier tasks. Each word is a plain store of 8 aligned bytes. (A word that no task reached in 2^32 laps would
//!   look like one of the lap that comes then; it would also have to be read in the nanoseconds before it is written.)
//! - *From kernels* (1). The slots are those of a [`DeviceQueue`] in device memory, and so are tails and answers.
//!
//! Answers are those of a queue, in both kinds: a kernel writes the output first, then word 0 with release semantics.
//!
//! The kernel stores a ring's tail (the number of tickets that were consumed) as the consumer of a queue does, now and
//! then and always when it finds nothing to do. `position` in [`InboxPosition`] is where the next launch goes on: the
//! block loads it when it starts, and stores it with each tail and before it returns.
//!
//! A lane's *control* is a word of 8 bytes in pinned memory, a line of its own, in both kinds. The block reads it beside
//! the slot (in a load that is in flight at the same time), at least once in 64 tasks or idle polls: with [`LEAVE`] it
//! returns before it takes another task, with [`FINISH`] as soon as all its rings are empty, where the rings were looked
//! at after the control. Before it returns it stores its tails and positions.
//!
//! The word behind the control is `RUNNING` from before the block first reads the control until it has stored all that, and
//! else 0. So whoever stores [`LEAVE`] and then reads 0 knows that the block takes no task, now or later. A fence stands
//! between store and load on both sides.
//!
//! # The end of an inbox that kernels submit to
//! With the control [`CLOSE`] a block sets [`CLOSED`] in its tails, which it stores no more, so that its rings run empty
//! whatever kernels go on submitting; then it returns as with [`FINISH`]. Once no block runs, the CPU is the only one that
//! writes tails and answers. It sets [`CLOSED`] in each tail, and answers each entry that is taken and has no answer as
//! [`CLOSED`](status::CLOSED), again and again until the kernels that may wait have ended. It writes by copies, in which
//! each word of 8 bytes is whole.

use bytemuck::{Pod, Zeroable};

use crate::error::{Error, Result};

/// The first eight bytes of a segment.
pub(crate) const MAGIC: u64 = u64::from_le_bytes(*b"CGQUEUE1");
/// The version of this layout, which the device side compares with its own.
pub(crate) const VERSION: u32 = 1;
/// Bytes of a segment before the tails.
pub(crate) const HEADER_BYTES: u64 = 4096;
/// Bytes between two words that different sides write.
pub(crate) const LINE: u64 = 128;
/// Bytes of a slot before the payload.
pub(crate) const SLOT_HEADER: u64 = 16;
/// Bytes of an answer before the output.
pub(crate) const ANSWER_HEADER: u64 = 8;
/// The number of a future in a slot whose task has none.
pub(crate) const NO_FUTURE: u32 = u32::MAX;
/// The word of a future that nobody has taken yet.
pub(crate) const FIRST_FUTURE: u32 = 1 << 2;
/// The first eight bytes of a [`DeviceInbox`].
pub(crate) const INBOX_MAGIC: u64 = u64::from_le_bytes(*b"CGINBOX1");
/// A lane's control: the block goes on.
pub(crate) const RUN: u64 = 0;
/// A lane's control: the block returns before it takes another task. What is in its rings waits for the next launch.
pub(crate) const LEAVE: u64 = 1;
/// A lane's control: the block returns when its rings are empty.
pub(crate) const FINISH: u64 = 2;
/// A lane's control, of an inbox that kernels submit to: the block closes its rings, and returns when they are empty.
pub(crate) const CLOSE: u64 = 3;
/// Bytes of a lane's control before the word that is [`RUNNING`] while the lane's block runs, and else 0.
pub(crate) const CONTROL_RUNS: u64 = 8;
/// The block of a lane runs: it may be at a task.
#[cfg(any(test, feature = "test-utils"))]
pub(crate) const RUNNING: u64 = 1;
/// Words of an inbox's slot before the payload.
pub(crate) const INBOX_HEADER_WORDS: u32 = 3;
/// The bit of [`DeviceQueue::flags`] and [`DeviceInbox::flags`] for tasks from kernels to kernels: slots, tails and
/// answers lie in device memory.
pub(crate) const KERNEL_TO_KERNEL: u8 = 1;
/// The bit of a tail that says that the queue is closed: no more tickets will be consumed than the slots hold.
pub(crate) const CLOSED: u64 = 1 << 63;

/// Status of an answer, in the lowest byte of its first word.
pub(crate) mod status {
    /// The handler returned an output.
    pub(crate) const DONE: u8 = 1;
    /// The handler returned an error; the output is its code, a `u32`.
    pub(crate) const FAILED: u8 = 2;
    /// The handler panicked.
    pub(crate) const PANICKED: u8 = 3;
    /// No handler has the task's method number.
    pub(crate) const UNKNOWN_METHOD: u8 = 4;
    /// The payload's length is not that of the method's task type.
    pub(crate) const BAD_PAYLOAD: u8 = 5;
    /// The queue was shut down before the task was run.
    pub(crate) const CLOSED: u8 = 6;
}

/// The first bytes of a segment.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Pod, Zeroable)]
#[repr(C)]
pub(crate) struct SegmentHeader {
    pub(crate) magic: u64,
    pub(crate) version: u32,
    pub(crate) lanes: u32,
    pub(crate) priorities: u32,
    pub(crate) depth: u32,
    pub(crate) slot_bytes: u32,
    pub(crate) answer_bytes: u32,
    pub(crate) futures: u32,
    pub(crate) reserved: u32,
    pub(crate) tails: u64,
    pub(crate) slots: u64,
    pub(crate) answers: u64,
    pub(crate) end: u64,
}

/// The producers' side of a ring, in device memory (or, of a ring that CPU threads fill, in the host's). Each number has
/// a line of its own, so that atomic operations on one do not delay those on another.
#[derive(Clone, Copy, Debug, Pod, Zeroable)]
#[repr(C)]
pub(crate) struct RingState {
    /// Slots that may be taken: a producer subtracts how many it wants, and adds them again if there were not enough.
    pub(crate) credits: i64,
    pub(crate) pad0: [u64; 15],
    /// The next ticket, taken after the credit.
    pub(crate) head: u64,
    pub(crate) pad1: [u64; 15],
    /// The consumer's tail when it was last read. Written under `refilling` alone.
    pub(crate) seen_tail: u64,
    /// 1 while a producer reads the consumer's tail. Others do not wait for it, nor read the tail too: reads of one
    /// address over the bus are served one after the other, a microsecond each.
    pub(crate) refilling: u32,
    pub(crate) reserved: u32,
    pub(crate) pad2: [u64; 14],
    /// Submissions that were refused because the ring was full.
    pub(crate) refused: u64,
    pub(crate) pad3: [u64; 15],
}

/// A queue, as an argument of kernels (`cuda_green::Queue` in `cuda_green_queue.cuh`).
#[derive(Clone, Copy, Debug, Pod, Zeroable)]
#[repr(C)]
pub struct DeviceQueue {
    pub(crate) magic: u64,
    /// Device addresses.
    pub(crate) slots: u64,
    pub(crate) tails: u64,
    pub(crate) answers: u64,
    pub(crate) rings: u64,
    pub(crate) futures: u64,
    pub(crate) version: u32,
    /// The number of futures, a power of two.
    pub(crate) future_count: u32,
    pub(crate) lanes: u16,
    pub(crate) priorities: u16,
    pub(crate) depth_log2: u8,
    pub(crate) slot_log2: u8,
    pub(crate) answer_log2: u8,
    /// Bit 0 ([`KERNEL_TO_KERNEL`]): slots, tails and answers lie in device memory, and the consumer is a kernel.
    pub(crate) flags: u8,
}

/// The tasks to a resident kernel, as an argument of that kernel (`cuda_green::Inbox` in `cuda_green_queue.cuh`).
///
/// Block `b` takes the tasks of lane `b`, so launch as many blocks as there are lanes, and no more than can be resident
/// at once in the partition.
#[derive(Clone, Copy, Debug, Pod, Zeroable)]
#[repr(C)]
pub struct DeviceInbox {
    pub(crate) magic: u64,
    /// Device addresses. Those of the slots, tails and answers are of host memory or, by `flags`, of device memory.
    pub(crate) slots: u64,
    pub(crate) tails: u64,
    pub(crate) answers: u64,
    /// A line for each lane, in pinned host memory.
    pub(crate) controls: u64,
    /// An [`InboxPosition`] for each ring, in device memory.
    pub(crate) positions: u64,
    pub(crate) version: u32,
    /// The number of entries for answers, a power of two.
    pub(crate) future_count: u32,
    pub(crate) lanes: u16,
    pub(crate) priorities: u16,
    pub(crate) depth_log2: u8,
    pub(crate) slot_log2: u8,
    pub(crate) answer_log2: u8,
    /// Bit 0 ([`KERNEL_TO_KERNEL`]): the slots are those of a [`DeviceQueue`].
    pub(crate) flags: u8,
}

/// The place in a ring where the resident kernel's next launch goes on, in device memory.
#[derive(Clone, Copy, Debug, Pod, Zeroable)]
#[repr(C)]
pub(crate) struct InboxPosition {
    /// The next ticket to consume.
    pub(crate) position: u64,
    pub(crate) pad: [u64; 15],
}

/// The numbers of a queue, checked, and the offsets that follow from them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Layout {
    pub(crate) lanes: u32,
    pub(crate) priorities: u32,
    /// Slots of a ring, a power of two.
    pub(crate) depth: u32,
    /// Bytes of a slot, a power of two.
    pub(crate) slot_bytes: u32,
    /// Bytes of an answer's entry, a power of two.
    pub(crate) answer_bytes: u32,
    /// Entries for answers, a power of two.
    pub(crate) futures: u32,
}

/// The numbers of a queue, as they were asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct LayoutRequest {
    pub(crate) lanes: u32,
    pub(crate) priorities: u32,
    pub(crate) depth: u32,
    /// The longest payload in bytes.
    pub(crate) payload_bytes: u32,
    /// The longest output in bytes.
    pub(crate) output_bytes: u32,
    pub(crate) futures: u32,
    /// The bytes of the segment.
    pub(crate) segment_bytes: u64,
}

impl Default for LayoutRequest {
    fn default() -> Self {
        Self {
            lanes: 4,
            priorities: 2,
            depth: 1024,
            payload_bytes: 112,
            output_bytes: 56,
            futures: 16_384,
            segment_bytes: 64 << 20,
        }
    }
}

const MAX_LANES: u32 = 1024;
pub(crate) const MAX_PRIORITIES: u32 = 16;
pub(crate) const MAX_DEPTH: u32 = 1 << 20;
pub(crate) const MAX_PAYLOAD: u32 = 32_768 - SLOT_HEADER as u32;
/// As many words as 16 KiB have.
const MAX_INBOX_PAYLOAD: u32 = (2048 - INBOX_HEADER_WORDS) * 4;
pub(crate) const MAX_OUTPUT: u32 = 32_768 - ANSWER_HEADER as u32;
const MAX_FUTURES: u32 = 1 << 20;

impl Layout {
    /// Checks the numbers, and rounds those up that have to be powers of two.
    pub(crate) fn new(request: &LayoutRequest) -> Result<Self> {
        Self::with_slots_of(request, MAX_PAYLOAD, |payload_bytes| {
            SLOT_HEADER as u32 + payload_bytes
        })
    }

    /// Checks the numbers of an inbox that the CPU fills.
    pub(crate) fn for_inbox(request: &LayoutRequest) -> Result<Self> {
        Self::with_slots_of(request, MAX_INBOX_PAYLOAD, |payload_bytes| {
            8 * (INBOX_HEADER_WORDS + payload_bytes.div_ceil(4))
        })
    }

    fn with_slots_of(
        request: &LayoutRequest,
        max_payload: u32,
        slot_bytes: impl Fn(u32) -> u32,
    ) -> Result<Self> {
        let LayoutRequest {
            lanes,
            priorities,
            depth,
            payload_bytes,
            output_bytes,
            futures,
            segment_bytes,
        } = *request;
        within("lanes", lanes, 1, MAX_LANES)?;
        within("priorities", priorities, 1, MAX_PRIORITIES)?;
        within("depth", depth, 8, MAX_DEPTH)?;
        within("payload_bytes", payload_bytes, 0, max_payload)?;
        within("output_bytes", output_bytes, 0, MAX_OUTPUT)?;
        within("futures", futures, 1, MAX_FUTURES)?;
        let layout = Self {
            lanes,
            priorities,
            depth: depth.next_power_of_two(),
            slot_bytes: slot_bytes(payload_bytes).next_power_of_two().max(64),
            answer_bytes: (ANSWER_HEADER as u32 + output_bytes)
                .next_power_of_two()
                .max(64),
            futures: futures.next_power_of_two(),
        };
        let needed = layout.end();
        if needed > segment_bytes {
            return Err(Error::SegmentTooSmall {
                needed,
                segment: segment_bytes,
                would_fit: layout.would_fit(segment_bytes),
            });
        }
        Ok(layout)
    }

    fn would_fit(&self, segment_bytes: u64) -> String {
        let mut smaller = *self;
        while smaller.end() > segment_bytes {
            if smaller.depth > 8 {
                smaller.depth /= 2;
            } else if smaller.futures > 1 {
                smaller.futures /= 2;
            } else {
                return format!(
                    "no depth would fit; ask for fewer lanes or priorities, or give the segment {} bytes",
                    smaller.end()
                );
            }
        }
        format!(
            "a depth of {} and {} futures would fit",
            smaller.depth, smaller.futures
        )
    }

    /// Returns the number of rings. Ring `lane * priorities + priority` is that of a lane and a priority.
    pub(crate) fn rings(&self) -> u32 {
        self.lanes * self.priorities
    }

    /// Returns the offset of the first ring's tail.
    pub(crate) fn tails(&self) -> u64 {
        HEADER_BYTES
    }

    /// Returns the offset of the first ring's first slot.
    pub(crate) fn slots(&self) -> u64 {
        self.tails() + u64::from(self.rings()) * LINE
    }

    /// Returns the offset of the first answer.
    pub(crate) fn answers(&self) -> u64 {
        self.slots() + u64::from(self.rings()) * u64::from(self.depth) * u64::from(self.slot_bytes)
    }

    /// Returns the number of bytes in use.
    pub(crate) fn end(&self) -> u64 {
        self.answers() + u64::from(self.futures) * u64::from(self.answer_bytes)
    }

    /// Returns the bytes of a payload that a slot has room for.
    pub(crate) fn payload_bytes(&self) -> u32 {
        self.slot_bytes - SLOT_HEADER as u32
    }

    /// Returns the bytes of an output that an answer has room for.
    pub(crate) fn output_bytes(&self) -> u32 {
        self.answer_bytes - ANSWER_HEADER as u32
    }
}

/// Returns the sequence of a ticket's slot: the number of its lap, from 1.
pub(crate) fn sequence(ticket: u64, depth_log2: u32) -> u32 {
    // Wraps after 2^32 laps, which is no fault: only neighbouring laps must differ.
    ((ticket >> depth_log2) as u32).wrapping_add(1)
}

/// Checks that a number of a builder is in a range.
pub(crate) fn within(name: &'static str, value: u32, least: u32, most: u32) -> Result<()> {
    if (least..=most).contains(&value) {
        return Ok(());
    }
    Err(Error::InvalidLayout {
        name,
        value: value.into(),
        reason: format!("from {least} to {most} would fit"),
    })
}

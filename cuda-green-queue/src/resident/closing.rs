//! The end of an inbox that kernels submit to: what still waits is answered as closed.

use std::{
    sync::atomic::{Ordering, fence},
    thread,
    time::Duration,
};

use cuda_green::GpuBuffer;

use super::memory::{Inbox, Launched};
use crate::{
    error::Result,
    layout::{CLOSED, CONTROL_RUNS, DeviceQueue, InboxPosition, LINE, RingState},
    protocol::{Shared, closed_answer},
};

/// Time between two looks at blocks that are to leave.
const LOOK: Duration = Duration::from_micros(50);
/// Time between two looks for calls that wait.
const ROUND: Duration = Duration::from_micros(500);
const WORDS_OF_LINE: usize = LINE as usize / 8;

/// The tails and answers of an inbox that kernels submit to, in device memory. Each is a buffer of its own, so that the CPU
/// can write it alone once no kernel does.
pub(super) struct Ends {
    pub(super) tails: GpuBuffer,
    pub(super) answers: GpuBuffer,
}

impl Inbox {
    /// Waits until no block takes tasks, closes the rings, and answers what waits as closed until all kernels have ended
    /// on whose streams the inbox was fenced. If the resident kernel is to `finish`, it is waited for even if it has not
    /// started, since it will do the tasks.
    pub(super) fn close_to_kernels(&self, ends: &Ends, finish: bool) -> Result<()> {
        if finish {
            self.wait()?;
        } else {
            self.wait_for_blocks()?;
        }
        let mut tails = vec![0_u64; self.layout().rings() as usize * WORDS_OF_LINE];
        ends.tails.copy_to(bytemuck::cast_slice_mut(&mut tails))?;
        for tail in tails.iter_mut().step_by(WORDS_OF_LINE) {
            *tail |= CLOSED;
        }
        ends.tails.copy_from(bytemuck::cast_slice(&tails))?;
        let mut answers = vec![0_u64; ends.answers.len() / 8];
        ends.answers
            .copy_to(bytemuck::cast_slice_mut(&mut answers))?;
        while !self.pinned.is_done()? {
            self.answer_as_closed(ends, &mut answers)?;
            thread::sleep(ROUND);
        }
        let left = self.left()?;
        if left > 0 {
            log::warn!("a queue between kernels ended with {left} tasks that no kernel began");
        }
        Ok(())
    }

    /// Returns the number of tasks that kernels submitted and none began.
    fn left(&self) -> Result<u64> {
        let rings = self.layout().rings() as usize;
        let end = self.positions as usize + rings * size_of::<InboxPosition>();
        let words = self.states(end)?;
        let (states, _) = words.split_at(rings * size_of::<RingState>() / 8);
        let states: &[RingState] = bytemuck::cast_slice(states);
        let (_, positions) = words.split_at(self.positions as usize / 8);
        let positions: &[InboxPosition] = bytemuck::cast_slice(positions);
        let left = |(state, position): (&RingState, &InboxPosition)| {
            state.head.saturating_sub(position.position)
        };
        Ok(states.iter().zip(positions).map(left).sum())
    }

    /// Waits until no block takes a task, now or later. Each was told to leave.
    fn wait_for_blocks(&self) -> Result<()> {
        // Between the store of the commands and the loads below, as in the blocks between their store and their load.
        fence(Ordering::SeqCst);
        let runs = |lane: u32| {
            let control = self.controls + u64::from(lane) * LINE;
            self.shared.load_acquire(control + CONTROL_RUNS) != 0
        };
        while (0..self.layout().lanes).any(runs) {
            // A kernel that ended in an unusual way does not say so.
            match &*self.launched() {
                Launched::Never => break,
                Launched::Until(end) if end.is_done()? => break,
                Launched::Unknown if self.pinned.is_done()? => break,
                Launched::Until(_) | Launched::Unknown | Launched::Now => {}
            }
            thread::sleep(LOOK);
        }
        Ok(())
    }

    /// Answers each call that waits now as closed. `answers` is what the device has.
    fn answer_as_closed(&self, ends: &Ends, answers: &mut [u64]) -> Result<()> {
        let states = DeviceQueue::ring_state_bytes(self.layout()) as usize;
        let words = self.states(states + DeviceQueue::future_bytes(self.layout()) as usize)?;
        let (_, futures) = words.split_at(states / 8);
        let futures: &[u32] = bytemuck::cast_slice(futures);
        let words_of_answer = self.layout().answer_bytes as usize / 8;
        let (mut end, mut last) = (0, 0);
        for (word, answer) in futures.iter().zip(answers.chunks_mut(words_of_answer)) {
            end += words_of_answer;
            let Some(first) = answer.first_mut() else {
                continue;
            };
            if let Some(closed) = closed_answer(*word, *first) {
                *first = closed;
                last = end;
            }
        }
        if last > 0 {
            let answers = answers.get(..last).unwrap_or_default();
            ends.answers.copy_from(bytemuck::cast_slice(answers))?;
        }
        Ok(())
    }

    /// Copies as many bytes of the states' buffer from the device, to the end of a word.
    fn states(&self, bytes: usize) -> Result<Vec<u64>> {
        let mut words = vec![0; bytes.div_ceil(8)];
        self.buffers
            .states
            .copy_to(bytemuck::cast_slice_mut(&mut words))?;
        Ok(words)
    }
}

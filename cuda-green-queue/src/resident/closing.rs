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
    layout::{CLOSED, CONTROL_RUNS, DeviceQueue, LINE, RingState},
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
        let consumed: u64 = tails.iter().step_by(WORDS_OF_LINE).sum();
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
        let (producers, of_states) = self.producers()?;
        let states = producers.get(..of_states).unwrap_or_default();
        let states: &[RingState] = bytemuck::cast_slice(states);
        let submitted: u64 = states.iter().map(|state| state.head).sum();
        if submitted > consumed {
            let left = submitted - consumed;
            log::warn!("a queue between kernels ended with {left} tasks that no kernel began");
        }
        Ok(())
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
                Launched::Until(_) | Launched::Now => {}
            }
            thread::sleep(LOOK);
        }
        Ok(())
    }

    /// Answers each call that waits now as closed. `answers` is what the device has.
    fn answer_as_closed(&self, ends: &Ends, answers: &mut [u64]) -> Result<()> {
        let (producers, of_states) = self.producers()?;
        let futures = producers.get(of_states..).unwrap_or_default();
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

    /// Copies the states of the rings and the words of the futures from the device: the states' words come first.
    fn producers(&self) -> Result<(Vec<u64>, usize)> {
        let layout = self.layout();
        let states = DeviceQueue::ring_state_bytes(layout);
        let bytes = states + DeviceQueue::future_bytes(layout);
        // The buffer goes on with the positions.
        let mut words = vec![0; bytes.div_ceil(8) as usize];
        self.buffers
            .states
            .copy_to(bytemuck::cast_slice_mut(&mut words))?;
        Ok((words, states as usize / 8))
    }
}

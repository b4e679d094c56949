//! The figures of a queue to a resident kernel.

use std::fmt;

use super::{ResidentQueue, rings::InboxRings};
use crate::numa::Placement;

/// The figures of a [`ResidentQueue`] at one moment.
#[derive(Clone, Debug)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
#[non_exhaustive]
pub struct ResidentStats {
    /// The device's ordinal.
    pub device: u32,
    /// The NUMA node of the queue's memory.
    pub placement: Placement,
    /// The rings, by lane and priority.
    pub rings: Vec<ResidentRingStats>,
}

/// The figures of one ring to a resident kernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
#[non_exhaustive]
pub struct ResidentRingStats {
    /// The ring's lane: the kernel's block.
    pub lane: u32,
    /// The ring's priority; 0 is the most urgent.
    pub priority: u32,
    /// The number of slots.
    pub depth: u32,
    /// Tasks that were submitted.
    pub submitted: u64,
    /// Tasks that the kernel took, as it last said: at least when it found no other, or returned.
    pub taken: u64,
    /// Attempts to submit that found no slot, those of a submission that waits included.
    pub refused: u64,
}

impl ResidentStats {
    /// Returns the number of tasks that were submitted to all rings.
    pub fn submitted(&self) -> u64 {
        self.rings.iter().map(|ring| ring.submitted).sum()
    }

    /// Returns the number of tasks that the kernel took of all rings.
    pub fn taken(&self) -> u64 {
        self.rings.iter().map(|ring| ring.taken).sum()
    }
}

impl fmt::Display for ResidentStats {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "to GPU {}: {}", self.device, self.placement)?;
        for ring in &self.rings {
            write!(
                f,
                "\n  lane {}, priority {}: {} submitted, {} taken, {} refused",
                ring.lane, ring.priority, ring.submitted, ring.taken, ring.refused
            )?;
        }
        Ok(())
    }
}

impl ResidentQueue {
    /// Returns the figures of the queue.
    pub fn stats(&self) -> ResidentStats {
        ResidentStats {
            device: self.device().ordinal(),
            placement: self.placement().clone(),
            rings: self.rings.ring_stats(),
        }
    }
}

impl InboxRings {
    fn ring_stats(&self) -> Vec<ResidentRingStats> {
        let layout = self.inbox().layout();
        let places = (0..layout.lanes)
            .flat_map(|lane| (0..layout.priorities).map(move |priority| (lane, priority)));
        let of = |(lane, priority)| {
            // The end before the beginning, so that there are no more of those.
            let (taken, submitted, refused) = self.counts(lane, priority)?;
            Some(ResidentRingStats {
                lane,
                priority,
                depth: layout.depth,
                submitted,
                taken,
                refused,
            })
        };
        places.filter_map(of).collect()
    }
}

//! The measure that plans are compared by: how far they fall short of the requests.

use super::{Demands, DeviceFacts, PartitionRequest};

/// The shortfall of a plan's sizes; less is better, and earlier fields count first.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Worth {
    /// SMs between the largest and the smallest partition of equal requests, summed over the kinds of requests.
    unequal: u32,
    /// SMs by which targets are missed, beyond rounding to whole units.
    below: u32,
    /// SMs that no partition has although one takes the rest.
    idle: u32,
}

impl Worth {
    /// Returns whether no plan of sizes that are worth `bound` at best can be better than this one.
    pub(super) fn cannot_be_improved_within(&self, bound: &Self) -> bool {
        self.unequal == 0 && (self.below, self.idle) <= (bound.below, 0)
    }

    /// Returns whether equal requests differ, or targets are missed.
    pub(super) fn misses_requests(&self) -> bool {
        self.unequal > 0 || self.below > 0
    }

    /// Measures the sizes of a plan's partitions.
    pub(super) fn of(facts: &DeviceFacts, demands: &Demands, sizes: &[u32]) -> Self {
        // The partition that takes the rest is excluded: any size meets it.
        let entries = demands.list.iter().zip(sizes).enumerate();
        let others: Vec<(usize, &PartitionRequest, u32)> = entries
            .filter(|(index, _)| demands.rest != Some(*index))
            .map(|(index, (request, size))| (index, request, *size))
            .collect();
        let targets = others.iter().filter(|(_, request, _)| request.is_target());
        let below = targets
            .map(|(index, _, size)| demands.missed(*index, *size))
            .sum();
        let kinds = demands.distinct().filter(|of| demands.rest != Some(*of));
        let unequal = kinds.filter_map(|of| {
            let of = demands.list.get(of)?;
            let alike = others.iter().filter(|(_, request, _)| *request == of);
            let sizes = alike.map(|(.., size)| *size);
            Some(sizes.clone().max()? - sizes.min()?)
        });
        let given: u32 = sizes.iter().sum();
        Self {
            unequal: unequal.sum(),
            below,
            idle: match demands.rest {
                Some(_) => facts.sm_count.saturating_sub(given),
                None => 0,
            },
        }
    }
}

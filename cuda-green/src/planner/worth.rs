//! The measure that plans are compared by: how far they fall short of what was asked.

use super::{Demands, DeviceFacts, PartitionRequest};

/// What a plan's sizes fall short of; less is better, and what comes first counts first.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Worth {
    /// SMs by which partitions with equal requests differ at most.
    unequal: u32,
    /// SMs by which targets are below what whole units give.
    below: u32,
    /// SMs that nobody has, though one was to have the rest.
    idle: u32,
}

impl Worth {
    pub(super) fn of(facts: &DeviceFacts, demands: &Demands, sizes: &[u32]) -> Self {
        let unit = facts.unit().0;
        // The one with the rest has what the others leave, whatever that is.
        let entries = demands.list.iter().zip(sizes).enumerate();
        let others: Vec<(usize, &PartitionRequest, u32)> = entries
            .filter(|(index, _)| demands.rest != Some(*index))
            .map(|(index, (request, size))| (index, request, *size))
            .collect();
        let asked = |index: usize| demands.requested.get(index).copied().unwrap_or(0);
        let targets = others.iter().filter(|(_, request, _)| request.is_target());
        let below = targets
            .map(|(index, _, size)| (asked(*index) / unit * unit).saturating_sub(*size))
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

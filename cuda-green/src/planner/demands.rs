//! Requests in SMs: checked against each other and the device, and rounded.

use super::{
    DeviceFacts, PartitionRequest, Plan, SmRequest,
    device_facts::{FINE_UNIT, PORTABLE_CLUSTER},
    in_words,
};
use crate::error::{Error, Result};

/// A list of requests that fits the device before any rounding to units.
#[derive(Clone, Debug)]
pub(crate) struct Demands {
    total: u32,
    /// SMs of a whole unit.
    unit: u32,
    pub(super) list: Vec<PartitionRequest>,
    /// The request that takes what the others leave.
    pub(super) rest: Option<usize>,
    /// SMs of each request, before any rounding to units.
    pub(crate) requested: Vec<u32>,
}

/// Groups indices whose keys are equal, in the order in which the keys first come.
pub(super) fn grouped<Key: PartialEq>(
    indices: impl IntoIterator<Item = usize>,
    key: impl Fn(usize) -> Key,
) -> Vec<Vec<usize>> {
    let mut groups: Vec<(Key, Vec<usize>)> = Vec::new();
    for index in indices {
        let own = key(index);
        match groups.iter_mut().find(|(key, _)| *key == own) {
            Some((_, group)) => group.push(index),
            None => groups.push((own, vec![index])),
        }
    }
    groups.into_iter().map(|(_, group)| group).collect()
}

impl Demands {
    /// Checks the requests against each other and the device.
    pub(crate) fn of(facts: &DeviceFacts, requests: &[PartitionRequest]) -> Result<Self> {
        check(requests)?;
        let is_share = |request: &PartitionRequest| matches!(request.sms, SmRequest::Share { .. });
        let is_rest = |request: &PartitionRequest| request.sms == SmRequest::Rest;
        let mut demands = Self {
            total: facts.sm_count,
            unit: facts.unit().0,
            list: requests.to_vec(),
            rest: requests
                .iter()
                .position(is_rest)
                .or_else(|| requests.iter().rposition(is_share)),
            requested: Vec::new(),
        };
        demands.requested = demands
            .before_rounding()
            .ok_or_else(|| Error::InsufficientSms {
                requests: in_words(requests),
                asked: requests
                    .iter()
                    .map(|request| demands.least(request))
                    .fold(0, u32::saturating_add),
                available: facts.sm_count,
                stranded: 0,
                total: facts.sm_count,
            })?;
        Ok(demands)
    }

    /// Returns the same sizes with other demands.
    pub(super) fn changed(&self, change: impl Fn(&mut PartitionRequest)) -> Self {
        let mut changed = self.clone();
        changed.list.iter_mut().for_each(change);
        changed
    }

    /// Returns the fewest SMs for a request, before any rounding.
    fn least(&self, request: &PartitionRequest) -> u32 {
        match request.sms {
            SmRequest::AtLeast(count) | SmRequest::Target(count) => count,
            SmRequest::Percent(percent) => self.percent(percent),
            SmRequest::Share { at_least, .. } => at_least.max(1),
            SmRequest::Rest => 1,
        }
    }

    /// Returns the fewest SMs that any plan may give a request, including those for its cluster.
    pub(super) fn floor(&self, index: usize) -> u32 {
        self.list.get(index).map_or(1, |request| {
            let least = match request.sms {
                SmRequest::Target(_) | SmRequest::Percent(_) => 1,
                _ => self.least(request),
            };
            least.max(request.cluster)
        })
    }

    /// Returns the most SMs that a target may get: the requested number, or the smallest partition where that is more.
    pub(super) fn most(&self, index: usize, smallest: u32) -> u32 {
        let requested = self.requested.get(index).copied().unwrap_or(self.total);
        let cluster = self.list.get(index).map_or(1, |request| request.cluster);
        requested.max(smallest).max(cluster)
    }

    /// Returns the first of each kind of request, and the one that takes the rest.
    pub(super) fn distinct(&self) -> impl Iterator<Item = usize> {
        (0..self.list.len()).filter(|index| {
            let mut before = self.list.iter().take(*index);
            self.rest == Some(*index) || !before.any(|other| Some(other) == self.list.get(*index))
        })
    }

    /// Returns limits for targets in falling order; the first lowers none. Lower limits lower the largest targets first,
    /// and equal targets alike.
    pub(super) fn caps(&self, step: u32) -> impl Iterator<Item = u32> {
        let targets = self.list.iter().zip(&self.requested);
        let targets = targets.filter(|(request, _)| request.is_target());
        let largest = targets.map(|(_, requested)| *requested).max().unwrap_or(0);
        let step = step.max(1);
        let lower = (step..largest).rev().filter(move |cap| cap % step == 0);
        std::iter::once(u32::MAX).chain(lower)
    }

    /// Returns the SMs by which a target of this size is missed, beyond rounding to whole units.
    pub(super) fn missed(&self, index: usize, sm_count: u32) -> u32 {
        let requested = self.requested.get(index).copied().unwrap_or(0);
        (requested / self.unit * self.unit).saturating_sub(sm_count)
    }

    fn percent(&self, percent: u32) -> u32 {
        let share = u64::from(self.total) * u64::from(percent) / 100;
        u32::try_from(share).unwrap_or(self.total).max(1)
    }

    fn before_rounding(&self) -> Option<Vec<u32>> {
        let rest = self.rest.and_then(|rest| self.list.get(rest));
        let rest_least = rest.map_or(0, |request| self.least(request));
        let sizes = self.divided(|_, request| self.least(request), rest_least, 1, self.total)?;
        (sum(&sizes)? <= self.total).then_some(sizes)
    }

    /// Returns each request in SMs, in multiples of `unit` and at least `min`. The request that takes the rest has what
    /// is left of the device; if that is too little, the result is `None`. Without such a request, rounding may exceed
    /// the device. Shares of the other requests come out of at most `room` SMs. Targets have at most their limit, but no
    /// less than `min`.
    pub(super) fn sizes(
        &self,
        unit: u32,
        min: u32,
        room: u32,
        limit: impl Fn(usize) -> u32,
    ) -> Option<Vec<u32>> {
        let floor = |index: usize, request: &PartitionRequest| {
            self.floor_in(request, unit, min, limit(index))
        };
        self.divided(floor, self.rest_least(), unit.max(1), room)
    }

    /// Returns the fewest SMs for a request in multiples of `unit` and at least `min`; for a target, the most that
    /// `limit` allows.
    pub(super) fn floor_in(
        &self,
        request: &PartitionRequest,
        unit: u32,
        min: u32,
        limit: u32,
    ) -> u32 {
        let unit = unit.max(1);
        let least = min.max(request.cluster);
        let up = |count: u32| {
            let count = count.max(least);
            count.checked_next_multiple_of(unit).unwrap_or(count)
        };
        let down = |count: u32| up(1).max(count / unit * unit);
        match request.sms {
            SmRequest::AtLeast(count) => up(count),
            SmRequest::Target(count) => down(count.min(limit)),
            SmRequest::Percent(percent) => down(self.percent(percent).min(limit)),
            SmRequest::Share { at_least, .. } => up(at_least),
            SmRequest::Rest => 1,
        }
    }

    /// Does the work of [`sizes`](Self::sizes): gives each request its `floor`, then divides what is left among the
    /// shares, rounded down to units. Where there are too few units, earlier shares come first.
    fn divided(
        &self,
        floor: impl Fn(usize, &PartitionRequest) -> u32,
        rest_least: u32,
        unit: u32,
        room: u32,
    ) -> Option<Vec<u32>> {
        let entries = self.list.iter().enumerate();
        let mut sizes: Vec<u32> = entries
            .map(|(index, request)| floor(index, request))
            .collect();
        let Some(rest) = self.rest else {
            return Some(sizes);
        };
        *sizes.get_mut(rest)? = 0;
        let taken = sum(&sizes)?;
        let left = self.total.checked_sub(taken)?.checked_sub(rest_least)?;
        let mut room = room.checked_sub(taken)?;
        let all: u64 = self.list.iter().map(PartitionRequest::weight).sum();
        for (index, (request, size)) in self.list.iter().zip(&mut sizes).enumerate() {
            if request.weight() > 0 && index != rest {
                let share = u64::from(left) * request.weight() / all;
                let share = u32::try_from(share).ok()?.min(room);
                let with_share = (size.saturating_add(share) / unit * unit).max(*size);
                room -= with_share - *size;
                *size = with_share;
            }
        }
        *sizes.get_mut(rest)? = self.total.checked_sub(sum(&sizes)?)?;
        Some(sizes)
    }

    /// Returns the fewest SMs for the request that takes the rest; 0 if there is none.
    pub(super) fn rest_least(&self) -> u32 {
        let request = self.rest.and_then(|rest| self.list.get(rest));
        request.map_or(0, |request| self.least(request).max(request.cluster))
    }

    /// Returns whether a plan has all clusters and exact sizes that are demanded.
    pub(super) fn are_kept_by(&self, plan: &Plan) -> bool {
        let mut partitions = plan.partitions.iter().zip(&self.list).enumerate();
        partitions.all(|(index, (partition, request))| {
            partition.max_cluster >= request.cluster && self.is_exact(index, partition.sm_count)
        })
    }

    /// Returns the size of a request in pairs of SMs, before any rounding to groups.
    pub(super) fn even_size(&self, index: usize) -> Option<u32> {
        let requested = *self.requested.get(index)?;
        let even = if self.list.get(index)?.is_target() {
            requested & !1
        } else {
            requested.checked_next_multiple_of(FINE_UNIT)?
        };
        Some(even.max(FINE_UNIT))
    }

    /// Returns whether a size meets an exact request. Shares and the rest are met by any size.
    pub(crate) fn is_exact(&self, index: usize, sm_count: u32) -> bool {
        let Some(request) = self.list.get(index).filter(|request| request.exact) else {
            return true;
        };
        let even = match request.sms {
            SmRequest::AtLeast(count) => count.max(request.cluster).next_multiple_of(FINE_UNIT),
            SmRequest::Target(count) => (count & !1).max(FINE_UNIT).max(request.cluster),
            SmRequest::Percent(percent) => (self.percent(percent) & !1)
                .max(FINE_UNIT)
                .max(request.cluster),
            SmRequest::Share { .. } | SmRequest::Rest => return true,
        };
        sm_count == even || sm_count == even.min(self.total)
    }
}

/// Returns the sum of sizes; `None` where it overflows.
pub(super) fn sum(sizes: &[u32]) -> Option<u32> {
    sizes
        .iter()
        .try_fold(0u32, |sum, size| sum.checked_add(*size))
}

/// Ensures that each of these requests can be, and all of them together.
pub(crate) fn check(requests: &[PartitionRequest]) -> Result<()> {
    let invalid = |name, value: String, reason| {
        Err(Error::InvalidArgument {
            name,
            value,
            reason,
        })
    };
    if requests.is_empty() {
        let reason = "a split needs at least one partition";
        return invalid("requests", "none".into(), reason);
    }
    let mut percents = 0u32;
    for request in requests {
        if !matches!(request.cluster, 1 | 2 | 4 | PORTABLE_CLUSTER) {
            let reason =
                "a cluster that runs on every device with clusters has 1, 2, 4 or 8 blocks";
            return invalid("cluster", request.cluster.to_string(), reason);
        }
        match request.sms {
            SmRequest::Target(0) | SmRequest::AtLeast(0) => {
                let reason = "a partition has at least one SM";
                return invalid("request", request.to_string(), reason);
            }
            SmRequest::Percent(percent @ (0 | 101..)) => {
                let reason = "a partition has 1 to 100 percent of the device";
                return invalid("request", format!("{percent}%"), reason);
            }
            SmRequest::Share { weight: 0, .. } => {
                let reason = "a share's weight is at least 1";
                return invalid("request", request.to_string(), reason);
            }
            SmRequest::Percent(percent) => percents = percents.saturating_add(percent),
            _ => {}
        }
    }
    if percents > 100 {
        let reason = "all percents together are at most 100";
        return invalid("requests", in_words(requests), reason);
    }
    let count = |is: fn(&SmRequest) -> bool| requests.iter().filter(|r| is(&r.sms)).count();
    let rests = count(|sms| *sms == SmRequest::Rest);
    if rests > 1 {
        let reason = "only one partition can take the rest";
        return invalid("requests", in_words(requests), reason);
    }
    if rests == 1 && count(|sms| matches!(sms, SmRequest::Share { .. })) > 0 {
        let reason =
            "shares take all that is left; give the partition that takes the rest a share instead";
        return invalid("requests", in_words(requests), reason);
    }
    Ok(())
}

//! What partitions ask for, and what that comes to in SMs.

use super::{
    DeviceFacts,
    facts::{FINE_UNIT, PORTABLE_CLUSTER},
};
use crate::{Error, Result};

/// How many SMs a partition asks for.
///
/// Sizes come in units: see [the planner](crate::planner). A request rounds to whole units as each variant
/// says, and what rounding leaves goes to the rest or to the last share; without one it is left for further
/// contexts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum SmRequest {
    /// This many or, where the units demand it, a few more: rounded up.
    AtLeast(u32),
    /// As near to this as can be without going over: rounded down, but to no less than one unit.
    Target(u32),
    /// This many percent of the device's SMs, 1 to 100: rounded down to whole SMs, then as a
    /// [`Target`](Self::Target).
    Percent(u32),
    /// A minimum, and a share by weight of what all counts, percents and minimums leave.
    ///
    /// The minimum rounds up, to at least one unit; the share of what is left, `left × weight ÷ sum of
    /// weights`, rounds down. The last share of a list takes what the others leave, so that nothing is over.
    Share {
        /// SMs that it has in any case; 0 is no minimum.
        at_least: u32,
        /// Its part of what is left, beside the weights of the other shares.
        weight: u32,
    },
    /// All that the others leave. At most one of a list, and not beside a share.
    Rest,
}

/// What one partition asks for.
///
/// ```
/// use cuda_green::planner::PartitionRequest;
///
/// let serving = PartitionRequest::at_least(64).cluster(8); // kernels in clusters of 8 run in it
/// let indexing = PartitionRequest::percent(25);
/// let rest = PartitionRequest::rest();
/// # let _ = (serving, indexing, rest);
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct PartitionRequest {
    /// How many SMs.
    pub sms: SmRequest,
    /// The thread-block cluster that must run in it, in blocks: 1, 2, 4 or 8. With 1, none is demanded.
    pub cluster: u32,
    /// Whether the size must be met to 2 SMs, even at the price of clusters above 2.
    pub exact: bool,
}

impl From<SmRequest> for PartitionRequest {
    fn from(sms: SmRequest) -> Self {
        Self {
            sms,
            cluster: 1,
            exact: false,
        }
    }
}

impl PartitionRequest {
    /// [`SmRequest::AtLeast`].
    pub fn at_least(sms: u32) -> Self {
        SmRequest::AtLeast(sms).into()
    }

    /// [`SmRequest::Target`].
    pub fn target(sms: u32) -> Self {
        SmRequest::Target(sms).into()
    }

    /// [`SmRequest::Percent`].
    pub fn percent(percent: u32) -> Self {
        SmRequest::Percent(percent).into()
    }

    /// [`SmRequest::Share`].
    pub fn share(at_least: u32, weight: u32) -> Self {
        SmRequest::Share { at_least, weight }.into()
    }

    /// [`SmRequest::Rest`].
    pub fn rest() -> Self {
        SmRequest::Rest.into()
    }

    /// Demands that clusters of so many blocks run in it: 2, 4 or 8. Plans that cannot keep that are not
    /// used. A partition that demands it has at least as many SMs.
    pub fn cluster(self, blocks: u32) -> Self {
        Self {
            cluster: blocks,
            ..self
        }
    }

    /// Demands its size to 2 SMs: an odd count is rounded to an even one, up or down as the request rounds.
    ///
    /// From 13.1 on that costs nothing. From 12.5 to 13.0, on compute capability 9.0 and later, all
    /// partitions are then made of units of 2 SMs that ignore co-scheduling, if whole units do not do by
    /// chance: kernels in clusters above 2 no longer run in them. Shares and the rest take what there is.
    pub fn exact(self) -> Self {
        Self {
            exact: true,
            ..self
        }
    }
}

/// A list of requests that can be met as far as plain numbers go.
#[derive(Clone, Debug)]
pub(crate) struct Demands {
    total: u32,
    pub(super) list: Vec<PartitionRequest>,
    /// The one that takes what the others leave.
    pub(super) rest: Option<usize>,
    /// Each in SMs, before any rounding to units.
    pub(super) requested: Vec<u32>,
}

impl Demands {
    /// Checks the requests against each other and the device.
    pub(crate) fn of(facts: &DeviceFacts, requests: &[PartitionRequest]) -> Result<Self> {
        check(requests)?;
        let is_share = |request: &PartitionRequest| matches!(request.sms, SmRequest::Share { .. });
        let is_rest = |request: &PartitionRequest| request.sms == SmRequest::Rest;
        let mut demands = Self {
            total: facts.sm_count,
            list: requests.to_vec(),
            rest: requests
                .iter()
                .position(is_rest)
                .or_else(|| requests.iter().rposition(is_share)),
            requested: Vec::new(),
        };
        demands.requested = demands.nominal().ok_or_else(|| Error::InsufficientSms {
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

    /// Each in SMs, before any rounding to units.
    pub(crate) fn requested(&self) -> &[u32] {
        &self.requested
    }

    /// The same sizes with other demands.
    pub(super) fn changed(&self, change: impl Fn(&mut PartitionRequest)) -> Self {
        let mut changed = self.clone();
        changed.list.iter_mut().for_each(change);
        changed
    }

    /// SMs that a request must have, by plain numbers.
    fn least(&self, request: &PartitionRequest) -> u32 {
        match request.sms {
            SmRequest::AtLeast(count) | SmRequest::Target(count) => count,
            SmRequest::Percent(percent) => self.percent(percent),
            SmRequest::Share { at_least, .. } => at_least.max(1),
            SmRequest::Rest => 1,
        }
    }

    fn percent(&self, percent: u32) -> u32 {
        let share = u64::from(self.total) * u64::from(percent) / 100;
        u32::try_from(share).unwrap_or(self.total).max(1)
    }

    fn nominal(&self) -> Option<Vec<u32>> {
        let rest = self.rest.and_then(|rest| self.list.get(rest));
        let rest_least = rest.map_or(0, |request| self.least(request));
        let sizes = self.divided(|request| self.least(request), rest_least, 1, self.total)?;
        (sum(&sizes)? <= self.total).then_some(sizes)
    }

    /// Each request in SMs where sizes are multiples of `unit` and at least `min`. The one that takes the rest
    /// has what is left of the device; nothing where that is not enough. Without one, rounding may make them
    /// more than the device. Of `room` SMs at most, shares are made for all but that one.
    pub(super) fn sizes(&self, unit: u32, min: u32, room: u32) -> Option<Vec<u32>> {
        let unit = unit.max(1);
        let floor = |request: &PartitionRequest| {
            let least = min.max(request.cluster);
            let up = |count: u32| {
                let count = count.max(least);
                count.checked_next_multiple_of(unit).unwrap_or(count)
            };
            let down = |count: u32| up(1).max(count / unit * unit);
            match request.sms {
                SmRequest::AtLeast(count) => up(count),
                SmRequest::Target(count) => down(count),
                SmRequest::Percent(percent) => down(self.percent(percent)),
                SmRequest::Share { at_least, .. } => up(at_least),
                SmRequest::Rest => 1,
            }
        };
        self.divided(floor, self.rest_least(), unit, room)
    }

    /// As [`sizes`](Self::sizes): what each has at least, and of what that leaves the shares, rounded down to
    /// units. Where units do not work out, the shares that come first have theirs.
    fn divided(
        &self,
        floor: impl Fn(&PartitionRequest) -> u32,
        rest_least: u32,
        unit: u32,
        room: u32,
    ) -> Option<Vec<u32>> {
        let mut sizes: Vec<u32> = self.list.iter().map(floor).collect();
        let Some(rest) = self.rest else {
            return Some(sizes);
        };
        *sizes.get_mut(rest)? = 0;
        let taken = sum(&sizes)?;
        let left = self.total.checked_sub(taken)?.checked_sub(rest_least)?;
        let mut room = room.checked_sub(taken)?;
        let weight = |request: &PartitionRequest| match request.sms {
            SmRequest::Share { weight, .. } => u64::from(weight),
            _ => 0,
        };
        let all: u64 = self.list.iter().map(weight).sum();
        for (index, (request, size)) in self.list.iter().zip(&mut sizes).enumerate() {
            if weight(request) > 0 && index != rest {
                let share = u64::from(left) * weight(request) / all;
                let share = u32::try_from(share).ok()?.min(room);
                let with_share = (size.saturating_add(share) / unit * unit).max(*size);
                room -= with_share - *size;
                *size = with_share;
            }
        }
        *sizes.get_mut(rest)? = self.total.checked_sub(sum(&sizes)?)?;
        Some(sizes)
    }

    /// SMs that the one with the rest must have; none where nobody has it.
    pub(super) fn rest_least(&self) -> u32 {
        let request = self.rest.and_then(|rest| self.list.get(rest));
        request.map_or(0, |request| self.least(request).max(request.cluster))
    }

    /// Whether a size is what an exact request asks for. Shares and the rest take what there is.
    pub(super) fn is_exact(&self, index: usize, sm_count: u32) -> bool {
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

/// The sum of sizes, if it is a number of SMs at all.
pub(super) fn sum(sizes: &[u32]) -> Option<u32> {
    sizes
        .iter()
        .try_fold(0u32, |sum, size| sum.checked_add(*size))
}

fn check(requests: &[PartitionRequest]) -> Result<()> {
    let invalid = |name, value: String, reason| {
        Err(Error::InvalidArgument {
            name,
            value,
            reason,
        })
    };
    if requests.is_empty() {
        let reason = "a split needs at least one partition";
        return invalid("sm_count", "no request".into(), reason);
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
                return invalid("sm_count", "0".into(), "a partition has at least one SM");
            }
            SmRequest::Percent(percent @ (0 | 101..)) => {
                return invalid(
                    "percent",
                    percent.to_string(),
                    "a share has 1 to 100 percent",
                );
            }
            SmRequest::Share { weight: 0, .. } => {
                return invalid("weight", "0".into(), "a share's weight is at least 1");
            }
            SmRequest::Percent(percent) => percents = percents.saturating_add(percent),
            _ => {}
        }
    }
    if percents > 100 {
        let reason = "all shares together are at most 100 percent";
        return invalid("percent", format!("{percents} in all"), reason);
    }
    let count = |is: fn(&SmRequest) -> bool| requests.iter().filter(|r| is(&r.sms)).count();
    let rests = count(|sms| *sms == SmRequest::Rest);
    if rests > 1 {
        let reason = "only one partition can have the rest";
        return invalid("sm_count", format!("{rests} times the rest"), reason);
    }
    if rests == 1 && count(|sms| matches!(sms, SmRequest::Share { .. })) > 0 {
        let reason = "shares take all that is left; give the rest a share of its own";
        return invalid("sm_count", "the rest beside shares".into(), reason);
    }
    Ok(())
}

//! The driver's ways to split a device, tried out by brute force: what a planner must find at least.
//!
//! Plain and slow on purpose, and written without a look at the planner. The rules are those measured on an H200
//! (driver 580) and, of the structured split, of the 13.1 header:
//!
//! - a split by count gives groups of one size, a multiple of the device's step and no less than its smallest, as
//!   many as the driver's dry run says, and what is left;
//! - groups of one split, and what is left, merge from 12.5 on; from 13.1 on what is left no longer does;
//! - a context's own resource can be split again: a group in the device's step, what is left in pairs;
//! - units of 2 ignore co-scheduling, for those who ask for exact sizes (12.5);
//! - a structured split gives any even sizes (13.1).

use cuda_green::{
    Capabilities, CudaDevice,
    planner::{DeviceFacts, PartitionRequest, SmRequest},
};

/// What sizes fall short of, in this order: SMs between equal requests, SMs of targets below what whole units give,
/// SMs that nobody has though one asks for the rest.
pub type Worth = (u32, u32, u32);

/// A device and what its driver answers.
pub struct Oracle {
    pub facts: DeviceFacts,
    /// How many groups of this many SMs a split by count gives, with co-scheduling.
    pub groups: Vec<u32>,
}

impl Oracle {
    /// What a device's driver answers, with what a version of it can do.
    pub fn of(device: &CudaDevice, capabilities: Capabilities) -> Self {
        let properties = device.properties();
        let total = properties.multiprocessor_count;
        let all = device.sm_resource().unwrap();
        let raw = all.raw_parts().next().unwrap();
        let count = |size| {
            let mut groups = 0;
            // SAFETY: a null result asks for the number alone, and the input is the driver's.
            let result = unsafe {
                device.driver().api().cuDevSmResourceSplitByCount(
                    std::ptr::null_mut(),
                    &mut groups,
                    raw,
                    std::ptr::null_mut(),
                    0,
                    size,
                )
            };
            result.unwrap().ok().unwrap();
            groups
        };
        Self {
            facts: DeviceFacts::new(total, properties.compute_capability, capabilities),
            groups: (0..=total).map(count).collect(),
        }
    }

    /// The best that any way gives; nothing where none meets the list.
    pub fn best(&self, list: &[PartitionRequest]) -> Option<Worth> {
        let asked = list.iter().map(|request| asked(&self.facts, request));
        if asked.sum::<u32>() > self.facts.sm_count {
            return None; // more than there is, by plain numbers
        }
        let mut best: Option<Worth> = None;
        self.each(list, &mut |sizes| {
            let worth = worth(&self.facts, list, sizes);
            if best.is_none_or(|best| worth < best) {
                best = Some(worth);
            }
        });
        best
    }

    /// Whether sizes are what was asked: no less than a count, no more than a target, exact ones exact.
    pub fn meets(&self, list: &[PartitionRequest], sizes: &[u32]) -> bool {
        list.iter()
            .zip(sizes)
            .all(|(request, size)| self.may_have(request, *size, false) && *size >= least(request))
    }

    fn each(&self, list: &[PartitionRequest], found: &mut dyn FnMut(&[u32])) {
        let capabilities = &self.facts.capabilities;
        let total = self.facts.sm_count;
        let clusters = list.iter().any(|request| request.cluster > 1);
        if capabilities.structured_split && !clusters {
            let left = Merging {
                size: 2,
                remainder: 0,
                joins: false,
                pairs: true,
            };
            self.merge(list, &left, total / 2, true, &mut Vec::new(), found);
        }
        if capabilities.merge {
            for size in self.sizes() {
                let groups = self.groups[size as usize];
                let merging = Merging {
                    size,
                    remainder: total - groups * size,
                    joins: !capabilities.structured_split,
                    pairs: false,
                };
                self.merge(list, &merging, groups, true, &mut Vec::new(), found);
            }
            let fine = self.facts.compute_capability.0 < 9 || list.iter().any(|one| one.exact);
            if fine && !clusters {
                let pairs = Merging {
                    size: 2,
                    remainder: 0,
                    joins: false,
                    pairs: true,
                };
                self.merge(list, &pairs, total / 2, true, &mut Vec::new(), found);
            }
        }
        if !clusters {
            let device = Area {
                sms: total,
                step: capabilities.granularity.coscheduled,
                min: capabilities.granularity.min,
            };
            let mut sizes = vec![0; list.len()];
            self.nest(list, &[device], &mut sizes, found);
            // A group for nobody, so that all others come in pairs.
            if total > device.min && rest(list).is_none() {
                self.nest(list, &[self.left(total - device.min)], &mut sizes, found);
            }
        }
    }

    /// Sizes of groups that a split by count leaves as they are.
    fn sizes(&self) -> impl Iterator<Item = u32> {
        let granularity = self.facts.capabilities.granularity;
        let total = self.facts.sm_count;
        (granularity.min..=total)
            .filter(move |size| size % granularity.coscheduled == 0 || *size == total)
            .filter(|size| self.groups[*size as usize] > 0)
    }

    /// Some groups for one request after another, and the remainder for one of them.
    fn merge(
        &self,
        list: &[PartitionRequest],
        merging: &Merging,
        groups: u32,
        remainder: bool,
        sizes: &mut Vec<u32>,
        found: &mut dyn FnMut(&[u32]),
    ) {
        let index = sizes.len();
        let Some(request) = list.get(index) else {
            // The one with the rest has a group at least, and what nobody has.
            let mut sizes = sizes.clone();
            if let Some(rest) = rest(list) {
                sizes[rest] += groups * merging.size;
                if remainder && (merging.joins || sizes[rest] == 0) {
                    sizes[rest] += merging.remainder;
                }
                if sizes[rest] < least(&list[rest]) {
                    return;
                }
            }
            if sizes.iter().all(|size| *size > 0) {
                found(&sizes);
            }
            return;
        };
        let is_rest = rest(list) == Some(index);
        for with in [false, true] {
            // What is left joins no group from 13.1 on, and the rest takes it in the end.
            if with && (!remainder || merging.remainder == 0 || (is_rest && !merging.joins)) {
                continue;
            }
            let most = if with && !merging.joins { 0 } else { groups };
            let beside = if with { merging.remainder } else { 0 };
            let meets = |count: &u32| {
                let size = count * merging.size + beside;
                let has_cluster = request.cluster <= if *count > 0 { merging.size } else { 2 };
                let enough = is_rest || self.may_have(request, size, merging.pairs);
                enough && (has_cluster || request.cluster == 1)
            };
            for count in choices(request, (0..=most).filter(meets).collect()) {
                sizes.push(count * merging.size + beside);
                let left = (groups - count, remainder && !with);
                self.merge(list, merging, left.0, left.1, sizes, found);
                sizes.pop();
            }
        }
    }

    /// A group or all of an area for one request after another, in every order.
    fn nest(
        &self,
        list: &[PartitionRequest],
        areas: &[Area],
        sizes: &mut [u32],
        found: &mut dyn FnMut(&[u32]),
    ) {
        let open: Vec<usize> = (0..list.len()).filter(|index| sizes[*index] == 0).collect();
        if open.is_empty() {
            found(sizes);
            return;
        }
        for &index in &open {
            let request = &list[index];
            let is_rest = rest(list) == Some(index);
            for (at, area) in areas.iter().enumerate() {
                let mut left = areas.to_vec();
                left.remove(at);
                // All of it.
                if self.may_have(request, area.sms, area.step == 2) || is_rest {
                    sizes[index] = area.sms;
                    if area.sms >= least(request) {
                        self.nest(list, &left, sizes, found);
                    }
                }
                // A group of it.
                let pairs = area.step == 2;
                let meets = |size: &u32| is_rest || self.may_have(request, *size, pairs);
                let first = least(request).max(area.min).next_multiple_of(area.step);
                let groups = (first..area.sms).step_by(area.step as usize);
                for size in choices(request, groups.filter(meets).collect()) {
                    let mut left = left.clone();
                    left.push(self.left(area.sms - size));
                    sizes[index] = size;
                    self.nest(list, &left, sizes, found);
                }
                sizes[index] = 0;
            }
        }
    }

    /// What a split leaves comes in pairs. Where all SMs do, the device's smallest group still holds.
    fn left(&self, sms: u32) -> Area {
        let granularity = self.facts.capabilities.granularity;
        let min = if granularity.coscheduled > 2 {
            2
        } else {
            granularity.min
        };
        Area { sms, step: 2, min }
    }

    /// Whether a partition of so many SMs is what was asked, `pairs`: in units of 2.
    fn may_have(&self, request: &PartitionRequest, size: u32, pairs: bool) -> bool {
        let total = self.facts.sm_count;
        let smallest = if pairs {
            2
        } else {
            self.facts.capabilities.granularity.min
        };
        let asked = asked(&self.facts, request);
        if matches!(request.sms, SmRequest::Share { .. } | SmRequest::Rest) {
            return size >= asked;
        }
        let asked_even = if request_is_target(request) {
            (asked & !1).max(2)
        } else {
            asked.next_multiple_of(2)
        };
        let exact = !request.exact || size == asked_even.max(request.cluster).min(total);
        exact
            && if request_is_target(request) {
                size > 0 && size <= asked.max(smallest).max(request.cluster)
            } else {
                size >= asked
            }
    }
}

/// Groups of one split.
struct Merging {
    size: u32,
    remainder: u32,
    joins: bool,
    pairs: bool,
}

#[derive(Clone, Copy)]
struct Area {
    sms: u32,
    step: u32,
    min: u32,
}

/// Those of the sizes that meet a request which are worth a try: of a target some of the largest, of all others the
/// smallest, since more than enough is of no use to them.
fn choices(request: &PartitionRequest, meeting: Vec<u32>) -> Vec<u32> {
    let few = match request_is_target(request) {
        true => meeting.iter().rev().take(3),
        false => return meeting.into_iter().take(1).collect(),
    };
    few.copied().collect()
}

fn request_is_target(request: &PartitionRequest) -> bool {
    matches!(request.sms, SmRequest::Target(_) | SmRequest::Percent(_))
}

/// What a request is in SMs, by plain numbers.
fn asked(facts: &DeviceFacts, request: &PartitionRequest) -> u32 {
    match request.sms {
        SmRequest::AtLeast(count) | SmRequest::Target(count) => count,
        SmRequest::Percent(percent) => (facts.sm_count * percent / 100).max(1),
        SmRequest::Share { at_least, .. } => at_least.max(1),
        _ => 1,
    }
}

fn least(request: &PartitionRequest) -> u32 {
    let least = match request.sms {
        SmRequest::AtLeast(count) => count,
        SmRequest::Share { at_least, .. } => at_least,
        _ => 1,
    };
    least.max(request.cluster)
}

fn unit(facts: &DeviceFacts) -> u32 {
    if facts.compute_capability.0 >= 9 {
        8
    } else {
        2
    }
}

/// The one that has what the others leave: the rest, or the last share.
fn rest(list: &[PartitionRequest]) -> Option<usize> {
    let is_share = |one: &PartitionRequest| matches!(one.sms, SmRequest::Share { .. });
    list.iter()
        .position(|one| one.sms == SmRequest::Rest)
        .or_else(|| list.iter().rposition(is_share))
}

/// What sizes fall short of.
pub fn worth(facts: &DeviceFacts, list: &[PartitionRequest], sizes: &[u32]) -> Worth {
    let rest = rest(list);
    let others: Vec<usize> = (0..list.len())
        .filter(|index| Some(*index) != rest)
        .collect();
    let mut unequal = 0;
    let mut below = 0;
    for (at, &index) in others.iter().enumerate() {
        let alike = others.iter().filter(|other| list[**other] == list[index]);
        let alike: Vec<u32> = alike.map(|other| sizes[*other]).collect();
        if !others[..at].iter().any(|other| list[*other] == list[index]) {
            unequal += alike.iter().max().unwrap() - alike.iter().min().unwrap();
        }
        let asked = match list[index].sms {
            SmRequest::Target(count) => count,
            SmRequest::Percent(percent) => facts.sm_count * percent / 100,
            _ => 0,
        };
        below += (asked / unit(facts) * unit(facts)).saturating_sub(sizes[index]);
    }
    let given: u32 = sizes.iter().sum();
    (
        unequal,
        below,
        if rest.is_some() {
            facts.sm_count - given
        } else {
            0
        },
    )
}

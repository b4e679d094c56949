//! The ways to place a request and a flood of two processes on one GPU.

use std::path::Path;

use cuda_green::{SharedPlan, planner::PartitionRequest};
use serde::{Deserialize, Serialize};

/// The active thread percentages of the request and of the flood.
pub const PERCENTAGES: [u32; 2] = [25, 75];

/// The names of the plan.
const NAMES: [&str; 2] = ["request", "flood"];

/// How processes get the GPU. It is decided at a process's start.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sharing {
    /// In turn, without MPS.
    TimeSlices,
    Mps,
    MpsPriorities,
    MpsPercentages,
}

/// A way to place both processes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Placement {
    TimeSlices,
    TimeSlicesGreen,
    Mps,
    MpsPriorities,
    MpsPercentages,
    MpsGreen,
    MpsSameGroup,
}

/// The SMs of a process.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Home {
    /// All that the process may use, in the primary context.
    Whole,
    /// The request's name of the plan.
    Request,
    /// The flood's name of the plan.
    Flood,
    /// The request's SMs, claimed by a plan of which the other process does not know.
    RequestAgain,
    /// The names of a plan of their own, which changes.
    ChangingRequest,
    ChangingFlood,
}

impl Sharing {
    /// In the order in which they are measured.
    pub const ALL: [Self; 4] = [
        Self::TimeSlices,
        Self::Mps,
        Self::MpsPriorities,
        Self::MpsPercentages,
    ];

    /// Returns the percentages of SMs that the request and the flood may use; none without MPS.
    pub fn percentages(self) -> Option<[u32; 2]> {
        match self {
            Self::TimeSlices => None,
            Self::Mps | Self::MpsPriorities => Some([100; 2]),
            Self::MpsPercentages => Some(PERCENTAGES),
        }
    }

    /// Returns the MPS priorities of the request and of the flood: 0 is normal, 1 is below normal.
    pub fn priorities(self) -> [u32; 2] {
        match self {
            Self::MpsPriorities => [0, 1],
            _ => [0; 2],
        }
    }

    /// Returns the placements that processes of this kind can have.
    pub fn placements(self) -> impl Iterator<Item = Placement> {
        let all = Placement::ALL.into_iter();
        all.filter(move |placement| placement.sharing() == self)
    }
}

impl Placement {
    pub const ALL: [Self; 7] = [
        Self::TimeSlices,
        Self::TimeSlicesGreen,
        Self::Mps,
        Self::MpsPriorities,
        Self::MpsPercentages,
        Self::MpsGreen,
        Self::MpsSameGroup,
    ];

    pub fn name(self) -> &'static str {
        match self {
            Self::TimeSlices => "time slices, no MPS",
            Self::TimeSlicesGreen => "time slices, green contexts",
            Self::Mps => "MPS, no limits",
            Self::MpsPriorities => "MPS, client priorities",
            Self::MpsPercentages => "MPS, thread percentages",
            Self::MpsGreen => "MPS, green contexts apart",
            Self::MpsSameGroup => "MPS, green contexts, same SMs",
        }
    }

    pub fn sharing(self) -> Sharing {
        match self {
            Self::TimeSlices | Self::TimeSlicesGreen => Sharing::TimeSlices,
            Self::Mps | Self::MpsGreen | Self::MpsSameGroup => Sharing::Mps,
            Self::MpsPriorities => Sharing::MpsPriorities,
            Self::MpsPercentages => Sharing::MpsPercentages,
        }
    }

    /// Returns the SMs of the request and of the flood.
    pub fn homes(self) -> [Home; 2] {
        match self {
            Self::TimeSlices | Self::Mps | Self::MpsPriorities | Self::MpsPercentages => {
                [Home::Whole; 2]
            }
            Self::TimeSlicesGreen | Self::MpsGreen => [Home::Request, Home::Flood],
            Self::MpsSameGroup => [Home::Request, Home::RequestAgain],
        }
    }
}

impl Home {
    /// Returns the plan and its name for these SMs; none for the primary context.
    ///
    /// Every plan starts the same, so its split is: a name of one has the SMs that it has in all of them.
    pub fn plan(self, folder: &Path, request_sms: u32) -> Option<(SharedPlan, &'static str)> {
        let [request, flood] = NAMES;
        let (place, name) = match self {
            Self::Whole => return None,
            Self::Request => ("plan", request),
            Self::Flood => ("plan", flood),
            Self::RequestAgain => ("another-plan", request),
            Self::ChangingRequest => ("changing-plan", request),
            Self::ChangingFlood => ("changing-plan", flood),
        };
        let plan = SharedPlan::of([
            (request, PartitionRequest::at_least(request_sms)),
            (flood, PartitionRequest::rest()),
        ]);
        Some((plan.in_folder(folder.join(place)), name))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_placement_is_measured_once() {
        let measured = Sharing::ALL.into_iter().flat_map(Sharing::placements);
        let measured: Vec<_> = measured.collect();
        assert_eq!(measured.len(), Placement::ALL.len());
        for placement in Placement::ALL {
            assert!(measured.contains(&placement), "{placement:?}");
            assert!(placement.name().len() <= 30, "{placement:?}");
        }
    }
}

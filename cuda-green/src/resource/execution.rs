//! Execution of a [`SplitCall`]: the driver calls that count, try out and make a split. Nothing is decided here.

use std::ptr;

use cuda_green_sys::{
    CU_DEV_SM_RESOURCE_GROUP_PARAMS, CUdevResource, CUdevSmResourceGroup_flags,
    CUdevSmResourceSplitByCount_flags, CUresult,
};

use super::{
    provenance::{Provenance, SplitId},
    sm::SmResource,
    sm_parts::SmParts,
};
use crate::{
    capabilities::Granularity,
    error::{Error, Result},
    planner::{Group, Part, SplitCall, SplitFlag},
};

impl SmResource {
    /// Returns how many groups of at least `sm_count` SMs the driver would make; nothing is split.
    pub(crate) fn count_groups(&self, sm_count: u32, flag: SplitFlag) -> Result<u32> {
        let mut groups = 0;
        self.by_count(None, &mut groups, sm_count, flag)?;
        Ok(groups)
    }

    /// Returns the sizes that the driver would give the groups of a call. Whoever made a split by count has counted
    /// its groups, so the driver is asked about structured ones only.
    pub(crate) fn announced_sizes(&self, call: &SplitCall) -> Result<Vec<u32>> {
        match call {
            SplitCall::Structured(groups) => self.structured_sizes(groups),
            SplitCall::ByCount { .. } => Ok(call.sizes()),
        }
    }

    /// Executes the call: returns its groups in order, and what no group has.
    pub(crate) fn execute(&self, call: &SplitCall) -> Result<SmParts> {
        match call {
            SplitCall::Structured(groups) => {
                let (parts, announced) = self.split_structured(groups)?;
                parts.check_sizes(self.sm_count(), &announced)?;
                Ok(parts)
            }
            SplitCall::ByCount {
                groups,
                sm_count,
                flag,
            } => self.split_by_count(*groups, *sm_count, *flag),
        }
    }

    fn split_by_count(&self, groups: u32, sm_count: u32, flag: SplitFlag) -> Result<SmParts> {
        let mut results = vec![CUdevResource::default(); groups as usize];
        let mut remainder = CUdevResource::default();
        let mut made = groups;
        let to = Some((results.as_mut_slice(), &mut remainder));
        self.by_count(to, &mut made, sm_count, flag)?;
        results.truncate(made as usize);
        let granularity = match flag {
            SplitFlag::IgnoreCoscheduling => Granularity::PAIRS,
            SplitFlag::None | SplitFlag::MaxClusterSize => self.granularity(),
        };
        Ok(self.parts_of_split(&results, granularity, remainder, false))
    }

    /// Calls `cuDevSmResourceSplitByCount`. Without room for the results, it only counts.
    fn by_count(
        &self,
        results: Option<(&mut [CUdevResource], &mut CUdevResource)>,
        groups: &mut u32,
        sm_count: u32,
        flag: SplitFlag,
    ) -> Result<()> {
        let flags = match flag {
            SplitFlag::None => 0,
            SplitFlag::IgnoreCoscheduling => CUdevSmResourceSplitByCount_flags::CU_DEV_SM_RESOURCE_SPLIT_IGNORE_SM_COSCHEDULING.0,
            SplitFlag::MaxClusterSize => CUdevSmResourceSplitByCount_flags::CU_DEV_SM_RESOURCE_SPLIT_MAX_POTENTIAL_CLUSTER_SIZE.0,
        };
        let (results, remainder) = pointers(results);
        // SAFETY: both results are null, which asks for the number alone, or zeroed with room for as many groups as
        // `groups` says, and for the remainder; the input is a driver's resource.
        unsafe {
            self.device().driver().cuDevSmResourceSplitByCount(
                results,
                groups,
                self.first_raw(),
                remainder,
                flags,
                sm_count,
            )
        }
    }

    /// Splits into groups of the sizes that each asks for; returns the sizes, too, that the driver says these have.
    /// CUDA 13.1.
    fn split_structured(&self, groups: &[Group]) -> Result<(SmParts, Vec<u32>)> {
        let mut results = vec![CUdevResource::default(); groups.len()];
        let mut remainder = CUdevResource::default();
        let to = Some((results.as_mut_slice(), &mut remainder));
        let sizes = self.structured(to, groups)?;
        // From 13.1 on the driver says of each group what is co-scheduled in it.
        let parts = self.parts_of_split(&results, self.granularity(), remainder, true);
        Ok((parts, sizes))
    }

    /// Returns the sizes that a structured split would give. The split is made and thrown away, since NVIDIA's page
    /// knows a null result beside sizes of 0 only, and a driver of 13.3 is reported to answer 915 to it beside others
    /// (NVIDIA/cuda-python#2765). A split reserves nothing.
    fn structured_sizes(&self, groups: &[Group]) -> Result<Vec<u32>> {
        let discovers = |group: &Group| group.sm_count == 0;
        if groups.iter().all(discovers) {
            return self.structured(None, groups);
        }
        match self.split_structured(groups) {
            Ok((_, sizes)) => Ok(sizes),
            // Where a group finds no SMs, the driver refuses the split, but older ones return the sizes all the same.
            Err(error) if is_topology_refusal(&error) && groups.iter().any(discovers) => {
                self.structured(None, groups).map_err(|_| error)
            }
            Err(error) => Err(error),
        }
    }

    /// Calls `cuDevSmResourceSplit`, and returns the sizes that it writes. Without room for the results, it only finds
    /// these.
    fn structured(
        &self,
        results: Option<(&mut [CUdevResource], &mut CUdevResource)>,
        groups: &[Group],
    ) -> Result<Vec<u32>> {
        let mut params: Vec<_> = groups.iter().map(params).collect();
        let (results, remainder) = pointers(results);
        // SAFETY: both results are null, which asks for the sizes alone, or zeroed with room for one resource for each
        // group, and for the remainder; `params` has the number of elements said, all zeroed but for what is asked; the
        // input is a driver's resource.
        unsafe {
            self.device().driver().cuDevSmResourceSplit(
                results,
                params.len() as u32,
                self.first_raw(),
                remainder,
                0,
                params.as_mut_ptr(),
            )
        }?;
        Ok(params.iter().map(|group| group.smCount).collect())
    }

    /// Returns the results of one split, under a new id.
    fn parts_of_split(
        &self,
        groups: &[CUdevResource],
        granularity: Granularity,
        remainder: CUdevResource,
        structured: bool,
    ) -> SmParts {
        let provenance = Provenance::Split {
            id: SplitId::next(),
            structured,
        };
        let group = |(index, raw): (usize, &CUdevResource)| {
            self.part_of_split(provenance, Part::Group(index), *raw, granularity)
        };
        let rest = self.part_of_split(provenance, Part::Remainder, remainder, Granularity::PAIRS);
        SmParts {
            groups: groups.iter().enumerate().map(group).collect(),
            remainder: Some(rest).filter(|rest| rest.sm_count() > 0),
        }
    }
}

/// Returns whether the driver refused a split or a merge for the chip's topology, so that another may work.
pub(crate) fn is_topology_refusal(error: &Error) -> bool {
    matches!(
        error,
        Error::Driver {
            code: CUresult::CUDA_ERROR_INVALID_RESOURCE_CONFIGURATION,
            ..
        }
    )
}

/// Returns a group as the driver reads it; 0 stands for what the driver does by default.
fn params(group: &Group) -> CU_DEV_SM_RESOURCE_GROUP_PARAMS {
    CU_DEV_SM_RESOURCE_GROUP_PARAMS {
        smCount: group.sm_count,
        coscheduledSmCount: group.coscheduled,
        preferredCoscheduledSmCount: if group.preferred_coscheduled == group.coscheduled {
            0
        } else {
            group.preferred_coscheduled
        },
        flags: if group.backfill {
            CUdevSmResourceGroup_flags::CU_DEV_SM_RESOURCE_GROUP_BACKFILL.0
        } else {
            0
        },
        ..Default::default()
    }
}

fn pointers(
    results: Option<(&mut [CUdevResource], &mut CUdevResource)>,
) -> (*mut CUdevResource, *mut CUdevResource) {
    match results {
        Some((groups, remainder)) => (groups.as_mut_ptr(), ptr::from_mut(remainder)),
        None => (ptr::null_mut(), ptr::null_mut()),
    }
}

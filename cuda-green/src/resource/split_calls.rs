//! The driver calls about resources: count, split, describe. Nothing is decided here.

use cuda_green_sys::{
    CU_DEV_SM_RESOURCE_GROUP_PARAMS, CUdevResource, CUdevResourceDesc, CUdevSmResourceGroup_flags,
    CUdevSmResourceSplitByCount_flags, CUresult,
};

use super::{provenance::SplitId, sm::SmResource};
use crate::{
    capabilities::Granularity,
    driver::Driver,
    error::{Error, Result},
    planner::Group,
};

/// The result of a split: its groups in order, and what is left over.
pub(crate) struct Split {
    pub(crate) groups: Vec<SmResource>,
    pub(crate) remainder: Option<SmResource>,
}

/// How many groups of `min_count` the driver would make; asks without splitting.
pub(crate) fn count_groups(
    driver: &Driver,
    input: &SmResource,
    min_count: u32,
    fine: bool,
) -> Result<u32> {
    count_groups_with(driver, input, min_count, flags(fine))
}

pub(super) fn count_groups_with(
    driver: &Driver,
    input: &SmResource,
    min_count: u32,
    flags: u32,
) -> Result<u32> {
    let mut groups = 0;
    // SAFETY: a null result asks for the number alone; the input is a driver's resource.
    unsafe {
        driver.cuDevSmResourceSplitByCount(
            std::ptr::null_mut(),
            &mut groups,
            input.first_raw(),
            std::ptr::null_mut(),
            flags,
            min_count,
        )
    }?;
    Ok(groups)
}

/// Splits into `groups` equal groups of at least `min_count`; the rest is the remainder.
pub(crate) fn split_by_count(
    driver: &Driver,
    input: &SmResource,
    groups: u32,
    min_count: u32,
    fine: bool,
) -> Result<Split> {
    split_by_count_with(driver, input, groups, min_count, flags(fine))
}

pub(super) fn split_by_count_with(
    driver: &Driver,
    input: &SmResource,
    groups: u32,
    min_count: u32,
    flags: u32,
) -> Result<Split> {
    let mut results = vec![CUdevResource::default(); groups as usize];
    let mut remainder = CUdevResource::default();
    let mut made = groups;
    // SAFETY: `results` has room for the `made` groups that the driver may write, all zeroed; so is
    // the remainder; the input is a driver's resource.
    unsafe {
        driver.cuDevSmResourceSplitByCount(
            results.as_mut_ptr(),
            &mut made,
            input.first_raw(),
            &mut remainder,
            flags,
            min_count,
        )
    }?;
    results.truncate(made as usize);
    let of_groups = if flags & ignore_coscheduling() == 0 {
        input.granularity()
    } else {
        Granularity::PAIRS
    };
    Ok(split(
        input,
        results.into_iter().map(|raw| (raw, of_groups)),
        remainder,
        false,
    ))
}

/// Splits into groups of the sizes that each asks for; the rest is the remainder. CUDA 13.1.
pub(crate) fn split_structured(
    driver: &Driver,
    input: &SmResource,
    groups: &[Group],
) -> Result<Split> {
    split_with_params(driver, input, &mut params_of(groups))
}

/// The dry run of [`split_structured`]: whether the driver would refuse it. CUDA 13.1.
pub(crate) fn try_structured(driver: &Driver, input: &SmResource, groups: &[Group]) -> Result<()> {
    sizes_with_params(driver, input, &mut params_of(groups))
}

fn params_of(groups: &[Group]) -> Vec<CU_DEV_SM_RESOURCE_GROUP_PARAMS> {
    let params = |group: &Group| params(group.sm_count, group.coscheduled, 0, group.backfill);
    groups.iter().map(params).collect()
}

/// One group of a structured split; 0 stands for what the driver does by itself.
pub(super) fn params(
    sm_count: u32,
    coscheduled: u32,
    preferred: u32,
    backfill: bool,
) -> CU_DEV_SM_RESOURCE_GROUP_PARAMS {
    CU_DEV_SM_RESOURCE_GROUP_PARAMS {
        smCount: sm_count,
        coscheduledSmCount: coscheduled,
        preferredCoscheduledSmCount: preferred,
        flags: if backfill {
            CUdevSmResourceGroup_flags::CU_DEV_SM_RESOURCE_GROUP_BACKFILL.0
        } else {
            0
        },
        ..Default::default()
    }
}

/// A structured split; the driver writes the sizes into the parameters.
pub(super) fn split_with_params(
    driver: &Driver,
    input: &SmResource,
    params: &mut [CU_DEV_SM_RESOURCE_GROUP_PARAMS],
) -> Result<Split> {
    let mut results = vec![CUdevResource::default(); params.len()];
    let mut remainder = CUdevResource::default();
    // SAFETY: `results` and `params` both have the number of elements said, all zeroed but for what
    // is asked; the input is a driver's resource.
    unsafe {
        driver.cuDevSmResourceSplit(
            results.as_mut_ptr(),
            params.len() as u32,
            input.first_raw(),
            &mut remainder,
            0,
            params.as_mut_ptr(),
        )
    }?;
    // From 13.1 on the driver says of each group what is co-scheduled in it.
    let groups = results.into_iter().map(|raw| (raw, input.granularity()));
    Ok(split(input, groups, remainder, true))
}

/// The sizes that the same would give, in the parameters. The split is made and thrown away, since NVIDIA's page knows
/// a null result beside sizes of 0 only, and a driver of 13.3 is reported to answer 915 to it beside others
/// (NVIDIA/cuda-python#2765). A split reserves nothing.
pub(super) fn sizes_with_params(
    driver: &Driver,
    input: &SmResource,
    params: &mut [CU_DEV_SM_RESOURCE_GROUP_PARAMS],
) -> Result<()> {
    let asked = params.to_vec();
    let finds = |group: &CU_DEV_SM_RESOURCE_GROUP_PARAMS| group.smCount == 0;
    let made = if asked.iter().all(finds) {
        found_with_params(driver, input, params)
    } else {
        split_with_params(driver, input, params).map(drop)
    };
    match made {
        // A group that finds nothing is refused where the split is made. Older drivers tell it all the same.
        Err(error) if is_topology_refusal(&error) && asked.iter().any(finds) => {
            params.copy_from_slice(&asked);
            found_with_params(driver, input, params).map_err(|_| {
                params.copy_from_slice(&asked);
                error
            })
        }
        made => made,
    }
}

/// What the driver finds for groups of as many SMs as there are.
fn found_with_params(
    driver: &Driver,
    input: &SmResource,
    params: &mut [CU_DEV_SM_RESOURCE_GROUP_PARAMS],
) -> Result<()> {
    // SAFETY: a null result asks for the sizes alone, and the remainder may be null; `params` has the number
    // of elements said; the input is a driver's resource.
    unsafe {
        driver.cuDevSmResourceSplit(
            std::ptr::null_mut(),
            params.len() as u32,
            input.first_raw(),
            std::ptr::null_mut(),
            0,
            params.as_mut_ptr(),
        )
    }
}

/// Whether the driver refused a split or a merge for what the chip looks like, so that another may work.
pub(crate) fn is_topology_refusal(error: &Error) -> bool {
    matches!(
        error,
        Error::Driver {
            code: CUresult::CUDA_ERROR_INVALID_RESOURCE_CONFIGURATION,
            ..
        }
    )
}

/// The descriptor over resources of one split. It lives as long as the process.
pub(crate) fn describe(driver: &Driver, resources: &[SmResource]) -> Result<CUdevResourceDesc> {
    describe_with(driver, resources, None)
}

/// The same with a workqueue (13.1).
pub(crate) fn describe_with(
    driver: &Driver,
    resources: &[SmResource],
    workqueue: Option<&CUdevResource>,
) -> Result<CUdevResourceDesc> {
    let sms = resources.iter().flat_map(SmResource::raw_parts);
    let mut raw: Vec<CUdevResource> = sms.chain(workqueue).copied().collect();
    let mut descriptor = std::ptr::null_mut();
    // SAFETY: the array has the length said and holds a driver's resources; the output is valid.
    unsafe {
        driver.cuDevResourceGenerateDesc(&mut descriptor, raw.as_mut_ptr(), raw.len() as u32)
    }?;
    Ok(descriptor)
}

/// The parts of one split, under one new id.
fn split(
    input: &SmResource,
    groups: impl Iterator<Item = (CUdevResource, Granularity)>,
    remainder: CUdevResource,
    structured: bool,
) -> Split {
    let id = SplitId::next();
    let groups: Vec<SmResource> = groups
        .zip(0..)
        .map(|((raw, granularity), index)| input.group(raw, id, index, granularity))
        .collect();
    let remainder = input.remainder(remainder, id, structured);
    Split {
        groups,
        remainder: Some(remainder).filter(|rest| rest.sm_count() > 0),
    }
}

pub(super) const fn ignore_coscheduling() -> u32 {
    CUdevSmResourceSplitByCount_flags::CU_DEV_SM_RESOURCE_SPLIT_IGNORE_SM_COSCHEDULING.0
}

fn flags(fine: bool) -> u32 {
    if fine { ignore_coscheduling() } else { 0 }
}

//! SM resources as the driver hands them out, and the calls that split and describe them.

use cuda_green_sys::{
    CU_DEV_SM_RESOURCE_GROUP_PARAMS, CUdevResource, CUdevResourceDesc, CUdevSmResource,
    CUdevSmResourceGroup_flags, CUdevSmResourceSplitByCount_flags,
};

use crate::{Driver, Result, planner::Group};

/// A set of SMs that the driver described: a device's, a context's, or a part of a split.
#[derive(Clone, Copy)]
pub struct SmResource {
    raw: CUdevResource,
}

// SAFETY: the resource is a value; the one pointer in it (13.1) is null or the driver's own, and is never
// followed here.
unsafe impl Send for SmResource {}
// SAFETY: as above; nothing is changed through a shared reference.
unsafe impl Sync for SmResource {}

impl SmResource {
    pub(crate) fn from_raw(raw: CUdevResource) -> Self {
        Self { raw }
    }

    fn sm(&self) -> CUdevSmResource {
        // SAFETY: every resource of this type was zeroed and then filled by the driver as an SM
        // resource, and all of its fields are plain integers.
        unsafe { self.raw.__bindgen_anon_1.sm }
    }

    /// How many SMs.
    pub fn sm_count(&self) -> u32 {
        self.sm().smCount
    }

    /// The smallest partition of it in SMs, or 0 where the driver does not say: drivers before 13.0,
    /// and on 13.0 the results of a split.
    pub fn min_partition_size(&self) -> u32 {
        self.sm().minSmPartitionSize
    }

    /// So many SMs are co-scheduled in it, or 0 where the driver does not say.
    pub fn coscheduled_alignment(&self) -> u32 {
        self.sm().smCoscheduledAlignment
    }

    /// The raw resource.
    pub fn raw(&self) -> &CUdevResource {
        &self.raw
    }
}

impl std::fmt::Debug for SmResource {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("SmResource")
            .field("sm_count", &self.sm_count())
            .finish_non_exhaustive()
    }
}

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
    let mut groups = 0;
    // SAFETY: a null result asks for the number alone; the input is a driver's resource.
    let result = unsafe {
        driver.api().cuDevSmResourceSplitByCount(
            std::ptr::null_mut(),
            &mut groups,
            input.raw(),
            std::ptr::null_mut(),
            flags(fine),
            min_count,
        )
    };
    driver.check("cuDevSmResourceSplitByCount", result)?;
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
    let mut results = vec![CUdevResource::default(); groups as usize];
    let mut remainder = CUdevResource::default();
    let mut made = groups;
    // SAFETY: `results` has room for the `made` groups that the driver may write, all zeroed; so is
    // the remainder; the input is a driver's resource.
    let result = unsafe {
        driver.api().cuDevSmResourceSplitByCount(
            results.as_mut_ptr(),
            &mut made,
            input.raw(),
            &mut remainder,
            flags(fine),
            min_count,
        )
    };
    driver.check("cuDevSmResourceSplitByCount", result)?;
    results.truncate(made as usize);
    Ok(Split::of(results, remainder))
}

/// Splits into groups of the sizes that each asks for; the rest is the remainder. CUDA 13.1.
pub(crate) fn split_structured(
    driver: &Driver,
    input: &SmResource,
    groups: &[Group],
) -> Result<Split> {
    let mut results = vec![CUdevResource::default(); groups.len()];
    let mut remainder = CUdevResource::default();
    let mut params = params(groups);
    // SAFETY: `results` and `params` both have the number of elements said, all zeroed but for what
    // is asked; the input is a driver's resource.
    let result = unsafe {
        driver.api().cuDevSmResourceSplit(
            results.as_mut_ptr(),
            groups.len() as u32,
            input.raw(),
            &mut remainder,
            0,
            params.as_mut_ptr(),
        )
    };
    driver.check("cuDevSmResourceSplit", result)?;
    Ok(Split::of(results, remainder))
}

/// The dry run of [`split_structured`]: whether the driver would refuse it. CUDA 13.1.
pub(crate) fn try_structured(driver: &Driver, input: &SmResource, groups: &[Group]) -> Result<()> {
    let mut params = params(groups);
    // SAFETY: a null result asks for a dry run; `params` has the number of elements said; the input is a
    // driver's resource.
    let result = unsafe {
        driver.api().cuDevSmResourceSplit(
            std::ptr::null_mut(),
            groups.len() as u32,
            input.raw(),
            std::ptr::null_mut(),
            0,
            params.as_mut_ptr(),
        )
    };
    driver.check("cuDevSmResourceSplit", result)
}

fn params(groups: &[Group]) -> Vec<CU_DEV_SM_RESOURCE_GROUP_PARAMS> {
    let params = groups.iter().map(|group| CU_DEV_SM_RESOURCE_GROUP_PARAMS {
        smCount: group.sm_count,
        coscheduledSmCount: group.coscheduled,
        flags: if group.backfill {
            CUdevSmResourceGroup_flags::CU_DEV_SM_RESOURCE_GROUP_BACKFILL.0
        } else {
            0
        },
        ..Default::default()
    });
    params.collect()
}

/// The descriptor over resources of one split. It lives as long as the process.
pub(crate) fn describe(driver: &Driver, resources: &[SmResource]) -> Result<CUdevResourceDesc> {
    let mut raw: Vec<CUdevResource> = resources.iter().map(|resource| resource.raw).collect();
    let mut descriptor = std::ptr::null_mut();
    // SAFETY: the array has the length said and holds a driver's resources; the output is valid.
    let result = unsafe {
        driver
            .api()
            .cuDevResourceGenerateDesc(&mut descriptor, raw.as_mut_ptr(), raw.len() as u32)
    };
    driver.check("cuDevResourceGenerateDesc", result)?;
    Ok(descriptor)
}

impl Split {
    fn of(groups: Vec<CUdevResource>, remainder: CUdevResource) -> Self {
        let remainder = SmResource::from_raw(remainder);
        Self {
            groups: groups.into_iter().map(SmResource::from_raw).collect(),
            remainder: Some(remainder).filter(|rest| rest.sm_count() > 0),
        }
    }
}

fn flags(fine: bool) -> u32 {
    if fine {
        CUdevSmResourceSplitByCount_flags::CU_DEV_SM_RESOURCE_SPLIT_IGNORE_SM_COSCHEDULING.0
    } else {
        0
    }
}

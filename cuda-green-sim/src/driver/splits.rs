//! Both splits of a resource: by count, and the structured one (13.1).

use cuda_green_sys::{
    CU_DEV_SM_RESOURCE_GROUP_LOCALITY_DOMAIN_ID_ANY, CU_DEV_SM_RESOURCE_GROUP_PARAMS,
    CUdevResource, CUdevSmResourceGroup_flags, CUdevSmResourceSplitByCount_flags, CUresult,
};

use super::{
    Driver, Kind, require,
    sm_resource::{Origin, Resource},
};
use crate::{
    c_args::{Answer, Raw},
    sms::SmSet,
    split::{EqualSplit, Granularity, GroupRequest, structured},
};

/// Groups need not be of whole units.
const IGNORE: u32 =
    CUdevSmResourceSplitByCount_flags::CU_DEV_SM_RESOURCE_SPLIT_IGNORE_SM_COSCHEDULING.0;

impl Driver {
    /// Returns the rules of a split by count of a resource with these flags.
    fn granularity(&self, whole: &Resource, flags: u32) -> Result<Granularity, CUresult> {
        let clusters =
            CUdevSmResourceSplitByCount_flags::CU_DEV_SM_RESOURCE_SPLIT_MAX_POTENTIAL_CLUSTER_SIZE
                .0;
        let profile = self.profile.device;
        // Without guaranteed co-scheduling, sizes are multiples of the smallest co-scheduled unit (measured on an
        // H200, driver 580), though groups are still made of the largest available pieces.
        let guaranteed = whole.alignment >= profile.sm_coscheduled_alignment;
        let usual = Granularity {
            unit: whole.alignment,
            smallest: if guaranteed {
                profile.min_sm_partition_size
            } else {
                whole.alignment
            },
            piece: profile.sm_coscheduled_alignment,
            part: whole.root.is_some() && whole.sms.count() < profile.sm_count,
            joined: false,
        };
        // Bits beyond these two are ignored (measured on an H200, driver 580).
        let flags = flags & (IGNORE | clusters);
        if flags == 0 {
            Ok(usual)
        } else if !self.speaks(12, 5) {
            // The 12.4 header names no flag. How a 12.4 driver answers to one is not measured.
            Err(CUresult::CUDA_ERROR_INVALID_VALUE)
        } else if flags == IGNORE {
            Ok(Granularity {
                unit: 2,
                smallest: 2,
                piece: 2,
                part: false,
                joined: true,
            })
        } else if flags == clusters && profile.has_clusters() {
            // "9.0 and later only" (12.5 header); a refusal below it is not measured. Pieces of two units
            // are kept together where the group has room for them (measured on an H200, driver 580).
            Ok(Granularity {
                piece: 2 * usual.piece,
                ..usual
            })
        } else {
            // Both together: measured.
            Err(CUresult::CUDA_ERROR_INVALID_VALUE)
        }
    }

    pub(crate) fn cuDevSmResourceSplitByCount(
        &self,
        result: Raw<CUdevResource>,
        nb_groups: Raw<u32>,
        input: Raw<CUdevResource>,
        remainder: Raw<CUdevResource>,
        flags: u32,
        min_count: u32,
    ) -> Answer {
        let mut state = self.enter()?;
        let input = input.get()?;
        let wanted = nb_groups.get()?;
        let refused = CUresult::CUDA_ERROR_INVALID_RESOURCE_CONFIGURATION;
        // A struct that is not a resource of this driver, or was changed, is refused like this (measured on an H200,
        // driver 580).
        let whole = self.lookup(&state, &input).map_err(|code| match code {
            CUresult::CUDA_ERROR_INVALID_VALUE => refused,
            other => other,
        })?;
        // SAFETY: every bit pattern is valid for these integers, and the struct is whole.
        let count = unsafe { input.__bindgen_anon_1.sm }.smCount;
        let granularity = self.granularity(&whole, flags)?;
        if whole.origin != Origin::Query || whole.reported != count {
            return Err(refused);
        }
        let is_limited = self.is_limited_by_mps() && whole.root.is_none();
        if is_limited && flags & IGNORE == 0 {
            return if result.is_null() {
                nb_groups.set(0)
            } else {
                Err(refused)
            };
        }
        let plan = EqualSplit::plan(&whole.sms, min_count, granularity)?;
        if result.is_null() {
            return nb_groups.set(plan.groups);
        }
        require(wanted > 0)?;
        let parts = if is_limited {
            plan.make(&self.profile.device.sms(), wanted)
        } else {
            plan.make(&whole.sms, wanted)
        };
        // Groups of whole units are co-scheduled, whatever they were split from (measured on an H200, driver 580,
        // where a group of 8 of a remainder reports 8 and 8).
        let usual = self.profile.device.sm_coscheduled_alignment;
        let alignment = if granularity.piece >= usual && plan.size.is_multiple_of(usual) {
            usual
        } else {
            granularity.unit
        };
        let split = state.new_handle(self.number, Kind::Split);
        let mut part =
            |sms, alignment, origin| self.part(&mut state, &whole, sms, alignment, 0, origin);
        nb_groups.set(parts.groups.len() as u32)?;
        for (index, group) in parts.groups.into_iter().enumerate() {
            result.set_at(index, part(group, alignment, Origin::Group(split)))?;
        }
        if !remainder.is_null() {
            // The remainder keeps no guarantee of co-scheduling (13.1 header), and a context over it
            // reports 2 (measured on an H200, driver 580).
            remainder.set(if parts.remainder.is_empty() {
                CUdevResource::default()
            } else {
                part(parts.remainder, 2, Origin::Remainder(split))
            })?;
        }
        Ok(())
    }

    /// Follows the text of the 13.1 header, and of the 13.5 header where that says more; no driver of 13.1 or later
    /// was available to measure it.
    pub(crate) fn cuDevSmResourceSplit(
        &self,
        result: Raw<CUdevResource>,
        nb_groups: u32,
        input: Raw<CUdevResource>,
        remainder: Raw<CUdevResource>,
        flags: u32,
        params: Raw<CU_DEV_SM_RESOURCE_GROUP_PARAMS>,
    ) -> Answer {
        let mut state = self.enter()?;
        let input = input.get()?;
        params.required()?;
        require(flags == 0 && nb_groups > 0)?;
        let whole = self.lookup(&state, &input)?;
        // That MPS's percentage forbids this kind of split, too, is not measured.
        if matches!(whole.origin, Origin::Group(_) | Origin::Remainder(_))
            || self.is_limited_by_mps()
        {
            return Err(CUresult::CUDA_ERROR_INVALID_RESOURCE_CONFIGURATION);
        }
        let mut asked = Vec::new();
        let mut requests = Vec::new();
        for index in 0..nb_groups as usize {
            let group = params.at(index)?;
            requests.push(self.group_request(&group)?);
            asked.push(group);
        }
        // NVIDIA's page describes a null result only with sizes of 0. With other sizes, a driver of 13.3 returns this
        // code, by one report (NVIDIA/cuda-python#2765); earlier versions are unknown.
        if result.is_null() && self.speaks(13, 3) && asked.iter().any(|group| group.smCount != 0) {
            return Err(CUresult::CUDA_ERROR_INVALID_RESOURCE_CONFIGURATION);
        }
        let parts = structured(&whole.sms, &requests)?;
        if !result.is_null() && parts.groups.iter().any(SmSet::is_empty) {
            return Err(CUresult::CUDA_ERROR_INVALID_RESOURCE_CONFIGURATION);
        }
        let split = state.new_handle(self.number, Kind::Split);
        let mut part = |sms, alignment, flags, origin| {
            self.part(&mut state, &whole, sms, alignment, flags, origin)
        };
        for (index, (group, (mut params_out, request))) in parts
            .groups
            .into_iter()
            .zip(asked.into_iter().zip(&requests))
            .enumerate()
        {
            params_out.smCount = group.count();
            params.set_at(index, params_out)?;
            if !result.is_null() {
                // Its chunks are the units that it was made of: a chunk of 2 guarantees no more than a pair, wherever
                // it lies.
                let origin = Origin::Group(split);
                result.set_at(
                    index,
                    part(group, request.coscheduled, params_out.flags, origin),
                )?;
            }
        }
        if !remainder.is_null() {
            remainder.set(if parts.remainder.is_empty() {
                CUdevResource::default()
            } else {
                part(parts.remainder, 2, 0, Origin::StructuredRemainder(split))
            })?;
        }
        Ok(())
    }

    /// The flags of a group, and its locality domain. No device here has more than one domain, which is the whole
    /// device: it can be asked for by its id, and from 13.5 on by the id of any (13.4 and 13.5 headers). Before 13.4
    /// these are no flags, and the id is one of the reserved words, which are zero.
    fn locality(&self, params: &CU_DEV_SM_RESOURCE_GROUP_PARAMS) -> Answer {
        use CUdevSmResourceGroup_flags as Flags;
        let mut known = Flags::CU_DEV_SM_RESOURCE_GROUP_BACKFILL.0;
        let by_id = Flags::CU_DEV_SM_RESOURCE_GROUP_LOCALITY_DOMAIN_ID.0;
        let supplemental = Flags::CU_DEV_SM_RESOURCE_GROUP_LOCALITY_DOMAIN_SUPPLEMENTAL_SMS.0;
        if self.speaks(13, 4) {
            known |= by_id;
        }
        if self.speaks(13, 5) {
            known |= supplemental;
        }
        require(params.flags & !known == 0)?;
        // It modifies the other flag.
        require(params.flags & supplemental == 0 || params.flags & by_id != 0)?;
        let any = self.speaks(13, 5)
            && params.localityDomainId == CU_DEV_SM_RESOURCE_GROUP_LOCALITY_DOMAIN_ID_ANY as u32;
        require(params.localityDomainId == 0 || (any && params.flags & by_id != 0))
    }

    /// Checks one group's parameters against the rules that the 13.1 header gives for a valid call.
    fn group_request(
        &self,
        params: &CU_DEV_SM_RESOURCE_GROUP_PARAMS,
    ) -> Result<GroupRequest, CUresult> {
        let backfill = CUdevSmResourceGroup_flags::CU_DEV_SM_RESOURCE_GROUP_BACKFILL.0;
        let profile = self.profile.device;
        let or_default = |value: u32, default| if value == 0 { default } else { value };
        let usual = profile.sm_coscheduled_alignment;
        // From 13.4 on, without a requirement of co-scheduling there is no constraint: any even number of SMs is a
        // group, and discovery takes all that exist (its header). As many as possible are together, as before.
        let (coscheduled, preferred) = if params.coscheduledSmCount == 0 && self.speaks(13, 4) {
            (2, or_default(params.preferredCoscheduledSmCount, usual))
        } else {
            let coscheduled = or_default(params.coscheduledSmCount, usual);
            let preferred = or_default(params.preferredCoscheduledSmCount, coscheduled);
            (coscheduled, preferred)
        };
        let backfills = params.flags & backfill != 0;
        self.locality(params)?;
        require(params.reserved == [0; 11])?;
        for unit in [coscheduled, preferred] {
            require(unit.is_multiple_of(2) && unit <= profile.max_coscheduled())?;
        }
        require(preferred.is_multiple_of(coscheduled))?;
        require(params.smCount.is_multiple_of(2))?;
        require(backfills || params.smCount.is_multiple_of(coscheduled))?;
        Ok(GroupRequest {
            sm_count: params.smCount,
            coscheduled,
            preferred,
            backfill: backfills,
        })
    }
}

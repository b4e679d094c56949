//! Device resources: what a `CUdevResource` of this driver stands for, both splits, and descriptors.

use std::sync::Arc;

use cuda_green_sys::{
    CU_DEV_SM_RESOURCE_GROUP_PARAMS, CUctx_st, CUdevResource, CUdevResource_st__bindgen_ty_1,
    CUdevResourceDesc_st, CUdevResourceType, CUdevSmResource, CUdevSmResourceGroup_flags,
    CUdevSmResourceSplitByCount_flags, CUgreenCtx_st, CUresult, CUstream_st,
};

use super::{Context, Driver, Kind, State, as_pointer, require, workqueues::Workqueue};
use crate::{
    raw::{Answer, Raw},
    sms::SmSet,
    split::{EqualSplit, Granularity, GroupRequest, structured},
};

/// What marks a resource as this simulator's, in the bytes that the header calls internal.
const MARK: &[u8; 8] = b"GREENSIM";

/// Where SMs come from, which decides what may be done with them.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Origin {
    /// Asked from the device or a context: may be split.
    Query,
    /// A group of the split of this handle: not to be split again.
    Group(u64),
    /// The remainder of a split by count.
    Remainder(u64),
    /// The remainder of a structured split, which may be split in the structured way (13.1 header).
    StructuredRemainder(u64),
}

impl Origin {
    fn split(self) -> Option<u64> {
        match self {
            Self::Query => None,
            Self::Group(split) | Self::Remainder(split) | Self::StructuredRemainder(split) => {
                Some(split)
            }
        }
    }
}

/// The SMs behind one `CUdevResource`. The struct that the client holds carries only this one's id, so
/// whatever the client writes into it is never believed.
#[derive(Clone)]
pub(super) struct Resource {
    pub(super) device: usize,
    pub(super) sms: SmSet,
    /// What the driver says is in it: more than there is after a merge of overlapping resources.
    pub(super) reported: u32,
    /// SMs that are co-scheduled.
    pub(super) alignment: u32,
    pub(super) flags: u32,
    pub(super) origin: Origin,
    /// The green context whose own resource this is or was split from; `None` where it is the device.
    pub(super) root: Option<u64>,
}

/// What a green context is created from.
#[derive(Clone)]
pub(super) struct Descriptor {
    pub(super) resource: Resource,
    /// None: the driver's default, shared by the device.
    pub(super) workqueue: Option<Workqueue>,
}

impl Driver {
    /// Every SM of a device, as one resource.
    pub(super) fn whole_device(&self, device: usize) -> Resource {
        Resource {
            device,
            sms: self.profile.device.sms(),
            reported: self.profile.device.sm_count,
            alignment: self.profile.device.sm_coscheduled_alignment,
            flags: 0,
            origin: Origin::Query,
            root: None,
        }
    }

    pub(super) fn keep(&self, state: &mut State, resource: Resource) -> u64 {
        let id = state.new_handle(self.number, Kind::Resource);
        state.resources.insert(id, Arc::new(resource));
        id
    }

    /// The struct that a client gets. Fields are filled by those versions that have them; a split fills
    /// only the count up to 13.0 (measured on an H200, driver 580).
    pub(super) fn as_c(&self, id: u64, resource: &Resource) -> CUdevResource {
        let mut sm = CUdevSmResource {
            smCount: resource.reported,
            ..CUdevSmResource::default()
        };
        let asked = resource.origin == Origin::Query;
        if self.speaks(13, 1) || (self.speaks(13, 0) && asked) {
            let profile = self.profile.device;
            sm.smCoscheduledAlignment = resource.alignment;
            sm.minSmPartitionSize = if resource.alignment < profile.sm_coscheduled_alignment {
                resource.alignment
            } else {
                profile.min_sm_partition_size
            };
        }
        if self.speaks(13, 1) {
            sm.flags = resource.flags;
        }
        let mut c = CUdevResource {
            type_: CUdevResourceType::CU_DEV_RESOURCE_TYPE_SM,
            __bindgen_anon_1: CUdevResource_st__bindgen_ty_1 { sm },
            ..CUdevResource::default()
        };
        c._internal_padding[..8].copy_from_slice(MARK);
        c._internal_padding[8..16].copy_from_slice(&id.to_ne_bytes());
        c
    }

    /// The SMs that a client's struct stands for.
    fn lookup(&self, state: &State, c: &CUdevResource) -> Result<Arc<Resource>, CUresult> {
        if c.type_ != CUdevResourceType::CU_DEV_RESOURCE_TYPE_SM {
            return Err(CUresult::CUDA_ERROR_INVALID_RESOURCE_TYPE);
        }
        let mut id = [0; 8];
        id.copy_from_slice(&c._internal_padding[8..16]);
        state
            .resources
            .get(&u64::from_ne_bytes(id))
            .filter(|_| c._internal_padding[..8] == *MARK)
            .cloned()
            .ok_or(CUresult::CUDA_ERROR_INVALID_VALUE)
    }

    /// A resource of one type of a device or a context.
    fn give(
        &self,
        state: &mut State,
        context: Result<Context, usize>,
        to: &Raw<CUdevResource>,
        kind: CUdevResourceType,
    ) -> Answer {
        to.required()?;
        let device = match context {
            Ok(context) => state.device_of(context)?,
            Err(device) => device,
        };
        match kind {
            CUdevResourceType::CU_DEV_RESOURCE_TYPE_SM => {
                let id = match context {
                    Err(device) => match state.devices[device].resource {
                        Some(id) => id,
                        None => {
                            let id = self.keep(state, self.whole_device(device));
                            state.devices[device].resource = Some(id);
                            id
                        }
                    },
                    Ok(Context::Primary(device)) => match state.devices[device].primary_resource {
                        Some(id) => id,
                        None => {
                            let id = self.keep(state, self.whole_device(device));
                            state.devices[device].primary_resource = Some(id);
                            id
                        }
                    },
                    Ok(Context::Green(handle)) => self.green(state, handle)?.resource,
                };
                let resource = state
                    .resources
                    .get(&id)
                    .ok_or(CUresult::CUDA_ERROR_INVALID_CONTEXT)?;
                to.set(self.as_c(id, resource))
            }
            other => to.set(self.give_workqueue(state, context, device, other)?),
        }
    }

    pub(crate) fn cuDeviceGetDevResource(
        &self,
        device: i32,
        resource: Raw<CUdevResource>,
        kind: CUdevResourceType,
    ) -> Answer {
        let mut state = self.enter_despite_fault()?;
        let device = self.device(device)?;
        self.give(&mut state, Err(device), &resource, kind)
    }

    pub(crate) fn cuCtxGetDevResource(
        &self,
        ctx: Raw<CUctx_st>,
        resource: Raw<CUdevResource>,
        kind: CUdevResourceType,
    ) -> Answer {
        let mut state = self.enter()?;
        let context = self.context(&state, ctx.handle())?;
        self.give(&mut state, Ok(context), &resource, kind)
    }

    pub(crate) fn cuGreenCtxGetDevResource(
        &self,
        ctx: Raw<CUgreenCtx_st>,
        resource: Raw<CUdevResource>,
        kind: CUdevResourceType,
    ) -> Answer {
        let mut state = self.enter()?;
        self.green(&state, ctx.handle())?;
        self.give(
            &mut state,
            Ok(Context::Green(ctx.handle())),
            &resource,
            kind,
        )
    }

    /// SMs only (13.1 header).
    pub(crate) fn cuStreamGetDevResource(
        &self,
        stream: Raw<CUstream_st>,
        resource: Raw<CUdevResource>,
        kind: CUdevResourceType,
    ) -> Answer {
        let mut state = self.enter()?;
        let context = self.stream_context(&state, stream.handle())?;
        if kind != CUdevResourceType::CU_DEV_RESOURCE_TYPE_SM {
            return Err(CUresult::CUDA_ERROR_INVALID_RESOURCE_TYPE);
        }
        self.give(&mut state, Ok(context), &resource, kind)
    }

    /// What a split by count of a resource keeps to with these flags.
    fn granularity(&self, whole: &Resource, flags: u32) -> Result<Granularity, CUresult> {
        let ignore =
            CUdevSmResourceSplitByCount_flags::CU_DEV_SM_RESOURCE_SPLIT_IGNORE_SM_COSCHEDULING.0;
        let clusters =
            CUdevSmResourceSplitByCount_flags::CU_DEV_SM_RESOURCE_SPLIT_MAX_POTENTIAL_CLUSTER_SIZE
                .0;
        let profile = self.profile.device;
        // Where co-scheduling is not guaranteed, sizes are multiples of what is (measured on an H200, driver
        // 580), though groups are still made of as large pieces as there are.
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
        // Bits beyond these two are not looked at (measured on an H200, driver 580).
        let flags = flags & (ignore | clusters);
        if flags == 0 {
            Ok(usual)
        } else if !self.speaks(12, 5) {
            // The 12.4 header names no flag. What a 12.4 driver does with one is not measured.
            Err(CUresult::CUDA_ERROR_INVALID_VALUE)
        } else if flags == ignore {
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
        // What is no resource of this driver, or was changed, is refused like this (measured on an H200,
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
        let plan = EqualSplit::plan(&whole.sms, min_count, granularity)?;
        if result.is_null() {
            return nb_groups.set(plan.groups);
        }
        require(wanted > 0)?;
        let parts = plan.make(&whole.sms, wanted);
        // Groups of whole units are co-scheduled, whatever they were taken from (measured on an H200, driver
        // 580, where a group of 8 of a remainder reports 8 and 8).
        let usual = self.profile.device.sm_coscheduled_alignment;
        let alignment = if granularity.piece >= usual && plan.size.is_multiple_of(usual) {
            usual
        } else {
            granularity.unit
        };
        let split = state.new_handle(self.number, Kind::Split);
        let mut part = |sms: SmSet, alignment, origin| {
            let resource = Resource {
                device: whole.device,
                reported: sms.count(),
                sms,
                alignment,
                flags: 0,
                origin,
                root: whole.root,
            };
            let id = self.keep(&mut state, resource.clone());
            self.as_c(id, &resource)
        };
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

    /// By the 13.1 header's text, and the 13.5 header's where that says more; no driver of 13.1 or
    /// later was at hand to measure it on.
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
        if matches!(whole.origin, Origin::Group(_) | Origin::Remainder(_)) {
            return Err(CUresult::CUDA_ERROR_INVALID_RESOURCE_CONFIGURATION);
        }
        let mut asked = Vec::new();
        let mut requests = Vec::new();
        for index in 0..nb_groups as usize {
            let group = params.at(index)?;
            requests.push(self.group_request(&group)?);
            asked.push(group);
        }
        let parts = structured(&whole.sms, &requests)?;
        if !result.is_null() && parts.groups.iter().any(SmSet::is_empty) {
            return Err(CUresult::CUDA_ERROR_INVALID_RESOURCE_CONFIGURATION);
        }
        let split = state.new_handle(self.number, Kind::Split);
        let mut part = |sms: SmSet, alignment, flags, origin| {
            let resource = Resource {
                device: whole.device,
                reported: sms.count(),
                sms,
                alignment,
                flags,
                origin,
                root: whole.root,
            };
            let id = self.keep(&mut state, resource.clone());
            self.as_c(id, &resource)
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
                // A unit of 2 carries no more of a guarantee than a pair, wherever it lies.
                let sms = group.cut(request.preferred);
                let origin = Origin::Group(split);
                result.set_at(
                    index,
                    part(sms, request.coscheduled, params_out.flags, origin),
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

    /// One group's parameters, checked against the rules that the 13.1 header gives for a valid call.
    fn group_request(
        &self,
        params: &CU_DEV_SM_RESOURCE_GROUP_PARAMS,
    ) -> Result<GroupRequest, CUresult> {
        let backfill = CUdevSmResourceGroup_flags::CU_DEV_SM_RESOURCE_GROUP_BACKFILL.0;
        let profile = self.profile.device;
        let or_default = |value: u32, default| if value == 0 { default } else { value };
        let coscheduled = or_default(params.coscheduledSmCount, profile.sm_coscheduled_alignment);
        let preferred = or_default(params.preferredCoscheduledSmCount, coscheduled);
        let backfills = params.flags & backfill != 0;
        // Locality domains (13.4) are not simulated: no built-in device has more than one.
        require(params.flags & !backfill == 0)?;
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

    pub(crate) fn cuDevResourceGenerateDesc(
        &self,
        desc: Raw<*mut CUdevResourceDesc_st>,
        resources: Raw<CUdevResource>,
        nb_resources: u32,
    ) -> Answer {
        let mut state = self.enter()?;
        desc.required()?;
        require(nb_resources > 0)?;
        // The 12.4 header wants exactly one. What a 12.4 driver says to more is not measured.
        require(nb_resources == 1 || self.speaks(12, 5))?;
        let mut sms: Vec<Arc<Resource>> = Vec::new();
        let mut workqueues = Vec::new();
        let mut device = None;
        for index in 0..nb_resources as usize {
            let c = resources.at(index)?;
            let of = match self.workqueue(&state, &c)? {
                Some(workqueue) => {
                    workqueues.push(workqueue);
                    workqueue.device
                }
                None => {
                    let resource = self.lookup(&state, &c)?;
                    sms.push(Arc::clone(&resource));
                    resource.device
                }
            };
            if *device.get_or_insert(of) != of {
                return Err(CUresult::CUDA_ERROR_INVALID_RESOURCE_CONFIGURATION);
            }
        }
        if workqueues.len() > 1 {
            return Err(CUresult::CUDA_ERROR_INVALID_RESOURCE_CONFIGURATION);
        }
        let resource = match sms.split_first() {
            None => self.whole_device(device.unwrap_or(0)),
            Some((first, rest)) => self.merged(first, rest)?,
        };
        let handle = state.new_handle(self.number, Kind::Descriptor);
        let workqueue = workqueues.pop();
        let descriptor = Descriptor {
            resource,
            workqueue,
        };
        state.descriptors.insert(handle, descriptor);
        desc.set(as_pointer(handle))
    }

    /// Several resources as one.
    ///
    /// The headers ask for parts of one split. Up to 13.0 only this much is checked: all must come from
    /// the device, or all from one context's own resource. Parts of two splits, or one part twice, are
    /// accepted, and the sum that is reported counts shared SMs twice, up to the device's number of SMs
    /// (measured on an H200, driver 580). From 13.1 the header's conditions are kept, equal alignment
    /// among them; no such driver was at hand.
    fn merged(&self, first: &Resource, rest: &[Arc<Resource>]) -> Result<Resource, CUresult> {
        let mut merged = first.clone();
        for other in rest {
            let one_split = first.origin.split().is_some()
                && first.origin.split() == other.origin.split()
                && other
                    .sms
                    .ids()
                    .iter()
                    .all(|id| !merged.sms.ids().contains(id));
            if self.speaks(13, 1) && !(one_split && first.alignment == other.alignment) {
                return Err(CUresult::CUDA_ERROR_INVALID_RESOURCE_CONFIGURATION);
            }
            if first.root != other.root {
                return Err(CUresult::CUDA_ERROR_INVALID_RESOURCE_CONFIGURATION);
            }
            merged.sms.merge(&other.sms);
            merged.reported = (merged.reported + other.reported).min(self.profile.device.sm_count);
            // With a remainder among them, it reports no more than the remainder does: 2 (measured on
            // an H200, driver 580).
            merged.alignment = merged.alignment.min(other.alignment);
        }
        Ok(merged)
    }
}

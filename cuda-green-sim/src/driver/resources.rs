//! The calls about device resources, and the objects that have resources.

use std::sync::Arc;

use cuda_green_sys::{
    CUctx_st, CUdevResource, CUdevResource_st__bindgen_ty_1, CUdevResourceType, CUdevSmResource,
    CUgreenCtx_st, CUresult, CUstream_st,
};

use super::{
    Context, Driver, Kind, State,
    sm_resource::{Origin, Resource},
    state::MOST_PARTS,
};
use crate::{
    c_args::{Answer, Raw},
    injection::Mps,
    sms::SmSet,
};

/// A mark in the bytes that the header calls internal, by which a resource of this simulator is recognised.
const MARK: &[u8; 8] = b"GREENSIM";

impl Driver {
    /// Returns the number of SMs that this process has of a device: a part of them under MPS with an active thread
    /// percentage, or in a static partition (13.1).
    pub(super) fn sm_count(&self) -> u32 {
        let all = self.profile.device.sm_count;
        match self.injections.mps() {
            Some(Mps::Percent(percent)) => {
                (u64::from(all) * u64::from(percent) / 200 * 2).clamp(2, all.into()) as u32
            }
            Some(Mps::Partition(sms)) if self.speaks(13, 1) => sms.min(all),
            _ => all,
        }
    }

    /// Returns these SMs. It is not known which ones a percentage or a static partition leaves; here they are the first.
    pub(super) fn sms(&self) -> SmSet {
        self.profile.device.sms().first(self.sm_count())
    }

    /// Returns whether a percentage of MPS leaves the process less than the whole device.
    ///
    /// Then a split into whole units is refused, and a query for one returns no groups. A split without co-scheduling
    /// is granted, but its remainder is counted from the whole device: of 98 SMs, a group of 2 leaves 130 (measured
    /// with 75 and 50 % on an H200, driver 580). A context's own resource is not measured there and behaves here as
    /// without MPS.
    pub(super) fn is_limited_by_mps(&self) -> bool {
        matches!(self.injections.mps(), Some(Mps::Percent(percent)) if percent < 100)
    }

    /// Returns every SM of a device as one resource.
    pub(super) fn whole_device(&self, device: usize) -> Resource {
        Resource {
            device,
            sms: self.sms(),
            reported: self.sm_count(),
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

    /// Returns the struct that a client gets. A version fills the fields that it has; up to 13.0 a split fills only
    /// the count (measured on an H200, driver 580).
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

    /// Keeps a part of a split, and returns it as the client gets it.
    pub(super) fn part(
        &self,
        state: &mut State,
        whole: &Resource,
        sms: SmSet,
        alignment: u32,
        flags: u32,
        origin: Origin,
    ) -> CUdevResource {
        let resource = Resource {
            device: whole.device,
            reported: sms.count(),
            sms,
            alignment,
            flags,
            origin,
            root: whole.root,
        };
        let c = resource.clone();
        let id = self.keep(state, resource);
        state.parts.push_back(id);
        if state.parts.len() > MOST_PARTS
            && let Some(oldest) = state.parts.pop_front()
        {
            state.resources.remove(&oldest);
        }
        self.as_c(id, &c)
    }

    /// Returns the SMs that a client's struct stands for.
    pub(super) fn lookup(
        &self,
        state: &State,
        c: &CUdevResource,
    ) -> Result<Arc<Resource>, CUresult> {
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

    /// Returns a resource of one type of a device or a context.
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

    /// Returns SMs only (13.1 header).
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
}

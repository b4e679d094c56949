//! Descriptors: the resources from which a context is created.

use std::sync::Arc;

use cuda_green_sys::{CUdevResource, CUdevResourceDesc_st, CUresult};

use super::{Driver, Kind, as_pointer, require, sm_resource::Resource, workqueues::Workqueue};
use crate::c_args::{Answer, Raw};

/// The resources of a green context.
#[derive(Clone)]
pub(super) struct Descriptor {
    pub(super) resource: Resource,
    /// The workqueue; `None` means the driver's default, which the device shares.
    pub(super) workqueue: Option<Workqueue>,
}

impl Driver {
    pub(crate) fn cuDevResourceGenerateDesc(
        &self,
        desc: Raw<*mut CUdevResourceDesc_st>,
        resources: Raw<CUdevResource>,
        nb_resources: u32,
    ) -> Answer {
        let mut state = self.enter()?;
        desc.required()?;
        require(nb_resources > 0)?;
        // The 12.4 header requires exactly one. How a 12.4 driver answers to more is not measured.
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

    /// Combines several resources into one.
    ///
    /// The headers require parts of one split. Up to 13.0 only this much is checked: all must come from the device,
    /// or all from one context's own resource. Parts of two splits, or one part twice, are accepted, and the reported
    /// sum counts shared SMs twice, up to the device's number of SMs (measured on an H200, driver 580). From 13.1 on,
    /// the header's conditions are checked, including equal alignment; no such driver was available.
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
            // If a remainder is among them, it reports only what the remainder does: 2 (measured on an H200, driver
            // 580).
            merged.alignment = merged.alignment.min(other.alignment);
        }
        Ok(merged)
    }
}

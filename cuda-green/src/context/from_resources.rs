//! Contexts made of resources that the caller chose.

use std::slice;

use super::memory::ContextMemory;
use crate::{
    error::{Error, Result},
    partition::{ContextSms, GreenContext, GreenContextConfig, GreenHandles, Workqueues},
    resource::{self, SmResource, WorkqueueResource},
};

impl GreenContext {
    /// Creates a context over resources that the caller chose: SMs and, from CUDA 13.1 on, a workqueue.
    ///
    /// The resources must have at least the `sm_count` of the configuration, of which 0 is the default.
    /// Without a workqueue it has the driver's default, shared with all contexts. Nothing keeps account here
    /// of SMs that other contexts have: that is the [`SmPartitionManager`](crate::SmPartitionManager)'s.
    ///
    /// Over SMs of a manager's context ([`sm_resource`](Self::sm_resource)), it shares them with that, by the
    /// caller's own will, and holds them: when the name is destroyed, the manager gives them to no other context before
    /// this one has ended too. A rebalance, which moves the name to other SMs, leaves it where it is, and no hand-off
    /// waits for its work.
    ///
    /// # Errors
    /// Those of [`SmResource::merge`]; [`Error::IncompatibleResources`] for a workqueue of another device;
    /// [`Error::InsufficientSms`] for fewer SMs than configured; [`Error::InvalidArgument`];
    /// [`Error::Driver`].
    #[doc(alias = "cuGreenCtxCreate")]
    #[doc(alias = "cuDevResourceGenerateDesc")]
    pub fn from_resources(
        sms: &[SmResource],
        workqueue: Option<&WorkqueueResource>,
        config: GreenContextConfig,
    ) -> Result<Self> {
        let sms = SmResource::merge(sms)?;
        let device = sms.device();
        if workqueue.is_some_and(|workqueue| workqueue.device() != device) {
            return Err(Error::IncompatibleResources {
                reason: "the workqueue is of another device than the SMs",
            });
        }
        let sm_count = sms.sm_count();
        let requested_sms = match config.sm_count {
            0 => sm_count, // no minimum: all of them
            least => least,
        };
        if requested_sms > sm_count {
            return Err(Error::InsufficientSms {
                requests: requested_sms.to_string(),
                asked: requested_sms,
                available: sm_count,
                stranded: 0,
                total: device.properties().multiprocessor_count,
            });
        }
        let policy = config.policy();
        policy.check()?;
        device.raw_primary_context()?; // as in `create`
        let descriptor = resource::describe(
            device.driver(),
            slice::from_ref(&sms),
            workqueue.map(WorkqueueResource::raw),
        )?;
        let partition = GreenHandles::create(device, descriptor, sms.leases().to_vec())?;
        let coscheduled = sms.best_coscheduled();
        let sms_of_context = ContextSms {
            requested_sms,
            sm_count,
            coscheduled,
            max_cluster: device.facts().max_cluster(coscheduled),
        };
        Ok(Self::from_parts(
            device,
            policy,
            sms_of_context,
            Some(partition),
            Workqueues::given(workqueue),
            ContextMemory::slot(),
        ))
    }
}

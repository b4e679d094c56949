//! The layouts of a manager's contexts: `Embedding` lends `Dream` its SMs.

use std::sync::{
    Arc,
    atomic::{AtomicU32, Ordering},
};

use cuda_green::{
    ContextId, ContextPolicy, ContextPriority, HandOff, PartitionMode, SmPartitionManager,
    planner::PartitionRequest,
};

use super::{ElasticOptions, LaneLayouts};
use crate::{encoder::BertEncoder, error::Result};

/// 8 GiB, as in a quad partition.
const MEMORY_LIMIT: u64 = 8 << 30;

/// A manager's contexts that are ready for both layouts, or the reason why they never are.
pub(in crate::service) enum Partitions {
    Ready(Arc<dyn LaneLayouts>),
    Off(String),
}

struct Lending {
    manager: Arc<SmPartitionManager>,
    keep_sms: u32,
}

impl LaneLayouts for Lending {
    fn widen(&self) -> Result<()> {
        let (from, to) = (&ContextId::Embedding, &ContextId::Dream);
        let lent = self.manager.lend(from, to, self.keep_sms, HandOff::Strict);
        Ok(lent?)
    }

    fn restore(&self) -> Result<()> {
        Ok(self.manager.rebalance_for(None, HandOff::Strict)?)
    }
}

/// The layouts of several GPUs.
struct Together(Vec<OneOfSeveral>);

/// The layouts of one GPU, and how often in a row they could not change.
struct OneOfSeveral {
    layouts: Arc<dyn LaneLayouts>,
    failed: AtomicU32,
}

/// The failures in a row after which a GPU is left out: it has failed for good.
const GIVEN_UP: u32 = 3;

impl LaneLayouts for Together {
    fn widen(&self) -> Result<()> {
        self.each(|one| one.widen())
    }

    fn restore(&self) -> Result<()> {
        self.each(|one| one.restore())
    }
}

impl Together {
    /// Changes all, also if some cannot, and returns the first error: then all are asked again, as either change is none
    /// where it was made before. A GPU that has failed for good must not keep the others from their layout, so it is
    /// left out, unless it is the last.
    fn each(&self, turn: impl Fn(&dyn LaneLayouts) -> Result<()>) -> Result<()> {
        let (mut done, mut tried_again, mut given_up) = (false, None, None);
        for one in &self.0 {
            let before = one.failed.load(Ordering::Relaxed);
            match turn(&*one.layouts) {
                Ok(()) => {
                    one.failed.store(0, Ordering::Relaxed);
                    done = true;
                }
                Err(error) => {
                    log::warn!("the layout of one GPU's lanes stays: {error}");
                    let failed = before.saturating_add(1);
                    one.failed.store(failed, Ordering::Relaxed);
                    let first = match failed {
                        GIVEN_UP.. => &mut given_up,
                        _ => &mut tried_again,
                    };
                    first.get_or_insert(error);
                }
            }
        }
        match (tried_again, given_up) {
            (Some(error), _) => Err(error),
            (None, Some(error)) if !done => Err(error),
            _ => Ok(()),
        }
    }
}

/// Returns the layouts of several GPUs as one.
pub(in crate::service) fn together(mut layouts: Vec<Arc<dyn LaneLayouts>>) -> Arc<dyn LaneLayouts> {
    match layouts.pop() {
        Some(only) if layouts.is_empty() => only,
        last => {
            layouts.extend(last);
            let one = |layouts| OneOfSeveral {
                layouts,
                failed: AtomicU32::new(0),
            };
            Arc::new(Together(layouts.into_iter().map(one).collect()))
        }
    }
}

impl ElasticOptions {
    /// Divides the device between the lanes.
    pub(in crate::service) fn partition(&self, manager: &SmPartitionManager) -> Result<()> {
        let request = match self.interactive_sms {
            Some(sms) => PartitionRequest::target(sms.max(1)),
            None => PartitionRequest::percent(25),
        };
        let policy = |priority, preemptible| ContextPolicy {
            priority,
            memory_limit_bytes: MEMORY_LIMIT,
            preemptible,
        };
        let interactive = policy(ContextPriority::Critical, false);
        let bulk = policy(ContextPriority::Low, true);
        manager.create_partitions(&[
            (ContextId::Embedding, request, interactive),
            (ContextId::Dream, PartitionRequest::rest(), bulk),
        ])?;
        Ok(())
    }
}

/// Makes the contexts and graphs of the wide layout, and leaves the fixed one in force.
pub(in crate::service) fn prepare(
    options: ElasticOptions,
    manager: &Arc<SmPartitionManager>,
    encoders: [&BertEncoder; 2],
) -> Result<Partitions> {
    if let PartitionMode::SingleContext { reason } = manager.allocation_status().mode {
        return Ok(Partitions::Off(reason));
    }
    let lending = Lending {
        manager: Arc::clone(manager),
        keep_sms: options.keep_sms,
    };
    let before = manager.get_context(ContextId::Dream)?.sm_count();
    match lending.widen() {
        Ok(()) => {}
        // Units of this split, or of any by this driver, do not merge.
        Err(crate::Error::Gpu(
            error @ (cuda_green::Error::Unsupported { .. }
            | cuda_green::Error::IncompatibleResources { .. }),
        )) => return Ok(Partitions::Off(error.to_string())),
        Err(error) => return Err(error),
    }
    let after = manager.get_context(ContextId::Dream);
    let prepared = encoders.iter().try_for_each(|encoder| encoder.prepare());
    lending.restore()?;
    prepared?;
    if after?.sm_count() <= before {
        let reason = format!(
            "the interactive lane has no SMs to lend: it keeps {}, in whole pieces of the split",
            options.keep_sms
        );
        return Ok(Partitions::Off(reason));
    }
    Ok(Partitions::Ready(Arc::new(lending)))
}

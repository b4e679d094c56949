//! The layouts of a manager's contexts: `Embedding` lends `Dream` its SMs.

use std::sync::Arc;

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
struct Together(Vec<Arc<dyn LaneLayouts>>);

impl LaneLayouts for Together {
    fn widen(&self) -> Result<()> {
        self.each(|one| one.widen())
    }

    fn restore(&self) -> Result<()> {
        self.each(|one| one.restore())
    }
}

impl Together {
    /// Changes all, also if some cannot: a GPU that has failed must not keep the others in their layout. Either layout
    /// is a right one for each GPU, and either change is none where it was made before.
    fn each(&self, turn: impl Fn(&dyn LaneLayouts) -> Result<()>) -> Result<()> {
        let mut results: Vec<Result<()>> = self.0.iter().map(|one| turn(&**one)).collect();
        if let Some(done) = results.iter().position(Result::is_ok) {
            for error in results.iter().filter_map(|result| result.as_ref().err()) {
                log::warn!("the layout of one GPU's lanes stays: {error}");
            }
            return results.swap_remove(done);
        }
        results.pop().unwrap_or(Ok(()))
    }
}

/// Returns the layouts of several GPUs as one.
pub(in crate::service) fn together(mut layouts: Vec<Arc<dyn LaneLayouts>>) -> Arc<dyn LaneLayouts> {
    match layouts.pop() {
        Some(only) if layouts.is_empty() => only,
        last => {
            layouts.extend(last);
            Arc::new(Together(layouts))
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

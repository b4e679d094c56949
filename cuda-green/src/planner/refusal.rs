//! The errors where no plan meets a list of requests: the demand in the way, and what would help.

use super::{
    Demands, DeviceFacts, PartitionRequest, Plan, PlannedPartition, SplitStrategy,
    device_facts::FINE_UNIT, in_words,
};
use crate::error::{Error, Result};

/// The search for the plans that keep some demands.
pub(super) type PlanSearch<'a> = dyn Fn(&Demands) -> Result<Vec<Plan>> + 'a;

/// Returns the error for requests that no plan meets.
pub(super) fn reason(
    facts: &DeviceFacts,
    demands: &Demands,
    search: &PlanSearch<'_>,
) -> Result<Error> {
    let plans_with = |change: fn(&mut PartitionRequest)| search(&demands.changed(change));
    if demands.list.iter().any(|request| request.cluster > 1)
        && let Some(error) = cluster_in_the_way(facts, demands, search)?
    {
        return Ok(error);
    }
    let too_coarse = |help| Error::UnitsTooCoarse {
        requests: in_words(&demands.list),
        asked: demands.requested.iter().sum(),
        unit: if facts.capabilities.structured_split {
            FINE_UNIT
        } else {
            facts.unit().0
        },
        total: facts.sm_count,
        help,
    };
    let asks_exact = demands.list.iter().any(|request| request.exact);
    let (other, help) = if asks_exact {
        (
            plans_with(|request| request.exact = false)?,
            "inexact sizes would fit; CUDA 12.5 splits into units of 2 SMs, and 13.1 also keeps thread-block clusters",
        )
    } else {
        (
            plans_with(|request| request.exact = true)?,
            "ask for exact sizes (`PartitionRequest::exact`), at the price of thread-block clusters above 2; CUDA 13.1 has both",
        )
    };
    Ok(too_coarse(if other.is_empty() {
        "ask for a few SMs less"
    } else {
        help
    }))
}

/// Returns the cluster that the best plan lacks, of plans that keep all but the clusters.
pub(super) fn cluster_in_the_way(
    facts: &DeviceFacts,
    demands: &Demands,
    search: &PlanSearch<'_>,
) -> Result<Option<Error>> {
    let without = demands.changed(|request| request.cluster = 1);
    Ok(best_without_clusters(facts, demands, &search(&without)?))
}

fn best_without_clusters(facts: &DeviceFacts, demands: &Demands, plans: &[Plan]) -> Option<Error> {
    let lacking = |plan: &Plan| {
        let partitions = plan.partitions.iter().zip(&demands.list);
        partitions
            .filter(|(partition, request)| partition.max_cluster < request.cluster)
            .count()
    };
    let lacking_plans = plans.iter().filter(|plan| lacking(plan) > 0);
    let best = lacking_plans.min_by_key(|plan| lacking(plan))?;
    let mut partitions = best.partitions.iter().zip(&demands.list).enumerate();
    let (index, (partition, request)) =
        partitions.find(|(_, (partition, request))| partition.max_cluster < request.cluster)?;
    Some(Error::ClusterUnavailable {
        text: request.to_string(),
        request: index,
        asked: request.cluster,
        best: partition.max_cluster,
        why: why(facts, best, partition),
    })
}

fn why(facts: &DeviceFacts, plan: &Plan, partition: &PlannedPartition) -> String {
    let (major, minor) = facts.compute_capability;
    if !facts.has_clusters() {
        return format!(
            "compute capability {major}.{minor} has no thread-block clusters, which came with 9.0"
        );
    }
    if plan.strategy == SplitStrategy::MergedFineUnits {
        return format!(
            "on CUDA {} exact sizes need units of 2 SMs that ignore co-scheduling; 13.1 has both",
            facts.capabilities.driver
        );
    }
    if partition.sm_count < facts.coscheduled() {
        return format!(
            "a partition of {} SMs runs no larger one",
            partition.sm_count
        );
    }
    format!(
        "the chip's whole units of {} SMs go to the other partitions, and the {} SMs left are co-scheduled in pairs only; smaller sizes leave it a whole unit",
        facts.coscheduled(),
        partition.sm_count
    )
}

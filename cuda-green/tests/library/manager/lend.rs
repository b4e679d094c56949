//! Contexts that lend another their SMs, on random simulated drivers: no SM is in two contexts, nobody else's change, the
//! lender keeps what it must, and all is as before in the end.

use std::collections::BTreeSet;

use cuda_green::{
    ContextPolicy, Driver, Error, HandOff, PartitionMode, SmPartitionManager,
    planner::PartitionRequest, sim::Sim,
};
use proptest::prelude::*;

/// Returns the SMs that each context runs on.
fn seen(manager: &SmPartitionManager<usize>, contexts: usize) -> Vec<BTreeSet<u32>> {
    let of = |id| {
        let context = manager.get_context(id).unwrap();
        let ids: BTreeSet<u32> = context.observed_sm_ids().unwrap().into_iter().collect();
        assert_eq!(ids.len() as u32, context.sm_count());
        ids
    };
    (0..contexts).map(of).collect()
}

proptest! {
    #[test]
    fn what_one_lends_another_gets_and_nobody_else(
        driver in prop::sample::select(vec![
            "t4@11.4", "a100@12.4", "h200@12.5", "a100@12.8", "h200@13.0", "h200@13.1", "rtx5090@13.1", "h200@newest",
        ]),
        sizes in prop::collection::vec((1u32..60, any::<bool>()), 1..5),
        loans in prop::collection::vec((0usize..6, 0usize..6, 0u32..60, any::<bool>()), 1..8),
    ) {
        let device = Driver::simulated(&Sim::new(driver).unwrap()).unwrap().device(0).unwrap();
        let manager = SmPartitionManager::with_ids(&device).unwrap();
        let requests = sizes.iter().enumerate().map(|(id, (sms, preemptible))| {
            let policy = ContextPolicy { preemptible: *preemptible, ..ContextPolicy::default() };
            (id, PartitionRequest::target(*sms), policy)
        });
        let requests: Vec<_> = requests.collect();
        // Some are more than there is.
        prop_assume!(manager.create_partitions(&requests).is_ok());
        let is_partitioned = manager.allocation_status().mode == PartitionMode::Partitioned;
        let before = seen(&manager, sizes.len());
        for (from, to, keep, provision) in loans {
            let lent = match provision {
                true => manager.provision_lend(&from, &to, keep),
                false => Ok(()),
            };
            let lent = lent.and_then(|()| manager.lend(&from, &to, keep, HandOff::Strict));
            let after = seen(&manager, sizes.len());
            match lent {
                Ok(()) => {}
                Err(Error::NoSuchContext { .. }) => {
                    prop_assert!(from.max(to) >= sizes.len());
                    continue;
                }
                Err(Error::Unsupported { .. } | Error::IncompatibleResources { .. }) => continue,
                Err(other) => return Err(TestCaseError::fail(other.to_string())),
            }
            if !is_partitioned {
                prop_assert_eq!(&after, &before);
                continue;
            }
            for (id, (before, after)) in before.iter().zip(&after).enumerate() {
                match id {
                    id if id == from && id != to => {
                        prop_assert!(after.is_subset(before) && !after.is_empty());
                        prop_assert!(after.len() >= before.len().min(keep as usize));
                    }
                    id if id == to => prop_assert!(after.is_superset(before)),
                    _ => prop_assert_eq!(after, before),
                }
            }
            let all: usize = after.iter().map(BTreeSet::len).sum();
            prop_assert_eq!(all, before.iter().map(BTreeSet::len).sum::<usize>());
            let union: BTreeSet<_> = after.iter().flatten().collect();
            prop_assert_eq!(union.len(), all);
        }
        manager.rebalance_for(None, HandOff::Strict).unwrap();
        prop_assert_eq!(seen(&manager, sizes.len()), before);
    }
}

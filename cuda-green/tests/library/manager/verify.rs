//! What verification says where partitions are not what they say.

use std::collections::BTreeSet;

use cuda_green::{ContextId, Driver, Result, SmPartitionManager, kernels, sim::Sim};

/// All blocks note the same SM, as on a device that runs every context there.
#[test]
fn contexts_on_the_same_sm_are_found() -> Result<()> {
    let simulator = Sim::new("h200@13.0")?;
    simulator.register_kernel(kernels::SM_IDS, |launch| {
        let counters = launch.arg_u64(0).unwrap();
        let _ = launch.atomic_add_u32(counters + 4 * 7, 1);
    });
    let manager = SmPartitionManager::on(&Driver::simulated(&simulator)?.device(0)?)?;
    manager.init_quad_partition()?;
    let found = manager.verify()?;
    assert!(!found.is_isolated());
    let counts: Vec<_> = found
        .miscounted
        .iter()
        .map(|miscount| (miscount.id, miscount.sm_count, miscount.observed))
        .collect();
    let sizes = [32, 32, 32, 36];
    let expected = ContextId::ALL.into_iter().zip(sizes);
    assert_eq!(
        counts,
        expected.map(|(id, sms)| (id, sms, 1)).collect::<Vec<_>>()
    );
    let pairs: BTreeSet<_> = found.overlaps.iter().map(|one| one.between).collect();
    assert_eq!(pairs.len(), 6);
    assert!(pairs.iter().all(|[one, other]| one < other), "in order");
    let on_seven = BTreeSet::from([7]);
    assert!(found.overlaps.iter().all(|one| one.sms == on_seven));
    let text = found.to_string();
    assert!(
        text.contains("Embedding and Dream share 1 SMs")
            && text.contains("Reserved has 36 SMs, but ran on 1"),
        "{text}"
    );
    Ok(())
}

//! The end of a name and of its contexts: while another has its SMs by a rebalance, while foreign code has one
//! current, and while what goes with it calls back.

#![allow(clippy::unwrap_used, clippy::panic)] // helpers of tests

use cuda_green::{ContextId, Driver, Error, GreenContextConfig, RebalanceHint, SmPartitionManager};

/// What it had lent can be given to others once it is back, whatever rebalance brings it back.
#[test]
fn what_a_destroyed_name_had_lent_can_be_given_once_it_is_back() {
    for profile in ["sim:h200@13.0", "sim:h200@13.1", "sim:a100@12.8"] {
        for hint in [RebalanceHint::Balanced, RebalanceHint::EmbeddingHeavy] {
            let driver = Driver::open(&profile.parse().unwrap()).unwrap();
            let manager = SmPartitionManager::on(&driver.device(0).unwrap()).unwrap();
            manager.init_quad_partition().unwrap();
            let dream = manager.get_context(ContextId::Dream).unwrap().sm_count();
            manager.rebalance(RebalanceHint::TrainingActive).unwrap();
            manager.destroy_context(ContextId::Dream).unwrap();
            manager.rebalance(hint).unwrap();
            assert_eq!(manager.allocation_status().available_sms, dream);
            let config = GreenContextConfig {
                sm_count: dream,
                ..GreenContextConfig::default()
            };
            let again = manager.create_context(ContextId::Dream, config).unwrap();
            assert_eq!(again.sm_count(), dream, "{profile} {hint:?}");
        }
    }
}

/// What foreign code made current to this thread is left as it is, whether in force or retired.
#[test]
fn what_is_current_is_neither_destroyed_nor_released() {
    let driver = Driver::open(&"sim:h200@13.0".parse().unwrap()).unwrap();
    let manager = SmPartitionManager::on(&driver.device(0).unwrap()).unwrap();
    manager.init_quad_partition().unwrap();
    let dream = manager.get_context(ContextId::Dream).unwrap();
    let raw = dream.raw_context().unwrap();
    drop(dream);
    let current = || {
        let mut current = std::ptr::null_mut();
        // SAFETY: the output is valid.
        let result = unsafe { driver.api().cuCtxGetCurrent(&mut current) };
        result.unwrap().ok().unwrap();
        current
    };
    let set = |raw| {
        // SAFETY: the context is live; null is allowed.
        let result = unsafe { driver.api().cuCtxSetCurrent(raw) };
        result.unwrap().ok().unwrap();
    };
    set(raw);
    let refused = manager.destroy_context(ContextId::Dream).unwrap_err();
    assert!(matches!(refused, Error::ContextIsCurrent), "{refused}");
    assert_eq!(current(), raw);
    assert_eq!(manager.allocation_status().contexts.len(), 4);

    manager.rebalance(RebalanceHint::TrainingActive).unwrap();
    let retired = manager.release_retired().unwrap();
    assert_eq!((retired, current()), (2, raw));
    set(std::ptr::null_mut());
    assert_eq!(manager.release_retired().unwrap(), 1);
    manager.destroy_context(ContextId::Dream).unwrap();
}

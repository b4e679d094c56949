//! SMs on loan: a name is destroyed while another has its SMs by a rebalance.

#![allow(clippy::unwrap_used, clippy::panic)] // helpers of tests

use cuda_green::{ContextId, Driver, GreenContextConfig, RebalanceHint, SmPartitionManager};

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

//! What a manager tells the `metrics` facade.

use cuda_green::{
    ContextId, ContextPolicy, Driver, GreenContextConfig, HandOff, PartitionExporter,
    RebalanceHint, SmPartitionManager, planner::PartitionRequest, sim::Sim,
};

use crate::{
    alone,
    recorder::{Recorder, documented},
};

const DEVICE: [(&str, &str); 1] = [("device", "0")];

/// Twice, so that what is told as an increase must be no more than that.
#[test]
fn the_metrics_facade_hears_of_partitions_and_rebalances() {
    let _alone = alone();
    let simulator = Sim::new("h200@13.0").unwrap();
    let device = Driver::simulated(&simulator).unwrap().device(0).unwrap();
    let manager = SmPartitionManager::on(&device).unwrap();
    let (recorder, mut exporter) = (Recorder::default(), PartitionExporter::default());
    let mut export = || metrics::with_local_recorder(&recorder, || exporter.export(&manager));
    let gauge = |name| recorder.gauge(name, &DEVICE);
    let of = |partition| recorder.gauge("partition_sms", &[DEVICE[0], ("partition", partition)]);
    let rebalances =
        |hand_off| recorder.counter("rebalances_total", &[DEVICE[0], ("hand_off", hand_off)]);
    let refusals = |operation, kind| {
        let labels = [DEVICE[0], ("operation", operation), ("kind", kind)];
        recorder.counter("refusals_total", &labels)
    };

    export();
    assert_eq!(
        (gauge("device_sms"), gauge("available_sms")),
        (132.0, 132.0)
    );
    assert_eq!(
        (gauge("allocated_sms"), gauge("green_contexts")),
        (0.0, 0.0)
    );
    assert_eq!((rebalances("strict"), rebalances("relaxed")), (0, 0));
    assert_eq!(gauge("single_context_mode"), 0.0);

    manager.init_quad_partition().unwrap();
    export();
    assert_eq!(
        [of("Embedding"), of("Dream"), of("Training"), of("Reserved")],
        [32.0, 32.0, 32.0, 36.0]
    );
    assert_eq!(
        (gauge("allocated_sms"), gauge("available_sms")),
        (132.0, 0.0)
    );
    assert_eq!(
        (gauge("green_contexts"), gauge("scaffold_contexts")),
        (4.0, 0.0)
    );
    assert_eq!(gauge("green_context_bytes"), f64::from(4 * (5 << 20)));

    manager.rebalance(RebalanceHint::EmbeddingHeavy).unwrap();
    manager.rebalance(RebalanceHint::Balanced).unwrap();
    manager
        .rebalance_with(RebalanceHint::EmbeddingHeavy, HandOff::Relaxed)
        .unwrap();
    for _ in 0..2 {
        export();
        assert_eq!((rebalances("strict"), rebalances("relaxed")), (2, 1));
        let with_new = recorder.counter("rebalances_with_new_contexts_total", &DEVICE);
        assert_eq!(with_new, 1, "the way back finds what was made");
        let took = recorder.samples("rebalance_duration_seconds", &DEVICE);
        assert_eq!(took.len(), 3, "no more than there were");
        assert!(took.iter().all(|seconds| (1e-9..10.0).contains(seconds)));
    }
    assert!(of("Embedding") > 32.0);
    assert_eq!(gauge("allocated_sms"), 132.0);

    manager.rebalance(RebalanceHint::Balanced).unwrap();
    manager.release_retired().unwrap();
    let dream = manager.get_context(ContextId::Dream).unwrap();
    for _ in 0..2 {
        manager.destroy_context(ContextId::Dream).unwrap_err();
    }
    let resource = dream.sm_resource().unwrap();
    drop(dream);
    manager.destroy_context(ContextId::Dream).unwrap();
    manager.init_quad_partition().unwrap_err();
    manager
        .create_context(
            ContextId::Dream,
            GreenContextConfig {
                sm_count: 100,
                ..GreenContextConfig::default()
            },
        )
        .unwrap_err();
    for _ in 0..2 {
        export();
        assert_eq!(refusals("destroy", "context_in_use"), 2);
        assert_eq!(refusals("create", "already_partitioned"), 1);
        assert_eq!(refusals("create", "insufficient_sms"), 1);
    }
    assert_eq!(of("Dream"), 0.0, "it is gone");
    assert_eq!((gauge("held_sms"), gauge("available_sms")), (32.0, 0.0));
    drop(resource);
    export();
    assert_eq!((gauge("held_sms"), gauge("available_sms")), (0.0, 32.0));

    assert_eq!(
        recorder.table(),
        documented("cuda_green_")
            .difference(&documented("cuda_green_m").into_iter().collect())
            .cloned()
            .collect(),
        "the guide's table has what is told, and nothing else"
    );
}

#[test]
fn labels_of_strings_have_no_quotation_marks_and_devices_are_told_apart() {
    let _alone = alone();
    let simulator = Sim::new("2xh200@12.4").unwrap();
    let driver = Driver::simulated(&simulator).unwrap();
    let (recorder, mut exporter) = (Recorder::default(), PartitionExporter::default());
    let managers = [0, 1].map(|ordinal| {
        let device = driver.device(ordinal).unwrap();
        SmPartitionManager::<String>::with_ids(&device).unwrap()
    });
    let policy = ContextPolicy::default();
    for (manager, sms) in managers.iter().zip([64, 32]) {
        let request = PartitionRequest::at_least(sms);
        manager
            .create_partition("serving".to_owned(), request, policy)
            .unwrap();
    }
    metrics::with_local_recorder(&recorder, || {
        managers.iter().for_each(|manager| exporter.export(manager));
    });
    for (device, sms) in [("0", 64.0), ("1", 32.0)] {
        let labels = [("device", device), ("partition", "serving")];
        assert_eq!(recorder.gauge("partition_sms", &labels), sms);
    }
}

#[test]
fn single_context_mode_is_told() {
    let _alone = alone();
    let simulator = Sim::new("h200@12.3").unwrap();
    let device = Driver::simulated(&simulator).unwrap().device(0).unwrap();
    let manager = SmPartitionManager::on(&device).unwrap();
    manager.init_quad_partition().unwrap();
    manager.rebalance(RebalanceHint::EmbeddingHeavy).unwrap();
    let (recorder, mut exporter) = (Recorder::default(), PartitionExporter::default());
    metrics::with_local_recorder(&recorder, || exporter.export(&manager));
    assert_eq!(recorder.gauge("single_context_mode", &DEVICE), 1.0);
    assert_eq!(recorder.gauge("green_contexts", &DEVICE), 0.0);
    let labels = [DEVICE[0], ("hand_off", "strict")];
    assert_eq!(
        recorder.counter("rebalances_total", &labels),
        0,
        "nothing changed hands"
    );
}

/// A manager that takes another's place counts from the start, and nothing of it is lost.
#[test]
fn counters_go_on_with_the_next_manager() {
    let _alone = alone();
    let simulator = Sim::new("h200@13.0").unwrap();
    let device = Driver::simulated(&simulator).unwrap().device(0).unwrap();
    let (recorder, mut exporter) = (Recorder::default(), PartitionExporter::default());
    for rebalances in [3, 2] {
        let manager = SmPartitionManager::on(&device).unwrap();
        manager.init_quad_partition().unwrap();
        for _ in 0..rebalances {
            manager.rebalance(RebalanceHint::Balanced).unwrap();
        }
        metrics::with_local_recorder(&recorder, || exporter.export(&manager));
    }
    let labels = [DEVICE[0], ("hand_off", "strict")];
    assert_eq!(recorder.counter("rebalances_total", &labels), 5);
}

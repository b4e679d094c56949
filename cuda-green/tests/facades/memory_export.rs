//! What pools and slots tell the world, behind the features `metrics`, `serde` and `tracing`.

use cuda_green::{
    ContextId, Driver, MemoryBudget, MemoryExporter, MemoryReport, SmPartitionManager, sim::Sim,
};

use crate::{
    alone,
    models::{MIB, needs, slots},
    recorder::{Recorder, documented},
};

const POOL: [(&str, &str); 1] = [("name", "embedding")];
const SECOND: [(&str, &str); 2] = [("name", "embedding"), ("slot", "second")];

#[test]
fn a_report_is_a_table_and_json() {
    let _alone = alone();
    let simulator = Sim::new("h200@13.0").unwrap();
    let report = MemoryReport::default().with_slots("embedding", &slots(&simulator));
    let json = serde_json::to_value(&report).unwrap();
    let [pool, slot] = [0, 1].map(|row| &json["rows"][row]);
    assert_eq!(
        (pool["name"].as_str(), slot["slot"].as_str()),
        (Some("embedding"), Some("second"))
    );
    assert_eq!(pool["memory"]["reserved"], 60 * MIB);
    assert_eq!(pool["pressure"], "Medium");
    assert_eq!(
        (&slot["memory"]["used"], &slot["memory"]["limit"]),
        (&1_000_000.into(), &(60 * MIB).into())
    );
    let of_slots = &pool["slots"];
    assert_eq!(
        (
            &of_slots["hits"],
            &of_slots["evictions"],
            &of_slots["failures"]
        ),
        (&1.into(), &1.into(), &1.into())
    );
    let loads: u64 = of_slots["loads"]
        .as_array()
        .unwrap()
        .iter()
        .map(|pair| pair[1].as_u64().unwrap())
        .sum();
    assert_eq!(loads, 2);
    let table = report.to_string();
    let line = |start: &str| {
        let found = table.lines().find(|line| line.starts_with(start));
        found
            .unwrap_or_else(|| panic!("{table}"))
            .split_whitespace()
            .collect::<Vec<_>>()
    };
    assert_eq!(
        line("embedding")[..4],
        ["embedding", "100.0", "60.0", "60.0"]
    );
    assert_eq!(line("  second")[..4], ["second", "60.0", "1.0", "0.0"]);
    assert!(
        table.contains("1 of 13 slots") && table.contains("1 hits, 1 evictions, 1 failures"),
        "{table}"
    );
}

#[test]
fn a_manager_reports_its_contexts_under_their_budget() {
    let _alone = alone();
    let simulator = Sim::new("h200@13.0").unwrap();
    let device = Driver::simulated(&simulator).unwrap().device(0).unwrap();
    let budget = MemoryBudget::new(20 << 30).unwrap();
    let manager = SmPartitionManager::on(&device)
        .unwrap()
        .with_memory_budget(&budget)
        .unwrap();
    manager.init_quad_partition().unwrap();
    let dream = manager.get_context(ContextId::Dream).unwrap();
    let _buffer = dream.memory().unwrap().allocate(1 << 30).unwrap();
    let report = manager.memory_report();
    let rows: Vec<_> = report
        .rows
        .iter()
        .map(|row| (&*row.name, row.memory.used))
        .collect();
    assert_eq!(
        rows,
        [("device", 1 << 30), ("Dream", 1 << 30)],
        "the others have no pool"
    );
}

/// Twice, so that what is told as an increase must be no more than that.
#[test]
fn the_metrics_facade_hears_the_figures() {
    let _alone = alone();
    let simulator = Sim::new("h200@13.0").unwrap();
    let slots = slots(&simulator);
    let (recorder, mut exporter) = (Recorder::default(), MemoryExporter::default());
    let mut export = || {
        metrics::with_local_recorder(&recorder, || {
            exporter.export(&MemoryReport::default().with_slots("embedding", &slots));
        });
    };
    export();
    assert_eq!(
        recorder.gauge("memory_used_bytes", &POOL),
        60.0 * MIB as f64
    );
    assert_eq!(recorder.gauge("memory_used_bytes", &SECOND), 1e6);
    assert_eq!(recorder.counter("memory_allocations_total", &SECOND), 1);
    assert_eq!(recorder.counter("model_evictions_total", &POOL), 1);
    assert_eq!(recorder.samples("model_loads_seconds", &POOL).len(), 2);
    export();
    assert_eq!(
        recorder.samples("model_loads_seconds", &POOL).len(),
        2,
        "nothing is new"
    );
    let buffer = slots.pool().allocate(MIB as usize).unwrap();
    for _ in 0..64 * 10 {
        drop(slots.pool().allocate(5_000).unwrap());
    }
    export();
    let metrics = slots.pool().metrics();
    assert_eq!(
        recorder.gauge("memory_used_bytes", &POOL),
        (61 * MIB) as f64
    );
    assert_eq!(
        recorder.counter("memory_allocations_total", &POOL),
        metrics.allocations
    );
    let hits = recorder.samples("memory_hits_seconds", &POOL);
    assert_eq!(hits.len() as u64, metrics.hits.count());
    assert!(
        (9..=11).contains(&hits.len()),
        "one in 64 of 640, but for a miss: {}",
        hits.len()
    );
    assert_eq!(
        recorder.samples("memory_frees_seconds", &POOL).len() as u64,
        metrics.frees.count()
    );
    assert!(hits.iter().all(|seconds| (1e-9..10.0).contains(seconds)));
    drop(buffer);
    // A model that comes again counts from the start.
    slots.evict("second").unwrap();
    let again = slots.get_or_load("second", needs(60), |pool| {
        let three: Result<Vec<_>, _> = (0..3).map(|_| pool.allocate(100_000)).collect();
        three?.pop().ok_or(cuda_green::Error::ForeignBuffer)
    });
    drop(again.unwrap());
    let before = recorder.samples("memory_misses_seconds", &SECOND).len();
    export();
    assert!(recorder.samples("memory_misses_seconds", &SECOND).len() > before);
    // Rows of slots have one label more.
    let told = recorder.table();
    let told = told
        .iter()
        .filter(|row| row.contains("`slot`") || row.contains("`cuda_green_model_"));
    assert_eq!(
        told.cloned().collect::<std::collections::BTreeSet<_>>(),
        documented("cuda_green_m"),
        "the guide's table has what is told, and nothing else"
    );
}

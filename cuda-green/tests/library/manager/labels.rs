//! Ids that are strings are shown without quotation marks, wherever an id is shown.

use cuda_green::{ContextPolicy, Driver, SmPartitionManager, planner::PartitionRequest, sim::Sim};

#[test]
fn strings_are_shown_bare() {
    let simulator = Sim::new("h200@13.0").unwrap();
    let device = Driver::simulated(&simulator).unwrap().device(0).unwrap();
    let manager = SmPartitionManager::<String>::with_ids(&device).unwrap();
    let policy = ContextPolicy {
        memory_limit_bytes: 1 << 30,
        ..ContextPolicy::default()
    };
    let create = |name: &str, sms| {
        manager.create_partition(name.to_owned(), PartitionRequest::at_least(sms), policy)
    };
    let serving = create("serving", 64).unwrap();
    create("bulk \"q\"", 32).unwrap();

    let error = |result: cuda_green::Result<()>| result.unwrap_err().to_string();
    assert_eq!(
        error(create("serving", 8).map(drop)),
        "context serving exists already; destroy it first, or use another id"
    );
    assert_eq!(
        error(manager.destroy_context("serving")),
        "context serving is in use (handles, streams and guards that hold it: 1); drop them first"
    );
    assert_eq!(
        error(manager.get_context("training").map(drop)),
        "there is no context training"
    );

    let status = manager.allocation_status().to_string();
    let names = status.lines().skip(1).map(|line| line.split(':').next());
    let names: Vec<_> = names.flatten().collect();
    assert_eq!(names, ["  serving", "  bulk \"q\""], "{status}");

    serving.memory().unwrap();
    let report = manager.memory_report();
    assert_eq!(report.rows[0].name, "serving");

    let verified = manager.verify().unwrap().to_string();
    assert!(
        verified.starts_with("serving runs on 64 SMs\nbulk \"q\" runs on 32 SMs\n"),
        "{verified}"
    );
    let probed = manager.probe().unwrap().to_string();
    assert!(probed.starts_with("serving: "), "{probed}");
}

//! Plans within a static partition of MPS (from 13.1 on, simulated).

use super::{
    child::VARIABLE,
    daemon::Daemon,
    parent::{Child, Folder, sms},
};

fn start(folder: &Folder, daemon: &Daemon, faults: &str) -> Child {
    Child::start_with(folder, |command| {
        daemon.environment(command);
        command
            .env(VARIABLE, format!("sim:h200@13.1 {}", folder.shared()))
            .env("CUDA_GREEN_SIM_FAULTS", faults);
    })
}

#[test]
fn a_plan_divides_the_partition_and_not_the_device() {
    let folder = Folder::new("static");
    let daemon = Daemon::new(&folder);
    let (mut one, mut other) = (
        start(&folder, &daemon, "mps=64"),
        start(&folder, &daemon, "mps=64"),
    );
    let a = sms(&one.does("join 0 a=24,b=rest a"));
    let b = sms(&other.does("join 0 a=24,b=rest b"));
    assert_eq!((a["a"].len(), b["b"].len()), (24, 64 - 24));
    let status = one.does("status");
    assert!(
        status.starts_with("1 1 a:24:held by this manager; b:40:held by process"),
        "{status}"
    );

    // Processes of other partitions, and of none, have other SMs, whatever their number.
    for faults in ["mps=32", "mps=100%"] {
        let mut third = start(&folder, &daemon, faults);
        let refused = third.fails("join 0 any");
        assert!(refused.contains("SM count 64"), "{refused}");
        assert!(refused.contains("static partitions"), "{refused}");
    }
}

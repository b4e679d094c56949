//! MPS as a process sees it, with a daemon that is a script.

use std::fs;

use super::{
    daemon::Daemon,
    parent::{Child, Folder},
};

#[test]
fn the_daemon_and_its_limits_are_told() {
    let folder = Folder::new("status");
    let daemon = Daemon::new(&folder);
    let mut plain = Child::start_with(&folder, |command| daemon.environment(command));
    assert_eq!(
        plain.does("mps"),
        "false / no daemon / [] / 132 SMs /  / None / default"
    );

    // Its pipes are there, and it does not answer.
    fs::write(daemon.pipes().join("control"), "").unwrap();
    let dead = plain.does("mps");
    assert!(
        dead.contains("a daemon that does not answer (nvidia-cuda-mps-control failed"),
        "{dead}"
    );

    daemon.list(77, &[]);
    let mut client = daemon.start(&folder);
    assert_eq!(
        client.does("mps"),
        "true / daemon / [77] / 132 SMs /  / None / default"
    );
    // The file of its process names one that is no MPS daemon, as after its end, or from another namespace.
    let file = daemon.pipes().join("nvidia-cuda-mps-control.pid");
    fs::write(&file, std::process::id().to_string()).unwrap();
    assert!(client.does("mps").contains("/ daemon / [77]"));

    let mut limited = Child::start_with(&folder, |command| {
        daemon.environment(command);
        command
            .env("CUDA_GREEN_SIM_FAULTS", "mps=75%")
            .env("CUDA_MPS_ACTIVE_THREAD_PERCENTAGE", "75");
    });
    let said = limited.does("mps");
    assert!(said.contains("/ 98 SMs /"), "{said}");
    assert!(
        said.contains("CUDA_MPS_ACTIVE_THREAD_PERCENTAGE=75: unset it"),
        "{said}"
    );
    assert!(said.ends_with("/ Some(\"75\") / default"), "{said}");
}

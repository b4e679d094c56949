//! The test whether groups are apart in two processes, whose simulated devices have one set of SMs.

use std::{env, fs, path::Path};

use cuda_green::{Driver, SharedDevice, serve_separation_test};

use super::{
    daemon::Daemon,
    parent::{Child, Folder, LIST, sms},
};

/// What makes a child name a program for the second process; its value is that one's driver.
pub const VARIABLE: &str = "CUDA_GREEN_TEST_PARTNER";

/// The program of the second process; in the others it is a test that does nothing.
#[test]
fn partner() {
    if let Ok(driver) = env::var(VARIABLE) {
        println!(); // what the harness has written is a line of its own
        let driver = Driver::open(&driver.parse().unwrap()).unwrap();
        let _ = serve_separation_test(&driver); // the first process is told
    }
}

/// Starts a process with these faults, which tests a plan that it makes.
fn start(folder: &Folder, daemon: &Daemon, faults: &str, partner: &str) -> Child {
    Child::start_with(folder, |command| {
        daemon.environment(command);
        let sms = folder.path().join("sms");
        command.env(VARIABLE, partner).env(
            "CUDA_GREEN_SIM_FAULTS",
            format!("{faults}sms={}", sms.display()),
        );
    })
}

const DRIVER: &str = "sim:h200@13.0";

#[test]
fn groups_of_one_split_are_shown_to_be_apart() {
    let folder = Folder::new("apart");
    let daemon = Daemon::new(&folder);
    let mut one = start(&folder, &daemon, "mps=100%;", DRIVER);
    let a = sms(&one.does(&format!("join 0 {LIST} a")));
    assert_eq!(a["a"].len(), 64);
    let apart = "tested: partitions of two processes are apart";
    assert_eq!(one.does("separation"), apart);
    // Others read it, and so does the next plan of that split, which nobody tests.
    let mut other = daemon.start(&folder);
    other.does("join 0 any b");
    assert_eq!(other.does("separation"), apart);
    let shared = folder.shared();
    let plans = SharedDevice::list(Some(Path::new(&shared))).unwrap();
    assert!(plans[0].status.separation.is_apart());
    one.does("drop");
    other.does("drop");
    one.kill();
    other.does("join 0 x=32,y=rest y");
    assert_eq!(other.does("separation"), apart);
    fs::remove_file(folder.file(".tested")).unwrap();
    assert!(other.does("separation").starts_with("not tested"));
}

#[test]
fn groups_that_share_sms_are_told() {
    let folder = Folder::new("not-apart");
    let daemon = Daemon::new(&folder);
    let faults = "mps=100%; green=everywhere;";
    let mut one = start(&folder, &daemon, faults, DRIVER);
    one.does(&format!("join 0 {LIST}"));
    let said = one.does("separation");
    assert!(
        said.contains("NOT apart, their SMs are shared in time"),
        "{said}"
    );
    assert!(said.contains("were never on the device at once"), "{said}");
}

#[test]
fn whatever_keeps_the_test_from_being_made_is_told_and_the_plan_works() {
    let folder = Folder::new("untested");
    let daemon = Daemon::new(&folder);
    let said = |faults: &str, partner: &str| {
        let mut one = start(&folder, &daemon, faults, partner);
        one.does(&format!("join 0 {LIST} a"));
        let said = one.does("separation");
        one.does("drop");
        let _ = fs::remove_dir_all(folder.shared());
        said
    };
    let none = said("mps=100%;", "sim:none@13.0");
    assert!(
        none.contains("the program had no") || none.contains("not tested"),
        "{none}"
    );
    let other = said("mps=100%;", "sim:rtx5090@13.0");
    assert!(
        other.contains("not tested") && other.contains("a device that is not here"),
        "{other}"
    );
    assert!(said("", DRIVER).contains("without MPS processes take turns"));
}

//! `cuda-green partitions`, beside a plan that this test's process has joined.

#![cfg(target_os = "linux")]

use std::{
    io::{BufRead, BufReader},
    process,
};

use cuda_green::{
    ContextPolicy, Driver, SharedPlan, SmPartitionManager, planner::PartitionRequest,
};

use crate::common::{program, text};

/// The process of the test as a member of a plan.
struct Member {
    folder: tempfile::TempDir,
    /// What holds the names.
    manager: SmPartitionManager<String>,
}

impl Member {
    /// Joins a plan of two names, and claims the first.
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let driver = Driver::open(&"sim:h200@13.0".parse().unwrap()).unwrap();
        let plan = SharedPlan::of([
            ("serving", PartitionRequest::at_least(64)),
            ("indexing", PartitionRequest::rest()),
        ])
        .in_folder(folder.path().join("shared"));
        let claims = [("serving", ContextPolicy::default())];
        Self {
            manager: SmPartitionManager::join(&driver.device(0).unwrap(), &plan, &claims).unwrap(),
            folder,
        }
    }

    /// Runs the program where it finds the plan; returns its exit code and its output.
    fn run(&self, arguments: &[&str]) -> (i32, String, String) {
        let output = program(arguments)
            .env("CUDA_GREEN_SHARED_DIR", self.folder.path().join("shared"))
            .output()
            .unwrap();
        let code = output.status.code().unwrap();
        (code, text(&output.stdout), text(&output.stderr))
    }
}

#[test]
fn a_plan_is_shown_with_its_holders() {
    let member = Member::new();
    let (code, shown, _) = member.run(&["partitions"]);
    assert_eq!(code, 0, "{shown}");
    assert!(
        shown.lines().all(|line| line.chars().count() <= 80),
        "{shown}"
    );
    assert!(shown.contains(": 132 SMs, CUDA 13.0, plan 1\n"), "{shown}");
    assert!(
        shown.contains("  without MPS: processes take turns"),
        "{shown}"
    );
    let own = format!("serving      64    64  held by {} (", process::id());
    assert!(shown.contains(&own), "{shown}");
    assert!(shown.contains("indexing   rest    68  free\n"), "{shown}");
    let again = member.run(&["partitions", "show"]).1;
    assert_eq!(again.lines().next(), shown.lines().next());
}

#[test]
fn a_plan_is_shown_as_json() {
    let member = Member::new();
    let (code, shown, _) = member.run(&["partitions", "--json"]);
    assert_eq!(code, 0);
    let shown: serde_json::Value = serde_json::from_str(&shown).unwrap();
    let plan = &shown["plans"][0];
    assert_eq!(plan["generation"], 1);
    assert_eq!(plan["sm_count"], 132);
    assert_eq!(plan["mps"], serde_json::Value::Null);
    let names = &plan["partitions"];
    assert_eq!(names[0]["name"], "serving");
    assert_eq!(names[0]["share"], "64");
    assert_eq!(names[0]["state"], "held");
    assert_eq!(names[0]["pid"], process::id());
    assert_eq!(names[1]["state"], "free");
    assert_eq!(names[1]["pid"], serde_json::Value::Null);

    let uuid = plan["uuid"].as_str().unwrap();
    let (code, one, _) = member.run(&["partitions", "--json", "--uuid", &uuid[..12]]);
    assert_eq!(code, 0);
    assert_eq!(
        serde_json::from_str::<serde_json::Value>(&one).unwrap(),
        shown
    );
    let (code, _, said) = member.run(&["partitions", "--uuid", "GPU-none"]);
    assert_eq!(code, 1);
    assert!(said.contains(uuid), "{said}");
    // No driver is asked, so none can be named.
    for other in [["--device", "1"], ["--driver", "sim:h200@13.0"]] {
        let (code, _, said) = member.run(&["partitions", other[0], other[1]]);
        assert_eq!(code, 1);
        assert!(said.contains("not by --driver or --device"), "{said}");
    }
}

#[test]
fn shares_are_set_while_the_holder_works() {
    let member = Member::new();
    let (code, said, errors) = member.run(&["partitions", "set", "serving=90"]);
    assert_eq!(code, 0, "{errors}");
    assert!(said.contains(": plan 2, after "), "{said}");
    assert!(
        said.ends_with("\n  serving: 96 SMs, before 64\n  indexing: 36 SMs, before 68\n"),
        "{said}"
    );
    assert_eq!(
        member.manager.get_context("serving").unwrap().sm_count(),
        96
    );
    let (code, said, _) = member.run(&["partitions", "set", "serving=25%", "--json"]);
    assert_eq!(code, 0);
    let said: serde_json::Value = serde_json::from_str(&said).unwrap();
    assert_eq!(said["change"]["generation"], 3);
    let serving = &said["change"]["partitions"][0];
    assert_eq!(
        (&serving["sms_after"], &serving["taken"]),
        (&32.into(), &true.into())
    );
}

#[test]
fn shares_that_cannot_be_set_are_refused_with_who_is_in_the_way() {
    let member = Member::new();
    let (code, _, said) = member.run(&["partitions", "set", "serving=200"]);
    assert_eq!(code, 1);
    assert!(said.contains("132"), "{said}");
    let (code, _, said) = member.run(&["partitions", "set", "serving"]);
    assert_eq!(code, 2);
    assert!(said.contains("write serving=96"), "{said}");
    let kept = member.manager.get_context("serving").unwrap();
    let (code, _, said) = member.run(&["partitions", "set", "serving=8", "--wait", "0"]);
    assert_eq!(code, 1);
    assert!(
        said.contains(&format!("process {} (", process::id())),
        "{said}"
    );
    assert_eq!(kept.sm_count(), 64);
}

#[test]
fn a_holder_that_is_not_there_is_not_ended() {
    let member = Member::new();
    let (code, _, said) = member.run(&["partitions", "end", "indexing"]);
    assert_eq!(code, 1);
    assert!(
        said.contains("\"indexing\" was not ended: nobody holds it"),
        "{said}"
    );
    let (code, _, said) = member.run(&["partitions", "end", "none"]);
    assert_eq!(code, 1);
    assert!(said.contains("no partition \"none\""), "{said}");
    let (code, _, said) = member.run(&["partitions", "end", "serving", "--wait", "-1"]);
    assert_eq!(code, 2);
    assert!(said.contains("0 to 86400 seconds"), "{said}");
}

/// A holder for [`a_holder_is_ended`], which starts this test again as a process.
#[test]
fn holder() {
    if std::env::var_os("CUDA_GREEN_TEST_HOLDER").is_none() {
        return;
    }
    let driver = Driver::open(&"sim:h200@13.0".parse().unwrap()).unwrap();
    let plan = SharedPlan::in_force();
    let claims = [("indexing", ContextPolicy::default())];
    let _manager = SmPartitionManager::join(&driver.device(0).unwrap(), &plan, &claims).unwrap();
    println!("\n@ ready");
    std::thread::sleep(std::time::Duration::from_secs(600));
}

#[test]
fn a_holder_is_ended() {
    let member = Member::new();
    let holder = || {
        let mut holder = process::Command::new(std::env::current_exe().unwrap())
            .args(["partitions::holder", "--exact", "--nocapture"])
            .env("CUDA_GREEN_TEST_HOLDER", "1")
            .env("CUDA_GREEN_SHARED_DIR", member.folder.path().join("shared"))
            .stdout(process::Stdio::piped())
            .spawn()
            .unwrap();
        let output = BufReader::new(holder.stdout.take().unwrap());
        assert!(output.lines().any(|line| line.unwrap() == "@ ready"));
        holder
    };
    let mut one = holder();
    let (code, said, errors) = member.run(&["partitions", "end", "indexing", "--wait", "60"]);
    assert_eq!(code, 0, "{errors}");
    let start = format!("process {}:\n  SIGTERM\n  ended after ", one.id());
    assert!(said.starts_with(&start), "{said}");
    assert!(said.ends_with("\nindexing is free\n"), "{said}");
    one.wait().unwrap();

    let mut other = holder();
    let (code, said, _) = member.run(&["partitions", "end", "indexing", "--json"]);
    assert_eq!(code, 0);
    let said: serde_json::Value = serde_json::from_str(&said).unwrap();
    assert_eq!(said["ended"]["pid"], other.id());
    assert_eq!(said["ended"]["names"], serde_json::json!(["indexing"]));
    assert_eq!(said["ended"]["steps"][0]["step"], "sigterm");
    assert_eq!(said["ended"]["free"], true);
    other.wait().unwrap();
}

#[test]
fn where_nobody_has_joined_nothing_is_made() {
    let folder = tempfile::tempdir().unwrap();
    let shared = folder.path().join("shared");
    let output = program(&["partitions"])
        .env("CUDA_GREEN_SHARED_DIR", &shared)
        .output()
        .unwrap();
    assert!(output.status.success());
    assert!(text(&output.stdout).starts_with("No plan is in force"));
    assert!(!shared.exists());
}

/// Checks a simulated device with these faults under MPS, whose SMs are those of a file; returns the findings about processes.
fn check_processes(faults: &str) -> Vec<(String, String)> {
    let folder = tempfile::tempdir().unwrap();
    let faults = format!("{faults} sms={}", folder.path().join("sms").display());
    let output = program(&[
        "check",
        "--processes",
        "--json",
        "--driver",
        "sim:h200@13.0",
    ])
    .env("CUDA_GREEN_SIM_FAULTS", faults)
    .env("CUDA_MPS_PIPE_DIRECTORY", folder.path())
    .output()
    .unwrap();
    let found: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    let findings = found["check"]["findings"].as_array().unwrap().iter();
    let findings = findings.map(|one| {
        let text = |name: &str| one[name].as_str().unwrap().to_owned();
        (text("grade"), text("what"))
    });
    findings
        .filter(|(_, what)| what.contains("partitions of two processes"))
        .collect()
}

#[test]
fn partitions_of_two_processes_are_shown_to_be_apart_or_not() {
    let [(grade, what)] = &check_processes("mps=100%;")[..] else {
        panic!()
    };
    assert!(
        grade == "good" && what.contains("are apart: blocks that fill"),
        "{what}"
    );
    let [(grade, what)] = &check_processes("mps=100%; green=everywhere;")[..] else {
        panic!()
    };
    assert!(
        grade == "bad" && what.contains("nothing is isolated: blocks of"),
        "{what}"
    );
    let [(grade, what)] = &check_processes("")[..] else {
        panic!()
    };
    assert!(
        grade == "note" && what.contains("without MPS processes take turns"),
        "{what}"
    );
    let [(grade, what)] = &check_processes("mps=75%;")[..] else {
        panic!()
    };
    assert!(
        grade == "note" && what.contains("under this limit of MPS"),
        "{what}"
    );
}

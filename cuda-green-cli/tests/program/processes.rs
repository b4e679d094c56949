//! `bench processes` among real processes, each with a simulated driver of its own. No test reads a time, which would mean
//! nothing.

use std::{
    fs,
    io::Write,
    path::Path,
    process::{Child, Command, Output, Stdio},
    thread,
    time::{Duration, Instant},
};

use serde_json::Value;

use crate::common::{program, text};

const FLOODS: [Option<&str>; 3] = [None, Some("blocks"), Some("matrix")];
const TIME_SLICES: [&str; 2] = ["time_slices", "time_slices_green"];
const UNDER_MPS: [&str; 5] = [
    "mps",
    "mps_priorities",
    "mps_percentages",
    "mps_green",
    "mps_same_group",
];
/// Calls that take long enough to end a process within one.
const SLOW: &str = "cuLaunchKernel=10ms";

/// Returns a run with its temporary files in a folder.
fn bench(folder: &Path, faults: &str, more: &[&str]) -> Command {
    let mut command = program(&["bench", "processes", "--quick", "--json"]);
    command
        .args(["--driver", "sim:h200@13.0"])
        .args(more)
        .env("TMPDIR", folder)
        .env("CUDA_GREEN_SIM_FAULTS", faults)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    command
}

fn figures(output: &Output) -> Value {
    let report: Value = serde_json::from_slice(&output.stdout).unwrap();
    report["figures"].clone()
}

/// Counts the rows of a placement beside a flood, or without one.
fn count(figures: &Value, placement: &str, flood: Option<&str>) -> usize {
    let rows = figures["rows"].as_array().unwrap().iter();
    rows.filter(|row| row["placement"] == placement && row["flood"].as_str() == flood)
        .count()
}

/// Returns the ids of all processes of a run: those with its folder in their environment.
fn processes(folder: &Path, part: Option<&str>) -> Vec<u32> {
    let variable = format!("TMPDIR={}", folder.display());
    let has = |id: u32, file: &str, word: &str| {
        let words = fs::read(format!("/proc/{id}/{file}")).unwrap_or_default();
        words
            .split(|byte| *byte == 0)
            .any(|found| found == word.as_bytes())
    };
    let ids = fs::read_dir("/proc").unwrap();
    let ids = ids.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok());
    ids.filter(|id| has(*id, "environ", &variable))
        .filter(|id| part.is_none_or(|part| has(*id, "cmdline", part)))
        .collect()
}

fn until(what: &str, mut is_so: impl FnMut() -> bool) {
    let end = Instant::now() + Duration::from_secs(60);
    while !is_so() {
        assert!(Instant::now() < end, "{what}");
        thread::sleep(Duration::from_millis(5));
    }
}

fn signal(id: u32, signal: &str) {
    let command = format!("kill -{signal} {id}");
    let sent = Command::new("sh").args(["-c", &command]).status().unwrap();
    assert!(sent.success());
}

/// Asserts that a run leaves no process and no file behind.
fn nothing_is_left(folder: &Path) {
    until("a process is left", || processes(folder, None).is_empty());
    let left: Vec<_> = fs::read_dir(folder).unwrap().collect();
    assert!(left.is_empty(), "{left:?}");
}

/// Starts a run, and waits until both processes work.
fn started(folder: &Path) -> Child {
    let child = bench(folder, SLOW, &[]).spawn().unwrap();
    until("there are no workers", || {
        processes(folder, Some("worker")).len() == 2
    });
    child
}

#[test]
fn every_placement_is_measured_alone_and_beside_each_flood() {
    let folder = tempfile::tempdir().unwrap();
    let output = bench(folder.path(), "", &[]).output().unwrap();
    let told = text(&output.stderr);
    assert!(output.status.success() && told.is_empty(), "{told}");
    let figures = figures(&output);
    for placement in TIME_SLICES.into_iter().chain(UNDER_MPS) {
        for flood in FLOODS {
            let found = count(&figures, placement, flood);
            assert_eq!(found, 1, "{placement}, {flood:?}");
        }
    }
    for row in figures["rows"].as_array().unwrap() {
        let sms = match row["placement"].as_str().unwrap() {
            "time_slices_green" | "mps_green" => [32, 100],
            "mps_same_group" => [32, 32],
            "mps_percentages" => [32, 98],
            _ => [132, 132],
        };
        assert_eq!(row["sm_counts"], serde_json::json!(sms), "{row}");
        assert!(row["requests"].as_u64().unwrap() >= 2, "{row}");
        assert_eq!(row["p99_us"]["repeats"].as_array().unwrap().len(), 2);
        let is_beside = !row["flood"].is_null();
        assert_eq!(row["flood_beside_per_s"].is_object(), is_beside, "{row}");
        // A simulation has no ratios, and NVML knows nothing of it.
        assert!(row.get("p99_to_alone").is_none() && row.get("sm_clock_mhz").is_none());
    }
    let join = &figures["join"];
    assert_eq!(join["join_us"]["repeats"].as_array().unwrap().len(), 3);
    assert!(join["first_us"].as_f64().unwrap() > 0.0 && join.get("beyond_us").is_none());
    let changes = &figures["change"]["change_us"]["repeats"];
    assert_eq!(changes.as_array().unwrap().len(), 2);
    assert_eq!(figures["skipped"], serde_json::json!([]));
    assert_eq!(figures["failed"], serde_json::json!([]));
    assert_eq!(figures["goals"], serde_json::json!([]));
    nothing_is_left(folder.path());
}

#[test]
fn without_a_daemon_it_says_what_is_missing() {
    let folder = tempfile::tempdir().unwrap();
    let output = bench(folder.path(), "", &["--no-mps-daemon"])
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", text(&output.stderr));
    let figures = figures(&output);
    for flood in FLOODS {
        for placement in TIME_SLICES {
            assert_eq!(count(&figures, placement, flood), 1, "{placement}");
        }
        for placement in UNDER_MPS {
            assert_eq!(count(&figures, placement, flood), 0, "{placement}");
        }
    }
    let missing = "everything under MPS: --no-mps-daemon";
    assert_eq!(figures["skipped"], serde_json::json!([missing]));
    assert!(figures["join"].is_null());
}

/// The other placements are measured all the same, and the exit code tells.
#[test]
fn what_the_driver_refuses_is_told() {
    let folder = tempfile::tempdir().unwrap();
    let fault = "cuGreenCtxCreate=OUT_OF_MEMORY";
    let output = bench(folder.path(), fault, &[]).output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    let told = text(&output.stderr);
    assert!(told.contains("OUT_OF_MEMORY"), "{told}");
    let figures = figures(&output);
    for placement in ["time_slices", "mps", "mps_priorities", "mps_percentages"] {
        assert_eq!(count(&figures, placement, Some("blocks")), 1, "{placement}");
    }
    assert_eq!(count(&figures, "mps_green", None), 0);
    let failed = figures["failed"].as_array().unwrap();
    assert_eq!(
        failed.len(),
        4,
        "three placements and the joins: {failed:?}"
    );
    nothing_is_left(folder.path());
}

#[test]
fn a_process_that_dies_is_told_and_the_others_end() {
    let folder = tempfile::tempdir().unwrap();
    let child = started(folder.path());
    let [worker, _] = processes(folder.path(), Some("worker"))[..] else {
        panic!("there are two");
    };
    signal(worker, "KILL");
    let output = child.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    let figures = figures(&output);
    let failed = figures["failed"].as_array().unwrap();
    assert_eq!(failed.len(), 1, "{failed:?}");
    let failed = failed[0].as_str().unwrap();
    assert!(failed.contains("ended: signal: 9"), "{failed}");
    assert_eq!(count(&figures, "mps_green", Some("blocks")), 1);
    nothing_is_left(folder.path());
}

/// However the measuring process ends, asked or by force, the others end their work and clean up. Not by SIGINT, which a
/// shell's background jobs ignore, and so all that they start.
#[test]
fn nothing_outlives_the_measuring_process() {
    for how in ["TERM", "KILL"] {
        let folder = tempfile::tempdir().unwrap();
        let child = started(folder.path());
        signal(child.id(), how);
        assert!(!child.wait_with_output().unwrap().status.success());
        nothing_is_left(folder.path());
    }
}

#[test]
fn orders_of_others_are_answered_with_errors() {
    let folder = tempfile::tempdir().unwrap();
    for part in ["worker", "keeper"] {
        let mut child = program(&["bench", "processes", "--part", part])
            .args(["--driver", "sim:h200@13.0"])
            .env("TMPDIR", folder.path())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let orders = [
            "{}",
            "null",
            "\"count\"",
            "\"stop\"",
            "{\"flood\": \"blocks\"}",
            "\u{1}",
        ];
        let text = orders.map(|order| format!("{order}\n")).concat();
        child
            .stdin
            .take()
            .unwrap()
            .write_all(text.as_bytes())
            .unwrap();
        let output = child.wait_with_output().unwrap();
        assert!(output.status.success(), "{output:?}");
        let answers = String::from_utf8(output.stdout).unwrap();
        assert_eq!(answers.lines().count(), orders.len());
        assert!(
            answers.lines().all(|line| line.starts_with("{\"failed\":")),
            "{answers}"
        );
    }
    nothing_is_left(folder.path());
}

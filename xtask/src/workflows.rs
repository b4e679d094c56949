//! The promise of the workflows to whoever lends a machine: no stranger's code runs on it.

use std::fs;

/// Machines of GitHub's, which are made anew for each job.
const HOSTED: [&str; 3] = ["ubuntu-", "windows-", "macos-"];

/// Events by which a stranger's code would run, or a workflow with more rights that takes it.
const BY_STRANGERS: [&str; 4] = [
    "pull_request",
    "pull_request_target",
    "workflow_run",
    "issue_comment",
];

/// Returns whether a workflow would run on a machine of one's own for what a stranger sends.
fn lends_a_machine_to_strangers(workflow: &str) -> bool {
    let lines = || {
        let lines = workflow
            .lines()
            .map(|line| line.split(" #").next().unwrap_or(line));
        lines.map(str::trim).filter(|line| !line.starts_with('#'))
    };
    let by_strangers = lines().any(|line| {
        let mut words = line.split(|c: char| !(c.is_ascii_alphanumeric() || c == '_'));
        words.any(|word| BY_STRANGERS.contains(&word))
    });
    let runners = lines().filter_map(|line| line.trim_start_matches("- ").strip_prefix("runs-on:"));
    let mut runners = runners.map(|runner| runner.trim());
    by_strangers && runners.any(|runner| !HOSTED.iter().any(|hosted| runner.starts_with(hosted)))
}

#[test]
fn no_pull_request_runs_on_a_machine_of_one_s_own() {
    let folder = crate::root().join(".github/workflows");
    let mut own = 0;
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        let workflow = fs::read_to_string(&path).unwrap();
        assert!(
            !lends_a_machine_to_strangers(&workflow),
            "{}",
            path.display()
        );
        own += usize::from(workflow.contains("runs-on: ${{ vars.GPU_RUNNER }}"));
    }
    assert_eq!(own, 1, "the job with a GPU");
}

#[test]
fn a_workflow_that_would_is_known() {
    let workflow = |event: &str, runner: &str| {
        let text = format!("on:\n  {event}:\njobs:\n  x:\n    runs-on: {runner}\n");
        lends_a_machine_to_strangers(&text)
    };
    assert!(workflow("pull_request", "${{ vars.GPU_RUNNER }}"));
    assert!(workflow("pull_request_target", "[self-hosted, gpu]"));
    assert!(!workflow("push", "${{ vars.GPU_RUNNER }}"));
    assert!(!workflow("pull_request", "ubuntu-24.04"));
    assert!(!lends_a_machine_to_strangers(
        "# on: pull_request\non: push\njobs:\n  x:\n    runs-on: mine\n"
    ));
    assert!(lends_a_machine_to_strangers(
        "on: [push, pull_request]\njobs:\n  x:\n    runs-on: mine\n"
    ));
}

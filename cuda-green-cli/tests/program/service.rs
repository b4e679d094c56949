//! `bench service` on the simulated driver, with a small model. No test reads a time, which would mean nothing.

use std::{fs, process::Output};

use serde_json::Value;

use crate::{
    common::{program, run, text},
    small_model::SmallModel,
};

const FLOODS: [&str; 5] = ["matrix", "copies", "training", "bulk", "tiny"];
const ALONE: [&str; 2] = ["alone_on_whole_gpu", "alone_in_partition"];
const BESIDE: [&str; 4] = [
    "plain_streams",
    "priorities",
    "partitions",
    "flood_in_primary",
];

fn bench(model: &SmallModel, more: &[&str]) -> Output {
    program(&["bench", "service", "--driver", "sim:h200@13.0", "--model"])
        .arg(model.path(""))
        .arg("--texts")
        .arg(model.path("texts.txt"))
        .args(more)
        .output()
        .unwrap()
}

/// Counts the rows of a placement beside a flood, or without one.
fn count(rows: &Value, placement: &str, flood: Option<&str>) -> usize {
    let rows = rows.as_array().unwrap().iter();
    rows.filter(|row| row["placement"] == placement && row["flood"].as_str() == flood)
        .count()
}

#[test]
fn as_json_and_as_a_picture_and_the_same_picture_again() {
    let model = SmallModel::new();
    let [drawn, again, json] =
        ["drawn.svg", "again.svg", "service.json"].map(|name| model.path(name));
    let output = bench(
        &model,
        &["--quick", "--json", "--svg", drawn.to_str().unwrap()],
    );
    assert!(output.status.success(), "{}", text(&output.stderr));
    let report: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(report["caveat"], "SIMULATED: these figures mean nothing");
    assert_eq!(report["command"], "cuda-green bench service --quick --json");
    let figures = &report["figures"];
    let (one_caller, open_loop) = (&figures["one_caller"], &figures["open_loop"]);
    for placement in ALONE {
        assert_eq!(count(one_caller, placement, None), 1, "{placement}");
        assert_eq!(count(open_loop, placement, None), 2, "{placement}");
    }
    for flood in FLOODS {
        let rates = if flood == "matrix" { 2 } else { 1 };
        for placement in BESIDE {
            let beside = |rows| count(rows, placement, Some(flood));
            assert_eq!(beside(one_caller), 1, "{placement}, {flood}");
            assert_eq!(beside(open_loop), rates, "{placement}, {flood}");
        }
    }
    for row in one_caller.as_array().unwrap() {
        // At least one for each repeat, and nothing is refused when each waits for the one before.
        assert!(row["requests"].as_u64().unwrap() >= 2, "{row}");
        assert_eq!(row["refused"], 0);
        assert_eq!(row["p99_of_repeats_us"].as_array().unwrap().len(), 2);
        // A simulation has no ratios, and NVML knows nothing of it.
        assert!(row.get("ratios").is_none() && row.get("sm_clock_mhz").is_none());
    }
    let alone = figures["floods"].as_array().unwrap();
    assert_eq!(alone.len(), FLOODS.len());
    assert_eq!(figures["setting"]["partition_sms"], 32);
    assert_eq!(figures["setting"]["rest_sms"], 100);
    assert_eq!(figures["goals"].as_array().unwrap().len(), 0);
    let elastic = &figures["elastic"];
    assert!(elastic["off"].is_null(), "{elastic}");
    assert!(elastic["first"]["requests"].as_u64().unwrap() >= 2);
    assert!(elastic["rebalances"].as_u64().unwrap() >= 2, "{elastic}");
    assert!(elastic["bulk_to_whole_gpu"].is_null());

    fs::write(&json, &output.stdout).unwrap();
    let [json, path] = [&json, &again].map(|path| path.to_str().unwrap());
    let told = run(&["bench", "service", "--from", json, "--svg", path]);
    assert!(told.status.success(), "{}", text(&told.stderr));
    let [drawn, again] = [drawn, again].map(|path| fs::read_to_string(path).unwrap());
    assert!(drawn == again, "drawn differently from its JSON");
    assert!(drawn.contains("SIMULATED") && drawn.contains("<circle"));
}

#[test]
fn as_text_in_80_columns() {
    let output = bench(&SmallModel::new(), &[]);
    assert!(output.status.success(), "{}", text(&output.stderr));
    let table = text(&output.stdout);
    let wide = table.lines().find(|line| line.chars().count() > 80);
    assert_eq!(wide, None);
    assert!(table.contains("SIMULATED: these figures mean nothing"));
    assert!(table.contains("no ratios: with a simulated driver"));
    assert!(!table.contains("NaN") && !table.contains("inf "), "{table}");
}

#[test]
fn without_green_contexts_there_is_nothing_to_measure() {
    let model = SmallModel::new();
    let path = |name| model.path(name).to_str().unwrap().to_owned();
    let (folder, texts) = (path(""), path("texts.txt"));
    let driver = ["--driver", "sim:h200@12.2"];
    let source = ["--model", &folder, "--texts", &texts];
    let output = run(&[&["bench", "service"][..], &driver, &source].concat());
    assert_eq!(output.status.code(), Some(1));
    assert!(text(&output.stderr).contains("nothing to measure"));
}

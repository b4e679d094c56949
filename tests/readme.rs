//! The README's tables are those of the evidence. `BLESS=1` writes them.

#![allow(clippy::unwrap_used)] // helpers of tests

use std::fs;

use driver_matrix::skip;
use serde_json::Value;

const README: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/README.md");

fn figures(name: &str) -> Value {
    let path = format!("{}/evidence/{name}.json", env!("CARGO_MANIFEST_DIR"));
    let evidence: Value = serde_json::from_str(&fs::read_to_string(path).unwrap()).unwrap();
    assert_eq!(evidence["simulated"], false, "{name} is no evidence");
    assert!(
        evidence["command"]
            .as_str()
            .is_some_and(|command| !command.contains("--quick"))
    );
    evidence["figures"].clone()
}

fn isolation() -> String {
    let figures = figures("isolation");
    let rows = figures.as_array().unwrap();
    let number = |row: &Value, field: &str| thousands(row[field].as_f64().unwrap().round() as u64);
    let sized = |row: &&Value| row["set_up"].as_str().unwrap().ends_with(" SMs");
    let small = |row: &&Value| row["set_up"].as_str().unwrap().starts_with("12 small");
    let mut table = "| set-up | p50 | p99 |\n|---|---|---|\n".to_owned();
    for row in rows.iter().filter(|row| !sized(row) && !small(row)) {
        let flood = row["flood"].as_str().map(|flood| format!(", {flood}"));
        table += &format!(
            "| {}{} | {} | {} |\n",
            row["set_up"].as_str().unwrap(),
            flood.unwrap_or_default(),
            number(row, "p50_us"),
            number(row, "p99_us")
        );
    }
    let share = rows
        .iter()
        .find_map(|row| row["partition_sms"].as_u64())
        .unwrap();
    table += &format!(
        "\nThe partition has {share} SMs. The same request in partitions of other sizes, and a request of 12 small kernels beside a thread that launches tiny ones all the time:\n\n| set-up | p50 | p99 | p99 / alone |\n|---|---|---|---|\n"
    );
    for row in rows.iter().filter(|row| sized(row) || small(row)) {
        let alone = rows
            .iter()
            .find(|other| other["set_up"] == row["set_up"])
            .unwrap();
        assert!(alone["flood"].is_null());
        table += &format!(
            "| {}, {} | {} | {} | {:.2} |\n",
            row["set_up"].as_str().unwrap(),
            row["flood"].as_str().unwrap_or("alone"),
            number(row, "p50_us"),
            number(row, "p99_us"),
            row["p99_us"].as_f64().unwrap() / alone["p99_us"].as_f64().unwrap(),
        );
    }
    table
}

fn host_cost() -> String {
    let figures = figures("host_cost");
    let mut table = "| | ours | raw | ratio |\n|---|---|---|---|\n".to_owned();
    for name in [
        "activate + drop",
        "activate + drop through the manager",
        "launch",
        "record + wait",
        "create",
        "destroy",
    ] {
        let figure = &figures[name];
        let time = |field: &str| match figure[field].as_f64().unwrap() {
            nanoseconds @ ..1e3 => format!("{nanoseconds:.0} ns"),
            nanoseconds => format!("{:.1} µs", nanoseconds / 1e3),
        };
        let ratio = figure["ratio"].as_f64().unwrap();
        table += &format!(
            "| {name} | {} | {} | {ratio:.2} |\n",
            time("ours_ns"),
            time("raw_ns")
        );
    }
    let load = figures["load"]["beyond_dlopen_ns"].as_f64().unwrap() / 1e6;
    table += &format!(
        "\nLoading the driver and resolving every entry point takes {load:.2} ms beyond `dlopen`.\n"
    );
    let rebalance = &figures["rebalance, strict"];
    let micro = |field: &str| rebalance[field].as_f64().unwrap() / 1e3;
    table += &format!(
        "A provisioned rebalance returns after {:.1} µs (p99 {:.1} µs); a launch and its end take {:.1} µs right after it, {:.1} µs otherwise.\n",
        micro("ns"),
        micro("p99_ns"),
        micro("launch_and_sync_after_ns"),
        micro("launch_and_sync_ns"),
    );
    table
}

/// 14206 as 14,206.
fn thousands(number: u64) -> String {
    if number < 1000 {
        number.to_string()
    } else {
        format!("{},{:03}", number / 1000, number % 1000)
    }
}

#[test]
fn the_tables_are_those_of_the_evidence() {
    let mut readme = fs::read_to_string(README).unwrap();
    for (name, table) in [("isolation", isolation()), ("host_cost", host_cost())] {
        let begin = readme.find(&format!("<!-- {name}:")).unwrap();
        let from = begin + readme[begin..].find("-->\n").unwrap() + 4;
        let to = from + readme[from..].find("<!-- end -->").unwrap();
        if skip::bless() {
            readme.replace_range(from..to, &table);
        } else {
            assert_eq!(
                readme[from..to],
                table,
                "run `BLESS=1 cargo test --test readme`"
            );
        }
    }
    if skip::bless() {
        fs::write(README, readme).unwrap();
    }
}

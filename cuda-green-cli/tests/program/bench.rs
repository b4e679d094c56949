//! Every benchmark on simulated drivers: as text, as JSON, as a picture, and drawn again from its JSON. No test reads
//! a figure, because those of a simulated driver mean nothing.

mod refused;

use std::{
    fs,
    path::PathBuf,
    process::{Command, Output},
};

use serde_json::Value;

const DRAWN: [&str; 6] = [
    "activate",
    "alloc",
    "isolation",
    "processes",
    "queue",
    "rebalance",
];

fn bench(args: &[&str], variables: &[(&str, &str)]) -> Output {
    let output = Command::new(env!("CARGO_BIN_EXE_cuda-green"))
        .arg("bench")
        .args(args)
        .env_remove("CUDA_GREEN_COMMIT")
        .env("CUDA_GREEN_DRIVER", "system")
        .envs(variables.iter().copied())
        .output()
        .unwrap();
    let told = String::from_utf8_lossy(&output.stderr);
    assert!(!told.contains("panicked"), "{args:?}: {told}");
    output
}

/// Returns the output of a run that must succeed. Without a terminal, there is no progress bar.
fn stdout(args: &[&str]) -> String {
    let output = bench(args, &[]);
    let told = String::from_utf8(output.stderr).unwrap();
    assert!(
        output.status.success() && told.is_empty(),
        "{args:?}: {told}"
    );
    String::from_utf8(output.stdout).unwrap()
}

fn file(name: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(name)
}

#[test]
fn as_text_in_80_columns() {
    for what in DRAWN.into_iter().chain(["startup", "under-load"]) {
        let text = stdout(&[what, "--quick", "--driver", "sim:h200@13.0"]);
        let caveat = "SIMULATED: these figures mean nothing\n";
        assert!(text.contains(caveat), "{text}");
        let wide = text.lines().find(|line| line.chars().count() > 80);
        assert_eq!(wide, None, "{what}");
        assert!(!text.contains("NaN") && !text.contains("inf "), "{text}");
        // What costs what in a simulation says nothing of a GPU, and a ratio would be read as if it did.
        let has_ratios = ["activate", "isolation", "processes", "queue"].contains(&what);
        assert_eq!(
            text.contains("no ratios: with a simulated driver"),
            has_ratios,
            "{text}"
        );
        assert!(!text.contains("p99 alone"), "{text}");
    }
}

/// Returns whether a figure has this name, at any depth.
fn has(figures: &Value, name: &str) -> bool {
    match figures {
        Value::Object(fields) => fields
            .iter()
            .any(|(field, value)| field == name || has(value, name)),
        Value::Array(values) => values.iter().any(|value| has(value, name)),
        _ => false,
    }
}

#[test]
fn as_json_and_as_a_picture_and_the_same_picture_again() {
    for what in DRAWN {
        let [drawn, again, json] =
            ["svg", "again.svg", "json"].map(|end| file(&format!("bench.{what}.{end}")));
        let text = stdout(&[
            what,
            "--quick",
            "--json",
            "--driver",
            "sim:h200@13.1",
            "--svg",
            drawn.to_str().unwrap(),
        ]);
        let report: Value = serde_json::from_str(&text).unwrap();
        assert_eq!(report["simulated"], true);
        assert_eq!(report["caveat"], "SIMULATED: these figures mean nothing");
        let command = format!("cuda-green bench {what} --quick --json");
        assert_eq!(report["command"], command);
        no_number_is_missing(&report["figures"]);
        for ratio in ["ratio", "p99_to_alone"] {
            assert!(!has(&report["figures"], ratio), "{what} has a {ratio}");
        }
        fs::write(&json, text).unwrap();
        let [json, again] = [&json, &again].map(|path| path.to_str().unwrap());
        let told = stdout(&[what, "--from", json, "--svg", again]);
        assert_eq!(told, format!("wrote {again}\n"));
        let [drawn, again] =
            [drawn.to_str().unwrap(), again].map(|path| fs::read_to_string(path).unwrap());
        assert!(drawn == again, "{what} is drawn differently from its JSON");
        assert!(drawn.contains("SIMULATED: these figures mean nothing"));
        assert!(drawn.matches("<polyline").count() > 2);
    }
}

/// A picture says why its figures mean nothing, and says so only if they do.
#[test]
fn a_picture_of_a_quick_run_says_so() {
    let text = stdout(&[
        "rebalance",
        "--quick",
        "--json",
        "--driver",
        "sim:h200@13.0",
    ]);
    let mut report: Value = serde_json::from_str(&text).unwrap();
    let [json, svg] = ["json", "svg"].map(|end| file(&format!("bench.caveat.{end}")));
    for (simulated, command, caveat) in [
        (true, "bench rebalance", Some("SIMULATED: these figures")),
        (
            false,
            "bench --quick rebalance",
            Some("--quick: these figures"),
        ),
        (false, "bench rebalance", None),
    ] {
        report["simulated"] = simulated.into();
        report["command"] = command.into();
        fs::write(&json, report.to_string()).unwrap();
        let [json, svg] = [&json, &svg].map(|path| path.to_str().unwrap());
        stdout(&["rebalance", "--from", json, "--svg", svg]);
        let drawn = fs::read_to_string(svg).unwrap();
        assert_eq!(drawn.contains("mean nothing"), caveat.is_some());
        assert!(caveat.is_none_or(|caveat| drawn.contains(caveat)));
    }
}

/// The name of the device in a file is not trusted.
#[test]
fn a_picture_is_well_formed_whatever_the_device_is_called() {
    let text = stdout(&[
        "rebalance",
        "--quick",
        "--json",
        "--driver",
        "sim:h200@13.0",
    ]);
    let mut report: Value = serde_json::from_str(&text).unwrap();
    let [json, svg] = ["json", "svg"].map(|end| file(&format!("bench.hostile.{end}")));
    for character in ('\0'..' ').chain(['\u{7f}', '\u{fffe}', '\u{ffff}', '&', '<', '>', '"', '\''])
    {
        report["device"] = format!("GPU{character}1").into();
        fs::write(&json, report.to_string()).unwrap();
        let [json, svg] = [&json, &svg].map(|path| path.to_str().unwrap());
        stdout(&["rebalance", "--from", json, "--svg", svg]);
        let drawn = fs::read_to_string(svg).unwrap();
        let forbidden =
            |c: char| c.is_control() && c != '\n' || matches!(c, '\u{fffe}' | '\u{ffff}');
        assert_eq!(drawn.find(forbidden), None, "{character:?}");
        let title = drawn
            .lines()
            .find(|line| line.starts_with("GPU") || line.contains("(GPU"));
        let title = title.unwrap();
        let told = title.split("(GPU").nth(1).unwrap();
        assert!(!told.starts_with(['<', '"', '>']), "{character:?}: {title}");
        assert!(!told.starts_with("&1"), "{character:?}: {title}");
    }
}

/// Asserts that no figure is null, which is what JSON makes of a value that is not a number.
fn no_number_is_missing(figures: &Value) {
    match figures {
        Value::Object(fields) => {
            for (name, value) in fields {
                let is_number = name.ends_with("_ns") || name.ends_with("_us") || name == "ratio";
                assert!(!is_number || !value.is_null(), "{name} is null");
                no_number_is_missing(value);
            }
        }
        Value::Array(values) => values.iter().for_each(no_number_is_missing),
        _ => {}
    }
}

#[test]
fn startup_measures_what_a_simulated_driver_has() {
    let text = stdout(&["startup", "--quick", "--json", "--driver", "sim:a100@12.4"]);
    let report: Value = serde_json::from_str(&text).unwrap();
    let figures = &report["figures"];
    assert!(figures["load"].is_null());
    let check = &figures["check_availability"];
    assert!(check["first_call_ns"].as_f64().unwrap() > 0.0);
    assert!(check["no_driver_ns"].as_f64().unwrap() > 0.0);
    assert!(check["beyond_cu_init_ns"].is_null());
    assert_eq!(report["caveat"], "SIMULATED: these figures mean nothing");
}

/// The simulated driver as a library is loaded and initialised like a real one.
#[test]
fn startup_loads_a_library() {
    let library = simulated_library();
    let args = ["startup", "--quick", "--json", "--driver", &library];
    let output = bench(&args, &[("CUDA_GREEN_SIM_PROFILE", "h200@13.0")]);
    let told = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{told}");
    let report: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(report["caveat"], "SIMULATED: these figures mean nothing");
    let figures = &report["figures"];
    no_number_is_missing(figures);
    assert!(figures["load"]["beyond_dlopen_ns"].as_f64().unwrap() > 0.0);
    assert!(figures["load"]["entry_points"].as_u64().unwrap() > 100);
    let beyond = &figures["check_availability"]["beyond_cu_init_ns"];
    assert!(beyond.as_f64().unwrap() > 0.0);
}

/// Builds the simulated driver as a shared library, which cargo does not do for a test of another package.
fn simulated_library() -> String {
    let built = Command::new(env!("CARGO"))
        .args(["build", "--package", "cuda-green-sim-driver"])
        .args(["--message-format", "json"])
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .output()
        .unwrap();
    let told = String::from_utf8_lossy(&built.stderr);
    assert!(built.status.success(), "{told}");
    let messages = String::from_utf8(built.stdout).unwrap();
    messages
        .lines()
        .filter_map(|line| serde_json::from_str::<Value>(line).ok())
        .filter(|message| message["target"]["name"] == "cuda_green_sim_driver")
        .find_map(|message| Some(message["filenames"][0].as_str()?.to_owned()))
        .unwrap()
}

#[test]
fn a_soak_alone_tells_that_nothing_was_lost() {
    let soak = [
        "alloc",
        "--soak",
        "0.2",
        "--threads",
        "3",
        "--driver",
        "sim:l40s@12.8",
    ];
    let text = stdout(&[&soak[..], &["--json"]].concat());
    let report: Value = serde_json::from_str(&text).unwrap();
    assert_eq!(
        report["command"],
        "cuda-green bench alloc --soak 0.2 --threads 3 --json"
    );
    let figures = &report["figures"];
    assert_eq!(figures["threads"], 3);
    assert_eq!(figures["memory_was_lost"], false);
    assert_eq!(figures["driver_before"], figures["driver_after"]);
    assert!(figures["operations"].as_u64().unwrap() > 0);
    assert_eq!(figures["pool"]["used"], 0);
    assert!(stdout(&soak).contains("SIMULATED: these figures mean nothing"));
}

//! `bench embed` on the simulated driver, with a small model.

use std::fs;

use serde_json::{Value, json};

use crate::{
    common::{program, run, text},
    small_model::SmallModel,
};

fn bench(model: &SmallModel, more: &[&str]) -> std::process::Output {
    program(&["bench", "embed", "--driver", "sim:h200@13.0", "--model"])
        .arg(model.path(""))
        .arg("--texts")
        .arg(model.path("texts.txt"))
        .args(more)
        .output()
        .unwrap()
}

#[test]
fn as_json_and_as_a_picture() {
    let model = SmallModel::new();
    let svg = model.path("embed.svg");
    // The peers' figures are a GPU's, with which a simulation is not compared.
    let speed = json!({"1": 1.0, "50": 1.0, "512": 1.0});
    let peers = json!({
        "first_vector_s": 1.0, "sentence_transformers_texts_per_s": speed,
        "padded_graph_tokens_per_s": speed, "bert_base_padded_graph_tokens_per_s": speed,
        "one_text": {
            "sentence_transformers": {"p50_us": 1.0}, "forward": {"p50_us": 1.0}, "graph": {"p50_us": 1.0},
        },
    });
    let path = model.path("peers.json");
    fs::write(&path, peers.to_string()).unwrap();
    let options = [
        "--json",
        "--svg",
        svg.to_str().unwrap(),
        "--peers",
        path.to_str().unwrap(),
    ];
    let output = bench(&model, &options);
    assert!(output.status.success(), "{}", text(&output.stderr));
    let report: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(report["caveat"], "SIMULATED: these figures mean nothing");
    assert_eq!(report["command"], "cuda-green bench embed --json");
    let figures = &report["figures"];
    assert!(figures["to_peers"].is_null());
    // Two layers of products of 64 by 64 and 64 by 128 values.
    let products = 2 * (4 * 64 * 64 + 2 * 64 * 128);
    assert_eq!(figures["model"]["flop_per_token"], 2 * products);
    assert_eq!(figures["model"]["texts"], 30);
    for precision in [0, 1] {
        let row = &figures["accuracy"][precision];
        assert!(row["least_cosine"].as_f64().unwrap() > 0.999, "{row}");
        assert!(row["same_of_ten_nearest"].as_f64().unwrap() > 0.9, "{row}");
    }
    let sizes = figures["by_sms"].as_array().unwrap().iter();
    let sizes: Vec<_> = sizes.map(|row| row["sms"].as_u64().unwrap()).collect();
    assert_eq!(sizes, [8, 16, 32, 64, 96, 132]);
    let memory = &figures["memory"];
    assert_eq!(
        memory["pool_used_bytes"],
        memory["pool_used_after_all_texts_bytes"]
    );
    assert_eq!(
        memory["device_bytes"],
        memory["device_after_all_texts_bytes"]
    );
    assert!(fs::read_to_string(svg).unwrap().contains("SIMULATED"));
}

#[test]
fn as_text_in_80_columns() {
    let output = bench(&SmallModel::new(), &[]);
    assert!(output.status.success(), "{}", text(&output.stderr));
    let table = text(&output.stdout);
    let wide = table.lines().find(|line| line.chars().count() > 80);
    assert_eq!(wide, None);
    assert!(table.contains("SIMULATED: these figures mean nothing"));
    assert!(!table.contains("NaN") && !table.contains("inf "), "{table}");
}

#[test]
fn what_cannot_be_measured_is_told() {
    let model = SmallModel::new();
    fs::write(model.path("empty.txt"), "").unwrap();
    fs::write(model.path("not.json"), "{}").unwrap();
    let [empty, not, none] = ["empty.txt", "not.json", "none"].map(|name| {
        let path = model.path(name);
        path.to_str().unwrap().to_owned()
    });
    for (options, expected) in [
        (["--texts", &empty], "the file of texts is empty"),
        (["--peers", &not], "is not the output of peers_embed.py"),
        (["--model", &none], "not a folder"),
    ] {
        let mut arguments = vec!["bench", "embed", "--driver", "sim:h200@13.0"];
        let texts = model.path("texts.txt").to_str().unwrap().to_owned();
        let folder = model.path("").to_str().unwrap().to_owned();
        for (name, value) in [("--model", &folder), ("--texts", &texts)] {
            if options[0] != name {
                arguments.extend([name, value]);
            }
        }
        arguments.extend(options);
        let output = run(&arguments);
        assert_eq!(output.status.code(), Some(1));
        let told = text(&output.stderr)
            .replace('\n', " ")
            .replace("       ", "");
        assert!(told.contains(expected), "{told}");
    }
}

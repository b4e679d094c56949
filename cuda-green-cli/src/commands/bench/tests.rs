//! Tests of `--from`: whatever a file contains, the result is a picture or an error.

use std::{fs, path::Path};

use proptest::prelude::*;
use serde_json::{Value, json};

use super::run::{Drawn, parse};
#[cfg(feature = "processes")]
use crate::commands::bench::processes::ProcessFigures;
#[cfg(feature = "queue")]
use crate::commands::bench::queue::QueueFigures;
#[cfg(feature = "embed")]
use crate::commands::bench::service::ServiceFigures;
use crate::commands::bench::{
    activate::Activate, alloc::Alloc, isolation::Isolation, rebalance::Rebalance,
};

/// Draws the figures in a text, if it has these.
fn draw<F: Drawn>(text: &str) -> Option<String> {
    let svg = parse::<F>(text).ok()?.picture().ok()?;
    assert!(svg.starts_with("<svg") && svg.trim_end().ends_with("</svg>"));
    let wrong = |c: char| c.is_control() && c != '\n' || matches!(c, '\u{fffe}' | '\u{ffff}');
    assert!(!svg.contains(wrong), "no XML has these characters");
    assert_eq!(
        svg.matches('<').count(),
        svg.matches('>').count(),
        "a name from the file is markup"
    );
    Some(svg)
}

fn draw_as_each(text: &str) -> bool {
    let drawn = [
        draw::<Activate>(text),
        draw::<Alloc>(text),
        draw::<Isolation>(text),
        draw::<Rebalance>(text),
        #[cfg(feature = "processes")]
        draw::<ProcessFigures>(text),
        #[cfg(feature = "queue")]
        draw::<QueueFigures>(text),
        #[cfg(feature = "embed")]
        draw::<ServiceFigures>(text),
    ];
    drawn.iter().any(Option::is_some)
}

/// Returns the evidence from a GPU; none if the crate is tested outside the workspace.
fn kept() -> Vec<Value> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../evidence");
    let mut names = vec!["activate", "alloc", "isolation", "rebalance"];
    if cfg!(feature = "embed") {
        names.push("service");
    }
    if cfg!(feature = "processes") {
        names.push("processes");
    }
    if cfg!(feature = "queue") {
        names.push("queue");
    }
    names
        .iter()
        .filter_map(|name| fs::read(folder.join(format!("{name}.json"))).ok())
        .map(|text| serde_json::from_slice(&text).unwrap_or_default())
        .collect()
}

/// Returns unusual values.
fn strange() -> impl Strategy<Value = Value> {
    let texts = [
        "",
        "\u{1b}[2J",
        "\0",
        "]]>",
        "</svg><a b=\"",
        "&lt;",
        "\u{ffff}",
        "é\r\n\t",
    ];
    let numbers = [
        0.0,
        -0.0,
        -1.0,
        0.5,
        1e-320,
        1e12,
        1e300,
        f64::MAX,
        f64::MIN,
    ];
    let integers = [0, 1, u64::MAX, 1 << 53];
    prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<f64>().prop_map(Value::from),
        proptest::sample::select(numbers.to_vec()).prop_map(Value::from),
        proptest::sample::select(integers.to_vec()).prop_map(Value::from),
        proptest::sample::select(texts.to_vec()).prop_map(Value::from),
        any::<String>().prop_map(Value::from),
        proptest::collection::vec(any::<f64>(), 0..5).prop_map(Value::from),
        Just(json!({})),
    ]
}

/// Replaces or removes the value that the steps lead to.
fn change(value: &mut Value, mut steps: impl Iterator<Item = u16>, new: Option<Value>) {
    let Some(step) = steps.next().map(usize::from) else {
        *value = new.unwrap_or_default();
        return;
    };
    match value {
        Value::Array(all) if !all.is_empty() => {
            let at = step % all.len();
            let is_leaf = !all[at].is_array() && !all[at].is_object();
            match new {
                None if is_leaf => drop(all.drain(at..)),
                new => change(&mut all[at], steps, new),
            }
        }
        Value::Object(all) if !all.is_empty() => {
            let at = step % all.len();
            if let Some((_, inner)) = all.iter_mut().nth(at) {
                change(inner, steps, new);
            }
        }
        _ => *value = new.unwrap_or_default(),
    }
}

proptest! {
    #[test]
    fn no_text_breaks_it(text: String, value in strange()) {
        draw_as_each(&text);
        draw_as_each(&value.to_string());
        let report = json!({ "device": "x", "simulated": false, "command": "", "figures": value });
        draw_as_each(&report.to_string());
    }

    #[test]
    fn nothing_in_a_report_breaks_it(
        which: prop::sample::Index,
        changes in proptest::collection::vec(
            (proptest::collection::vec(any::<u16>(), 1..6), proptest::option::of(strange())),
            1..5,
        ),
    ) {
        let kept = kept();
        prop_assume!(!kept.is_empty());
        let mut report = kept[which.index(kept.len())].clone();
        for (steps, new) in changes {
            change(&mut report, steps.into_iter(), new);
        }
        draw_as_each(&report.to_string());
    }
}

#[test]
fn what_was_kept_is_drawn() {
    for mut report in kept() {
        assert!(draw_as_each(&report.to_string()));
        report["device"] = "a\u{1b}[2J</text>&\u{ffff}".into();
        assert!(draw_as_each(&report.to_string()));
    }
}

//! The workspace's pictures, which must be those of its evidence. `BLESS=1` redraws them.

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Command, Output},
};

/// Draws the evidence of a measurement.
fn draw(what: &str) -> (Output, PathBuf) {
    let drawn = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("{what}.svg"));
    let output = Command::new(env!("CARGO_BIN_EXE_cuda-green"))
        .args(["bench", what, "--from"])
        .arg(evidence(what, "json"))
        .arg("--svg")
        .arg(&drawn)
        .output()
        .unwrap();
    (output, drawn)
}

fn evidence(what: &str, end: &str) -> PathBuf {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../evidence");
    folder.join(format!("{what}.{end}"))
}

#[cfg(feature = "embed")]
#[test]
fn the_picture_of_the_service_is_that_of_its_evidence() {
    drawn_once_there_is_evidence("service");
}

#[cfg(feature = "processes")]
#[test]
fn the_picture_of_processes_is_that_of_its_evidence() {
    drawn_once_there_is_evidence("processes");
}

#[cfg(any(feature = "embed", feature = "processes"))]
fn drawn_once_there_is_evidence(what: &str) {
    if !fs::exists(evidence(what, "json")).unwrap() {
        assert!(!fs::exists(evidence(what, "svg")).unwrap());
        return;
    }
    let (output, drawn) = draw(what);
    assert!(output.status.success(), "{output:?}");
    let drawn = fs::read_to_string(drawn).unwrap();
    let committed = evidence(what, "svg");
    if std::env::var_os("BLESS").is_some() {
        fs::write(committed, drawn).unwrap();
    } else {
        assert!(
            fs::read_to_string(committed).unwrap() == drawn,
            "run `BLESS=1 cargo test -p cuda-green-cli --test program pictures`"
        );
    }
}

#[test]
fn the_pictures_are_those_of_the_evidence() {
    for what in ["activate", "alloc", "isolation", "rebalance"] {
        let (output, drawn) = draw(what);
        let committed = evidence(what, "svg");
        let text = fs::read_to_string(evidence(what, "json")).unwrap();
        // Figures older than their command have no distributions, so there is nothing to draw.
        if !text.contains("percentiles_by_half_") {
            let told = String::from_utf8_lossy(&output.stderr);
            assert!(told.contains("is not the output of"), "{output:?}");
            assert!(
                !fs::exists(committed).unwrap(),
                "{what} has a picture of nothing"
            );
            continue;
        }
        assert!(output.status.success(), "{output:?}");
        let drawn = fs::read_to_string(drawn).unwrap();
        if std::env::var_os("BLESS").is_some() {
            fs::write(committed, drawn).unwrap();
        } else {
            assert!(
                fs::read_to_string(committed).unwrap() == drawn,
                "run `BLESS=1 cargo test -p cuda-green-cli --test program pictures`"
            );
        }
    }
}

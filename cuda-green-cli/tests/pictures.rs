//! The workspace's pictures are those of its evidence. `BLESS=1` draws them anew.

#![allow(clippy::unwrap_used)] // helpers of tests

use std::{fs, path::Path, process::Command};

#[test]
fn the_picture_of_isolation_is_that_of_the_evidence() {
    let evidence = Path::new(env!("CARGO_MANIFEST_DIR")).join("../evidence");
    let (committed, drawn) = (
        evidence.join("isolation.svg"),
        Path::new(env!("CARGO_TARGET_TMPDIR")).join("isolation.svg"),
    );
    let output = Command::new(env!("CARGO_BIN_EXE_cuda-green"))
        .args(["bench", "isolation", "--from"])
        .arg(evidence.join("isolation.json"))
        .arg("--svg")
        .arg(&drawn)
        .output()
        .unwrap();
    assert!(output.status.success(), "{output:?}");
    let drawn = fs::read_to_string(drawn).unwrap();
    if std::env::var_os("BLESS").is_some() {
        fs::write(committed, drawn).unwrap();
    } else {
        assert!(
            fs::read_to_string(committed).unwrap() == drawn,
            "run `BLESS=1 cargo test -p cuda-green-cli --test pictures`"
        );
    }
}

//! Proves that `cuda-green-sys/MATRIX.md` is what the real headers and drivers say; `BLESS=1` writes it.

use std::{fs, path::Path};

use driver_matrix::{
    matrix,
    skip::{bless, skip},
};

#[test]
fn the_committed_table_is_what_headers_and_drivers_say() {
    let table = match matrix::table(Path::new(env!("CARGO_BIN_EXE_driver-matrix"))) {
        Ok(table) => table,
        Err(missing) => return skip("cuda-green-sys/MATRIX.md", &missing),
    };
    let path = matrix::committed();
    if bless() {
        return fs::write(path, table).unwrap();
    }
    let committed = fs::read_to_string(path).unwrap_or_default();
    let difference = table
        .lines()
        .zip(committed.lines())
        .find(|(new, old)| new != old);
    assert!(
        table == committed,
        "cuda-green-sys/MATRIX.md is stale; `cargo xtask matrix --write` writes it anew. \
         First difference (made, committed): {difference:?}"
    );
}

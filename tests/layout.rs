//! Proves that C and Rust agree on every struct: the C compiler's sizes, alignments and offsets for each
//! CUDA header against those that rustc gives the committed bindings.

use driver_matrix::{
    headers::{self, GROWING, RUST, Rust},
    skip::skip,
};

#[test]
fn c_and_rust_agree_on_every_struct_of_every_header() {
    let mut complaints = Vec::new();
    for (version, header) in headers::all() {
        let Some(probe) = header.map(|header| &header.probe) else {
            skip(
                &format!("layouts of header {version} in C"),
                &headers::why_missing(),
            );
            continue;
        };
        assert!(
            probe.len() >= 10,
            "{version}: the probe printed {} types",
            probe.len()
        );
        for (name, c) in probe {
            let Some(rust) = RUST.iter().find(|rust| rust.name == name) else {
                complaints.push(format!("{version} {name}: not in the bindings"));
                continue;
            };
            let grown = GROWING.contains(&name.as_str()) && c.size < rust.size as u64;
            if c.size != rust.size as u64 && !grown {
                complaints.push(format!(
                    "{version} {name}: size {} in C, {} in Rust",
                    c.size, rust.size
                ));
            }
            // The one change there is: see tests/bindings.rs.
            let documented = name == "CUdevResource_st" && version < "13.1" && c.align == 4;
            if c.align != rust.align as u64 && !documented {
                complaints.push(format!(
                    "{version} {name}: alignment {} in C, {} in Rust",
                    c.align, rust.align
                ));
            }
            for (path, [offset, size]) in &c.fields {
                // What `tests/bindings.rs` and MATRIX.md go by.
                let bindgen = header.and_then(|header| header.layouts[name].fields.get(path));
                if bindgen != Some(offset) {
                    complaints.push(format!(
                        "{version} {name}.{path}: offset {offset} in C, {bindgen:?} by bindgen"
                    ));
                }
                if let Some(complaint) = field(rust, path, *offset, *size) {
                    complaints.push(format!("{version} {name}.{path}: {complaint}"));
                }
            }
        }
    }
    assert!(complaints.is_empty(), "\n{}", complaints.join("\n"));
}

/// What is wrong with one field, if anything.
fn field(rust: &Rust, path: &str, offset: u64, size: u64) -> Option<String> {
    let Some((_, our_offset, our_size)) = rust.fields.iter().find(|(ours, ..)| *ours == path)
    else {
        return Some("not in the bindings".to_owned());
    };
    let (our_offset, our_size) = (*our_offset as u64, *our_size as u64);
    // New fields take their room from the front of what was reserved for them.
    if path == "reserved" && our_offset + our_size == offset + size {
        return None;
    }
    // The resource of `GROWING`, which lies in a union.
    if path == "sm" && rust.name == "CUdevResource_st" && size < our_size && offset == our_offset {
        return None;
    }
    // 13.1 took the last 8 of these 48 bytes for the struct's new pointer.
    if path == "_oversize" && offset == our_offset && (size, our_size) == (48, 40) {
        return None;
    }
    (offset != our_offset || size != our_size)
        .then(|| format!("C has ({offset}, {size}), Rust ({our_offset}, {our_size})"))
}

//! C's own account of every struct: a small program per header set, compiled by `cc` and run.

use std::{collections::BTreeMap, error::Error, fmt::Write, fs, path::Path, process::Command};

use serde_json::{Map, Value, json};

use crate::{HeaderSet, facts::Layout};

/// Compiles and runs the probe, and returns `{type: {size, align, fields: {path: [offset, size]}}}`.
pub fn run(
    out: &Path,
    set: &HeaderSet,
    header: &str,
    layouts: &BTreeMap<String, Layout>,
) -> Result<Value, Box<dyn Error>> {
    let source = out.join(format!("{}-probe.c", set.version));
    let program = out.join(format!("{}-probe", set.version));
    fs::write(&source, probe(header, layouts)?)?;
    // The compiler that builds C for this machine: the probe runs here.
    let compiler = cc::Build::new()
        .cargo_metadata(false)
        .host(&std::env::var("HOST")?)
        .target(&std::env::var("HOST")?)
        .opt_level(0)
        .try_get_compiler()?;
    let output = compiler
        .to_command()
        .args(["-std=c11", "-I"])
        .arg(&set.folder)
        .arg("-o")
        .arg(&program)
        .arg(&source)
        .output()?;
    if !output.status.success() {
        return Err(String::from_utf8_lossy(&output.stderr).into());
    }
    let output = Command::new(&program).output()?;
    read(&String::from_utf8(output.stdout)?)
}

fn probe(header: &str, layouts: &BTreeMap<String, Layout>) -> Result<String, std::fmt::Error> {
    let mut c = String::from(
        "#include <cuda.h>\n#include <stddef.h>\n#include <stdio.h>\n\nint main(void) {\n",
    );
    for (name, layout) in layouts {
        let tag = if layout.is_union { "union" } else { "struct" };
        let tagged = format!("{tag} {name}");
        let kind = if header.contains(&tagged) {
            &tagged
        } else {
            name
        };
        writeln!(
            c,
            "printf(\"{name} %zu %zu\\n\", sizeof({kind}), _Alignof({kind}));"
        )?;
        for field in &layout.fields {
            let path = &field.c_path;
            writeln!(
                c,
                "printf(\"{name} {path} %zu %zu\\n\", offsetof({kind}, {path}), sizeof((({kind} *)0)->{path}));"
            )?;
        }
    }
    c.push_str("return 0;\n}\n");
    Ok(c)
}

fn read(output: &str) -> Result<Value, Box<dyn Error>> {
    let mut types: Map<String, Value> = Map::new();
    for line in output.lines() {
        let words: Vec<&str> = line.split(' ').collect();
        match words.as_slice() {
            [name, size, align] => {
                let [size, align]: [u64; 2] = [size.parse()?, align.parse()?];
                let layout = json!({ "size": size, "align": align, "fields": {} });
                types.insert((*name).to_owned(), layout);
            }
            [name, path, offset, size] => {
                let field: [u64; 2] = [offset.parse()?, size.parse()?];
                types[*name]["fields"][*path] = json!(field);
            }
            _ => return Err(format!("the probe printed `{line}`").into()),
        }
    }
    Ok(types.into())
}

//! The table of entry points, struct fields and constants by CUDA version, made from real headers and
//! real drivers: `cuda-green-sys/MATRIX.md`.

use std::{
    collections::BTreeMap,
    fmt::Write,
    path::{Path, PathBuf},
};

use cuda_green_sys::{ENTRY_POINTS, EntryPoint};

use crate::{
    drivers::{self, Missing, Report},
    headers::{self, Header},
};

const INTRODUCTION: &str = "\
# Which CUDA version has what

Made by `cargo xtask matrix --write` from the real headers and the real drivers of these versions, and
compared with them by `tests/matrix.rs` of the workspace. Versions are those of the driver API, as
`cuDriverGetVersion` reports them. `≤ 12.4` means: the oldest header that is compared, 12.4, has it.
";

const ENTRY_POINTS_TEXT: &str = "
## Entry points

*Since* is the version that introduced the ABI that is bound: what `cuGetProcAddress` is asked with, and
the first whose driver is taken to have it. *Header* is the first header that declares it. For each real
driver: ● has it, ◐ has it only in an older ABI, ○ does not know it.
";

const FIELDS_TEXT: &str = "
## Structs and their fields

Sizes and offsets in bytes, the same in every header that has the field. A field that a driver does not
know stays as the caller set it, which is why every struct is zeroed before it is passed in. What was
reserved shrinks as fields take its room, and `CUdevSmResource` grows inside the union of
`CUdevResource`, whose size never changes.
";

const CONSTANTS_TEXT: &str = "
## Constants newer than 12.4
";

/// The path of the committed table.
pub fn committed() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("cuda-green-sys/MATRIX.md")
}

/// The table, as Markdown. `program` is this package's binary, which loads each driver.
///
/// # Errors
/// The names of the headers or drivers that are missing: the table is whole or not at all.
pub fn table(program: &Path) -> Result<String, String> {
    let headers = all_headers()?;
    let drivers = all_drivers(program)?;
    let mut text = INTRODUCTION.to_owned();
    entry_points(&mut text, &headers, &drivers);
    fields(&mut text, &headers);
    constants(&mut text, &headers);
    Ok(text)
}

type Headers = [(&'static str, &'static Header)];

fn all_headers() -> Result<Vec<(&'static str, &'static Header)>, String> {
    headers::all()
        .map(|(version, header)| {
            let why = || format!("header {version}: {}", headers::why_missing());
            Ok((version, header.ok_or_else(why)?))
        })
        .collect()
}

fn all_drivers(program: &Path) -> Result<Vec<(String, Report)>, String> {
    if !drivers::CAN_BE_LOADED {
        return Err("the real drivers are built for x86-64 Linux".to_owned());
    }
    drivers::versions()
        .into_iter()
        .map(|(version, release)| {
            let path = drivers::path(version).ok_or_else(|| {
                format!("driver {release} ({version}): not fetched: run `cargo xtask fetch`")
            })?;
            let report = drivers::ask(program, Some(path.as_os_str()), &[])?;
            Ok((format!("{version} ({release})"), report))
        })
        .collect()
}

fn entry_points(text: &mut String, headers: &Headers, drivers: &[(String, Report)]) {
    text.push_str(ENTRY_POINTS_TEXT);
    text.push_str("\n| entry point | since | header |");
    for (name, _) in drivers {
        line(text, format_args!(" {name} |"));
    }
    line(
        text,
        format_args!("\n|---|---|---|{}\n", "---|".repeat(drivers.len())),
    );
    for entry in ENTRY_POINTS {
        let header = first(headers, |header| {
            header.functions.contains_key(entry.name())
        });
        line(
            text,
            format_args!("| `{}` | {} | {header} |", entry.name(), entry.since),
        );
        for (_, report) in drivers {
            line(text, format_args!(" {} |", mark(entry, report)));
        }
        text.push('\n');
    }
}

fn mark(entry: &EntryPoint, report: &Report) -> char {
    match report.absent.get(entry.name()) {
        None => '●',
        Some(Missing::OlderAbi) => '◐',
        Some(Missing::NotFound) => '○',
    }
}

fn fields(text: &mut String, headers: &Headers) {
    text.push_str(FIELDS_TEXT);
    let Some((_, newest)) = headers.last() else {
        return;
    };
    for (name, layout) in &newest.layouts {
        let header = first(headers, |header| header.layouts.contains_key(name));
        line(
            text,
            format_args!(
                "\n### `{name}`\n\n{} bytes, aligned to {}{}. Header {header}.\n\n| field | offset | header |\n|---|---|---|\n",
                layout.size,
                layout.align,
                earlier(headers, name, layout.size, layout.align),
            ),
        );
        let mut fields: Vec<_> = layout.fields.iter().collect();
        fields.sort_by_key(|(path, offset)| (**offset, *path));
        for (path, offset) in fields {
            let header = first(headers, |header| {
                header
                    .layouts
                    .get(name)
                    .is_some_and(|layout| layout.fields.contains_key(path))
            });
            line(text, format_args!("| `{path}` | {offset} | {header} |\n"));
        }
    }
}

/// In words, where older headers have another size or alignment.
fn earlier(headers: &Headers, name: &str, size: u64, align: u64) -> String {
    let mut text = String::new();
    let mut last = (size, align);
    for (version, header) in headers.iter().rev() {
        let Some(layout) = header.layouts.get(name) else {
            break;
        };
        if (layout.size, layout.align) != last {
            last = (layout.size, layout.align);
            line(
                &mut text,
                format_args!("; up to {version}: {} bytes, aligned to {}", last.0, last.1),
            );
        }
    }
    text
}

fn constants(text: &mut String, headers: &Headers) {
    text.push_str(CONSTANTS_TEXT);
    let Some((_, newest)) = headers.last() else {
        return;
    };
    let mut by_version: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for (name, value) in &newest.constants {
        let header = first(headers, |header| header.constants.contains_key(name));
        let short = name.rsplit("::").next().unwrap_or(name);
        by_version
            .entry(header)
            .or_default()
            .push(format!("`{short}` {value}"));
    }
    by_version.retain(|version, _| !version.starts_with('≤'));
    for (version, names) in by_version {
        line(
            text,
            format_args!("\n- **{version}**: {}", names.join(", ")),
        );
    }
    text.push('\n');
}

/// The first header that has something, in the table's words.
fn first(headers: &Headers, has: impl Fn(&Header) -> bool) -> String {
    match headers.iter().position(|(_, header)| has(header)) {
        Some(0) => format!("≤ {}", headers[0].0),
        Some(index) => headers[index].0.to_owned(),
        None => "none".to_owned(),
    }
}

fn line(text: &mut String, arguments: std::fmt::Arguments<'_>) {
    // Writing to a String cannot fail.
    let _ = text.write_fmt(arguments);
}

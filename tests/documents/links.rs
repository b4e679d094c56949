//! Where the documents' links lead.

use std::{collections::BTreeSet, fs, path::Path};

use crate::document::{ROOT, documents, files};

/// The pages outside that are linked to. Whoever adds one looks at it first: nothing here asks the network.
const PAGES: &[&str] = &[
    "https://doc.rust-lang.org/cargo/reference/semver.html",
    "https://docs.nvidia.com/cuda/cuda-driver-api/group__CUDA__GREEN__CONTEXTS.html",
    "https://docs.nvidia.com/cuda/cuda-programming-guide/04-special-topics/green-contexts.html",
    "https://docs.nvidia.com/datacenter/tesla/mig-user-guide/contents.html",
    "https://docs.nvidia.com/datacenter/tesla/mig-user-guide/supported-gpus.html",
    "https://docs.nvidia.com/datacenter/tesla/mig-user-guide/supported-mig-profiles.html",
    "https://docs.nvidia.com/deploy/mps/introduction.html",
    "https://docs.nvidia.com/deploy/mps/when-to-use-mps.html",
    "https://docs.nvidia.com/deploy/nvml-api/api/group__nvmlMultiInstanceGPU.html",
    "https://docs.pytorch.org/docs/2.10/generated/torch.cuda.green_contexts.GreenContext.html",
    "https://docs.pytorch.org/docs/2.15/generated/torch.cuda.green_contexts.SMPartition.html",
    "https://docs.rs/cudarc/0.19.10",
    "https://github.com/huggingface/text-embeddings-inference",
    "https://nvidia-isaac-ros.github.io/concepts/gpu_partitioning/index.html",
    "https://nvidia.github.io/cuda-python/cuda-bindings/latest/module/generated/driver_v2/cuda.bindings._v2.driver.stream_create_with_priority.html",
    "https://nvidia.github.io/cuda-python/cuda-core/latest/generated/cuda.core.Context.html",
    "https://www.nvidia.com/en-us/technologies/multi-instance-gpu/",
    "https://keepachangelog.com/en/1.1.0/",
    "https://semver.org/spec/v2.0.0.html",
];

/// The crates whose documentation is on docs.rs once they are published.
const PUBLISHED: [&str; 6] = [
    "cuda-green",
    "cuda-green-cli",
    "cuda-green-embed",
    "cuda-green-queue",
    "cuda-green-sim",
    "cuda-green-sys",
];

/// A path from the root, without `.` and `..`.
fn resolved(document: &str, link: &str) -> String {
    let mut parts: Vec<&str> = document.split('/').collect();
    parts.pop();
    for part in link.split('/') {
        match part {
            "" | "." => {}
            ".." => {
                assert!(
                    parts.pop().is_some(),
                    "{document}: {link} leaves the repository"
                );
            }
            part => parts.push(part),
        }
    }
    parts.join("/")
}

/// What a link within the repository names is not there.
fn broken(document: &str, link: &str) -> Option<String> {
    let (path, fragment) = link.split_once('#').unwrap_or((link, ""));
    let target = match path {
        "" => document.to_owned(),
        path => resolved(document, path),
    };
    let folder = format!("{target}/");
    let known = files().iter();
    if !target.is_empty()
        && !known
            .clone()
            .any(|file| *file == target || file.starts_with(&folder))
    {
        return Some(format!("there is no {target}"));
    }
    if fragment.is_empty() {
        return None;
    }
    match documents().iter().find(|other| other.path == target) {
        None => Some(format!("{target} has no headings")),
        Some(other) if !other.anchors.iter().any(|anchor| anchor == fragment) => Some(format!(
            "{target} has no heading #{fragment}; it has {:?}",
            other.anchors
        )),
        Some(_) => None,
    }
}

#[test]
fn links_within_the_repository_lead_somewhere() {
    let mut wrong = Vec::new();
    for document in documents() {
        for link in &document.links {
            // rustdoc checks the names of items.
            if link.text.contains("://") || link.text.starts_with("crate::") {
                continue;
            }
            if let Some(why) = broken(&document.path, &link.text) {
                wrong.push(format!(
                    "{}:{}: {}: {why}",
                    document.path, link.line, link.text
                ));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn a_link_to_nowhere_is_told() {
    assert!(broken("README.md", "cuda-green").is_none());
    assert!(broken("cuda-green/README.md", "../README.md#licence").is_none());
    assert!(broken("README.md", "#licence").is_none());
    assert!(broken("README.md", "nowhere.md").is_some());
    assert!(broken("README.md", "#nowhere").is_some());
    assert!(broken("README.md", "LICENSE-MIT#licence").is_some());
}

/// On crates.io and docs.rs there is no repository around a document.
#[test]
fn what_is_published_links_to_nothing_beside_it() {
    for document in documents() {
        let Some((package, _)) = document.path.split_once('/') else {
            continue;
        };
        if !PUBLISHED.contains(&package) {
            continue;
        }
        for link in &document.links {
            let text = &link.text;
            let anywhere = ["https://", "crate::", "#"];
            let whole = anywhere.iter().any(|start| text.starts_with(start));
            assert!(whole, "{}:{}: {text}", document.path, link.line);
        }
    }
}

#[test]
fn the_pages_outside_are_those_that_were_looked_at() {
    let links = documents().iter().flat_map(|document| &document.links);
    let outside = links
        .map(|link| &*link.text)
        .filter(|link| link.contains("://"));
    let (own, others): (BTreeSet<&str>, BTreeSet<&str>) =
        outside.partition(|link| link.starts_with("https://docs.rs/cuda-green"));
    for link in own {
        assert!(is_an_item(link), "{link} names nothing of ours");
    }
    let known: BTreeSet<&str> = PAGES.iter().copied().collect();
    assert_eq!(others, known, "left: linked; right: looked at");
    for page in known {
        let host = page
            .strip_prefix("https://")
            .unwrap()
            .split('/')
            .next()
            .unwrap();
        assert!(
            host.contains('.') && !page.contains(char::is_whitespace),
            "{page}"
        );
    }
}

/// Whether a page of docs.rs is one that a published crate will have: the crate itself, or
/// `<crate>/latest/<crate>/<kind>.<Name>.html`, with the item in its sources.
fn is_an_item(link: &str) -> bool {
    let rest = link.trim_start_matches("https://docs.rs/");
    let mut parts = rest.split('/');
    let package = parts.next().unwrap_or_default();
    if !PUBLISHED.contains(&package) {
        return false;
    }
    let rest: Vec<&str> = parts.collect();
    let [first, library, modules @ .., page] = &*rest else {
        return rest.is_empty();
    };
    let (page, member) = page.split_once('#').unwrap_or((page, ""));
    let item = match page.split('.').collect::<Vec<_>>()[..] {
        ["index", "html"] => modules.last().map(|module| format!("mod {module}")),
        [kind, name, "html"] => Some(format!(
            "{} {name}",
            if kind == "constant" { "const" } else { kind }
        )),
        _ => None,
    };
    let member = match member.split_once('.') {
        Some(("method", name)) => format!("fn {name}"),
        Some((_, name)) => name.to_owned(),
        None => String::new(),
    };
    let source = format!("{package}/src/");
    let has = |what: &str| {
        let mut sources = files().iter().filter(|file| file.starts_with(&source));
        sources.any(|file| {
            let text = fs::read_to_string(Path::new(ROOT).join(file)).unwrap();
            let mut found = text.match_indices(what);
            // And not only the beginning of a longer name.
            found.any(|(at, _)| {
                let next = text[at + what.len()..].chars().next();
                next.is_none_or(|next| !next.is_alphanumeric() && next != '_')
            })
        })
    };
    *first == "latest"
        && *library == package.replace('-', "_")
        && item.is_none_or(|item| has(&format!("pub {item}")))
        && (member.is_empty() || has(&member))
}

#[test]
fn a_page_of_ours_that_will_not_be_is_told() {
    for (link, is) in [
        ("https://docs.rs/cuda-green-sys", true),
        (
            "https://docs.rs/cuda-green-sys/latest/cuda_green_sys/struct.Api.html#method.entry_points",
            true,
        ),
        (
            "https://docs.rs/cuda-green-sys/latest/cuda_green_sys/matrix/index.html",
            true,
        ),
        (
            "https://docs.rs/cuda-green-sys/latest/cuda_green_sys/struct.Ap.html",
            false,
        ),
        (
            "https://docs.rs/cuda-green-sys/latest/cuda_green_sys/struct.Api.html#method.entry_point",
            false,
        ),
        (
            "https://docs.rs/cuda-green-sys/latest/cuda_green/struct.Api.html",
            false,
        ),
        ("https://docs.rs/cuda-green-sis", false),
    ] {
        assert_eq!(is_an_item(link), is, "{link}");
    }
}

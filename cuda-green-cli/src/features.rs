//! What a driver can have: what it is good for, since when, and whether it is here.

use cuda_green::{CudaDevice, CudaVersion};
use serde_json::{Value, json};

use crate::{
    page::Page,
    report::{GREEN, YELLOW},
};

struct Feature {
    name: &'static str,
    what: &'static str,
    since: CudaVersion,
    there: bool,
}

fn features(device: &CudaDevice) -> Vec<Feature> {
    let c = device.capabilities();
    let feature = |name, what, (major, minor), there: bool| Feature {
        name,
        what,
        since: CudaVersion::new(major, minor),
        // All of it is about green contexts, which a device may lack whatever its driver.
        there: there && c.green_contexts,
    };
    vec![
        feature(
            "green_contexts",
            "partitions with SMs of their own",
            (12, 4),
            c.green_contexts,
        ),
        feature(
            "merge",
            "partitions of unequal sizes from one split; rebalancing",
            (12, 5),
            c.merge,
        ),
        feature(
            "direct_streams",
            "streams in a partition without making it current",
            (12, 5),
            c.direct_streams,
        ),
        feature(
            "context_ids",
            "the driver tells its own granularity",
            (13, 0),
            c.context_ids,
        ),
        feature(
            "structured_split",
            "any even size, exactly, with clusters kept",
            (13, 1),
            c.structured_split,
        ),
        feature(
            "workqueues",
            "workqueues of a partition's own",
            (13, 1),
            c.workqueues,
        ),
        feature(
            "locality_domains",
            "partitions within a locality domain",
            (13, 4),
            c.locality_domains,
        ),
        feature(
            "shared_current",
            "one green context current to several threads",
            (13, 5),
            c.shared_current,
        ),
    ]
}

/// The same as JSON, by name.
pub fn json(device: &CudaDevice) -> Value {
    let features = features(device).into_iter().map(|feature| {
        let found = json!({ "there": feature.there, "since": feature.since.to_string() });
        (feature.name.to_owned(), found)
    });
    Value::Object(features.collect())
}

/// What there is, what this device lacks, and what a newer driver would add.
pub fn print(device: &CudaDevice, page: &mut Page) {
    let driver = device.driver().version();
    let (here, newer): (Vec<_>, Vec<_>) = features(device)
        .into_iter()
        .partition(|feature| feature.since <= driver);
    if !here.is_empty() {
        page.gap();
        page.line(format!("with this driver, CUDA {driver}:"));
    }
    for Feature {
        what, since, there, ..
    } in here
    {
        let (style, sign) = if there {
            (GREEN, "yes")
        } else {
            (YELLOW, "no ")
        };
        let label = format!("  {style}{sign}{style:#}  ");
        page.hanging(&label, "       ", format!("{what} ({since})"));
    }
    if !newer.is_empty() {
        page.gap();
        page.line("a newer driver would add, from this version of CUDA on:");
    }
    for Feature { what, since, .. } in newer {
        page.hanging(&format!("  {YELLOW}{since}{YELLOW:#}  "), "        ", what);
    }
}

//! Merges: several resources as one, of one split and of several.

use std::ptr;

use cuda_green_sys::*;

use crate::{
    Case,
    gpu::{Gpu, Seen, call, count, fields, said, say},
};

pub const CASES: &[Case] = &[
    Case::new("merge/within_a_split", within_a_split).since(12, 5),
    Case::new("merge/across_splits", across_splits)
        .since(12, 5)
        .rough(),
    Case::new("merge/wrong_arguments", wrong_merges).rough(),
];

/// Runs on how many of how many, and what it says of itself.
fn merged(gpu: &Gpu<'_>, seen: &mut Seen, name: &str, resources: &[CUdevResource]) {
    match gpu.green(resources) {
        Ok(green) => {
            seen.note(name, fields(&gpu.resource(green)));
            let stream = gpu.stream(green);
            let runs = gpu.sms_seen(stream).map(|sms| sms.len());
            seen.note(format!("{name} runs"), runs.map_err(say));
            gpu.close(stream);
            gpu.destroy(green);
        }
        Err(code) => seen.code(name, code),
    }
}

fn within_a_split(gpu: &Gpu<'_>, seen: &mut Seen) {
    let units = gpu.split(&gpu.whole(), 200, 0, 0).unwrap();
    let n = units.groups.len();
    let with_rest = |range: std::ops::Range<usize>, rest_first: bool| {
        let mut resources = units.groups[range].to_vec();
        if rest_first {
            resources.insert(0, units.rest);
        } else {
            resources.push(units.rest);
        }
        resources
    };
    merged(gpu, seen, "two units", &units.groups[..2]);
    merged(
        gpu,
        seen,
        "two units turned",
        &[units.groups[1], units.groups[0]],
    );
    merged(gpu, seen, "all units", &units.groups);
    if count(&units.rest) > 0 {
        merged(gpu, seen, "unit and rest", &with_rest(0..1, false));
        merged(gpu, seen, "rest and unit", &with_rest(0..1, true));
        merged(gpu, seen, "all and rest", &with_rest(0..n, false));
    }
    merged(gpu, seen, "one twice", &[units.groups[0], units.groups[0]]);
    let pairs = gpu.split(&gpu.whole(), 200, 1, 2);
    if let Ok(pairs) = pairs {
        merged(gpu, seen, "16 pairs", &pairs.groups[..16]);
        merged(gpu, seen, "all pairs", &pairs.groups);
    }
    let four = gpu.split(&gpu.whole(), 4, 0, 8).unwrap();
    merged(gpu, seen, "4 of many", &four.groups);
    let mut all = four.groups.clone();
    all.push(four.rest);
    merged(gpu, seen, "4 of many and the rest", &all);
}

fn across_splits(gpu: &Gpu<'_>, seen: &mut Seen) {
    let whole = gpu.whole();
    let one = gpu.split(&whole, 1, 0, 16).unwrap();
    let other = gpu.split(&whole, 1, 0, 16).unwrap();
    let pairs = gpu.split(&whole, 1, 1, 16);
    merged(
        gpu,
        seen,
        "same group of two splits",
        &[one.groups[0], other.groups[0]],
    );
    merged(
        gpu,
        seen,
        "group and other's rest",
        &[one.groups[0], other.rest],
    );
    merged(gpu, seen, "whole and a group", &[whole, one.groups[0]]);
    merged(gpu, seen, "group and whole", &[one.groups[0], whole]);
    merged(gpu, seen, "whole twice", &[whole, whole]);
    if let Ok(pairs) = pairs {
        merged(
            gpu,
            seen,
            "units and pairs",
            &[one.groups[0], pairs.groups[0]],
        );
        merged(
            gpu,
            seen,
            "pairs and units",
            &[pairs.groups[0], one.groups[0]],
        );
    }
    let green = gpu.green(&one.groups).unwrap();
    let own = gpu.resource(green);
    merged(gpu, seen, "a context's own", &[own]);
    merged(gpu, seen, "a context's own and a rest", &[own, one.rest]);
    if let Ok(inner) = gpu.split(&own, 1, 0, 8) {
        merged(
            gpu,
            seen,
            "inner and its rest",
            &[inner.groups[0], inner.rest],
        );
        merged(
            gpu,
            seen,
            "inner and outer's rest",
            &[inner.groups[0], one.rest],
        );
    }
    gpu.destroy(green);
}

fn wrong_merges(gpu: &Gpu<'_>, seen: &mut Seen) {
    let whole = gpu.whole();
    let mut descriptor = ptr::null_mut();
    seen.note("none", said(&gpu.descriptor(&[])));
    seen.note("empty", said(&gpu.descriptor(&[CUdevResource::default()])));
    let all = gpu.split(&whole, 1, 0, count(&whole)).unwrap();
    let with_empty = [all.groups[0], all.rest];
    seen.note("with an empty rest", said(&gpu.descriptor(&with_empty)));
    for kind in [1000, 10000, 4711] {
        let other = CUdevResource {
            type_: CUdevResourceType(kind),
            ..CUdevResource::default()
        };
        let name = format!("type {kind}");
        seen.note(&name, said(&gpu.descriptor(&[other])));
        seen.note(
            format!("whole and {name}"),
            said(&gpu.descriptor(&[whole, other])),
        );
    }
    let mut resource = whole;
    let code = call!(
        gpu,
        cuDevResourceGenerateDesc(ptr::null_mut(), &mut resource, 1)
    );
    seen.code("to nowhere", code);
    let code = call!(
        gpu,
        cuDevResourceGenerateDesc(&mut descriptor, ptr::null_mut(), 1)
    );
    seen.code("from nowhere", code);
}

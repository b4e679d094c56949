//! Resources: what they say of themselves, splits by count, splits within splits.

use std::{collections::BTreeSet, ptr};

use cuda_green_sys::*;

use crate::{
    Case,
    gpu::{Gpu, OK, SM, Seen, Split, call, count, fields, must, said, say},
};

pub const CASES: &[Case] = &[
    Case::new("resources/of_each_type", of_each_type),
    Case::new("split/every_size_and_flag", every_size_and_flag),
    Case::new("split/so_many_groups", so_many_groups),
    Case::new("split/fields", split_fields),
    Case::new("split/parts_again", parts_again),
    Case::new("split/a_context_s_own", a_contexts_own).rough(),
    Case::new("split/sms_of_the_parts", sms_of_the_parts),
    Case::new("split/wrong_arguments", wrong_arguments).rough(),
    Case::new(
        "split/structured_without_a_result",
        structured_without_a_result,
    )
    .since(13, 1),
];

fn of_each_type(gpu: &Gpu<'_>, seen: &mut Seen) {
    let green = gpu.quarter();
    let context = gpu.context(green).unwrap();
    for kind in [0, 1, 2, 1000, 10000, 4711] {
        let kind = CUdevResourceType(kind);
        let mut resource = CUdevResource::default();
        let mut note = |what: &str, code, resource: &CUdevResource| {
            let with = if code == OK && kind == SM {
                fields(resource)
            } else {
                String::new()
            };
            seen.note(
                format!("{what} {}", kind.0),
                format!("{} {with}", say(code)).trim().to_owned(),
            );
        };
        let code = call!(gpu, cuDeviceGetDevResource(gpu.device, &mut resource, kind));
        note("device", code, &resource);
        let code = call!(gpu, cuCtxGetDevResource(gpu.primary, &mut resource, kind));
        note("primary", code, &resource);
        let code = call!(gpu, cuCtxGetDevResource(context, &mut resource, kind));
        note("green's context", code, &resource);
        let code = call!(gpu, cuGreenCtxGetDevResource(green, &mut resource, kind));
        note("green", code, &resource);
    }
    let mut resource = CUdevResource::default();
    for device in [-1, 1000] {
        let code = call!(gpu, cuDeviceGetDevResource(device, &mut resource, SM));
        seen.code(format!("device number {device}"), code);
    }
    gpu.destroy(green);
}

/// `15x8+12`: the groups and the rest; or the code. With `made` 0 it only asks how many there could be.
fn shape(gpu: &Gpu<'_>, input: &CUdevResource, wanted: u32, flags: u32, min: u32) -> String {
    if wanted == 0 {
        let mut groups = 4711;
        let (none, nothing) = (ptr::null_mut(), ptr::null_mut());
        let code = call!(
            gpu,
            cuDevSmResourceSplitByCount(none, &mut groups, input, nothing, flags, min)
        );
        return if code == OK {
            groups.to_string()
        } else {
            say(code)
        };
    }
    match gpu.split(input, wanted, flags, min) {
        Ok(Split { groups, rest }) => {
            let sizes: BTreeSet<u32> = groups.iter().map(count).collect();
            let sizes: Vec<String> = sizes.iter().map(u32::to_string).collect();
            format!("{}x{}+{}", groups.len(), sizes.join("|"), count(&rest))
        }
        Err(code) => say(code),
    }
}

/// Notes the answer for each size, neighbours with the same one together.
fn sizes(seen: &mut Seen, name: &str, most: u32, answer: impl Fn(u32) -> String) {
    let mut start = 0;
    let mut last = answer(0);
    for min in 1..=most + 1 {
        let next = if min <= most {
            answer(min)
        } else {
            String::new()
        };
        if next != last {
            seen.note(format!("{name} {start:03}-{:03}", min - 1), &last);
            (start, last) = (min, next);
        }
    }
}

/// Every size from 0 to one past the device's, and beyond; every flag; both forms.
fn every_size_and_flag(gpu: &Gpu<'_>, seen: &mut Seen) {
    let whole = gpu.whole();
    for flags in [0, 1, 2, 3, 4, 8] {
        for (form, wanted) in [("possible", 0), ("all", 200), ("one", 1)] {
            sizes(
                seen,
                &format!("flags {flags} {form}"),
                count(&whole) + 1,
                |min| shape(gpu, &whole, wanted, flags, min),
            );
        }
        let name = format!("flags {flags} far too many");
        seen.note(name, shape(gpu, &whole, 200, flags, u32::MAX));
    }
}

fn so_many_groups(gpu: &Gpu<'_>, seen: &mut Seen) {
    let whole = gpu.whole();
    for wanted in [2, 3, 4, 5, 7, 15, 16] {
        sizes(
            seen,
            &format!("{wanted} groups"),
            count(&whole) + 1,
            |min| shape(gpu, &whole, wanted, 0, min),
        );
    }
    // What is written beyond the groups that there are, and with no rest wanted.
    let mut groups = vec![CUdevResource::default(); 20];
    let mut made = 20;
    let code = call!(
        gpu,
        cuDevSmResourceSplitByCount(
            groups.as_mut_ptr(),
            &mut made,
            &whole,
            ptr::null_mut(),
            0,
            32
        )
    );
    let written = groups.iter().filter(|group| group.type_ == SM).count();
    seen.note("no rest wanted", format!("{} {made} {written}", say(code)));
    made = 0;
    let code = call!(
        gpu,
        cuDevSmResourceSplitByCount(
            groups.as_mut_ptr(),
            &mut made,
            &whole,
            ptr::null_mut(),
            0,
            32
        )
    );
    seen.note("none wanted", format!("{} {made}", say(code)));
}

/// The parts that the other cases are about, by name: those that there are.
fn parts(gpu: &Gpu<'_>) -> Vec<(&'static str, CUdevResource)> {
    let whole = gpu.whole();
    let mut parts = vec![("whole", whole)];
    let mut add = |names: [&'static str; 2], wanted, flags, min| {
        if let Ok(split) = gpu.split(&whole, wanted, flags, min) {
            parts.push((names[0], split.groups[0]));
            if count(&split.rest) > 0 {
                parts.push((names[1], split.rest));
            }
        }
    };
    add(["unit", "rest of units"], 200, 0, 0);
    add(["32 of 4", "rest of 4x32"], 4, 0, 32);
    add(["32 of 3", "rest of 3x32"], 3, 0, 32);
    add(["32 of 1", "rest of 1x32"], 1, 0, 32);
    add(["16 of all", "rest of 16"], 200, 0, 16);
    add(["40 of 3", "rest of 3x40"], 3, 0, 40);
    add(["48 of 2", "rest of 2x48"], 2, 0, 48);
    add(["64 of 2", "rest of 2x64"], 2, 0, 64);
    add(["all of it", "rest of all"], 1, 0, count(&whole));
    add(["pair", "rest of pairs"], 200, 1, 2);
    add(["30 in pairs", "rest of 30"], 4, 1, 30);
    add(["32 in clusters", "rest of clusters"], 4, 2, 32);
    parts
}

fn split_fields(gpu: &Gpu<'_>, seen: &mut Seen) {
    for (name, part) in parts(gpu) {
        seen.note(name, fields(&part));
        match gpu.green(&[part]) {
            Ok(green) => {
                seen.note(format!("context of {name}"), fields(&gpu.resource(green)));
                gpu.destroy(green);
            }
            Err(code) => seen.code(format!("context of {name}"), code),
        }
    }
    let empty = gpu.split(&gpu.whole(), 1, 0, count(&gpu.whole())).unwrap();
    seen.note("empty rest", fields(&empty.rest));
}

/// Groups and rests are not to be split again.
fn parts_again(gpu: &Gpu<'_>, seen: &mut Seen) {
    for (name, part) in parts(gpu) {
        for (flags, min) in [(0, 8), (1, 2)] {
            let note = format!("{name} flags {flags} min {min}");
            seen.note(note, shape(gpu, &part, 200, flags, min));
        }
    }
}

/// The resource of a context over each part can be split: every size, and what comes of it.
fn a_contexts_own(gpu: &Gpu<'_>, seen: &mut Seen) {
    for (name, part) in parts(gpu) {
        let Ok(green) = gpu.green(&[part]) else {
            continue;
        };
        let own = gpu.resource(green);
        for (flags, form) in [(0, 0), (0, 200), (1, 200), (2, 200)] {
            sizes(
                seen,
                &format!("{name} flags {flags} form {form}"),
                count(&own) + 1,
                |min| shape(gpu, &own, form, flags, min),
            );
        }
        let context = gpu.context(green).unwrap();
        let mut by_context = CUdevResource::default();
        must(call!(
            gpu,
            cuCtxGetDevResource(context, &mut by_context, SM)
        ));
        seen.note(
            format!("{name} by its context"),
            shape(gpu, &by_context, 1, 0, 8),
        );
        // A context within the context: its SMs are some of the outer one's.
        if let Ok(split) = gpu.split(&own, 1, 0, 8) {
            let inner = gpu.green(&split.groups);
            seen.note(format!("{name} inner"), said(&inner));
            if let Ok(inner) = inner {
                let resource = gpu.resource(inner);
                seen.note(format!("{name} inner fields"), fields(&resource));
                let (outer_sms, inner_sms) = (gpu.sms_of(green), gpu.sms_of(inner));
                seen.note(
                    format!("{name} inner runs"),
                    format!(
                        "{} of {}, within {}",
                        inner_sms.len(),
                        outer_sms.len(),
                        inner_sms.is_subset(&outer_sms)
                    ),
                );
                seen.note(
                    format!("{name} inner again"),
                    shape(gpu, &resource, 200, 0, 8),
                );
                gpu.destroy(inner);
            }
            // The inner resource after its outer context is gone.
            gpu.destroy(green);
            let late = gpu.green(&split.groups);
            seen.note(format!("{name} inner after outer"), said(&late));
            if let Ok(late) = late {
                seen.note(
                    format!("{name} inner after outer runs"),
                    gpu.sms_of(late).len(),
                );
                gpu.destroy(late);
            }
        } else {
            gpu.destroy(green);
        }
        let stale = gpu.split(&own, 1, 0, 8);
        seen.note(format!("{name} split after its context"), said(&stale));
    }
}

/// Contexts over all parts of one split: as many SMs as each says, none twice, all of them together.
fn sms_of_the_parts(gpu: &Gpu<'_>, seen: &mut Seen) {
    for (name, wanted, flags, min) in [
        ("4x32", 4, 0, 32),
        ("3x32", 3, 0, 32),
        ("3x40", 3, 0, 40),
        ("units", 15, 0, 8),
        ("2x30 in pairs", 2, 1, 30),
    ] {
        let Ok(split) = gpu.split(&gpu.whole(), wanted, flags, min) else {
            continue;
        };
        let mut all = split.groups.clone();
        if count(&split.rest) > 0 {
            all.push(split.rest);
        }
        let mut together: BTreeSet<u32> = BTreeSet::new();
        let mut sizes = Vec::new();
        for part in &all {
            let green = gpu.green(&[*part]).unwrap();
            let sms = gpu.sms_of(green);
            sizes.push(format!("{} of {}", sms.len(), count(part)));
            together.extend(sms);
            gpu.destroy(green);
        }
        sizes.dedup();
        seen.note(name, sizes);
        seen.note(format!("{name} together"), together.len());
    }
}

/// Null pointers and forged resources.
fn wrong_arguments(gpu: &Gpu<'_>, seen: &mut Seen) {
    let whole = gpu.whole();
    let mut made = 1;
    let (mut group, mut rest) = (CUdevResource::default(), CUdevResource::default());
    let mut forged = whole;
    let bytes = &mut forged._internal_padding;
    seen.note("internal bytes used", bytes.iter().any(|byte| *byte != 0));
    let mut split = |seen: &mut Seen, name: &str, input: *const CUdevResource, n: *mut u32| {
        let code = call!(
            gpu,
            cuDevSmResourceSplitByCount(&mut group, n, input, &mut rest, 0, 8)
        );
        seen.code(name, code);
    };
    let invalid = CUdevResource {
        type_: CUdevResourceType::CU_DEV_RESOURCE_TYPE_INVALID,
        ..whole
    };
    split(seen, "type 0", &invalid, &mut made);
    let workqueue = CUdevResource {
        type_: CUdevResourceType::CU_DEV_RESOURCE_TYPE_WORKQUEUE,
        ..whole
    };
    split(seen, "type workqueue", &workqueue, &mut made);
    let mut smaller = whole;
    smaller.__bindgen_anon_1.sm.smCount = 16;
    seen.note("count made smaller", shape(gpu, &smaller, 200, 0, 8));
    let mut larger = whole;
    larger.__bindgen_anon_1.sm.smCount = 10_000;
    seen.note("count made larger", shape(gpu, &larger, 1, 0, 200));
    split(seen, "no groups pointer", &whole, ptr::null_mut());
    split(seen, "no input", ptr::null(), &mut made);
    let code = call!(gpu, cuDeviceGetDevResource(gpu.device, ptr::null_mut(), SM));
    seen.code("resource to nowhere", code);
    split(seen, "zeroed", &CUdevResource::default(), &mut made);
    let zeroed = CUdevResource {
        type_: SM,
        ..CUdevResource::default()
    };
    split(seen, "zeroed but for the type", &zeroed, &mut made);
}

/// What the driver says to sizes, and to as many SMs as there are, where it is given no room for the groups.
fn structured_without_a_result(gpu: &Gpu<'_>, seen: &mut Seen) {
    let whole = gpu.whole();
    for (name, sizes) in [
        ("size", &[32][..]),
        ("all", &[0]),
        ("size and all", &[32, 0]),
    ] {
        let group = |sm_count: &u32| CU_DEV_SM_RESOURCE_GROUP_PARAMS {
            smCount: *sm_count,
            coscheduledSmCount: 8,
            ..Default::default()
        };
        let mut params: Vec<_> = sizes.iter().map(group).collect();
        let code = call!(
            gpu,
            cuDevSmResourceSplit(
                ptr::null_mut(),
                params.len() as u32,
                &whole,
                ptr::null_mut(),
                0,
                params.as_mut_ptr()
            )
        );
        seen.code(name, code);
    }
}

//! Structured splits and workqueues (13.1): what is granted, what is refused, and in which version. No driver that has
//! them was at hand.

use cuda_green_sys::*;

use crate::{
    Case,
    gpu::{Gpu, OK, Seen, call, count, must, said, say},
};

pub const CASES: &[Case] = &[
    Case::new("structured/what_is_granted", granted).since(13, 1),
    Case::new("structured/parts_again", parts_again).since(13, 1),
    Case::new("structured/merges", merges).since(13, 1),
    Case::new("structured/locality_domains", locality_domains).since(13, 4),
    Case::new("workqueues/in_a_descriptor", in_a_descriptor).since(13, 1),
];

/// Parameters of one group; whatever is not set is zero.
type Params = CU_DEV_SM_RESOURCE_GROUP_PARAMS;

/// SMs, co-scheduled ones, preferred ones, flags.
fn params([sms, coscheduled, preferred, flags]: [u32; 4]) -> Params {
    Params {
        smCount: sms,
        coscheduledSmCount: coscheduled,
        preferredCoscheduledSmCount: preferred,
        flags,
        ..Params::default()
    }
}

fn split(
    gpu: &Gpu<'_>,
    input: &CUdevResource,
    groups: &[Params],
) -> Result<(Vec<CUdevResource>, CUdevResource), CUresult> {
    let mut params = groups.to_vec();
    let mut results = vec![CUdevResource::default(); groups.len()];
    let (mut rest, n) = (CUdevResource::default(), groups.len() as u32);
    let (to, from) = (results.as_mut_ptr(), params.as_mut_ptr());
    call!(gpu, cuDevSmResourceSplit(to, n, input, &mut rest, 0, from)).ok()?;
    Ok((results, rest))
}

/// The SMs of each group and of the rest, with the alignment of each group, or why there are none.
fn shape(gpu: &Gpu<'_>, input: &CUdevResource, groups: &[Params]) -> String {
    match split(gpu, input, groups) {
        Ok((groups, rest)) => {
            let groups: Vec<String> = groups
                .iter()
                .map(|group| {
                    let alignment = unsafe { group.__bindgen_anon_1.sm }.smCoscheduledAlignment;
                    format!("{} by {alignment}", count(group))
                })
                .collect();
            format!("{}, rest {}", groups.join(", "), count(&rest))
        }
        Err(code) => say(code),
    }
}

fn granted(gpu: &Gpu<'_>, seen: &mut Seen) {
    let whole = gpu.whole();
    let mut note = |groups: &[[u32; 4]]| {
        let wanted: Vec<Params> = groups.iter().copied().map(params).collect();
        seen.note(format!("{groups:?}"), shape(gpu, &whole, &wanted));
    };
    // Discovery, without a wish and with one; what is left after it.
    for coscheduled in [0, 2, 4, 8, 16, 32] {
        note(&[[0, coscheduled, 0, 0]]);
        note(&[[0, coscheduled, 0, 1]]);
    }
    note(&[[16, 8, 0, 0], [0, 0, 0, 0]]);
    note(&[[16, 8, 0, 0], [0, 2, 0, 1]]);
    // Sizes.
    for sms in [1, 2, 6, 7, 8, 12, 16, 1000] {
        note(&[[sms, 0, 0, 0]]);
        note(&[[sms, 0, 0, 1]]);
        note(&[[sms, 2, 0, 0]]);
    }
    // What is preferred: multiples and others.
    for preferred in [0, 2, 4, 6, 8, 12, 16, 64] {
        note(&[[16, 4, preferred, 0]]);
    }
    for flags in [2, 4, 8, 0x8000_0000] {
        note(&[[16, 8, 0, flags]]);
    }
    for word in [0, 10] {
        let mut reserved = params([16, 8, 0, 0]);
        reserved.reserved[word] = 1;
        let name = format!("reserved word {word}");
        seen.note(name, shape(gpu, &whole, &[reserved]));
    }
    let mut domain = params([16, 8, 0, 0]);
    domain.localityDomainId = 1;
    seen.note("a domain without its flag", shape(gpu, &whole, &[domain]));
}

/// Of what a split made, by count or structured, what can be split again in the structured way.
fn parts_again(gpu: &Gpu<'_>, seen: &mut Seen) {
    let whole = gpu.whole();
    let pair = params([2, 2, 0, 0]);
    let by_count = gpu.split(&whole, 2, 0, 8).unwrap();
    let (groups, rest) = split(gpu, &whole, &[params([8, 8, 0, 0])]).unwrap();
    let green = gpu.quarter();
    for (name, part) in [
        ("a group by count", by_count.groups[0]),
        ("the rest by count", by_count.rest),
        ("a structured group", groups[0]),
        ("the structured rest", rest),
        ("a context's own", gpu.resource(green)),
    ] {
        seen.note(name, shape(gpu, &part, &[pair]));
    }
    gpu.destroy(green);
}

/// Parts of one structured split, aligned alike or not, in one descriptor.
fn merges(gpu: &Gpu<'_>, seen: &mut Seen) {
    let wanted = [[8, 8, 0, 0], [8, 8, 0, 0], [4, 2, 0, 0], [2, 2, 0, 0]].map(params);
    let (groups, rest) = split(gpu, &gpu.whole(), &wanted).unwrap();
    for (name, parts) in [
        ("8 and 8", [groups[0], groups[1]]),
        ("pairs", [groups[2], groups[3]]),
        ("8 and pairs", [groups[0], groups[2]]),
        ("pairs and the rest", [groups[2], rest]),
        ("one twice", [groups[0], groups[0]]),
    ] {
        seen.note(name, said(&gpu.descriptor(&parts)));
    }
}

/// By one domain's id, by that of any, and by what is none.
fn locality_domains(gpu: &Gpu<'_>, seen: &mut Seen) {
    const BY_ID: u32 = 2;
    const SUPPLEMENTAL: u32 = 4;
    let whole = gpu.whole();
    let mut domains = 0;
    let attribute = CUdevice_attribute_enum::CU_DEVICE_ATTRIBUTE_LOCALITY_DOMAIN_COUNT;
    let code = call!(
        gpu,
        cuDeviceGetAttribute(&mut domains, attribute, gpu.device)
    );
    seen.note("domains", format!("{} {domains}", say(code)));
    for flags in [BY_ID, BY_ID | 1, BY_ID | SUPPLEMENTAL, SUPPLEMENTAL] {
        for id in [0, 1, 1000, u32::MAX] {
            let mut group = params([8, 8, 0, flags]);
            group.localityDomainId = id;
            let name = format!("flags {flags} domain {id}");
            seen.note(name, shape(gpu, &whole, &[group]));
        }
    }
}

/// A device's workqueue and its configuration beside SMs, and by themselves.
fn in_a_descriptor(gpu: &Gpu<'_>, seen: &mut Seen) {
    let part = gpu.split(&gpu.whole(), 1, 0, 8).unwrap().groups[0];
    for kind in [1000, 10000] {
        let mut workqueue = CUdevResource::default();
        let to = &mut workqueue;
        let code = call!(
            gpu,
            cuDeviceGetDevResource(gpu.device, to, CUdevResourceType(kind))
        );
        seen.code(format!("{kind} of the device"), code);
        if code != OK {
            continue;
        }
        for (name, resources) in [
            ("beside SMs", &[part, workqueue][..]),
            ("before SMs", &[workqueue, part]),
            ("alone", &[workqueue]),
            ("twice", &[part, workqueue, workqueue]),
        ] {
            let green = gpu.green(resources);
            let sms = green.map(|green| {
                let sms = count(&gpu.resource(green));
                must(call!(gpu, cuGreenCtxDestroy(green)));
                sms
            });
            seen.note(format!("{kind} {name}"), sms.map_err(say));
        }
    }
}

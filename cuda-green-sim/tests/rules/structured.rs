//! Structured splits (13.1): each rule of the headers, in the version that introduced it. No such driver was
//! available.

use std::ptr;

use crate::client::*;
use cuda_green_sys::*;

/// Parameters of one group; those that are not set are zero.
type Params = CU_DEV_SM_RESOURCE_GROUP_PARAMS;

fn split(
    client: &Client,
    input: &CUdevResource,
    groups: &[Params],
) -> Result<(Vec<CUdevResource>, CUdevResource), CUresult> {
    let mut params = groups.to_vec();
    let mut results = vec![CUdevResource::default(); groups.len()];
    let mut rest = CUdevResource::default();
    call!(
        client,
        cuDevSmResourceSplit(
            results.as_mut_ptr(),
            groups.len() as u32,
            input,
            &mut rest,
            0,
            params.as_mut_ptr()
        )
    )
    .ok()?;
    Ok((results, rest))
}

/// Returns the sizes of the groups and of the remainder, or the error.
fn sizes(client: &Client, groups: &[Params]) -> Result<(Vec<u32>, u32), CUresult> {
    let (groups, rest) = split(client, &client.device_sms(), groups)?;
    let rest = if rest.type_ == CUdevResourceType::CU_DEV_RESOURCE_TYPE_INVALID {
        0
    } else {
        count(&rest)
    };
    Ok((groups.iter().map(count).collect(), rest))
}

/// From 13.4 on, discovery without a request for co-scheduling takes all SMs, and any even number is a group.
#[test]
fn no_wish_is_no_constraint_from_13_4() {
    let all = Params::default();
    let some = Params { smCount: 22, ..all };
    for (spec, found, of_22) in [
        ("b200@13.3", Ok((vec![144], 4)), Err(INVALID_VALUE)),
        ("b200@13.4", Ok((vec![148], 0)), Ok((vec![22], 126))),
        ("b200@13.5", Ok((vec![148], 0)), Ok((vec![22], 126))),
    ] {
        let client = Client::new(spec);
        assert_eq!(sizes(&client, &[all]), found, "{spec}");
        assert_eq!(sizes(&client, &[some]), of_22, "{spec}");
        // A request is honoured in all versions.
        let eights = Params {
            coscheduledSmCount: 8,
            ..all
        };
        assert_eq!(sizes(&client, &[eights]), Ok((vec![144], 4)), "{spec}");
        client.finish();
    }
}

/// `preferred` must be a multiple of `coscheduled`.
#[test]
fn what_is_preferred_is_a_multiple() {
    let client = Client::new("b200@13.1");
    let params = |coscheduled, preferred| Params {
        smCount: 32,
        coscheduledSmCount: coscheduled,
        preferredCoscheduledSmCount: preferred,
        ..Params::default()
    };
    assert!(sizes(&client, &[params(4, 8)]).is_ok());
    assert_eq!(sizes(&client, &[params(8, 12)]), Err(INVALID_VALUE));
    assert_eq!(sizes(&client, &[params(8, 4)]), Err(INVALID_VALUE));
    client.finish();
}

/// Reserved words must be zero; from 13.4 on, one of them is the locality domain.
#[test]
fn reserved_words_are_zero() {
    let group = Params {
        smCount: 32,
        ..Params::default()
    };
    for version in ["13.1", "13.3", "13.4", "13.5"] {
        let client = Client::new(&format!("h200@{version}"));
        assert!(sizes(&client, &[group]).is_ok());
        for index in [0, 10] {
            let mut wrong = group;
            wrong.reserved[index] = 1;
            assert_eq!(sizes(&client, &[wrong]), Err(INVALID_VALUE), "{version}");
        }
        let domain = Params {
            localityDomainId: 1,
            ..group
        };
        assert_eq!(sizes(&client, &[domain]), Err(INVALID_VALUE), "{version}");
        client.finish();
    }
}

/// A device with one locality domain: all of it can be requested by its id or, from 13.5 on, by the id of any domain.
#[test]
fn one_locality_domain_is_the_whole_device() {
    const BY_ID: u32 = 2;
    const SUPPLEMENTAL: u32 = 4;
    const ANY: u32 = u32::MAX;
    let group = |flags, domain| Params {
        smCount: 32,
        flags,
        localityDomainId: domain,
        ..Params::default()
    };
    for (version, by_id, any) in [
        ("13.3", false, false),
        ("13.4", true, false),
        ("13.5", true, true),
    ] {
        let client = Client::new(&format!("h200@{version}"));
        let is_granted = |flags, domain| match sizes(&client, &[group(flags, domain)]) {
            Ok(sizes) => {
                assert_eq!(sizes, (vec![32], 100));
                true
            }
            Err(code) => {
                assert_eq!(code, INVALID_VALUE);
                false
            }
        };
        assert_eq!(is_granted(BY_ID, 0), by_id, "{version}");
        assert_eq!(is_granted(BY_ID, ANY), any, "{version}");
        assert_eq!(is_granted(BY_ID | SUPPLEMENTAL, 0), any, "{version}");
        assert!(!is_granted(BY_ID, 1) && !is_granted(SUPPLEMENTAL, 0) && !is_granted(0, ANY));
        let attribute = |which| {
            let mut value = 0;
            let code = call!(client, cuDeviceGetAttribute(&mut value, which, 0));
            (code == OK).then_some(value)
        };
        use CUdevice_attribute_enum as A;
        let domains = attribute(A::CU_DEVICE_ATTRIBUTE_LOCALITY_DOMAIN_COUNT);
        let sms = attribute(A::CU_DEVICE_ATTRIBUTE_LOCALITY_DOMAIN_MULTIPROCESSOR_COUNT);
        let expected = by_id.then_some((1, 132));
        assert_eq!(domains.zip(sms), expected, "{version}");
        let address = client.alloc(64).unwrap();
        let mut ordinal = 7;
        let which = CUpointer_attribute_enum::CU_POINTER_ATTRIBUTE_LOCALITY_DOMAIN_ORDINAL;
        let code = call!(
            client,
            cuPointerGetAttribute((&raw mut ordinal).cast(), which, address)
        );
        let expected = if by_id { (OK, -1) } else { (INVALID_VALUE, 7) };
        assert_eq!((code, ordinal), expected, "{version}");
        assert_eq!(call!(client, cuMemFree_v2(address)), OK);
        client.finish();
    }
}

/// The remainder of a structured split can be split again in the same way; the remainder of a split by count cannot.
#[test]
fn only_the_rest_of_a_structured_split_is_split_again() {
    let client = Client::new("h200@13.1");
    let group = Params {
        smCount: 32,
        ..Params::default()
    };
    let (groups, rest) = split(&client, &client.device_sms(), &[group]).unwrap();
    let (again, rest) = split(&client, &rest, &[group]).unwrap();
    assert_eq!((count(&again[0]), count(&rest)), (32, 68));
    assert_eq!(split(&client, &groups[0], &[group]).err(), Some(REFUSED));
    // Not even into a pair, for which there is room.
    let pair = Params {
        smCount: 2,
        coscheduledSmCount: 2,
        ..Params::default()
    };
    let by_count = client.split(&client.device_sms(), 3, 0, 32).unwrap();
    for part in [&by_count.rest, &by_count.groups[0], &groups[0]] {
        assert_eq!(split(&client, part, &[pair]).err(), Some(REFUSED));
    }
    client.finish();
}

/// Parts of one split are merged if they have the same alignment; a context over them has it too.
#[test]
fn parts_that_are_aligned_alike_are_merged() {
    let client = Client::new("h200@13.1");
    let params = |sms, coscheduled| Params {
        smCount: sms,
        coscheduledSmCount: coscheduled,
        ..Params::default()
    };
    let (groups, _) = split(
        &client,
        &client.device_sms(),
        &[params(16, 8), params(8, 8), params(6, 2)],
    )
    .unwrap();
    let alignment = |parts: &[CUdevResource]| {
        let green = client.green(parts)?;
        let own = sm(&client.green_sms(green));
        assert_eq!(client.destroy(green), OK);
        Ok((own.smCount, own.smCoscheduledAlignment))
    };
    assert_eq!(alignment(&groups[..2]), Ok((24, 8)));
    assert_eq!(alignment(&groups[2..]), Ok((6, 2)));
    assert_eq!(alignment(&groups[1..]), Err(REFUSED));
    client.finish();
}

/// A group of pairs has no room for clusters of 4, wherever its pairs are.
#[test]
fn a_group_of_pairs_runs_no_larger_clusters() {
    let client = Client::new("h200@13.1");
    let (module, function) = client.function(c"custom");
    let cluster = |coscheduled| {
        let group = Params {
            smCount: 32,
            coscheduledSmCount: coscheduled,
            ..Params::default()
        };
        let (groups, _) = split(&client, &client.device_sms(), &[group]).unwrap();
        let green = client.green(&groups).unwrap();
        let stream = client.stream(green);
        let config = CUlaunchConfig {
            gridDimX: 8,
            gridDimY: 1,
            gridDimZ: 1,
            blockDimX: 32,
            blockDimY: 1,
            blockDimZ: 1,
            hStream: stream,
            ..CUlaunchConfig::default()
        };
        let mut largest = 0;
        let code = call!(
            client,
            cuOccupancyMaxPotentialClusterSize(&mut largest, function, &config)
        );
        assert_eq!(code, OK);
        ok!(client, cuStreamDestroy_v2(stream));
        assert_eq!(client.destroy(green), OK);
        largest
    };
    assert_eq!([cluster(8), cluster(2)], [8, 2]);
    ok!(client, cuModuleUnload(module));
    client.finish();
}

/// A descriptor for one device cannot create a context on another.
#[test]
fn a_descriptor_is_of_its_device() {
    let client = Client::new("2xh200@13.0");
    let descriptor = client.descriptor(&[client.device_sms()]).unwrap();
    let mut green = ptr::null_mut();
    let code = call!(client, cuGreenCtxCreate(&mut green, descriptor, 1, 1));
    assert_eq!(code, CUresult::CUDA_ERROR_INVALID_DEVICE);
    client.finish();
}

/// Error 226 persists like other faults: every later call returns it.
#[test]
fn a_fault_of_226_stays() {
    let client = Client::new("h200@13.0");
    let code = CUresult(226);
    client.sim.fail("cuStreamSynchronize", 1, code).unwrap();
    assert_eq!(call!(client, cuStreamSynchronize(ptr::null_mut())), code);
    assert_eq!(call!(client, cuCtxSynchronize()), code);
    assert_eq!(client.alloc(64).err(), Some(code));
}

/// From 13.1 on, the end of a green context invalidates the captures that contain its streams.
#[test]
fn a_context_that_ends_spoils_its_captures_from_13_1() {
    for (version, expected) in [
        (
            "13.0",
            CUstreamCaptureStatus_enum::CU_STREAM_CAPTURE_STATUS_ACTIVE,
        ),
        (
            "13.1",
            CUstreamCaptureStatus_enum::CU_STREAM_CAPTURE_STATUS_INVALIDATED,
        ),
    ] {
        let client = Client::new(&format!("h200@{version}"));
        let units = client.split(&client.device_sms(), 2, 0, 8).unwrap().groups;
        let (one, other) = (
            client.green(&units[..1]).unwrap(),
            client.green(&units[1..]).unwrap(),
        );
        // The capture began in a stream of one context, and the other context's stream was forked into it.
        let (origin, taken) = (client.stream(one), client.stream(other));
        let mut event = ptr::null_mut();
        ok!(client, cuEventCreate(&mut event, 2));
        let mode = CUstreamCaptureMode_enum(2);
        ok!(client, cuStreamBeginCapture_v2(origin, mode));
        ok!(client, cuEventRecord(event, origin));
        ok!(client, cuStreamWaitEvent(taken, event, 0));
        assert_eq!(client.destroy(other), OK);
        let mut status = CUstreamCaptureStatus_enum(0);
        ok!(client, cuStreamIsCapturing(origin, &mut status));
        assert_eq!(status, expected, "{version}");
        let mut graph = ptr::null_mut();
        let _ = call!(client, cuStreamEndCapture(origin, &mut graph));
        if !graph.is_null() {
            ok!(client, cuGraphDestroy(graph));
        }
        ok!(client, cuStreamDestroy_v2(origin));
        ok!(client, cuEventDestroy_v2(event));
        assert_eq!(client.destroy(one), OK);
        if version == "13.1" {
            ok!(client, cuStreamDestroy_v2(taken));
            client.finish();
        }
        // Before 13.1, not even that works on a stream without its context, so the stream is lost.
    }
}

//! Splits, merges, the resources of contexts, and the clusters that fit.

use std::{ffi::c_void, ptr};

use crate::client::*;
use cuda_green_sys::*;

/// The SMs that MPS leaves of an H200 with an active thread percentage are not whole units, and a remainder is
/// counted from the whole device.
#[test]
fn splits_under_a_percentage_of_mps_as_measured() {
    for (percent, sms, by_flags) in [
        (
            75,
            98,
            [(0, 8, 0), (2, 8, 0), (1, 2, 49), (1, 8, 12), (1, 64, 1)],
        ),
        (
            50,
            66,
            [(0, 8, 0), (2, 8, 0), (1, 2, 33), (1, 8, 8), (1, 64, 1)],
        ),
    ] {
        let client = Client::new("h200@13.0");
        client
            .sim
            .inject(format!("mps={percent}%").parse().unwrap());
        let device = client.device_sms();
        assert_eq!(count(&device), sms);
        for (flags, min_count, groups) in by_flags {
            assert_eq!(client.possible(&device, flags, min_count), Ok(groups));
            let split = client.split(&device, 1, flags, min_count);
            if groups == 0 {
                assert_eq!(split.err(), Some(REFUSED));
            } else {
                let split = split.unwrap();
                assert_eq!(count(&split.groups[0]), min_count);
                assert_eq!(count(&split.rest), 132 - min_count);
            }
        }
        client.finish();
    }
}

/// Sizes, groups and remainder of splits by count on the H200.
#[test]
fn split_by_count_as_measured() {
    let client = Client::new("h200@13.0");
    let device = client.device_sms();
    assert_eq!(
        (
            sm(&device).minSmPartitionSize,
            sm(&device).smCoscheduledAlignment
        ),
        (8, 8)
    );
    for (min_count, flags, groups, size, left) in [
        (32, 0, 4, 32, 4),
        (33, 0, 3, 40, 12),
        (129, 0, 1, 132, 0),
        (132, 0, 1, 132, 0),
        (0, 0, 15, 8, 12),
        (2, 1, 66, 2, 0),
    ] {
        assert_eq!(client.possible(&device, flags, min_count), Ok(groups));
        let split = client.split(&device, 100, flags, min_count).unwrap();
        assert_eq!(split.groups.len() as u32, groups);
        for group in &split.groups {
            assert_eq!(count(group), size);
            assert_eq!(sm(group).minSmPartitionSize, 0);
            assert_eq!(sm(group).smCoscheduledAlignment, 0);
        }
        if left > 0 {
            assert_eq!(count(&split.rest), left);
        } else {
            assert_eq!(sm(&split.rest).smCount, 0);
        }
    }
    assert_eq!(client.split(&device, 100, 0, 133).err(), Some(REFUSED));
    assert_eq!(client.split(&device, 100, 3, 8).err(), Some(INVALID_VALUE));
    // Other bits are ignored.
    assert_eq!(client.split(&device, 100, 4, 8).unwrap().groups.len(), 15);
    // With fewer groups than possible, the rest is the remainder.
    let split = client.split(&device, 2, 0, 32).unwrap();
    assert_eq!((split.groups.len(), count(&split.rest)), (2, 68));
    client.finish();
}

#[test]
fn only_what_was_queried_can_be_split() {
    let client = Client::new("h200@13.0");
    let split = client.split(&client.device_sms(), 2, 0, 32).unwrap();
    assert_eq!(client.split(&split.groups[0], 2, 0, 8).err(), Some(REFUSED));
    assert_eq!(client.split(&split.rest, 2, 0, 8).err(), Some(REFUSED));
    let green = client.green(&[split.rest]).unwrap();
    let own = client.green_sms(green);
    assert_eq!((count(&own), sm(&own).minSmPartitionSize), (68, 2));
    let again = client.split(&own, 2, 0, 32).unwrap();
    assert_eq!(again.groups.len(), 2);
    assert_eq!(client.destroy(green), OK);
    client.finish();
}

#[test]
fn forged_resources_are_found() {
    let client = Client::new("h200@13.0");
    let forged = CUdevResource {
        type_: SM,
        ..CUdevResource::default()
    };
    assert_eq!(client.split(&forged, 2, 0, 8).err(), Some(REFUSED));
    assert_eq!(
        client.split(&CUdevResource::default(), 2, 0, 8).err(),
        Some(CUresult::CUDA_ERROR_INVALID_RESOURCE_TYPE)
    );
    // A count that the client wrote is refused, whether it is larger or smaller.
    for count in [100_000, 16] {
        let mut changed = client.device_sms();
        changed.__bindgen_anon_1.sm.smCount = count;
        assert_eq!(client.split(&changed, 1, 0, 8).err(), Some(REFUSED));
    }
    client.finish();
}

#[test]
fn merged_units_are_disjoint_and_complete() {
    let client = Client::new("h200@13.0");
    let split = client.split(&client.device_sms(), 15, 0, 8).unwrap();
    let mut rest = split.groups[10..].to_vec();
    rest.push(split.rest);
    let mut seen = Vec::new();
    for (resources, size) in [
        (&split.groups[..7], 56),
        (&split.groups[7..10], 24),
        (&rest[..], 52),
    ] {
        let green = client.green(resources).unwrap();
        assert_eq!(count(&client.green_sms(green)), size);
        let stream = client.stream(green);
        let ids = client.sm_ids(stream);
        assert_eq!(ids.len() as u32, size);
        seen.extend(ids);
        unsafe { assert_eq!(client.api.cuStreamDestroy_v2(stream).unwrap(), OK) };
        assert_eq!(client.destroy(green), OK);
    }
    seen.sort_unstable();
    assert_eq!(seen, (0..132).collect::<Vec<_>>());
    assert_eq!(client.sm_ids(ptr::null_mut()), seen);
    client.finish();
}

#[test]
fn a_foreign_merge_reports_more_than_it_runs_on() {
    let client = Client::new("h200@13.0");
    let one = client.split(&client.device_sms(), 1, 0, 32).unwrap();
    let other = client.split(&client.device_sms(), 1, 0, 32).unwrap();
    let green = client.green(&[one.groups[0], other.groups[0]]).unwrap();
    assert_eq!(count(&client.green_sms(green)), 64);
    let stream = client.stream(green);
    assert_eq!(client.sm_ids(stream).len(), 32);
    unsafe { assert_eq!(client.api.cuStreamDestroy_v2(stream).unwrap(), OK) };
    assert_eq!(client.destroy(green), OK);
    client.finish();

    let newer = Client::new("h200@13.1");
    let one = newer.split(&newer.device_sms(), 2, 0, 32).unwrap();
    let other = newer.split(&newer.device_sms(), 1, 0, 32).unwrap();
    assert!(newer.descriptor(&one.groups).is_ok());
    let foreign = [one.groups[0], other.groups[0]];
    assert_eq!(newer.descriptor(&foreign).err(), Some(REFUSED));
    newer.finish();
}

#[test]
fn the_first_version_takes_one_resource_and_no_flag() {
    let client = Client::new("a100@12.4");
    let device = client.device_sms();
    assert_eq!(sm(&device).minSmPartitionSize, 0);
    assert_eq!(client.split(&device, 4, 1, 8).err(), Some(INVALID_VALUE));
    let split = client.split(&device, 4, 0, 27).unwrap();
    assert_eq!(split.groups.len(), 3);
    assert_eq!((count(&split.groups[0]), count(&split.rest)), (28, 24));
    assert_eq!(client.descriptor(&split.groups).err(), Some(INVALID_VALUE));
    assert!(client.descriptor(&split.groups[..1]).is_ok());
    client.finish();
}

#[test]
fn creation_flags_follow_the_version() {
    for (version, zero) in [
        ("12.4", INVALID_VALUE),
        ("13.2", INVALID_VALUE),
        ("13.3", OK),
    ] {
        let client = Client::new(&format!("h200@{version}"));
        let desc = client.descriptor(&[client.device_sms()]).unwrap();
        for (flags, expected) in [(0, zero), (1, OK), (2, INVALID_VALUE)] {
            let mut green = ptr::null_mut();
            let code = unsafe { client.api.cuGreenCtxCreate(&mut green, desc, 0, flags) };
            assert_eq!(code.unwrap(), expected, "{version}, flags {flags}");
            if expected == OK {
                assert_eq!(client.destroy(green), OK);
            }
        }
        client.finish();
    }
}

#[test]
fn structured_splits_are_exact() {
    const BACKFILL: u32 = 1;
    for (spec, groups) in [
        ("rtx5090@13.1", [42, 42, 42, 44]),
        ("h200@13.1", [32, 32, 32, 36]),
        ("quad680@13.1", [170; 4]),
    ] {
        let client = Client::new(spec);
        let device = client.device_sms();
        let asked = groups.map(|sms| (sms, 8, BACKFILL));
        let (split, counts) = client.structured(&device, &asked, false).unwrap();
        assert_eq!(counts, groups);
        assert_eq!(
            split.rest.type_,
            CUdevResourceType::CU_DEV_RESOURCE_TYPE_INVALID
        );
        let mut seen = Vec::new();
        for (group, size) in split.groups.iter().zip(groups) {
            assert_eq!(count(group), size);
            assert_eq!(sm(group).smCoscheduledAlignment, 8);
            assert_eq!(sm(group).flags, BACKFILL);
            let green = client.green(&[*group]).unwrap();
            let stream = client.stream(green);
            seen.extend(client.sm_ids(stream));
            unsafe { assert_eq!(client.api.cuStreamDestroy_v2(stream).unwrap(), OK) };
            assert_eq!(client.destroy(green), OK);
        }
        seen.sort_unstable();
        assert_eq!(seen, (0..count(&device)).collect::<Vec<_>>());

        // The last group takes all that is left; a dry run only reports how much.
        let mut asked = asked;
        asked[3].0 = 0;
        let (dry, counts) = client.structured(&device, &asked, true).unwrap();
        assert_eq!(counts, groups);
        assert_eq!(
            dry.groups[0].type_,
            CUdevResourceType::CU_DEV_RESOURCE_TYPE_INVALID
        );
        client.finish();
    }
}

#[test]
fn structured_splits_refuse_what_the_header_refuses() {
    let client = Client::new("h200@13.1");
    let device = client.device_sms();
    let code = |groups: &[_], dry| client.structured(&device, groups, dry).err();
    assert_eq!(code(&[(33, 8, 1)], false), Some(INVALID_VALUE));
    assert_eq!(code(&[(36, 8, 0)], false), Some(INVALID_VALUE));
    assert_eq!(code(&[(32, 34, 1)], false), Some(INVALID_VALUE));
    assert_eq!(code(&[(32, 8, 8)], false), Some(INVALID_VALUE));
    assert_eq!(code(&[(134, 8, 1)], false), Some(REFUSED));
    assert_eq!(code(&[(100, 8, 1), (40, 8, 1)], false), Some(REFUSED));
    // A group without a single co-scheduled unit: a dry run reports it, a split refuses it.
    let all_then_more = [(0, 8, 0), (0, 8, 1)];
    assert_eq!(code(&all_then_more, false), Some(REFUSED));
    let (_, counts) = client.structured(&device, &all_then_more, true).unwrap();
    assert_eq!(counts, [120, 0]);
    client.finish();
}

#[test]
fn a_dry_run_beside_sizes_is_refused_from_13_3_on() {
    for (spec, refused) in [
        ("h200@13.1", None),
        ("h200@13.3", Some(REFUSED)),
        ("h200@newest", Some(REFUSED)),
    ] {
        let client = Client::new(spec);
        let device = client.device_sms();
        let code = |groups: &[_]| client.structured(&device, groups, true).err();
        assert_eq!(code(&[(32, 8, 0)]), refused, "{spec}");
        assert_eq!(code(&[(32, 8, 0), (0, 8, 0)]), refused, "{spec}");
        assert_eq!(code(&[(0, 8, 0)]), None, "{spec}");
        client.finish();
    }
}

/// Largest cluster, and clusters of 2, 4 and 8 that fit at 256 threads a block.
#[test]
fn clusters_as_measured() {
    let client = Client::new("h200@13.0");
    let (module, function) = client.function(c"custom");
    let device = client.device_sms();
    let by_8 = client.split(&device, 15, 0, 8).unwrap();
    let by_32 = client.split(&device, 4, 0, 32).unwrap();
    let by_2 = client.split(&device, 66, 1, 2).unwrap();
    let mut with_remainder = by_8.groups[..4].to_vec();
    with_remainder.push(by_8.rest);
    let cases = [
        (None, 8, [Some(528), Some(248), Some(124)]),
        (Some(&by_32.groups[..1]), 8, [Some(128), Some(56), Some(24)]),
        (Some(&by_8.groups[..4]), 8, [Some(128), Some(64), Some(32)]),
        (
            Some(&with_remainder[..]),
            8,
            [Some(176), Some(64), Some(32)],
        ),
        (Some(&by_2.groups[..16]), 2, [Some(128), None, None]),
        (Some(&by_2.groups[..21]), 2, [Some(168), None, None]),
    ];
    for (resources, largest, fitting) in cases {
        let green = resources.map(|resources| client.green(resources).unwrap());
        let stream = green.map_or(ptr::null_mut(), |green| client.stream(green));
        let mut attribute = CUlaunchAttribute {
            id: CUlaunchAttributeID_enum::CU_LAUNCH_ATTRIBUTE_CLUSTER_DIMENSION,
            ..Default::default()
        };
        let mut config = CUlaunchConfig {
            gridDimX: 8,
            gridDimY: 1,
            gridDimZ: 1,
            blockDimX: 256,
            blockDimY: 1,
            blockDimZ: 1,
            hStream: stream,
            ..Default::default()
        };
        let mut value = 0;
        let code = unsafe {
            client
                .api
                .cuOccupancyMaxPotentialClusterSize(&mut value, function, &config)
        };
        assert_eq!((code.unwrap(), value), (OK, largest));
        for (size, fits) in [2, 4, 8].into_iter().zip(fitting) {
            attribute.value.clusterDim.x = size;
            attribute.value.clusterDim.y = 1;
            attribute.value.clusterDim.z = 1;
            config.attrs = &mut attribute;
            config.numAttrs = 1;
            let launched = if fits.is_some() {
                OK
            } else {
                CUresult::CUDA_ERROR_INVALID_CLUSTER_SIZE
            };
            let mut address = 0_u64;
            let mut args: [*mut c_void; 1] = [(&raw mut address).cast()];
            unsafe {
                let code = client
                    .api
                    .cuOccupancyMaxActiveClusters(&mut value, function, &config);
                assert_eq!(code.unwrap(), OK);
                let code = client.api.cuLaunchKernelEx(
                    &config,
                    function,
                    args.as_mut_ptr(),
                    ptr::null_mut(),
                );
                assert_eq!(code.unwrap(), launched);
            }
            assert_eq!(value, fits.unwrap_or(0), "clusters of {size}");
        }
        if let Some(green) = green {
            unsafe { assert_eq!(client.api.cuStreamDestroy_v2(stream).unwrap(), OK) };
            assert_eq!(client.destroy(green), OK);
        }
    }
    unsafe { assert_eq!(client.api.cuModuleUnload(module).unwrap(), OK) };
    client.finish();
}

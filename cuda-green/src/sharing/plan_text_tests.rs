//! Tests of the text of plans.

use proptest::prelude::*;

use super::*;
use crate::sharing::agreed_plan::{AgreedPartition, AgreedPlan, PlanKey};

/// Returns a plan of two names on a device of 132 SMs.
pub(in crate::sharing) fn example() -> AgreedPlan {
    let partition = |name: &str, sms, parts: Vec<Part>, sm_count| AgreedPartition {
        name: name.to_owned(),
        request: sms,
        share: sms.sms,
        planned: PlannedPartition {
            requested: sm_count,
            sm_count,
            parts,
            coscheduled: 8,
            max_cluster: 8,
        },
    };
    let units = (0..8).map(Part::Group).collect();
    let rest = (8..16).map(Part::Group).chain([Part::Remainder]).collect();
    AgreedPlan {
        generation: 3,
        key: PlanKey {
            device: *b"GREENSIM\0\0\0\0\0\0\0\x01",
            server: Some((66306, 1234)),
            sm_count: 132,
            driver: 13000,
            boot: "0f4c2c6e-3a0e-4c3d-9b4f-5b8f0f5f4d2a".to_owned(),
        },
        strategy: SplitStrategy::MergedUnits,
        call: SplitCall::ByCount {
            groups: 16,
            sm_count: 8,
            flag: SplitFlag::None,
        },
        nested: Vec::new(),
        partitions: vec![
            partition(
                "serving",
                PartitionRequest::at_least(60).cluster(8),
                units,
                64,
            ),
            partition("everything else", PartitionRequest::rest(), rest, 68),
        ],
    }
}

fn arbitrary() -> impl Strategy<Value = AgreedPlan> {
    let request = prop_oneof![
        any::<u32>().prop_map(SmRequest::AtLeast),
        any::<u32>().prop_map(SmRequest::Target),
        any::<u32>().prop_map(SmRequest::Percent),
        any::<(u32, u32)>().prop_map(|(at_least, weight)| SmRequest::Share { at_least, weight }),
        Just(SmRequest::Rest),
    ];
    let request =
        (request, any::<u32>(), any::<bool>()).prop_map(|(sms, cluster, exact)| PartitionRequest {
            sms,
            cluster,
            exact,
        });
    let group = any::<(u32, u32, u32, bool)>().prop_map(|(a, b, c, backfill)| Group {
        sm_count: a,
        coscheduled: b,
        preferred_coscheduled: c,
        backfill,
    });
    let facts = (
        any::<[u8; 16]>(),
        any::<Option<(u64, u64)>>(),
        any::<(u64, i32)>(),
    );
    let names = prop::collection::btree_set("[a-zé0-9._:-]([ a-z\"]{0,10}[a-z])?", 1..8);
    let structured = prop::collection::vec(group, 8..12);
    (
        facts,
        names,
        structured,
        any::<bool>(),
        prop::collection::vec(request, 8),
    )
        .prop_map(
            |((device, server, (generation, driver)), names, groups, by_count, requests)| {
                let partitions = names.into_iter().zip(requests).enumerate();
                let partitions = partitions.map(|(index, (name, request))| AgreedPartition {
                    name,
                    request,
                    share: SmRequest::Target(index as u32),
                    planned: PlannedPartition {
                        requested: 8,
                        sm_count: 8,
                        parts: vec![Part::Group(index)],
                        coscheduled: 8,
                        max_cluster: 4,
                    },
                });
                AgreedPlan {
                    generation,
                    key: PlanKey {
                        device,
                        server,
                        sm_count: 132,
                        driver,
                        boot: "boot".to_owned(),
                    },
                    strategy: SplitStrategy::MergedUnits,
                    call: if by_count {
                        SplitCall::ByCount {
                            groups: 8,
                            sm_count: 8,
                            flag: SplitFlag::MaxClusterSize,
                        }
                    } else {
                        SplitCall::Structured(groups)
                    },
                    nested: vec![4, 2],
                    partitions: partitions.collect(),
                }
            },
        )
}

#[test]
fn the_format_is_this() {
    let text = write(&example());
    let expected = "\
cuda-green plan 1
generation 3
device 475245454e53494d0000000000000001
server 66306:1234
sms 132
driver 13000
boot 0f4c2c6e-3a0e-4c3d-9b4f-5b8f0f5f4d2a
strategy merged-units
split count 16 8 none
nested
partition at-least:60 8 0 at-least:60 64 64 8 8 0,1,2,3,4,5,6,7 serving
partition rest 1 0 rest 68 68 8 8 8,9,10,11,12,13,14,15,r everything else
end ";
    assert_eq!(text.get(..expected.len()), Some(expected), "{text}");
    assert_eq!(read(text.as_bytes()).unwrap(), example());
}

#[test]
fn a_text_whose_check_is_right_is_still_looked_through() {
    let refused = |change: fn(&mut AgreedPlan), reason: &str| {
        let mut plan = example();
        change(&mut plan);
        assert_eq!(read(write(&plan).as_bytes()), Err(reason));
    };
    refused(
        |plan| plan.partitions[0].planned.parts.push(Part::Remainder),
        "two of its partitions have one group",
    );
    refused(
        |plan| plan.partitions[0].planned.parts = vec![Part::Group(16)],
        "a partition has a group that the split does not make",
    );
    refused(
        |plan| plan.partitions[1].name = "serving".to_owned(),
        "two of its partitions have one name",
    );
    refused(
        |plan| plan.partitions[0].planned.sm_count = 65,
        "its partitions have more SMs than the device",
    );
    refused(
        |plan| plan.strategy = SplitStrategy::EqualGroups,
        "it merges groups that its split does not merge",
    );
    refused(
        |plan| {
            plan.call = SplitCall::ByCount {
                groups: u32::MAX,
                sm_count: 8,
                flag: SplitFlag::None,
            };
        },
        "its split has more groups than the device has SMs",
    );
    refused(
        |plan| plan.partitions.clear(),
        "it has no partitions, or too many",
    );
    refused(
        |plan| plan.partitions[0].name = "a\u{202e}b".to_owned(),
        "it consists of letters, digits, ASCII punctuation, and spaces inside",
    );
    // A line break in a name makes another text, which is no plan at all.
    let mut plan = example();
    plan.partitions[0].name = "a\nend 0".to_owned();
    assert_eq!(read(write(&plan).as_bytes()), Err("it is damaged"));
}

proptest! {
    #[test]
    fn what_is_written_is_read(plan in arbitrary()) {
        let text = write(&plan);
        prop_assert_eq!(read(text.as_bytes()), Ok(plan));
    }

    #[test]
    fn nothing_else_is_read_and_nothing_panics(bytes in prop::collection::vec(any::<u8>(), 0..600)) {
        prop_assert!(read(&bytes).is_err());
    }

    #[test]
    fn no_damage_goes_unseen(at in any::<prop::sample::Index>(), to in any::<u8>()) {
        let mut bytes = write(&example()).into_bytes();
        let at = at.index(bytes.len());
        prop_assume!(bytes[at] != to);
        bytes[at] = to;
        prop_assert!(read(&bytes).is_err());
    }

    #[test]
    fn no_shortened_or_lengthened_text_is_read(keep in any::<prop::sample::Index>(), more in "[a-z0-9 \n]{1,20}") {
        let text = write(&example());
        prop_assert!(read(&text.as_bytes()[..keep.index(text.len())]).is_err());
        let longer = format!("{text}{more}");
        prop_assert!(read(longer.as_bytes()).is_err());
    }

    #[test]
    fn lines_that_are_nearly_right_do_not_panic(
        lines in prop::collection::vec(
            "(generation|device|server|sms|driver|boot|strategy|split|nested|partition|end)( (count|structured|r|none|rest|[0-9:,]{0,12}|[0-9a-f]{32})){0,9}",
            0..16,
        )
    ) {
        let text = format!("cuda-green plan 1\n{}\n", lines.join("\n"));
        prop_assert!(read(text.as_bytes()).is_err());
    }
}

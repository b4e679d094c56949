//! Contents, limits and ends, by figures that were measured and by a model.

use super::{pages::PAGE, pools::POOL_STEP, *};
use proptest::prelude::*;

const GIB: u64 = 1 << 30;
const MIB: u64 = 1 << 20;

#[test]
fn contents_are_lazy_and_exact() {
    let mut memory = Memory::new([16 * GIB]);
    let address = memory.allocate(0, 8 * GIB).unwrap();
    let mut bytes = [1; 4];
    memory.read(address + 5 * GIB, &mut bytes).unwrap();
    assert_eq!(bytes, [0; 4]);
    memory.write(address + PAGE - 2, &[1, 2, 3, 4]).unwrap();
    memory.read(address + PAGE - 2, &mut bytes).unwrap();
    assert_eq!(bytes, [1, 2, 3, 4]);
    memory.fill(address, 7, 3 * PAGE).unwrap();
    memory.read(address + PAGE - 2, &mut bytes).unwrap();
    assert_eq!(bytes, [7; 4]);
    assert!(memory.read(address + 8 * GIB - 2, &mut bytes).is_err());
    memory.free(address).unwrap();
    assert!(memory.read(address, &mut bytes).is_err());
    assert_eq!(memory.info(0), (16 * GIB, 16 * GIB));
    assert_eq!(memory.live_bytes(&|_| true), 0);
    memory.each_live(&|_| true, &mut |kind, _| panic!("a {kind} is left"));
}

/// Bytes that a pool of this limit gives out in blocks of 1 MiB, as measured on an H200, driver 580.
#[test]
fn pool_limits_are_the_measured_ones() {
    for (asked, given) in [
        (1, 32),
        (31, 32),
        (32, 32),
        (33, 64),
        (64, 64),
        (100, 128),
        (256, 256),
    ] {
        let mut memory = Memory::new([GIB]);
        memory.create_pool(1, 0, asked * MIB);
        let mut blocks = 0;
        while memory.allocate_from_pool(1, MIB).is_ok() {
            blocks += 1;
        }
        assert_eq!(blocks, given, "{asked} MiB");
    }
}

#[test]
fn a_destroyed_pool_gives_its_memory_back_at_the_last_free() {
    let mut memory = Memory::new([GIB]);
    memory.create_pool(1, 0, 0);
    let address = memory.allocate_from_pool(1, 5).unwrap();
    assert_eq!(memory.info(0).0, GIB - POOL_STEP);
    memory.destroy_pool(1).unwrap();
    assert!(memory.allocate_from_pool(1, 5).is_err());
    assert_eq!(memory.info(0).0, GIB - POOL_STEP);
    memory.free(address).unwrap();
    assert_eq!(memory.info(0).0, GIB);
}

proptest! {
    #[test]
    fn bytes_come_back_as_they_were_written(
        writes in prop::collection::vec((0_u64..200_000, prop::collection::vec(any::<u8>(), 0..300)), 1..20),
    ) {
        let mut memory = Memory::new([GIB]);
        let base = memory.allocate(0, 200_300).unwrap();
        let mut model = vec![0_u8; 200_300];
        for (offset, bytes) in &writes {
            memory.write(base + offset, bytes).unwrap();
            model[*offset as usize..*offset as usize + bytes.len()].copy_from_slice(bytes);
        }
        let mut all = vec![1; model.len()];
        memory.read(base, &mut all).unwrap();
        prop_assert_eq!(all, model);
    }
}

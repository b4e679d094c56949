//! Models in slots, as the tests of what these tell the world need them.

use cuda_green::{Driver, GpuMemoryPool, ModelNeeds, ModelSlots, sim::Sim};

pub const MIB: u64 = 1 << 20;

pub fn needs(mib: u64) -> ModelNeeds {
    ModelNeeds {
        bytes: mib * MIB,
        priority: 0,
    }
}

/// Two models in slots, one of them evicted for the other, which is asked for once more.
pub fn slots(simulator: &Sim) -> ModelSlots<cuda_green::GpuBuffer> {
    let device = Driver::simulated(simulator).unwrap().device(0).unwrap();
    let slots = ModelSlots::new(GpuMemoryPool::on(&device, 100 * MIB).unwrap(), 13).unwrap();
    let load = |name, mib| slots.get_or_load(name, needs(mib), |pool| pool.allocate(1_000_000));
    load("first", 60).unwrap();
    load("second", 60).unwrap();
    load("second", 60).unwrap();
    assert!(load("third", 200).is_err());
    slots
}

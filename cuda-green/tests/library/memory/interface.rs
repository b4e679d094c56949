//! One test body for every `MemoryPool`: the pool over a driver and the mock without one, against the same
//! model, so that what is tested with the mock holds for the pool.

use cuda_green::{
    Driver, Error, GpuMemoryPool, MemoryBuffer, MemoryPool, MemoryPressure, MockGpuMemoryPool,
    sim::Sim,
};
use proptest::prelude::*;

#[derive(Clone, Debug)]
enum Step {
    Allocate {
        size: usize,
    },
    /// Frees the n-th of what is held: by hand, by dropping it, or by the wrong pool, which drops it.
    Free {
        held: usize,
        how: How,
    },
    /// Writes to the n-th and reads it back, some of it or too much.
    Write {
        held: usize,
        len: usize,
        byte: u8,
    },
    Fill {
        held: usize,
        byte: u8,
    },
}

#[derive(Clone, Copy, Debug)]
enum How {
    Deallocate,
    Drop,
    ForeignPool,
}

const LIMIT: u64 = 100_000;

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let held = || any::<prop::sample::Index>().prop_map(|index| index.index(1 << 20));
    let size = prop_oneof![0..300usize, 0..40_000usize, Just(usize::MAX)];
    let how = prop::sample::select(vec![How::Deallocate, How::Drop, How::ForeignPool]);
    let step = prop_oneof![
        4 => size.prop_map(|size| Step::Allocate { size }),
        2 => (held(), how).prop_map(|(held, how)| Step::Free { held, how }),
        2 => (held(), 0..2_000usize, any::<u8>())
            .prop_map(|(held, len, byte)| Step::Write { held, len, byte }),
        1 => (held(), any::<u8>()).prop_map(|(held, byte)| Step::Fill { held, byte }),
    ];
    prop::collection::vec(step, 0..60)
}

/// The bytes that a buffer should have; none where nothing was written yet.
struct Held<B> {
    buffer: B,
    bytes: Vec<Option<u8>>,
}

fn conforms<P: MemoryPool>(pool: &P, other: &P, steps: &[Step]) {
    assert_eq!(pool.limit(), LIMIT);
    let mut held: Vec<Held<P::Buffer>> = Vec::new();
    let mut high = 0;
    for step in steps {
        let used: u64 = held.iter().map(|one| one.buffer.len() as u64).sum();
        match *step {
            Step::Allocate { size } => match pool.allocate(size) {
                Ok(buffer) => {
                    assert!(size > 0 && used + size as u64 <= LIMIT, "{size} at {used}");
                    assert_eq!(buffer.len(), size);
                    high = high.max(used + size as u64);
                    let bytes = vec![None; size];
                    held.push(Held { buffer, bytes });
                }
                Err(Error::InvalidArgument { name, .. }) => assert_eq!((size, name), (0, "size")),
                Err(Error::OutOfMemory {
                    asked,
                    available,
                    limit,
                }) => {
                    assert!(asked > available, "what fits was refused");
                    let expected = (size as u64, LIMIT - used, LIMIT);
                    assert_eq!((asked, available, limit), expected);
                }
                Err(error) => panic!("{error}"),
            },
            Step::Free { held: which, how } if !held.is_empty() => {
                let one = held.swap_remove(which % held.len());
                match how {
                    How::Deallocate => pool.deallocate(one.buffer).unwrap(),
                    How::Drop => drop(one.buffer),
                    How::ForeignPool => {
                        let refused = other.deallocate(one.buffer);
                        assert!(matches!(refused, Err(Error::ForeignBuffer)));
                    }
                }
            }
            Step::Write {
                held: which,
                len,
                byte,
            } if !held.is_empty() => {
                let index = which % held.len();
                let Held { buffer, bytes } = &mut held[index];
                let written = buffer.copy_from(&vec![byte; len]);
                if len <= bytes.len() {
                    written.unwrap();
                    bytes[..len].fill(Some(byte));
                } else {
                    assert!(matches!(written, Err(Error::LengthMismatch { .. })));
                    let read = buffer.copy_to(&mut vec![0; len]);
                    assert!(matches!(read, Err(Error::LengthMismatch { .. })));
                }
            }
            Step::Fill { held: which, byte } if !held.is_empty() => {
                let index = which % held.len();
                held[index].buffer.fill(byte).unwrap();
                held[index].bytes.fill(Some(byte));
            }
            _ => {}
        }
        let used: u64 = held.iter().map(|one| one.buffer.len() as u64).sum();
        assert_eq!((pool.used(), pool.available()), (used, LIMIT - used));
        assert_eq!(pool.high_water_mark(), high, "exact for one thread");
        assert_eq!(pool.pressure_level(), MemoryPressure::of(used, LIMIT));
    }
    for Held { buffer, bytes } in &held {
        let mut read = vec![0; bytes.len()];
        buffer.copy_to(&mut read).unwrap();
        let differs = |(read, byte): (&u8, &Option<u8>)| byte.is_some_and(|byte| byte != *read);
        assert!(!read.iter().zip(bytes).any(differs), "bytes were lost");
    }
    // Buffers may go after the caller's handle of their pool.
    let clone = pool.clone();
    drop(held);
    assert_eq!(clone.used(), 0);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 128, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn the_pool_conforms(
        profile in prop::sample::select(vec!["t4@11.4", "h200@12.4", "h200@13.0"]),
        steps in steps(),
    ) {
        let simulator = Sim::new(profile).unwrap();
        {
            let device = Driver::simulated(&simulator).unwrap().device(0).unwrap();
            let [pool, other] = [(); 2].map(|()| GpuMemoryPool::on(&device, LIMIT).unwrap());
            conforms(&pool, &other, &steps);
        }
        simulator.assert_no_leaks();
    }

    #[test]
    fn the_mock_conforms(steps in steps()) {
        let [pool, other] = [(); 2].map(|()| MockGpuMemoryPool::new(0, LIMIT).unwrap());
        conforms(&pool, &other, &steps);
    }
}

/// What both do on many threads: exactly what fits is granted.
fn shares_exactly<P: MemoryPool>(pool: &P) {
    const SIZE: usize = 7_000;
    let fit = (LIMIT as usize) / SIZE;
    for _ in 0..20 {
        let granted: Vec<P::Buffer> = std::thread::scope(|scope| {
            let threads: Vec<_> = (0..4)
                .map(|_| {
                    scope.spawn(|| {
                        let mut held = Vec::new();
                        while let Ok(buffer) = pool.allocate(SIZE) {
                            held.push(buffer);
                        }
                        held
                    })
                })
                .collect();
            let held = threads.into_iter().map(|thread| thread.join().unwrap());
            held.flatten().collect()
        });
        assert_eq!(granted.len(), fit);
        assert_eq!(pool.used(), (fit * SIZE) as u64);
    }
    assert_eq!(pool.used(), 0);
}

#[test]
fn threads_share_both_exactly() {
    let simulator = Sim::new("h200@13.0").unwrap();
    let device = Driver::simulated(&simulator).unwrap().device(0).unwrap();
    shares_exactly(&GpuMemoryPool::on(&device, LIMIT).unwrap());
    shares_exactly(&MockGpuMemoryPool::new(0, LIMIT).unwrap());
}

/// A program's own code, written once, and a device that runs full in the middle of it.
#[test]
fn the_mock_fails_as_the_device_does() {
    fn load<P: MemoryPool>(pool: &P) -> cuda_green::Result<Vec<P::Buffer>> {
        (0..3).map(|_| pool.allocate(1000)).collect()
    }
    let mock = MockGpuMemoryPool::new(0, LIMIT).unwrap();
    mock.fail_next(1);
    let simulator = Sim::new("h200@13.0").unwrap();
    let device = Driver::simulated(&simulator).unwrap().device(0).unwrap();
    let pool = GpuMemoryPool::on(&device, LIMIT).unwrap();
    let full = cuda_green::CUresult::CUDA_ERROR_OUT_OF_MEMORY;
    for entry_point in ["cuMemAllocFromPoolAsync", "cuMemAlloc_v2"] {
        let refusal = cuda_green::sim::Injection::fail(entry_point, full).unwrap();
        simulator.inject(refusal.onwards(1));
    }
    for error in [load(&mock).err(), load(&pool).err()] {
        let Some(Error::DeviceOutOfMemory { asked, .. }) = error else {
            panic!("{error:?}");
        };
        assert_eq!(asked, 1000);
    }
    simulator.assert_injections_fired();
    simulator.clear_injections();
    assert_eq!(load(&mock).unwrap().len(), load(&pool).unwrap().len());
    assert_eq!((mock.used(), pool.used()), (0, 0));
}

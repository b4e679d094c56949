//! Kernels that write whatever they like where the queue's memory is.

use cuda_green::GpuMemoryPool;
use proptest::prelude::*;

use super::{
    gpu::{Gpu, Warp},
    *,
};
use crate::{layout::status, protocol::Call};

/// A task of a kernel that follows the protocol but for its contents.
#[derive(Clone, Debug)]
struct Garbage {
    method: u16,
    payload: Vec<u8>,
    call: Option<(u32, u32)>,
}

fn garbage() -> impl Strategy<Value = Garbage> {
    let method = prop_oneof![
        Just(Double::METHOD),
        Just(Increment::METHOD),
        Just(Fail::METHOD),
        any::<u16>(),
    ];
    // Slots have room for 112 bytes.
    let payload = prop::collection::vec(any::<u8>(), 0..=112);
    // The entries from 32 on belong to no call of this test.
    let future = prop_oneof![32u32..64, 64u32..70, any::<u32>().prop_map(|n| n | 1 << 31)];
    let call = prop::option::of((future, any::<u32>()));
    (method, payload, call).prop_map(|(method, payload, call)| Garbage {
        method,
        payload,
        call,
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    /// Wrong methods, lengths and futures are counted, and a right call beside them is answered.
    #[test]
    fn garbage_in_slots_is_counted_and_harms_nobody(list in prop::collection::vec(garbage(), 1..60)) {
        let tasks = list.clone();
        let gpu = Gpu::new("h200@13.0", move |launch| {
            let out = launch.arg_u64(1).unwrap();
            let warp = Warp::new(launch, 0);
            for (i, garbage) in tasks.iter().enumerate() {
                let call = garbage.call.map(|(future, generation)| Call { future, generation });
                let priority = (i % 3) as u32;
                warp.submit_raw(priority, garbage.method, &garbage.payload, call).unwrap();
                let (status, output) = warp.call(priority, Double(i as u64)).unwrap();
                if status == status::DONE && output == (2 * i as u64).to_le_bytes() {
                    warp.add(out, 1);
                }
            }
        });
        let queue = builder().build(&gpu.device).unwrap();
        let pool = GpuMemoryPool::on(&gpu.device, 1 << 20).unwrap();
        let out = pool.allocate_typed::<u64>(1).unwrap();
        out.copy_from(&[0]).unwrap();
        gpu.launch(&queue, out.address(), 0);
        gpu.stream.synchronize().unwrap();
        let mut right = [0];
        out.copy_to(&mut right).unwrap();
        prop_assert_eq!(right, [list.len() as u64]);

        let length = |method: u16| match method {
            Double::METHOD => Some(8),
            Increment::METHOD | Fail::METHOD => Some(4),
            _ => None,
        };
        let unknown = list.iter().filter(|one| length(one.method).is_none()).count() as u64;
        let bad = list.iter().filter(|one| length(one.method).is_some_and(|n| n != one.payload.len()));
        let bad = bad.count() as u64;
        let invalid = list.iter().filter(|one| one.call.is_some_and(|(future, _)| future >= 64 && future != u32::MAX));
        let invalid = invalid.count() as u64;
        let expected = 2 * list.len() as u64 - unknown - bad;
        while queue.stats().handled() < expected {
            std::thread::yield_now();
        }
        let stats = queue.stats();
        prop_assert_eq!(stats.handled(), expected);
        prop_assert_eq!(stats.unknown_methods, unknown);
        prop_assert_eq!(stats.methods.iter().map(|one| one.bad_payloads).sum::<u64>(), bad);
        prop_assert_eq!(stats.devices[0].invalid_answers, invalid);
        queue.shutdown().unwrap();
    }

    /// Words at random places of the segment: nothing is read or written outside, no thread panics, and the queue ends.
    #[test]
    fn random_words_anywhere_in_the_segment_do_no_harm(
        words in prop::collection::vec((any::<prop::sample::Index>(), any::<u64>(), any::<bool>()), 1..400),
    ) {
        let gpu = Gpu::new("h200@13.0", move |launch| {
            let warp = Warp::new(launch, 0);
            let begin = warp.queue.tails;
            let count = (warp.queue.answers - begin) / 8 + 64 * 8;
            for (index, word, looks_right) in &words {
                let at = begin + 8 * index.index(count as usize) as u64;
                // A sequence that is awaited, or anything.
                let word = if *looks_right { (1 << 32) | (word & 0xFFFF_FFFF) } else { *word };
                launch.store_u64(at, word).unwrap();
            }
        });
        let queue = builder().build(&gpu.device).unwrap();
        gpu.launch(&queue, 0, 0);
        gpu.stream.synchronize().unwrap();
        assert_eq!(queue.submit(Double(1)).unwrap().wait(), Ok(2));
        let _ = queue.stats().to_string();
        queue.shutdown().unwrap();
    }
}

//! The walk's body for simulated drivers: a thread for each walker.

use std::thread;

use cuda_green::sim::{Launch, Sim};
use cuda_green_queue::simulated::{DeviceSide, Place, Status};

use super::{NODES, Page};

/// Pages that a walker remembers the addresses of, as in `pages.cu`.
const KNOWN: usize = 16;

pub fn register(simulator: &Sim) {
    simulator.register_concurrent_kernel("walk", |launch| {
        let Some(queue) = DeviceSide::argument(launch, 0) else {
            return;
        };
        let walkers = launch.block_count() * u64::from(launch.block()[0]) / 32;
        thread::scope(|scope| {
            for walker in 0..walkers {
                let queue = &queue;
                // A walker that fails does not say that it came to the end.
                scope.spawn(move || walk(launch, queue, walker));
            }
        });
    });
}

fn walk(launch: &Launch<'_>, queue: &DeviceSide<'_>, walker: u64) -> Result<(), Status> {
    let [start, stride, found] = [1, 2, 4].map(|index| launch.arg_u64(index).unwrap_or_default());
    let steps = launch.arg_u32(3).unwrap_or_default();
    let mut known = [(u64::MAX, 0); KNOWN];
    let (mut node, mut sum, mut asked) = (start + walker * stride, 0, 0);
    for _ in 0..steps {
        let number = node / NODES;
        let Some(known) = known.get_mut(number as usize % KNOWN) else {
            return Err(Status::Invalid);
        };
        if known.0 != number {
            *known = (
                number,
                queue.call(Place::default(), &Page { number })?.wait()?,
            );
            asked += 1;
        }
        let next = launch.load_u64(known.1 + node % NODES * 8);
        node = next.map_err(|_| Status::Stopped)?;
        sum += node;
    }
    for (index, word) in (0..).zip([sum, asked, 1]) {
        let stored = launch.store_u64(found + 8 * (3 * walker + index), word);
        stored.map_err(|_| Status::Stopped)?;
    }
    Ok(())
}

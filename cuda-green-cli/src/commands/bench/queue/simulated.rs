//! The bodies of the hand-written kernels, for drivers that run no machine code. A launch is one thread there, which does
//! the work of all warps in turn.

use std::thread;

use cuda_green::sim::{Fault, Launch, Sim};

use super::{
    polled::{DEPTH, SLOT},
    shared::LINE,
};

/// Whether the kernels that use the queue have bodies.
pub const HAS_QUEUE: bool = false;

/// The time that a simulated round trip is said to have taken, in nanoseconds.
const TIME: u32 = 1;

type Done = Result<(), Fault>;

/// Registers the bodies.
pub fn register(simulator: &Sim) {
    let bodies: [(&str, fn(&Launch<'_>) -> Done); 4] = [
        ("raw_ping_pong", ping_pong),
        ("raw_pong", pong),
        ("raw_produce", produce),
        ("raw_produce_warp", produce),
    ];
    for (name, body) in bodies {
        simulator.register_concurrent_kernel(name, move |launch| {
            // A fault ends the launch, whose caller is told of it.
            let _ = body(launch);
        });
    }
    simulator.register_kernel("raw_empty", |_| {});
}

fn number(launch: &Launch<'_>, index: usize) -> u64 {
    let short = || launch.arg_u32(index).map(u64::from);
    launch.arg_u64(index).or_else(short).unwrap_or_default()
}

/// Waits until a word is at least a number.
fn wait(launch: &Launch<'_>, address: u64, least: u64) -> Done {
    while launch.load_u64(address)? < least {
        thread::yield_now();
    }
    Ok(())
}

fn ping_pong(launch: &Launch<'_>) -> Done {
    let [asked, answered, each, times] = [0, 1, 2, 3].map(|index| number(launch, index));
    for turn in 1..=each {
        launch.store_u64(asked, turn)?;
        wait(launch, answered, turn)?;
        launch.write(times + 4 * (turn - 1), &TIME.to_ne_bytes())?;
    }
    Ok(())
}

fn pong(launch: &Launch<'_>) -> Done {
    let [asked, answered, each] = [0, 1, 2].map(|index| number(launch, index));
    for turn in 1..=each {
        wait(launch, asked, turn)?;
        launch.store_u64(answered, turn)?;
    }
    Ok(())
}

fn produce(launch: &Launch<'_>) -> Done {
    let [
        slots,
        tails,
        answers,
        _states,
        times,
        lanes,
        each,
        waits,
        keep,
    ] = [0, 1, 2, 3, 4, 5, 6, 7, 8].map(|index| number(launch, index));
    let warps = launch.block_count() * u64::from(launch.block()[0]) / 32;
    let (depth, line) = (DEPTH as u64, 8 * LINE as u64);
    let mut heads = vec![0; lanes as usize];
    for turn in 0..each {
        for warp in 0..warps {
            let lane = warp % lanes.max(1);
            let Some(head) = heads.get_mut(lane as usize) else {
                continue;
            };
            let ticket = *head;
            *head += 1;
            if ticket >= depth {
                wait(launch, tails + lane * line, ticket + 1 - depth)?;
            }
            let slot = slots + (lane * depth + ticket % depth) * 8 * SLOT as u64;
            launch.store_u64(slot + 8, warp << 32 | turn)?;
            launch.store_u64(slot, ticket + 1)?;
            if waits != 0 {
                wait(launch, answers + warp * line, turn + 1)?;
                if turn < keep {
                    launch.write(times + 4 * (warp * keep + turn), &TIME.to_ne_bytes())?;
                }
            }
        }
    }
    Ok(())
}

//! The kernels' bodies, for drivers that run no machine code. A launch of a hand-written one is one thread there, which does
//! the work of all warps in turn; of the queue's, each warp is a thread.

use std::thread;

use cuda_green::sim::{Fault, Launch, Sim};
use cuda_green_queue::simulated::{DeviceSide, InboxSide, Place, Status};

use super::{
    own::{Ask, Note},
    polled::{DEPTH, SLOT},
    shared::LINE,
};

/// The time that a simulated round trip is said to have taken, in nanoseconds.
const TIME: u32 = 1;

type Done = Result<(), Fault>;
type Body = fn(&Launch<'_>) -> Done;

/// Registers the bodies.
pub fn register(simulator: &Sim) {
    let bodies: [(&str, Body); 4] = [
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
    simulator.register_concurrent_kernel("queue_serve", |launch| {
        if let Some(inbox) = InboxSide::argument(launch, 0, 0) {
            inbox.serve(|Ask { payload }| Ok(payload.wrapping_add(1)));
        }
    });
    let bodies: [(&str, QueueBody); 3] = [
        ("queue_produce", queue_produce),
        ("queue_produce_warp", queue_produce_warp),
        ("queue_round_trip", queue_round_trip),
    ];
    for (name, body) in bodies {
        simulator.register_concurrent_kernel(name, move |launch| {
            let Some(queue) = DeviceSide::argument(launch, 0) else {
                return;
            };
            let failed = number(launch, 1);
            thread::scope(|scope| {
                for warp in 0..warps(launch) {
                    let queue = &queue;
                    scope.spawn(move || {
                        let warp = Warp::new(launch, queue, warp);
                        if body(&warp).is_err() {
                            let _ = launch.atomic_add_u64(failed, 1);
                        }
                    });
                }
            });
        });
    }
}

type Answered = Result<(), Status>;
type QueueBody = fn(&Warp<'_>) -> Answered;

/// A warp of a kernel that uses the queue.
struct Warp<'a> {
    launch: &'a Launch<'a>,
    queue: &'a DeviceSide<'a>,
    warp: u64,
    place: Place,
    each: u64,
}

impl<'a> Warp<'a> {
    fn new(launch: &'a Launch<'a>, queue: &'a DeviceSide<'a>, warp: u64) -> Self {
        let lanes = number(launch, 2).max(1);
        Self {
            launch,
            queue,
            warp,
            place: Place {
                lane: (warp % lanes) as u32,
                priority: 0,
            },
            each: number(launch, 3),
        }
    }

    fn payload(&self, turn: u64) -> u64 {
        self.warp << 32 | turn
    }
}

fn queue_produce(warp: &Warp<'_>) -> Answered {
    (0..warp.each).try_for_each(|turn| {
        let payload = warp.payload(turn);
        warp.queue.submit(warp.place, &Note { payload })
    })
}

fn queue_produce_warp(warp: &Warp<'_>) -> Answered {
    for turn in (0..warp.each).step_by(32) {
        let payloads = (turn..turn + 32).map(|turn| warp.payload(turn));
        let notes: Vec<_> = payloads.map(|payload| Note { payload }).collect();
        loop {
            match warp.queue.try_submit_warp(warp.place, &notes) {
                Err(Status::Full) => thread::yield_now(),
                end => break end?,
            }
        }
    }
    Ok(())
}

fn queue_round_trip(warp: &Warp<'_>) -> Answered {
    let [times, keep] = [4, 5].map(|index| number(warp.launch, index));
    for turn in 0..warp.each {
        let payload = warp.payload(turn);
        let answer = warp.queue.call(warp.place, &Ask { payload })?.wait()?;
        if answer != payload + 1 {
            return Err(Status::Invalid);
        }
        if turn < keep {
            let at = times + 4 * (warp.warp * keep + turn);
            let written = warp.launch.write(at, &TIME.to_ne_bytes());
            written.map_err(|_| Status::Stopped)?;
        }
    }
    Ok(())
}

/// Returns the number of warps of a launch.
fn warps(launch: &Launch<'_>) -> u64 {
    launch.block_count() * u64::from(launch.block()[0]) / 32
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
    let warps = warps(launch);
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

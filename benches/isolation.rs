//! The latency of one request while background work floods the GPU: alone, beside the flood in one
//! context, with stream priorities, in partitions, and with the flood left in the primary context.
//!
//! Two floods: kernels of few long blocks, which hold an SM for 16 ms each, and kernels of many short
//! ones, which hold it for 60 µs. Priorities help against the second kind only.

#![allow(missing_docs)]

mod common;

use std::{
    collections::VecDeque,
    sync::atomic::{AtomicBool, Ordering},
    time::{Duration, Instant},
};

use clap::Parser;
use common::{Args, Outcome, percentile, sort};
use cuda_green::{
    ContextId, ContextPriority, CudaDevice, Event, GreenContext, GreenContextConfig, Kernel,
    LaunchConfig, Module, SmPartitionManager, Stream,
};
use serde_json::{Map, json};

/// A block of 1024 threads: two of them fill an SM.
const THREADS: u32 = 1024;
/// The request: 256 blocks, about 60 µs on a whole H200.
const REQUEST_BLOCKS: u32 = 256;
const REQUEST_ROUNDS: u32 = 4_000;

#[derive(Clone, Copy)]
struct Flood {
    name: &'static str,
    /// How often the kernel's blocks fill the SMs that it may use.
    waves: u32,
    /// Rounds of arithmetic of each block.
    rounds: u32,
}

const FLOODS: [Flood; 2] = [
    Flood {
        name: "long blocks",
        waves: 1,
        rounds: 1_085_000,
    },
    Flood {
        name: "short blocks",
        waves: 250,
        rounds: 4_000,
    },
];

struct Bench {
    device: CudaDevice,
    kernel: Kernel,
    requests: usize,
    limit: Duration,
}

fn main() -> Outcome {
    let args = Args::parse();
    let device = args.device()?;
    let module = Module::load_ptx(
        &device,
        include_str!("../cuda-green/src/kernels/kernels.ptx"),
    )?;
    let bench = Bench {
        kernel: module.kernel("cuda_green_burn")?,
        requests: if args.quick { 5 } else { 1_500 },
        limit: Duration::from_secs(if args.quick { 1 } else { 15 }),
        device,
    };
    let figures = bench.run()?;
    args.write(&bench.device, "isolation", figures)
}

impl Bench {
    fn run(&self) -> Outcome<Map<String, serde_json::Value>> {
        let device = &self.device;
        let share = device.properties().multiprocessor_count / 4;
        let config = |sm_count| GreenContextConfig {
            sm_count,
            ..GreenContextConfig::default()
        };
        let whole = GreenContext::primary(device, config(1))?;
        let manager = SmPartitionManager::on(device)?;
        let own = manager.create_context(ContextId::Embedding, config(share - share % 8))?;
        let left = manager.allocation_status().available_sms;
        let other = manager.create_context(ContextId::Dream, config(left))?;
        let plain = |context: &GreenContext| context.create_stream();
        let first =
            |context: &GreenContext| context.create_stream_with_priority(ContextPriority::Critical);
        let last =
            |context: &GreenContext| context.create_stream_with_priority(ContextPriority::Low);

        let mut figures = Map::new();
        println!(
            "{}: requests in {} SMs, flood in {}",
            device.name(),
            own.sm_count(),
            other.sm_count()
        );
        println!(
            "{:<58} {:>5} {:>10} {:>10} {:>10}",
            "latency in microseconds", "n", "p50", "p99", "max"
        );
        let mut row = |name: &str, request: Stream, flood: Option<(Flood, Stream)>| -> Outcome {
            let name = match &flood {
                Some((flood, _)) => format!("{name}, {}", flood.name),
                None => name.to_owned(),
            };
            let mut samples = self.measure(
                &request,
                flood.as_ref().map(|(flood, stream)| (*flood, stream)),
            )?;
            sort(&mut samples);
            let at = |share| percentile(&samples, share);
            println!(
                "{name:<58} {:>5} {:>10.1} {:>10.1} {:>10.1}",
                samples.len(),
                at(0.5),
                at(0.99),
                at(1.0)
            );
            let curve: Vec<f64> = (1..=200).map(|step| at(f64::from(step) / 200.0)).collect();
            figures.insert(
                name,
                json!({
                    "requests": samples.len(), "p50_us": at(0.5), "p90_us": at(0.9), "p99_us": at(0.99),
                    "max_us": at(1.0), "percentiles_by_half_us": curve,
                }),
            );
            Ok(())
        };
        row("alone, whole GPU", plain(&whole)?, None)?;
        row("alone, in a partition", plain(&own)?, None)?;
        for flood in FLOODS {
            row(
                "two plain streams",
                plain(&whole)?,
                Some((flood, plain(&whole)?)),
            )?;
            row(
                "high- and low-priority streams",
                first(&whole)?,
                Some((flood, last(&whole)?)),
            )?;
            row(
                "flood in another partition",
                plain(&own)?,
                Some((flood, plain(&other)?)),
            )?;
            row(
                "partition, flood in the primary context",
                plain(&own)?,
                Some((flood, plain(&whole)?)),
            )?;
        }
        Ok(figures)
    }

    /// The latencies of requests one after another, in microseconds, while the flood runs.
    fn measure(&self, request: &Stream, flood: Option<(Flood, &Stream)>) -> Outcome<Vec<f64>> {
        let stop = AtomicBool::new(false);
        std::thread::scope(|scope| {
            let flooding = flood.map(|(flood, stream)| {
                let stop = &stop;
                scope.spawn(move || self.flood(flood, stream, stop))
            });
            let samples = self.requests(request);
            stop.store(true, Ordering::Relaxed);
            if let Some(thread) = flooding {
                thread.join().map_err(|_| "the flood's thread panicked")??;
            }
            samples
        })
    }

    fn requests(&self, stream: &Stream) -> Outcome<Vec<f64>> {
        let shape = LaunchConfig::linear(REQUEST_BLOCKS, THREADS);
        let once = || -> Outcome<f64> {
            let start = Instant::now();
            self.burn(stream, &shape, REQUEST_ROUNDS)?;
            stream.synchronize()?;
            Ok(start.elapsed().as_secs_f64() * 1e6)
        };
        // Warm up; with a flood, until it surely runs.
        let begin = Instant::now();
        while begin.elapsed() < Duration::from_millis(100) {
            once()?;
        }
        let begin = Instant::now();
        let mut samples = Vec::with_capacity(self.requests);
        while samples.len() < self.requests && (samples.len() < 2 || begin.elapsed() < self.limit) {
            samples.push(once()?);
        }
        Ok(samples)
    }

    /// Keeps two kernels queued until told to stop, then waits for them.
    fn flood(&self, flood: Flood, stream: &Stream, stop: &AtomicBool) -> Outcome {
        let blocks = stream.context().sm_count() * 2 * flood.waves;
        let shape = LaunchConfig::linear(blocks, THREADS);
        let mut queued = VecDeque::new();
        while !stop.load(Ordering::Relaxed) {
            self.burn(stream, &shape, flood.rounds)?;
            let event = Event::new(&self.device)?;
            stream.record(&event)?;
            queued.push_back(event);
            if queued.len() > 2
                && let Some(oldest) = queued.pop_front()
            {
                oldest.synchronize()?;
            }
        }
        Ok(stream.synchronize()?)
    }

    fn burn(&self, stream: &Stream, shape: &LaunchConfig, rounds: u32) -> Outcome {
        // SAFETY: the kernel takes an address, to which it never comes to write, and a number of rounds.
        Ok(unsafe { stream.launch(&self.kernel, shape, &[&0u64, &rounds]) }?)
    }
}

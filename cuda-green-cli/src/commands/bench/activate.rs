//! The cost of this library beyond its raw driver calls: each call beside the same sequence of raw calls, in
//! alternating batches of one run, as a ratio of medians; and single activations.

use std::{hint::black_box, ptr};

use cuda_green::{
    ContextId, CudaDevice, Event, LaunchConfig, Module, SmPartitionManager, kernels,
    sys::{Api, CUcontext},
};
use serde::{Deserialize, Serialize};

use super::{
    clock::{self, Comparison, Rounds, alternate, each},
    contexts::{config, must_have_partitions},
    create,
    raw::ok,
    run::{Drawn, Figures, NO_RATIOS, Work},
    samples::Distribution,
};
use crate::render::{duration::duration, svg::Curve};

#[derive(Serialize, Deserialize)]
pub struct Activate {
    calls: Vec<Comparison>,
    /// Activations timed one by one, and the clock without one.
    one_by_one: Vec<Single>,
}

#[derive(Serialize, Deserialize)]
struct Single {
    what: String,
    #[serde(flatten)]
    times: Distribution,
}

pub fn measure(work: &Work<'_>) -> anyhow::Result<Activate> {
    must_have_partitions(work.device)?;
    let rounds = Rounds {
        device: work.device,
        rounds: if work.quick { 3 } else { 200 },
        progress: work.progress,
    };
    work.progress.set_length(7);
    let mut calls = activation(work, &rounds)?;
    calls.extend(launch_and_events(work, &rounds)?);
    work.progress.set_message("create + destroy");
    calls.extend(create::compare(work.device, rounds.rounds)?);
    work.progress.inc(1);
    work.progress.set_message("activations one by one");
    let one_by_one = one_by_one(work)?;
    Ok(Activate { calls, one_by_one })
}

/// The driver calls behind a guard.
struct RawGuard<'a> {
    api: &'a Api,
    context: CUcontext,
}

impl RawGuard<'_> {
    #[inline]
    fn push_and_pop(&self) -> anyhow::Result<()> {
        let mut popped = ptr::null_mut();
        // SAFETY: the maker of this value holds the context, and the pointer is valid for the one handle written.
        unsafe {
            ok(self.api.cuCtxPushCurrent_v2(self.context))?;
            ok(self.api.cuCtxPopCurrent_v2(&mut popped))
        }
    }

    /// Makes the calls of a guard, which first asks for the context that it will restore. A guard cannot cost less
    /// than these three.
    #[inline]
    fn ask_push_and_pop(&self) -> anyhow::Result<()> {
        let mut seen = ptr::null_mut();
        // SAFETY: the pointer is valid for the one handle that is written.
        unsafe { ok(self.api.cuCtxGetCurrent(&mut seen))? };
        black_box(seen);
        self.push_and_pop()
    }
}

fn activation(work: &Work<'_>, rounds: &Rounds<'_>) -> anyhow::Result<Vec<Comparison>> {
    let manager = SmPartitionManager::on(work.device)?;
    let context = manager.create_context(ContextId::Embedding, config(8))?;
    let raw = RawGuard {
        api: work.device.driver().api(),
        context: context.raw_context()?,
    };
    let calls = if work.quick { 10 } else { 10_000 };
    let ours = || {
        drop(context.activate()?);
        Ok(())
    };
    let through_manager = || {
        drop(manager.activate(ContextId::Embedding)?);
        Ok(())
    };
    Ok(vec![
        rounds.compare("activate + drop", calls, ours, || raw.push_and_pop())?,
        rounds.compare(
            "activate + drop beside its three calls",
            calls,
            ours,
            || raw.ask_push_and_pop(),
        )?,
        rounds.compare(
            "activate + drop through the manager",
            calls,
            through_manager,
            || raw.push_and_pop(),
        )?,
    ])
}

fn one_by_one(work: &Work<'_>) -> anyhow::Result<Vec<Single>> {
    let manager = SmPartitionManager::on(work.device)?;
    let context = manager.create_context(ContextId::Embedding, config(8))?;
    let raw = RawGuard {
        api: work.device.driver().api(),
        context: context.raw_context()?,
    };
    let (rounds, calls) = if work.quick { (3, 10) } else { (100, 1_000) };
    let [pushes, three, ours, through_manager] = alternate(
        rounds,
        [
            &mut |times| each(calls, times, || raw.push_and_pop()),
            &mut |times| each(calls, times, || raw.ask_push_and_pop()),
            &mut |times| {
                each(calls, times, || {
                    drop(context.activate()?);
                    Ok(())
                })
            },
            &mut |times| {
                each(calls, times, || {
                    drop(manager.activate(ContextId::Embedding)?);
                    Ok(())
                })
            },
        ],
    )?;
    let single = |what: &str, times| Single {
        what: what.to_owned(),
        times,
    };
    Ok(vec![
        single("raw: push + pop", pushes.into()),
        single("raw: get + push + pop", three.into()),
        single("activate + drop", ours.into()),
        single(
            "activate + drop through the manager",
            through_manager.into(),
        ),
        single("the clock alone", clock::alone(rounds * calls)?),
    ])
}

fn launch_and_events(work: &Work<'_>, rounds: &Rounds<'_>) -> anyhow::Result<[Comparison; 2]> {
    let device: &CudaDevice = work.device;
    let manager = SmPartitionManager::on(device)?;
    let context = manager.create_context(ContextId::Embedding, config(8))?;
    let stream = context.create_stream()?;
    let kernel = Module::load_ptx(device, kernels::PTX)?.kernel(kernels::BURN)?;
    let shape = LaunchConfig::linear(1, 32);
    let (nowhere, no_rounds) = (0u64, 0u32);
    let api = device.driver().api();
    let calls = if work.quick { 10 } else { 500 };
    let ours = || {
        // SAFETY: the kernel takes an address, which it does not use, and a number of rounds.
        Ok(unsafe { stream.launch(&kernel, &shape, &[&nowhere, &no_rounds]) }?)
    };
    let raw = || {
        let mut args = [
            ptr::from_ref(&nowhere).cast_mut().cast(),
            ptr::from_ref(&no_rounds).cast_mut().cast(),
        ];
        let (kernel, stream, args) = (kernel.raw(), stream.raw(), args.as_mut_ptr());
        // SAFETY: as above; stream and kernel are live.
        ok(unsafe {
            api.cuLaunchKernel(kernel, 1, 1, 1, 32, 1, 1, 0, stream, args, ptr::null_mut())
        })
    };
    let launch = rounds.compare("launch", calls, ours, raw)?;
    stream.synchronize()?;
    let event = Event::new(device)?;
    let ours = || {
        stream.record(&event)?;
        Ok(stream.wait(&event)?)
    };
    let raw = || {
        // SAFETY: stream and event are live.
        unsafe {
            ok(api.cuEventRecord(event.raw(), stream.raw()))?;
            ok(api.cuStreamWaitEvent(stream.raw(), event.raw(), 0))
        }
    };
    let events = rounds.compare("record + wait", calls, ours, raw)?;
    stream.synchronize()?;
    Ok([launch, events])
}

impl Figures for Activate {
    fn table(&self) -> String {
        let mut table = format!(
            "{:<38} {:>9} {:>9} {:>6} {:>12}\n",
            "median of one call", "ours", "raw", "ratio", "p99 of ours"
        );
        for row in &self.calls {
            let [ours, raw, p99] = [row.ours_ns, row.raw_ns, row.ours_p99_ns].map(duration);
            let ratio = row
                .ratio
                .map_or("–".to_owned(), |ratio| format!("{ratio:.2}"));
            table += &format!("{:<38} {ours:>9} {raw:>9} {ratio:>6} {p99:>12}\n", row.call);
        }
        if self.calls.iter().all(|row| row.ratio.is_none()) {
            table += &format!("{NO_RATIOS}\n");
        }
        let what = "one by one, including the clock";
        table += &format!("\n{what:<38} {}", Distribution::headings());
        for Single { what, times } in &self.one_by_one {
            table += &format!("\n{what:<38} {}", times.columns());
        }
        table
    }
}

impl Drawn for Activate {
    const COMMAND: &str = "activate";
    const TITLE: &str = "Making a context current and restoring the one before";
    const OF: &str = "activations";
    const NOTE: Option<&str> = Some("Each time includes one reading of the clock.");

    fn curves(&self) -> Vec<Curve> {
        let singles = self.one_by_one.iter();
        singles.map(|one| one.times.curve(&one.what)).collect()
    }
}

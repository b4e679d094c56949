//! Tasks of the CPU to the CPU.

use std::{hint::black_box, time::Instant};

use super::{
    figures::HostRow,
    lengths::Lengths,
    own::{Ask, Own, Summed},
    times::Found,
};

/// Tasks on their way at once: fewer than there is room for.
const BATCH: u64 = 512;

pub fn measure(own: &Own, lengths: &Lengths) -> anyhow::Result<Vec<HostRow>> {
    let mut rows = Vec::new();
    for path in ["pointer", "copy"] {
        let found: Vec<[f64; 3]> = (0..lengths.repeats)
            .map(|_| once(own, path, lengths.host_tasks))
            .collect::<anyhow::Result<_>>()?;
        let each = |at: fn(&[f64; 3]) -> f64| Found::of(found.iter().map(at).collect());
        rows.push(HostRow {
            path: path.to_owned(),
            tasks: lengths.host_tasks,
            submit_ns: each(|[submit, _, _]| *submit),
            all_ns: each(|[_, all, _]| *all),
            answered_ns: each(|[_, _, answered]| *answered),
        });
    }
    Ok(rows)
}

/// Returns the nanoseconds of a submission, of a submission and the run among many, and of one that is waited for.
fn once(own: &Own, path: &str, tasks: u64) -> anyhow::Result<[f64; 3]> {
    let summed = own.queue(1, 1, true)?;
    let (mut submitting, start) = (0.0, Instant::now());
    let mut futures = Vec::with_capacity(BATCH as usize);
    let mut next = 0;
    while next < tasks {
        let begin = Instant::now();
        let end = (next + BATCH).min(tasks);
        for payload in next..end {
            futures.push(submit(&summed, path, payload)?);
        }
        submitting += begin.elapsed().as_secs_f64();
        next = end;
        for future in futures.drain(..) {
            black_box(future.wait()?);
        }
    }
    let all = start.elapsed().as_secs_f64();
    let (waited, alone) = ((tasks / 10).max(1), Instant::now());
    for payload in 0..waited {
        black_box(submit(&summed, path, payload)?.wait()?);
    }
    let answered = alone.elapsed().as_secs_f64();
    summed.queue.shutdown()?;
    let of = |seconds: f64, tasks: u64| seconds * 1e9 / tasks as f64;
    Ok([of(submitting, tasks), of(all, tasks), of(answered, waited)])
}

fn submit(
    summed: &Summed,
    path: &str,
    payload: u64,
) -> anyhow::Result<cuda_green_queue::TaskFuture<u64>> {
    let ask = Ask { payload };
    let future = match path {
        "copy" => summed.queue.submit_copy(ask),
        _ => summed.queue.submit_pointer(ask),
    };
    future.map_err(|error| anyhow::anyhow!("{error}"))
}

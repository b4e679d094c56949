//! Figures of queues for the `metrics` facade.

mod descriptions;
#[cfg(test)]
#[cfg(not(loom))]
mod tests;

use metrics::{Label, counter, gauge};

use crate::stats::{DeviceStats, MethodStats, QueueStats, RingStats};

/// Exports the figures of a queue to the recorder of the `metrics` facade. Call [`export`](Self::export) now and then, as
/// for each scrape.
///
/// The label `queue` is the exporter's, `device` the ordinal, `thread` the number of a polling thread of its device, and
/// `task` the name of the task's type.
///
/// | metric | kind | more labels | |
/// |---|---|---|---|
/// | `cuda_green_queue_submitted_total` | counter | `device`, `lane`, `priority` | tasks that kernels submitted |
/// | `cuda_green_queue_taken_total` | counter | `device`, `lane`, `priority` | tasks that a polling thread took |
/// | `cuda_green_queue_refused_total` | counter | `device`, `lane`, `priority` | submissions of kernels that found no room |
/// | `cuda_green_queue_deepest` | gauge | `device`, `lane`, `priority` | the most tasks that waited in the ring |
/// | `cuda_green_queue_out_of_jobs_total` | counter | `device`, `lane`, `priority` | looks at which the ring had to wait, because all jobs were with the workers |
/// | `cuda_green_queue_invalid_answers_total` | counter | `device` | answers to futures that do not exist |
/// | `cuda_green_queue_sleeps_total` | counter | `device`, `thread` | sleeps of a polling thread while a kernel may submit |
/// | `cuda_green_queue_rests_total` | counter | `device`, `thread` | sleeps of a polling thread while no kernel is known to be at work |
/// | `cuda_green_queue_cpu_seconds` | gauge | `device`, `thread` | CPU time of a polling thread, on Linux |
/// | `cuda_green_queue_cpu_submitted_total` | counter | `way` | tasks of CPU code; `moved` or `copied` |
/// | `cuda_green_queue_cpu_refused_total` | counter | `way` | submissions of CPU code that found no room |
/// | `cuda_green_queue_handled_total` | counter | `task`, `outcome` | tasks that ended; `done`, `failed`, `panicked` or `bad_payload` |
/// | `cuda_green_queue_waiting_seconds` | gauge | `task`, `quantile` | time from where a task was found to its handler |
/// | `cuda_green_queue_handling_seconds` | gauge | `task`, `quantile` | time that the handler took |
/// | `cuda_green_queue_unknown_methods_total` | counter | | tasks without a handler |
/// | `cuda_green_queue_discarded_total` | counter | | tasks that were answered as closed without being run |
/// | `cuda_green_queue_caught_panics_total` | counter | | panics of wakers, and of tasks and outputs when they were dropped |
///
/// ```
/// use cuda_green_queue::{QueueExporter, TaskQueues};
///
/// # fn main() -> Result<(), cuda_green_queue::Error> {
/// let queues = TaskQueues::builder().build_for(&[])?;
/// let exporter = QueueExporter::new("pages");
/// exporter.export(&queues.stats());
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Debug)]
pub struct QueueExporter {
    queue: String,
}

impl QueueExporter {
    /// Makes an exporter of figures with this value of the label `queue`, and describes them to the recorder that is
    /// installed.
    pub fn new(queue: impl Into<String>) -> Self {
        descriptions::describe();
        Self {
            queue: queue.into(),
        }
    }

    /// Exports a snapshot.
    pub fn export(&self, stats: &QueueStats) {
        let queue = || vec![Label::new("queue", self.queue.clone())];
        counter!("cuda_green_queue_unknown_methods_total", queue()).absolute(stats.unknown_methods);
        counter!("cuda_green_queue_discarded_total", queue()).absolute(stats.discarded);
        counter!("cuda_green_queue_caught_panics_total", queue()).absolute(stats.caught_panics);
        for (way, counts) in [("moved", stats.pointers), ("copied", stats.copies)] {
            let labels = || with(queue(), [("way", way.to_owned())]);
            counter!("cuda_green_queue_cpu_submitted_total", labels()).absolute(counts.submitted);
            counter!("cuda_green_queue_cpu_refused_total", labels()).absolute(counts.refused);
        }
        for device in &stats.devices {
            let labels = || with(queue(), [("device", device.device.to_string())]);
            counter!("cuda_green_queue_invalid_answers_total", labels())
                .absolute(device.invalid_answers);
            for ring in &device.rings {
                export_ring(ring, &labels());
            }
            export_pollers(device, &labels());
        }
        for method in &stats.methods {
            export_method(method, &queue());
        }
    }
}

fn export_ring(ring: &RingStats, labels: &[Label]) {
    let labels = || {
        with(
            labels.to_vec(),
            [
                ("lane", ring.lane.to_string()),
                ("priority", ring.priority.to_string()),
            ],
        )
    };
    counter!("cuda_green_queue_taken_total", labels()).absolute(ring.taken);
    counter!("cuda_green_queue_out_of_jobs_total", labels()).absolute(ring.out_of_jobs);
    gauge!("cuda_green_queue_deepest", labels()).set(ring.deepest as f64);
    // Those of a device that is lost are not known, which is not zero.
    if let Some(submitted) = ring.submitted {
        counter!("cuda_green_queue_submitted_total", labels()).absolute(submitted);
    }
    if let Some(refused) = ring.refused {
        counter!("cuda_green_queue_refused_total", labels()).absolute(refused);
    }
}

fn export_pollers(device: &DeviceStats, labels: &[Label]) {
    for (number, poller) in device.pollers.iter().enumerate() {
        let labels = || with(labels.to_vec(), [("thread", number.to_string())]);
        counter!("cuda_green_queue_sleeps_total", labels()).absolute(poller.sleeps);
        counter!("cuda_green_queue_rests_total", labels()).absolute(poller.rests);
        if let Some(time) = poller.cpu_time {
            gauge!("cuda_green_queue_cpu_seconds", labels()).set(time.as_secs_f64());
        }
    }
}

fn export_method(method: &MethodStats, labels: &[Label]) {
    let labels = |more: &[(&'static str, &str)]| {
        let more = more.iter().map(|(key, value)| (*key, (*value).to_owned()));
        with(
            with(labels.to_vec(), [("task", method.name.to_owned())]),
            more,
        )
    };
    for (outcome, count) in [
        ("done", method.done),
        ("failed", method.failed),
        ("panicked", method.panicked),
        ("bad_payload", method.bad_payloads),
    ] {
        counter!(
            "cuda_green_queue_handled_total",
            labels(&[("outcome", outcome)])
        )
        .absolute(count);
    }
    for (name, histogram) in [
        ("cuda_green_queue_waiting_seconds", &method.waiting),
        ("cuda_green_queue_handling_seconds", &method.handling),
    ] {
        if histogram.count() == 0 {
            continue;
        }
        for (quantile, share) in [("0.5", 0.5), ("0.99", 0.99), ("1", 1.0)] {
            gauge!(name, labels(&[("quantile", quantile)]))
                .set(histogram.percentile(share).as_secs_f64());
        }
    }
}

fn with(
    mut labels: Vec<Label>,
    more: impl IntoIterator<Item = (&'static str, String)>,
) -> Vec<Label> {
    let more = more.into_iter();
    labels.extend(more.map(|(key, value)| Label::new(key, value)));
    labels
}

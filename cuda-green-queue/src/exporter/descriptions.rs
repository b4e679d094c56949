//! The metrics' descriptions for the recorder, with units.

use metrics::{Unit, describe_counter, describe_gauge};

/// Describes all metrics.
pub(super) fn describe() {
    describe_counter!(
        "cuda_green_queue_submitted_total",
        Unit::Count,
        "tasks that kernels submitted"
    );
    describe_counter!(
        "cuda_green_queue_taken_total",
        Unit::Count,
        "tasks that a polling thread took"
    );
    describe_counter!(
        "cuda_green_queue_refused_total",
        Unit::Count,
        "submissions of kernels that found no room"
    );
    describe_gauge!(
        "cuda_green_queue_deepest",
        Unit::Count,
        "the most tasks that waited in the ring"
    );
    describe_counter!(
        "cuda_green_queue_out_of_jobs_total",
        Unit::Count,
        "looks at which the ring had to wait, because all jobs were with the workers"
    );
    describe_counter!(
        "cuda_green_queue_invalid_answers_total",
        Unit::Count,
        "answers to futures that do not exist"
    );
    describe_counter!(
        "cuda_green_queue_sleeps_total",
        Unit::Count,
        "sleeps of a polling thread while a kernel may submit"
    );
    describe_counter!(
        "cuda_green_queue_rests_total",
        Unit::Count,
        "sleeps of a polling thread while no kernel is known to be at work"
    );
    describe_gauge!(
        "cuda_green_queue_cpu_seconds",
        Unit::Seconds,
        "CPU time of a polling thread, on Linux"
    );
    describe_counter!(
        "cuda_green_queue_cpu_submitted_total",
        Unit::Count,
        "tasks of CPU code; `moved` or `copied`"
    );
    describe_counter!(
        "cuda_green_queue_cpu_refused_total",
        Unit::Count,
        "submissions of CPU code that found no room"
    );
    describe_counter!(
        "cuda_green_queue_handled_total",
        Unit::Count,
        "tasks that ended; `done`, `failed`, `panicked` or `bad_payload`"
    );
    describe_gauge!(
        "cuda_green_queue_waiting_seconds",
        Unit::Seconds,
        "time from where a task was found to its handler"
    );
    describe_gauge!(
        "cuda_green_queue_handling_seconds",
        Unit::Seconds,
        "time that the handler took"
    );
    describe_counter!(
        "cuda_green_queue_unknown_methods_total",
        Unit::Count,
        "tasks without a handler"
    );
    describe_counter!(
        "cuda_green_queue_discarded_total",
        Unit::Count,
        "tasks that were answered as closed without being run"
    );
    describe_counter!(
        "cuda_green_queue_caught_panics_total",
        Unit::Count,
        "panics of wakers, and of tasks and outputs when they were dropped"
    );
}

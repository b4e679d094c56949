//! Known differences between the simulator and the real driver, each with its reason.

/// A handle that is stale or an argument that is null or wrong: the driver dies of it, at the call after the
/// last note. The simulator must not, and answers with a code. Nothing is known of the calls after that one.
const DIES: &str = "the driver dies of what this case does next; the simulator answers with a code";

/// A destroyed context that is current when the process ends: the driver ended it with an abort in one run of
/// two.
const DIES_AT_TIMES: &str =
    "the driver may die of a dangling current context; the simulator does not";

/// The order in which the driver takes SMs is deduced, and one outcome does not fit.
const UNKNOWN: &str = "which SMs the driver takes is known only from what comes of it";

/// Three kernels of one graph run side by side, those of two partitions as long as the third. What they hold
/// they hold until it is done, so it runs on what is left; by itself such a kernel runs on all SMs
/// (`graphs/where_it_runs`).
const BESIDE_OTHERS: &str =
    "a kernel does not come to SMs that others fill; the simulator tells the SMs of its context";

/// Nothing is compiled.
const REGISTERS: &str = "how many registers a kernel has is not known without compiling it";

/// `.visible` is not read.
const VISIBLE: &str = "the simulator's kernels are all visible, so that two of a name are refused";

/// It answers in a child, too.
const LOCKED: &str =
    "the simulator takes a lock for it, which a thread of the parent may have held";

/// Case, note (or its beginning, before a `*`), reason.
const KNOWN: &[(&str, &str, &str)] = &[
    // `cuDeviceGetName` with a length of 0.
    ("driver/devices", "ended", DIES),
    // `cuEventDestroy` of an event that was destroyed.
    ("driver/what_needs_a_context", "ended", DIES),
    // `cuStreamQuery` of a stream that was destroyed.
    ("streams/wrong_handles", "ended", DIES),
    // `cuEventQuery` of an event that was destroyed.
    ("events/wrong_handles", "ended", DIES),
    // `cuDevResourceGenerateDesc` of no resources.
    ("merge/wrong_arguments", "ended", DIES),
    // `cuStreamQuery` of a stream whose primary context is gone.
    ("teardown/primary_last", "ended", DIES),
    // `cuThreadExchangeStreamCaptureMode` with null.
    ("captures/threads", "ended", DIES),
    ("stack/destroyed_while_current", "ended", DIES_AT_TIMES),
    (
        "forks/calls_of_a_child",
        "cuThreadExchangeStreamCaptureMode",
        LOCKED,
    ),
    ("forks/calls_of_a_child", "cuEventQuery", LOCKED),
    ("forks/calls_of_a_child", "cuInit of wrong flags", DIES),
    ("links/one_kernel_twice", "not visible: *", VISIBLE),
    (
        "graphs/across_contexts",
        "primary's part ran on all",
        BESIDE_OTHERS,
    ),
    ("functions/attributes", "4 of the function", REGISTERS),
    ("functions/attributes", "4 of the kernel", REGISTERS),
    ("functions/attributes", "4 set to 16*", REGISTERS),
    // Three groups of 25 to 32 in 100 SMs get 26 each, and with the flag for clusters 28. The simulator gives
    // 28 in both ways.
    (
        "split/a_context_s_own",
        "rest of 1x32 flags 0 form 200 025-026",
        UNKNOWN,
    ),
    (
        "split/a_context_s_own",
        "rest of 1x32 flags 0 form 200 025-032",
        UNKNOWN,
    ),
    (
        "split/a_context_s_own",
        "rest of 1x32 flags 0 form 200 027-032",
        UNKNOWN,
    ),
    ("driver/attributes", "139", "the PCI ids of the board"),
    ("driver/attributes", "140", "the PCI ids of the board"),
];

/// Why a note may differ, if it may.
pub fn reason(case: &str, note: &str) -> Option<&'static str> {
    KNOWN
        .iter()
        .find(|(of, name, _)| {
            *of == case
                && match name.strip_suffix('*') {
                    Some(start) => note.starts_with(start),
                    None => note == *name,
                }
        })
        .map(|(_, _, reason)| *reason)
}

//! Where the simulator is known to differ from the real driver, and why.

/// A handle that is stale or an argument that is null or wrong: the driver dies of it, at the call after the
/// last note. The simulator must not, and answers with a code. Nothing is known of the calls after that one.
const DIES: &str = "the driver dies of what this case does next; the simulator answers with a code";

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

//! Where the simulator is known to differ from the real driver, and why.

/// Case, note (or its beginning, before a `*`), reason.
const KNOWN: &[(&str, &str, &str)] = &[];

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

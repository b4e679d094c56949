//! Times as text.

/// Writes a time in nanoseconds with three digits: `56.9 ns`, `3.31 µs`, `9.59 ms`.
pub fn duration(nanoseconds: f64) -> String {
    let (time, unit) = scaled(nanoseconds);
    let decimals = match time {
        ..9.995 => 2,
        ..99.95 => 1,
        _ => 0,
    };
    format!("{time:.decimals$} {unit}")
}

/// Writes a time in nanoseconds in whole units, for an axis.
pub fn whole(nanoseconds: f64) -> String {
    let (time, unit) = scaled(nanoseconds);
    format!("{time:.0} {unit}")
}

fn scaled(nanoseconds: f64) -> (f64, &'static str) {
    match nanoseconds {
        ..999.5 => (nanoseconds, "ns"),
        ..999.5e3 => (nanoseconds / 1e3, "µs"),
        ..999.5e6 => (nanoseconds / 1e6, "ms"),
        _ => (nanoseconds / 1e9, "s"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn three_digits_and_never_a_thousand() {
        for (nanoseconds, text) in [
            (0.0, "0.00 ns"),
            (9.994, "9.99 ns"),
            (9.996, "10.0 ns"),
            (99.96, "100 ns"),
            (999.4, "999 ns"),
            (999.6, "1.00 µs"),
            (3_309.15, "3.31 µs"),
            (14_231_000.0, "14.2 ms"),
            (999_600_000.0, "1.00 s"),
            (2.5e12, "2500 s"),
        ] {
            assert_eq!(duration(nanoseconds), text);
        }
        assert_eq!(
            [1e2, 1e4, 1e6, 1e9].map(whole),
            ["100 ns", "10 µs", "1 ms", "1 s"]
        );
    }
}

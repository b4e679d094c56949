//! What still lives in a simulated driver.

use std::fmt;

/// Objects that a client made and has not destroyed, by kind.
///
/// A test of code that cleans up ends with `assert!(sim.live_objects().is_empty())`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct LiveObjects {
    /// Retains of primary contexts.
    pub primary_retains: usize,
    /// Green contexts.
    pub green_contexts: usize,
    /// Streams, those that lost their green context too.
    pub streams: usize,
    /// Events.
    pub events: usize,
    /// Modules.
    pub modules: usize,
    /// Device memory, from pools or not: allocations.
    pub device_allocations: usize,
    /// Device memory, from pools or not: the bytes asked for.
    pub device_bytes: u64,
    /// Memory pools.
    pub pools: usize,
    /// Pinned host memory: allocations.
    pub host_allocations: usize,
    /// Objects that were never destroyed and that a context took along when it was destroyed. They no
    /// longer live, but forgetting them was a mistake, so they count.
    pub abandoned: usize,
}

impl LiveObjects {
    /// Whether nothing lives, and nothing was abandoned.
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }
}

/// `nothing`, or the kinds that there are: `2 streams, 1 module`.
impl fmt::Display for LiveObjects {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kinds = [
            (self.primary_retains, "primary retain"),
            (self.green_contexts, "green context"),
            (self.streams, "stream"),
            (self.events, "event"),
            (self.modules, "module"),
            (self.device_allocations, "device allocation"),
            (self.pools, "pool"),
            (self.host_allocations, "pinned host allocation"),
            (self.abandoned, "abandoned object"),
        ];
        let mut first = true;
        for (count, kind) in kinds.into_iter().filter(|(count, _)| *count > 0) {
            let comma = if std::mem::take(&mut first) { "" } else { ", " };
            let plural = if count == 1 { "" } else { "s" };
            write!(f, "{comma}{count} {kind}{plural}")?;
            if kind == "device allocation" {
                write!(f, " of {} bytes", self.device_bytes)?;
            }
        }
        if first {
            f.write_str("nothing")?;
        }
        Ok(())
    }
}

//! The live objects of a simulated driver as a test sees them, and the calls that made them.

use std::{cell::Cell, fmt};

thread_local! {
    /// The call into a simulated driver that this thread is in, or was in last.
    static CALL: Cell<MadeAt> = const { Cell::new(MadeAt { entry_point: "", call: 0 }) };
}

/// A call to a simulated driver: the one that made an object, or one of a trace.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct MadeAt {
    /// The entry point: `cuStreamCreateWithPriority`.
    pub entry_point: &'static str,
    /// The call's number among all calls to that driver, from 1: see [`Sim::calls`](crate::Sim::calls).
    pub call: u64,
}

impl MadeAt {
    /// Records the call that this thread enters.
    pub(crate) fn enter(entry_point: &'static str, call: u64) {
        CALL.set(Self { entry_point, call });
    }

    /// Returns the call that this thread is in.
    pub(crate) fn now() -> Self {
        CALL.get()
    }
}

/// One live object.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct LiveObject {
    /// The kind of object: `stream`, `green context`.
    pub kind: &'static str,
    /// The call that made it.
    pub made_at: MadeAt,
}

/// Objects that a client made and has not destroyed, by kind.
///
/// A test of code that cleans up ends with [`Sim::assert_no_leaks`](crate::Sim::assert_no_leaks), or
/// begins with [`Sim::leak_guard`](crate::Sim::leak_guard).
///
/// Two of them are equal if they have as many objects of each kind, whichever calls made them.
#[derive(Clone, Debug, Default)]
#[non_exhaustive]
pub struct LiveObjects {
    /// Retains of primary contexts.
    pub primary_retains: usize,
    /// Green contexts.
    pub green_contexts: usize,
    /// Streams, including those that lost their green context.
    pub streams: usize,
    /// Events.
    pub events: usize,
    /// Modules.
    pub modules: usize,
    /// Libraries.
    pub libraries: usize,
    /// Links, which `cuLinkCreate` begins.
    pub links: usize,
    /// Graphs.
    pub graphs: usize,
    /// Instantiated graphs.
    pub graph_execs: usize,
    /// Device memory, from pools or not: number of allocations.
    pub device_allocations: usize,
    /// Device memory, from pools or not: bytes requested.
    pub device_bytes: u64,
    /// Memory pools.
    pub pools: usize,
    /// Pinned host memory: number of allocations.
    pub host_allocations: usize,
    /// Registrations of the client's own host memory.
    pub host_registrations: usize,
    /// Reserved ranges of addresses.
    pub reservations: usize,
    /// Memory of `cuMemCreate` that is not released, or still mapped.
    pub physical_allocations: usize,
    /// Objects that were never destroyed and that ended with their context. They are no longer alive, but not
    /// destroying them was a mistake, so they count.
    pub abandoned: usize,
    /// Each object with the call that made it; the oldest first.
    pub objects: Vec<LiveObject>,
}

pub(crate) const RETAIN: &str = "primary retain";
pub(crate) const GREEN: &str = "green context";
pub(crate) const STREAM: &str = "stream";
pub(crate) const EVENT: &str = "event";
pub(crate) const MODULE: &str = "module";
pub(crate) const LIBRARY: &str = "library";
pub(crate) const LINK: &str = "link";
pub(crate) const GRAPH: &str = "graph";
pub(crate) const GRAPH_EXEC: &str = "instantiated graph";
pub(crate) const ALLOCATION: &str = "device allocation";
pub(crate) const POOL: &str = "pool";
pub(crate) const HOST: &str = "pinned host allocation";
pub(crate) const REGISTRATION: &str = "registration of host memory";
pub(crate) const RESERVATION: &str = "reservation of addresses";
pub(crate) const PHYSICAL: &str = "physical allocation";
pub(crate) const ABANDONED: &str = "abandoned object";

/// How many calls of a kind a text lists.
const TOLD: usize = 6;

impl LiveObjects {
    /// Counts the objects of a list.
    pub(crate) fn of(mut objects: Vec<LiveObject>, device_bytes: u64) -> Self {
        objects.sort_by_key(|object| object.made_at.call);
        let count = |kind| objects.iter().filter(|object| object.kind == kind).count();
        Self {
            primary_retains: count(RETAIN),
            green_contexts: count(GREEN),
            streams: count(STREAM),
            events: count(EVENT),
            modules: count(MODULE),
            libraries: count(LIBRARY),
            links: count(LINK),
            graphs: count(GRAPH),
            graph_execs: count(GRAPH_EXEC),
            device_allocations: count(ALLOCATION),
            device_bytes,
            pools: count(POOL),
            host_allocations: count(HOST),
            host_registrations: count(REGISTRATION),
            reservations: count(RESERVATION),
            physical_allocations: count(PHYSICAL),
            abandoned: count(ABANDONED),
            objects,
        }
    }

    /// Returns whether nothing is alive and nothing was abandoned.
    pub fn is_empty(&self) -> bool {
        self.counts().iter().all(|(count, _)| *count == 0) && self.device_bytes == 0
    }

    fn counts(&self) -> [(usize, &'static str); 16] {
        [
            (self.primary_retains, RETAIN),
            (self.green_contexts, GREEN),
            (self.streams, STREAM),
            (self.events, EVENT),
            (self.modules, MODULE),
            (self.libraries, LIBRARY),
            (self.links, LINK),
            (self.graphs, GRAPH),
            (self.graph_execs, GRAPH_EXEC),
            (self.device_allocations, ALLOCATION),
            (self.pools, POOL),
            (self.host_allocations, HOST),
            (self.host_registrations, REGISTRATION),
            (self.reservations, RESERVATION),
            (self.physical_allocations, PHYSICAL),
            (self.abandoned, ABANDONED),
        ]
    }
}

impl PartialEq for LiveObjects {
    fn eq(&self, other: &Self) -> bool {
        self.counts() == other.counts() && self.device_bytes == other.device_bytes
    }
}

impl Eq for LiveObjects {}

/// Writes `nothing`, or the kinds that there are and the calls that made them: `2 streams (cuGreenCtxStreamCreate at
/// call 31, 32), 1 module (cuModuleLoadData at call 40)`.
impl fmt::Display for LiveObjects {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut first = true;
        for (count, kind) in self.counts().into_iter().filter(|(count, _)| *count > 0) {
            let comma = if std::mem::take(&mut first) { "" } else { ", " };
            write!(f, "{comma}{count} {}", plural(kind, count))?;
            if kind == ALLOCATION {
                write!(f, " of {} bytes", self.device_bytes)?;
            }
            self.write_calls(f, kind)?;
        }
        if first {
            f.write_str("nothing")?;
        }
        Ok(())
    }
}

/// Returns the plural: `stream`, `streams`; `reservations of addresses`.
fn plural(kind: &str, count: usize) -> String {
    match kind.split_once(" of ") {
        _ if count == 1 => kind.to_owned(),
        Some((what, of)) => format!("{what}s of {of}"),
        None => format!("{kind}s"),
    }
}

impl LiveObjects {
    /// Writes the calls that made the objects of a kind, in brackets.
    fn write_calls(&self, f: &mut fmt::Formatter<'_>, kind: &str) -> fmt::Result {
        let made: Vec<MadeAt> = self
            .objects
            .iter()
            .filter(|object| object.kind == kind)
            .map(|object| object.made_at)
            .collect();
        if made.is_empty() {
            return Ok(());
        }
        let mut last = "";
        for (index, at) in made.iter().take(TOLD).enumerate() {
            let before = if index == 0 { " (" } else { ", " };
            if at.entry_point == last {
                write!(f, "{before}{}", at.call)?;
            } else {
                write!(f, "{before}{} at call {}", at.entry_point, at.call)?;
            }
            last = at.entry_point;
        }
        f.write_str(if made.len() > TOLD { ", ...)" } else { ")" })
    }
}

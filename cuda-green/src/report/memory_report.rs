//! The memory report: budgets, contexts and models in one table.

use std::fmt;

use crate::{
    memory::{GpuMemoryPool, MemoryBudget, MemoryPressure, PoolMetrics},
    models::{ModelSlots, SlotsStatus},
};

/// The figures of several budgets, pools and slots, each under a name, taken one after another.
///
/// `Display` prints a table; `serde::Serialize` yields JSON with the feature `serde`; `MemoryExporter` records it in
/// the `metrics` facade with the feature `metrics`.
/// [`SmPartitionManager::memory_report`](crate::SmPartitionManager::memory_report) returns one of all contexts.
///
/// ```
/// use cuda_green::{Driver, GpuMemoryPool, MemoryReport, ModelNeeds, ModelSlots};
///
/// # fn main() -> cuda_green::Result<()> {
/// let device = Driver::open(&"sim:h200@13.0".parse()?)?.device(0)?;
/// let slots = ModelSlots::new(GpuMemoryPool::on(&device, 8 << 30)?, 13)?;
/// let needs = ModelNeeds { bytes: 1 << 30, priority: 0 };
/// slots.get_or_load("minilm", needs, |pool| pool.allocate(500 << 20))?;
/// let report = MemoryReport::default().with_slots("embedding", &slots);
/// println!("{report}");
/// assert_eq!(report.rows[1].slot.as_deref(), Some("minilm"));
/// assert_eq!(report.rows[1].memory.used, 500 << 20);
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
#[non_exhaustive]
pub struct MemoryReport {
    /// The rows in the order in which they were added; a context's slots come after it.
    pub rows: Vec<MemoryRow>,
}

/// One budget, pool or slot of a [`MemoryReport`].
#[derive(Clone, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
#[non_exhaustive]
pub struct MemoryRow {
    /// The name it was added under.
    pub name: String,
    /// The model's name, for a slot.
    pub slot: Option<String>,
    /// How full it is. `None` for a slot: its bytes are reserved for its model, which has all of them.
    pub pressure: Option<MemoryPressure>,
    /// Its figures; for a budget only those of the limit.
    pub memory: PoolMetrics,
    /// The status of the slots, for a pool with slots; each slot also has its row.
    pub slots: Option<SlotsStatus>,
}

impl MemoryReport {
    /// Adds a budget.
    #[must_use]
    pub fn with_budget(mut self, name: impl Into<String>, budget: &MemoryBudget) -> Self {
        self.add(name.into(), None, budget.metrics());
        self
    }

    /// Adds a pool.
    #[must_use]
    pub fn with_pool(mut self, name: impl Into<String>, pool: &GpuMemoryPool) -> Self {
        self.add(name.into(), None, pool.metrics());
        self
    }

    /// Adds slots: a row for the pool that they are in, and one for each slot.
    #[must_use]
    pub fn with_slots<M>(mut self, name: impl Into<String>, slots: &ModelSlots<M>) -> Self {
        let name = name.into();
        let status = slots.status();
        self.add(name.clone(), None, slots.pool().metrics());
        let of_pool = self.rows.len() - 1;
        for slot in &status.slots {
            self.add(name.clone(), Some(slot.name.clone()), slot.memory);
        }
        self.rows[of_pool].slots = Some(status);
        self
    }

    fn add(&mut self, name: String, slot: Option<String>, memory: PoolMetrics) {
        let level = MemoryPressure::of(memory.used, memory.limit);
        self.rows.push(MemoryRow {
            name,
            pressure: slot.is_none().then_some(level),
            slot,
            memory,
            slots: None,
        });
    }
}

/// Returns bytes as MiB, and `none` for no limit.
fn mib(bytes: u64) -> String {
    if bytes == u64::MAX {
        return "none".into();
    }
    format!("{:.1}", bytes as f64 / f64::from(1 << 20))
}

/// A table, sizes in MiB.
impl fmt::Display for MemoryReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let label = |row: &MemoryRow| match &row.slot {
            Some(slot) => format!("  {slot}"),
            None => row.name.clone(),
        };
        let widest = self.rows.iter().map(|row| label(row).chars().count());
        let width = widest.max().unwrap_or(0).max(8);
        write!(
            f,
            "{:<width$} {:>10} {:>10} {:>10} {:>10} {:>10} {:>9} {:>8} {:>6}",
            "MiB", "limit", "used", "reserved", "high", "driver", "allocated", "refused", "level"
        )?;
        for row in &self.rows {
            let memory = &row.memory;
            let from_driver = match row.slot {
                Some(_) => "-".into(), // its pool's
                None => mib(memory.from_driver),
            };
            write!(
                f,
                "\n{:<width$} {:>10} {:>10} {:>10} {:>10} {from_driver:>10} {:>9} {:>8} {:>6}",
                label(row),
                mib(memory.limit),
                mib(memory.used),
                mib(memory.reserved),
                mib(memory.high_water_mark),
                memory.allocations,
                memory.failures,
                row.pressure
                    .map_or_else(|| "-".to_owned(), |level| format!("{level:?}")),
            )?;
            if let Some(slots) = &row.slots {
                write!(f, "\n  ({slots})")?;
            }
        }
        Ok(())
    }
}

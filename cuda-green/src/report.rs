//! The memory report, as a table and for the `metrics` facade: budgets, contexts and models.

#[cfg(feature = "metrics")]
mod memory_exporter;
mod memory_report;

#[cfg(feature = "metrics")]
pub use memory_exporter::MemoryExporter;
pub use memory_report::{MemoryReport, MemoryRow};

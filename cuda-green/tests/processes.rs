//! One plan among real processes: this program starts itself again, once for each of them.
//!
//! A child takes commands on its standard input and answers on its output, each answer a line behind `@`. The parent
//! decides who does what when, and keeps its own list of which SMs are whose: those on which blocks of the children's
//! contexts really ran.

#![cfg(all(target_os = "linux", not(miri)))] // Miri starts no processes
#![allow(clippy::unwrap_used, clippy::panic)] // these are tests

mod processes {
    mod changes;
    mod child;
    mod daemon;
    mod ends;
    mod joins;
    mod kills;
    mod leftovers;
    mod mps_status;
    mod parent;
    mod random;
    mod separation;
    mod static_partitions;
    mod surroundings;
}

//! The library on simulated drivers: every test that can share a process with the others, so that it links once.
//!
//! The other targets say in their first lines why they are apart: `failures`, `facades`, `forked`.

#![allow(clippy::unwrap_used, clippy::panic)] // these are tests

mod context {
    mod currents;
    mod end;
    mod held_sms;
}
mod manager {
    mod client_code;
    mod ends_of_names;
    mod hand_offs;
    mod labels;
    mod lend;
    mod many_threads;
    mod probe;
    mod rebalance;
    mod sequences;
    #[cfg(all(target_os = "linux", not(miri)))] // locks files
    mod set_shares;
    mod several_devices;
    mod verify;
}
mod memory {
    mod beside_captures;
    mod ends;
    mod gather;
    mod graphs;
    mod interface;
    mod pool;
    mod pressure;
    mod room;
    mod slots;
    mod streams;
}
mod planner {
    mod brute_force;
    mod one_by_one;
    mod predictions;
}
mod resources;
/// Helpers that several of these tests, and the workspace's suite, use.
mod support {
    pub mod clusters;
    pub mod ends;
    pub mod linked;
    pub mod oracle;
}
mod work {
    mod completions;
    mod launches;
    mod modules;
}

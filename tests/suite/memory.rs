//! Pools and buffers: limits that hold exactly, memory that is used again in the right order, nothing lost.

pub mod buffers;
pub mod captures;
pub mod figures;
pub mod limits;
pub mod streams;

const MIB: usize = 1 << 20;

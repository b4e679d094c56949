#![doc = include_str!("../README.md")]

mod door;
#[allow(non_snake_case)] // the driver's own names
mod exports;
#[allow(non_snake_case)]
mod other_forms;
#[allow(non_snake_case)]
mod proc_address;

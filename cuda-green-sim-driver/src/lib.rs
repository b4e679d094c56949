#![doc = include_str!("../README.md")]

#[allow(non_snake_case)] // the driver's own names
mod exports;
mod instance;
#[allow(non_snake_case)]
mod proc_address;
#[allow(non_snake_case)]
mod symbol_aliases;

//! What the documents say is so: what they link to exists, what they have people type works, every file and
//! variable that they name is there, and every variable that a program reads is in the guide.

// clippy's own exception for tests does not reach the functions that they share.
#![allow(clippy::unwrap_used, clippy::panic)]

mod commands;
mod document;
mod links;
mod names;
mod targets;
mod typed;

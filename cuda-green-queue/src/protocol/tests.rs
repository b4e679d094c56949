//! Tests of the protocol: against a sequential model, on threads, and in every interleaving of a few.

mod layouts;
mod single;

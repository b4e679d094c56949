//! Guides: how to do what this crate is for, each with an example that is tested.

#[doc = include_str!("../guide/partition_a_service.md")]
pub mod partition_a_service {}

#[doc = include_str!("../guide/choosing_sizes.md")]
pub mod choosing_sizes {}

#[doc = include_str!("../guide/from_one_context.md")]
pub mod from_one_context {}

#[doc = include_str!("../guide/foreign_libraries.md")]
pub mod foreign_libraries {}

#[doc = include_str!("../guide/futures.md")]
pub mod futures {}

#[doc = include_str!("../guide/observing.md")]
pub mod observing {}

#[doc = include_str!("../guide/testing.md")]
pub mod testing {}

#[doc = include_str!("../guide/special_situations.md")]
pub mod special_situations {}

#[doc = include_str!("../guide/processes.md")]
pub mod processes {}

#[doc = include_str!("../guide/environment.md")]
pub mod environment {}

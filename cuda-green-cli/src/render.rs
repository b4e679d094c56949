//! Everything that turns findings into output: text pages, JSON reports, pictures.

pub mod chip;
pub mod duration;
pub mod json;
pub mod map;
pub mod output;
pub mod page;
pub mod style;
pub mod svg;

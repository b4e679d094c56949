//! The figures of a library.

use std::fmt;

use cuda_green::Latencies;

/// The figures of a [`ModelLibrary`](crate::ModelLibrary).
#[derive(Clone, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
#[non_exhaustive]
pub struct LibraryStatus {
    /// The model that requests without a name get.
    pub default_model: String,
    /// The most bytes of device memory that all models take together.
    pub budget: u64,
    /// The bytes that are given to loaded models.
    pub reserved: u64,
    /// All models, in the order of the library.
    pub models: Vec<ModelStatus>,
    /// The number of times a model was asked for and was loaded already.
    pub hits: u64,
    /// The times of loads, evictions before them included.
    pub loads: Latencies,
    /// The number of evictions.
    pub evictions: u64,
    /// The number of loads that failed once their files had been read.
    pub failures: u64,
}

/// The figures of one model.
#[derive(Clone, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
#[non_exhaustive]
pub struct ModelStatus {
    /// Its name.
    pub name: String,
    /// The bytes of device memory that it takes when it is loaded.
    pub bytes: u64,
    /// Whether it is loaded.
    pub state: ModelState,
    /// The number of handles and unanswered calls, for which it stays loaded.
    pub users: usize,
    /// The number of pins.
    pub pins: usize,
}

/// Whether a model is loaded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
#[cfg_attr(feature = "serde", serde(rename_all = "snake_case"))]
pub enum ModelState {
    /// It is loaded when it is asked for.
    Unloaded,
    /// A thread is loading it.
    Loading,
    /// It is loaded.
    Loaded,
}

impl ModelState {
    /// Returns the name: `unloaded`, `loading`, `loaded`.
    pub fn name(self) -> &'static str {
        match self {
            Self::Unloaded => "unloaded",
            Self::Loading => "loading",
            Self::Loaded => "loaded",
        }
    }
}

impl fmt::Display for ModelState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

impl fmt::Display for LibraryStatus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            budget,
            reserved,
            models,
            hits,
            loads,
            evictions,
            failures,
            ..
        } = self;
        write!(
            f,
            "{reserved} of {budget} bytes; loads: {loads}; {hits} hits, {evictions} evictions, {failures} failures"
        )?;
        let width = models.iter().map(|model| model.name.len()).max();
        for model in models {
            let name = &model.name;
            write!(f, "\n{name:<0$}  {model}", width.unwrap_or_default())?;
            if *name == self.default_model {
                f.write_str(", default")?;
            }
        }
        Ok(())
    }
}

/// All but the name: `loaded    12345 bytes, 2 users, 0 pins`.
impl fmt::Display for ModelStatus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            bytes,
            state,
            users,
            pins,
            ..
        } = self;
        write!(f, "{state:<8}  {bytes} bytes, {users} users, {pins} pins")
    }
}

//! A model that stays loaded while it is used.

use std::{fmt, ops::Deref, sync::Arc};

use cuda_green::ModelLease;

use crate::service::Embedder;

/// A loaded model of a [`ModelLibrary`](crate::ModelLibrary), which is not evicted while this is held. Clones are the
/// same model.
///
/// Futures of requests keep the model loaded as well, so this may be dropped before they are waited for.
#[derive(Clone)]
pub struct ModelHandle {
    embedder: Arc<Embedder>,
    name: Arc<str>,
}

impl ModelHandle {
    pub(super) fn new(name: &Arc<str>, lease: ModelLease<Embedder>) -> Self {
        Self {
            embedder: Arc::new(Embedder::leased(lease)),
            name: Arc::clone(name),
        }
    }

    /// Returns the model's name in the library.
    pub fn name(&self) -> &str {
        &self.name
    }
}

impl Deref for ModelHandle {
    type Target = Embedder;

    fn deref(&self) -> &Embedder {
        &self.embedder
    }
}

impl fmt::Debug for ModelHandle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ModelHandle")
            .field("name", &self.name)
            .finish_non_exhaustive()
    }
}

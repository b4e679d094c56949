//! Destroying a name, its contexts, and what only they kept.

use std::{fmt::Debug, sync::Arc};

use super::{
    context_key::{ContextKey, position},
    label::label,
    observe::Operation,
    state::ManagerState,
};
use crate::{
    error::{Error, Result},
    events::{PartitionEvent, emit},
    names::NotRemoved,
};

impl<Id: Clone + Eq + Debug> ManagerState<Id> {
    /// Destroys a context and gives its SMs back, once its work is done.
    pub(super) fn destroy(&self, id: &impl ContextKey<Id>) -> Result<()> {
        let destroyed = self.noting(Operation::Destroy, self.try_destroy(id));
        if destroyed.is_ok() {
            emit(|| PartitionEvent::PartitionDestroyed {
                device: self.device.ordinal(),
                partition: label(id),
            });
        }
        destroyed
    }

    fn try_destroy(&self, id: &impl ContextKey<Id>) -> Result<()> {
        // These outlive the locks, since a client's code may run at their end: that of the id, and watchers of the
        // bytes that a pool gives back.
        let (_id, _pool);
        let holders = {
            let (change, index) = self.begin_change_of(|ids| position(ids, id))?;
            match change.registry.remove(index) {
                Ok(partition) => {
                    _pool = partition.context().memory_if_made().cloned();
                    _id = Arc::clone(partition.id());
                    let closed = partition.close();
                    return closed.and(self.free_unused_pieces(&mut change.layout()));
                }
                Err(NotRemoved::InUse(holders)) => holders,
                Err(NotRemoved::Error(error)) => return Err(error),
            }
        };
        Err(Error::ContextInUse {
            id: label(id),
            holders,
        })
    }
}

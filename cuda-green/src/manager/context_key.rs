//! The keys by which contexts are looked up, and the errors for ids that are there or are not.

use std::{fmt::Debug, sync::Arc};

use super::label::label;
use crate::{
    error::{Error, Result},
    names::Ids,
};

/// A key by which a manager looks up a context: its id, owned or borrowed, and for ids that are strings a `&str`. The
/// trait is sealed: a manager compares ids of this crate under a lock, where code of a client's must not run.
///
/// ```
/// use cuda_green::{ContextId, ContextPolicy, Driver, SmPartitionManager, planner::PartitionRequest};
///
/// # fn main() -> cuda_green::Result<()> {
/// # let device = Driver::open(&"sim:h200@13.0".parse()?)?.device(0)?;
/// // Names as they come from a configuration file.
/// let partitions: Vec<(String, u32)> = vec![("serving".into(), 64), ("indexing".into(), 32)];
/// let manager = SmPartitionManager::with_ids(&device)?;
/// for (name, sms) in &partitions {
///     let request = PartitionRequest::at_least(*sms);
///     manager.create_partition(name.clone(), request, ContextPolicy::default())?;
/// }
/// let (name, _) = &partitions[0];
/// assert_eq!(manager.get_context(name)?.sm_count(), 64);
/// assert_eq!(manager.get_context("indexing")?.sm_count(), 32);
/// # Ok(())
/// # }
/// ```
pub trait ContextKey<Id: ?Sized>: Debug + sealed::Sealed<Id> {
    /// Returns whether it stands for this id.
    fn is(&self, id: &Id) -> bool;
}

mod sealed {
    pub trait Sealed<Id: ?Sized> {}

    impl<Id> Sealed<Id> for Id {}
    impl<Id> Sealed<Id> for &Id {}
}

impl<Id: Eq + Debug> ContextKey<Id> for Id {
    fn is(&self, id: &Id) -> bool {
        self == id
    }
}

impl<Id: Eq + Debug> ContextKey<Id> for &Id {
    fn is(&self, id: &Id) -> bool {
        *self == id
    }
}

macro_rules! by_str {
    ($($string:ty),+) => {
        $(impl sealed::Sealed<$string> for &str {}

        impl ContextKey<$string> for &str {
            fn is(&self, id: &$string) -> bool {
                **id == **self
            }
        })+
    };
}

by_str!(String, Box<str>, Arc<str>);

/// Returns the index of an id.
pub(super) fn position<Id>(ids: &Ids<Id>, id: &impl ContextKey<Id>) -> Result<usize> {
    let found = ids.iter().position(|own| id.is(own));
    found.ok_or_else(|| no_such_context(id))
}

/// Refuses an id that is there.
pub(super) fn refuse_existing<Id: Eq + Debug>(ids: &[Arc<Id>], id: &Id) -> Result<()> {
    if ids.iter().any(|own| **own == *id) {
        return Err(Error::ContextExists { id: label(id) });
    }
    Ok(())
}

/// Returns the error for an id that is not there.
pub(super) fn no_such_context(id: &impl Debug) -> Error {
    Error::NoSuchContext { id: label(id) }
}

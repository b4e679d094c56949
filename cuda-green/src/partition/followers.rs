//! Objects that keep streams or graphs in a context for their own use and release them when the context is to end,
//! independent of the type of the context.

use std::sync::Weak;

use crate::{
    error::Result,
    sync::{Mutex, MutexGuard},
};

/// An object that keeps streams or instantiated graphs in contexts for its own use.
pub(crate) trait Follower<C>: Send + Sync {
    /// Releases what it keeps in a context, moving it to `later`. Returns whether there was anything.
    fn release(&self, context: &C, later: &mut DropLater) -> Result<bool>;
}

/// Values to be dropped while no lock is held: a destructor may wait for the GPU, or be a client's, which may call
/// anything.
pub(crate) type DropLater = Vec<Box<dyn Send>>;

/// The followers of one context.
pub(crate) struct Followers<C>(Mutex<Vec<Weak<dyn Follower<C>>>>);

impl<C> Default for Followers<C> {
    fn default() -> Self {
        Self(Mutex::default())
    }
}

impl<C: 'static> Followers<C> {
    /// Adds a follower, unless it is there already.
    pub(crate) fn add(&self, follower: Weak<dyn Follower<C>>) {
        let mut followers = self.lock();
        if !followers.iter().any(|other| other.ptr_eq(&follower)) {
            followers.retain(|follower| follower.strong_count() > 0);
            followers.push(follower);
        }
    }

    /// Makes all followers release what they keep in this context. Returns whether any kept something. The caller must
    /// hold no lock that a user of a follower may wait for.
    pub(crate) fn release_all(&self, context: &C, later: &mut DropLater) -> Result<bool> {
        let followers = self.lock().clone();
        let mut released = false;
        for follower in followers.iter().filter_map(Weak::upgrade) {
            let answer = follower.release(context, later);
            // Its owner may have dropped it meanwhile; this is then the last reference.
            later.push(Box::new(follower));
            released |= answer?;
        }
        Ok(released)
    }

    fn lock(&self) -> MutexGuard<'_, Vec<Weak<dyn Follower<C>>>> {
        self.0.lock()
    }
}

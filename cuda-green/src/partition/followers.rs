//! What keeps something in a context for its own use, and gives it up when the context is to end.

use std::sync::Weak;

use crate::{
    error::Result,
    partition::GreenContext,
    sync::{Mutex, MutexGuard},
};

/// What keeps something in contexts: streams, instantiations of graphs.
pub(crate) trait Follower: Send + Sync {
    /// Gives up what it keeps in a context; whether there was anything. What is to be dropped, it hands over.
    fn give_up(&self, context: &GreenContext, later: &mut Later) -> Result<bool>;
}

/// What is to be dropped with no lock held: its end may wait for the GPU, and it may be a client's, whose end may
/// call whatever it likes.
pub(crate) type Later = Vec<Box<dyn Send>>;

/// All that follow one context.
#[derive(Default)]
pub(crate) struct Followers(Mutex<Vec<Weak<dyn Follower>>>);

impl Followers {
    /// Asks this one, too, when the context is to end.
    pub(crate) fn add(&self, follower: Weak<dyn Follower>) {
        let mut followers = self.lock();
        if !followers.iter().any(|other| other.ptr_eq(&follower)) {
            followers.retain(|follower| follower.strong_count() > 0);
            followers.push(follower);
        }
    }

    /// Asks all of them to give up what they keep in this context; whether any had something. The caller holds no
    /// lock that somebody who uses a follower may wait for.
    pub(crate) fn give_up(&self, context: &GreenContext, later: &mut Later) -> Result<bool> {
        let followers = self.lock().clone();
        let mut gave_up = false;
        for follower in followers.iter().filter_map(Weak::upgrade) {
            let answer = follower.give_up(context, later);
            // Its owner may have dropped it meanwhile: then its end is ours.
            later.push(Box::new(follower));
            gave_up |= answer?;
        }
        Ok(gave_up)
    }

    fn lock(&self) -> MutexGuard<'_, Vec<Weak<dyn Follower>>> {
        self.0.lock()
    }
}

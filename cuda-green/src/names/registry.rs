//! The names of a manager, and the partition behind each.
//!
//! Two locks, taken in this order: `changes` is held through a change, so that changes come one after another; `names`
//! for a moment. While `names` is locked, no other lock of the manager is taken and no client code runs: fields are
//! private, and callbacks from outside of this room are `fn` pointers, apart from the comparison of this crate's own
//! ids in `find`. Between the two, [`RegistryChange::put_in_force`] locks the contexts that followers of names use.

use super::{
    generation::{ContextInForce, Generation, Pieces},
    gpu::GreenContext,
    named_partition::NamedPartition,
};
use crate::{
    error::{Error, Result},
    partition::DropLater,
    sync::{Arc, Mutex, MutexGuard, RwLock},
};

/// All names of a manager.
pub(crate) struct Registry<Id> {
    changes: Mutex<()>,
    names: RwLock<Names<Id>>,
    /// Whether ids are this crate's own, whose comparison calls no code of a client's, so that it may run under the
    /// lock.
    ids_are_own: bool,
}

struct Names<Id> {
    ids: Ids<Id>,
    partitions: Vec<NamedPartition<Id>>,
}

/// The ids at one moment, in the order of their partitions. Clients' ids are compared, shown, copied and dropped from
/// this list, with no lock held.
pub(crate) type Ids<Id> = Arc<Vec<Arc<Id>>>;

/// A change of the registry, during which no other begins. Only through it are partitions changed.
pub(crate) struct RegistryChange<'a, Id> {
    pub(super) registry: &'a Registry<Id>,
    _lock: MutexGuard<'a, ()>,
}

/// The pieces that names use.
#[derive(Default)]
pub(crate) struct UsedPieces {
    /// Pieces that a name owns or has in force.
    pub(crate) taken: Pieces,
    /// The pieces of every context, retired ones included, each as often as there are contexts over it.
    pub(crate) leased: Pieces,
}

/// What a partition was created with, as a rebalance divides it.
pub(crate) struct OwnShare<'a> {
    pub(crate) pieces: &'a [usize],
    pub(crate) preemptible: bool,
}

/// The reason why a name was not removed.
pub(crate) enum NotRemoved {
    /// One of its contexts has this many users.
    InUse(usize),
    Error(Error),
}

/// A step towards fewer contexts; there is none where all are in use.
pub(crate) enum RetireStep {
    /// Took out a context without users.
    TookOut(GreenContext),
    /// Gave up something that kept a context in use; once that is dropped, the next step may find the context idle.
    GaveUp,
}

impl<Id> Registry<Id> {
    /// Returns a registry without names, and notes whether their ids will be this crate's own.
    pub(crate) fn new(ids_are_own: bool) -> Self {
        Self {
            changes: Mutex::new(()),
            names: RwLock::new(Names {
                ids: Arc::default(),
                partitions: Vec::new(),
            }),
            ids_are_own,
        }
    }

    /// Waits for the change in progress, if there is one, and begins another.
    pub(crate) fn begin_change(&self) -> RegistryChange<'_, Id> {
        RegistryChange {
            registry: self,
            _lock: self.changes.lock(),
        }
    }

    /// Returns the ids as they are now.
    pub(crate) fn ids(&self) -> Ids<Id> {
        let names = self.names.read();
        Arc::clone(&names.ids)
    }

    /// Returns the number of names.
    pub(crate) fn len(&self) -> usize {
        self.read(<[_]>::len)
    }

    /// Returns the context in force under the first id that fits.
    pub(crate) fn context(&self, fits: impl Fn(&Id) -> bool) -> Option<GreenContext> {
        self.find(fits, |partition| partition.context().clone())
    }

    /// Returns the context in force under the first id that fits, as a follower of the name sees it.
    pub(crate) fn follow(&self, fits: impl Fn(&Id) -> bool) -> Option<Arc<ContextInForce>> {
        self.find(fits, |partition| Arc::clone(partition.followed()))
    }

    /// Returns something about each context in force.
    pub(crate) fn each_in_force<T>(&self, look: fn(&Arc<Id>, &GreenContext) -> T) -> Vec<T> {
        self.read(|partitions| in_force(partitions, look))
    }

    /// Returns something about each context in force, and the number of green contexts of all generations, siblings
    /// included.
    pub(crate) fn survey<T>(&self, look: fn(&Arc<Id>, &GreenContext) -> T) -> (Vec<T>, usize) {
        self.read(|partitions| (in_force(partitions, look), green_contexts(partitions)))
    }

    /// Returns the number of green contexts of all generations, siblings included.
    pub(crate) fn green_contexts(&self) -> usize {
        self.read(green_contexts)
    }

    /// Returns the name of the context that fits, and whether it is in force.
    pub(crate) fn owner<Key: Copy>(
        &self,
        key: Key,
        fits: fn(&GreenContext, Key) -> bool,
    ) -> Option<(Arc<Id>, bool)> {
        self.read(|partitions| {
            partitions.iter().find_map(|partition| {
                let mut generations = partition.generations().iter();
                let index = generations.position(|generation| fits(&generation.context, key))?;
                Some((Arc::clone(partition.id()), index == partition.in_force()))
            })
        })
    }

    /// Returns the pieces that names use.
    pub(crate) fn used_pieces(&self) -> UsedPieces {
        self.read(|partitions| {
            let mut used = UsedPieces::default();
            for partition in partitions {
                used.taken.extend(partition.own_pieces());
                used.taken.extend(partition.pieces());
                for generation in partition.generations() {
                    used.leased.extend(&generation.pieces);
                }
            }
            used
        })
    }

    /// Looks at the partition of the first id that fits.
    fn find<T>(&self, fits: impl Fn(&Id) -> bool, look: fn(&NamedPartition<Id>) -> T) -> Option<T> {
        if self.ids_are_own {
            let fits = |partition: &&NamedPartition<Id>| fits(partition.id());
            return self.read(|partitions| partitions.iter().find(fits).map(look));
        }
        let ids = self.ids();
        let (index, id) = ids.iter().enumerate().find(|(_, id)| fits(id))?;
        self.read(|partitions| {
            let is_it = |partition: &&NamedPartition<Id>| Arc::ptr_eq(partition.id(), id);
            // Where other names were removed meanwhile, it has another index.
            let partition = partitions.get(index).filter(is_it);
            let partition = partition.or_else(|| partitions.iter().find(is_it));
            partition.map(look)
        })
    }

    /// Looks at all partitions under the lock. Inside, no other lock is taken and no code of a client's runs.
    pub(super) fn read<T>(&self, look: impl FnOnce(&[NamedPartition<Id>]) -> T) -> T {
        let names = self.names.read();
        look(&names.partitions)
    }
}

impl<Id> RegistryChange<'_, Id> {
    /// Adds partitions under new names.
    pub(crate) fn add(&self, partitions: impl IntoIterator<Item = NamedPartition<Id>>) {
        self.write(|all| all.extend(partitions));
    }

    /// Removes a name, unless one of its contexts has a user.
    pub(crate) fn remove(&self, index: usize) -> Result<NamedPartition<Id>, NotRemoved> {
        self.write(|partitions| {
            let partition = &partitions[index];
            // No other user can appear meanwhile, since handles come from here.
            let holders = partition.holders();
            if holders > 0 {
                return Err(NotRemoved::InUse(holders));
            }
            for generation in partition.generations() {
                match generation.context.is_current() {
                    Ok(false) => {}
                    Ok(true) => return Err(NotRemoved::Error(Error::ContextIsCurrent)),
                    Err(error) => return Err(NotRemoved::Error(error)),
                }
            }
            Ok(partitions.remove(index))
        })
    }

    /// Returns the pieces that a partition was created with.
    pub(crate) fn own_pieces(&self, index: usize) -> Option<Pieces> {
        self.registry.read(|partitions| {
            let partition = partitions.get(index);
            partition.map(|partition| partition.own_pieces().to_vec())
        })
    }

    /// Divides what the partitions were created with among them, for each of some rebalances.
    pub(crate) fn divide<R, T>(
        &self,
        rebalances: &[R],
        divide: fn(&[OwnShare<'_>], &[R]) -> T,
    ) -> T {
        self.registry.read(|partitions| {
            let shares = partitions.iter().map(|partition| OwnShare {
                pieces: partition.own_pieces(),
                preemptible: partition.context().policy().preemptible,
            });
            divide(&shares.collect::<Vec<_>>(), rebalances)
        })
    }

    /// Returns the generations over the wanted pieces of each partition, in its order, each with the partition's index;
    /// none if one of them is missing.
    pub(crate) fn find_all(&self, wanted: &[Vec<Pieces>]) -> Option<Vec<(usize, usize)>> {
        self.registry.read(|partitions| {
            let mut found = Vec::with_capacity(partitions.len());
            for (index, (partition, wanted)) in partitions.iter().zip(wanted).enumerate() {
                for pieces in wanted {
                    found.push((index, partition.find(pieces)?));
                }
            }
            Some(found)
        })
    }

    /// Returns the number of green contexts that must be made for the wanted pieces of each partition.
    pub(crate) fn missing(&self, wanted: &[Vec<Pieces>]) -> usize {
        self.registry.read(|partitions| {
            let missing = partitions.iter().zip(wanted).map(|(partition, wanted)| {
                let missing = wanted
                    .iter()
                    .filter(|pieces| partition.find(pieces).is_none());
                // A context that takes another's place serves as many threads.
                missing.count() * partition.context().green_contexts()
            });
            missing.sum()
        })
    }

    /// Returns the context in force of a partition that has no generation over these pieces.
    pub(crate) fn context_without(&self, index: usize, pieces: &[usize]) -> Option<GreenContext> {
        self.registry.read(|partitions| {
            let partition = partitions.get(index);
            let lacks = partition.filter(|partition| partition.find(pieces).is_none());
            lacks.map(|partition| partition.context().clone())
        })
    }

    /// Adds a generation to a partition, not in force yet.
    pub(crate) fn add_generation(&self, index: usize, generation: Generation) {
        self.write(|partitions| {
            let partition = partitions.get_mut(index);
            partition.map(|partition| partition.add_generation(generation))
        });
    }

    /// Returns the pieces that a partition has in force.
    pub(crate) fn pieces_in_force(&self, index: usize) -> Option<Pieces> {
        self.registry.read(|partitions| {
            let partition = partitions.get(index);
            partition.map(|partition| partition.pieces().to_vec())
        })
    }

    /// Returns the generation in force of each partition, but that over these pieces of one; none if that is missing.
    pub(crate) fn in_force_but(
        &self,
        index: usize,
        pieces: &[usize],
    ) -> Option<Vec<(usize, usize)>> {
        self.registry.read(|partitions| {
            let partitions = partitions.iter().enumerate();
            let generations = partitions.map(|(at, partition)| {
                let generation = if at == index {
                    partition.find(pieces)?
                } else {
                    partition.in_force()
                };
                Some((at, generation))
            });
            generations.collect()
        })
    }

    /// Makes the pieces that a partition has in force its own.
    pub(crate) fn own_what_is_in_force(&self, index: usize) {
        self.write(|partitions| {
            let partition = partitions.get_mut(index);
            partition.map(NamedPartition::own_what_is_in_force)
        });
    }

    /// Returns the retired contexts of a partition, and the pieces of all contexts of the others, as
    /// [`retire`](Self::retire) wants those that stay.
    pub(crate) fn retired_of(&self, index: usize) -> (Vec<GreenContext>, Vec<Vec<Pieces>>) {
        self.registry.read(|partitions| {
            let retired = partitions.get(index).into_iter().flat_map(|partition| {
                let generations = partition.generations().iter().enumerate();
                generations.filter(|(at, _)| *at != partition.in_force())
            });
            let retired = retired.map(|(_, generation)| generation.context.clone());
            let kept = partitions.iter().enumerate().map(|(at, partition)| {
                let generations = partition.generations().iter();
                let pieces = generations.map(|generation| generation.pieces.clone());
                if at == index {
                    Vec::new()
                } else {
                    pieces.collect()
                }
            });
            (retired.collect(), kept.collect())
        })
    }

    /// Returns the contexts of generations, each given with its partition's index, and the largest number of green
    /// contexts behind any generation of its name.
    pub(crate) fn with_most_siblings(
        &self,
        generations: &[(usize, usize)],
    ) -> Vec<(GreenContext, usize)> {
        self.registry.read(|partitions| {
            let generations = generations.iter().filter_map(|(index, generation)| {
                let partition = partitions.get(*index)?;
                let context = partition.generations()[*generation].context.clone();
                Some((context, partition.most_siblings()))
            });
            generations.collect()
        })
    }

    /// Takes out the oldest retired context that is unused and not in `wanted`, which has the pieces of contexts that
    /// stay for each partition. If followers keep one in use, makes them release it and returns `GaveUp`: drop `later`,
    /// then call again. Call it with no lock but that of changes, since the user of what is released may be looking
    /// something up in the manager.
    pub(crate) fn retire(
        &self,
        wanted: &[Vec<Pieces>],
        later: &mut DropLater,
    ) -> Result<Option<RetireStep>> {
        let candidates: Vec<(usize, Pieces)> = self.registry.read(|partitions| {
            let partitions = partitions.iter().enumerate();
            let of_one = |(index, partition): (usize, &NamedPartition<Id>)| {
                let wanted = wanted.get(index).map_or(&[][..], Vec::as_slice);
                let retired = partition
                    .retired()
                    .filter(|pieces| !wanted.contains(pieces));
                let retired = retired.map(|pieces| (index, pieces.clone()));
                retired.collect::<Vec<_>>()
            };
            partitions.flat_map(of_one).collect()
        });
        for (index, pieces) in candidates {
            let context = self.registry.read(|partitions| {
                let partition = &partitions[index];
                let generation = partition.find(&pieces);
                generation.map(|generation| partition.generations()[generation].context.clone())
            });
            let gave_up = context.map_or(Ok(false), |context| context.release_followers(later))?;
            if gave_up {
                return Ok(Some(RetireStep::GaveUp));
            }
            if let Some(idle) = self.write(|partitions| partitions[index].take_idle(&pieces))? {
                return Ok(Some(RetireStep::TookOut(idle)));
            }
        }
        Ok(None)
    }

    /// Changes partitions under the lock, as [`Registry::read`] looks at them, and makes a new list of the ids where
    /// their number changed.
    pub(super) fn write<T>(&self, change: impl FnOnce(&mut Vec<NamedPartition<Id>>) -> T) -> T {
        let names = &self.registry.names;
        let mut names = names.write();
        let done = change(&mut names.partitions);
        if names.partitions.len() != names.ids.len() {
            let ids = names.partitions.iter().map(|one| Arc::clone(one.id()));
            // Dropping the old list drops no id: the caller has the partition that was removed.
            names.ids = Arc::new(ids.collect());
        }
        done
    }
}

fn in_force<Id, T>(
    partitions: &[NamedPartition<Id>],
    look: fn(&Arc<Id>, &GreenContext) -> T,
) -> Vec<T> {
    let contexts = partitions.iter();
    contexts
        .map(|partition| look(partition.id(), partition.context()))
        .collect()
}

fn green_contexts<Id>(partitions: &[NamedPartition<Id>]) -> usize {
    partitions.iter().map(NamedPartition::green_contexts).sum()
}

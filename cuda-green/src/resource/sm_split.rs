//! Descriptions of splits: plain values. No driver is asked before they are used.

/// A description of a split: groups in order, with the size and the co-scheduling of each.
///
/// The same value works on every driver. If a driver cannot do it natively, it is composed of what that driver has; if
/// that is impossible, too, the error names the version that can do it:
///
/// | driver | groups |
/// |---|---|
/// | 13.1 and later | everything, by one structured split (`cuDevSmResourceSplit`); proven against the real header and the simulated driver |
/// | 12.5 to 13.0 | equal groups by one split by count; unequal groups, and one of as many SMs as there are, by merging units of one split by count; `backfill` with the whole remainder or not at all; co-scheduling as the device does it, or of 2 SMs |
/// | 12.4 | equal groups, co-scheduled as the device does it; one group of as many SMs as there are |
///
/// A group has exactly the size that is asked for; sizes are not rounded. SMs that no group has are in
/// [`SmParts::remainder`](crate::SmParts::remainder).
///
/// ```
/// use cuda_green::{SmCount, SmSplit};
///
/// let equal = SmSplit::equal(4, 32);
/// let unequal = SmSplit::groups([64, 32, 24]);
/// let one_and_the_rest = SmSplit::groups([SmCount::Exactly(16), SmCount::All]);
/// // One value for all groups, or one for each:
/// let pairs = SmSplit::groups([10, 6]).coscheduled(2);
/// let mixed = SmSplit::groups([32, 10]).coscheduled([8, 2]).backfill([false, true]);
/// # let _ = (equal, unequal, one_and_the_rest, pairs, mixed);
/// ```
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct SmSplit {
    pub(super) counts: Vec<SmCount>,
    pub(super) coscheduled: Option<PerGroup<u32>>,
    pub(super) preferred_coscheduled: Option<PerGroup<u32>>,
    pub(super) backfill: PerGroup<bool>,
}

/// The number of SMs of a group.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum SmCount {
    /// This many SMs.
    Exactly(u32),
    /// All SMs that the groups before it leave (discovery). Without backfill these are whole co-scheduled units, so there
    /// may be a remainder.
    All,
}

impl From<u32> for SmCount {
    fn from(count: u32) -> Self {
        Self::Exactly(count)
    }
}

/// One value for all groups, or one for each.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum PerGroup<T> {
    /// The same value for all groups.
    Same(T),
    /// One value for each group, in order.
    Each(Vec<T>),
}

impl<T> From<T> for PerGroup<T> {
    fn from(value: T) -> Self {
        Self::Same(value)
    }
}

impl<T, const N: usize> From<[T; N]> for PerGroup<T> {
    fn from(values: [T; N]) -> Self {
        Self::Each(values.into())
    }
}

impl<T> From<Vec<T>> for PerGroup<T> {
    fn from(values: Vec<T>) -> Self {
        Self::Each(values)
    }
}

impl<T: Copy> PerGroup<T> {
    /// Returns the value for a group, if there is one.
    pub(super) fn get(&self, index: usize) -> Option<T> {
        match self {
            Self::Same(value) => Some(*value),
            Self::Each(values) => values.get(index).copied(),
        }
    }

    /// Returns how many values there are, unless there is one for all groups.
    pub(super) fn len(&self) -> Option<usize> {
        match self {
            Self::Same(_) => None,
            Self::Each(values) => Some(values.len()),
        }
    }
}

impl SmSplit {
    /// Describes groups of these sizes, in this order.
    pub fn groups<T: Into<SmCount>>(counts: impl IntoIterator<Item = T>) -> Self {
        Self {
            counts: counts.into_iter().map(Into::into).collect(),
            coscheduled: None,
            preferred_coscheduled: None,
            backfill: PerGroup::Same(false),
        }
    }

    /// Describes this many groups of one size.
    pub fn equal(groups: usize, count: u32) -> Self {
        /// More groups than any device has SMs; they are refused just as any larger number would be.
        const MOST: usize = 1 << 12;
        Self::groups(std::iter::repeat_n(count, groups.min(MOST)))
    }

    /// Describes one group of as many SMs as there are.
    pub fn all() -> Self {
        Self::groups([SmCount::All])
    }

    /// Demands that this many SMs are co-scheduled together in each group, as thread-block clusters of that size need: 2
    /// to 32 on compute capability 9.0 and later, 2 before. The default is the device's own number
    /// ([`SmResource::coscheduled_alignment`](crate::SmResource::coscheduled_alignment)).
    #[must_use]
    pub fn coscheduled(mut self, count: impl Into<PerGroup<u32>>) -> Self {
        self.coscheduled = Some(count.into());
        self
    }

    /// Prefers that this many SMs are co-scheduled together where possible, for larger clusters. The split may not meet
    /// it; a driver that cannot try refuses it.
    #[must_use]
    pub fn preferred_coscheduled(mut self, count: impl Into<PerGroup<u32>>) -> Self {
        self.preferred_coscheduled = Some(count.into());
        self
    }

    /// Allows a group to be filled up with SMs that are not co-scheduled, so that its size need not be a multiple of the
    /// co-scheduled number. Even then it has at least one co-scheduled unit.
    #[must_use]
    pub fn backfill(mut self, backfill: impl Into<PerGroup<bool>>) -> Self {
        self.backfill = backfill.into();
        self
    }
}

//! What to split SMs into: a plain value. No driver is asked before it is used.

/// How a resource is to be split: groups in order, and what each of them is to be like.
///
/// The same value works on every driver. Where a driver cannot do it natively, it is composed of what that
/// driver has; where even that cannot be, the error names the version that can:
///
/// | driver | groups |
/// |---|---|
/// | 13.1 and later | all of it, by one structured split (`cuDevSmResourceSplit`); proven against the real header and the simulated driver |
/// | 12.5 to 13.0 | equal ones by one split by count; unequal ones, and as many SMs as there are, of merged units of one split by count; filled up (`backfill`) with the whole remainder or not at all; co-scheduling of the device's own or of 2 |
/// | 12.4 | equal ones, co-scheduled as the device does it; one group of as many SMs as there are |
///
/// A size is what a group has, never less and never more; it is not rounded. What is not given to a group is
/// in [`SmParts::remainder`](crate::SmParts::remainder).
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

/// How many SMs a group is to have.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum SmCount {
    /// This many.
    Exactly(u32),
    /// As many as there are once the groups before it have theirs: discovery. Without backfill these are
    /// whole co-scheduled units, so that there may be a remainder.
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
    /// The same for all.
    Same(T),
    /// One for each, in the order of the groups.
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
    /// The value for a group, if there is one.
    pub(super) fn get(&self, index: usize) -> Option<T> {
        match self {
            Self::Same(value) => Some(*value),
            Self::Each(values) => values.get(index).copied(),
        }
    }

    /// How many values there are, if not one for all.
    pub(super) fn len(&self) -> Option<usize> {
        match self {
            Self::Same(_) => None,
            Self::Each(values) => Some(values.len()),
        }
    }
}

impl SmSplit {
    /// Groups of these sizes, in this order.
    pub fn groups<T: Into<SmCount>>(counts: impl IntoIterator<Item = T>) -> Self {
        Self {
            counts: counts.into_iter().map(Into::into).collect(),
            coscheduled: None,
            preferred_coscheduled: None,
            backfill: PerGroup::Same(false),
        }
    }

    /// So many groups of the same size.
    pub fn equal(groups: usize, count: u32) -> Self {
        /// More than any device has SMs, so that these are refused as well as more would be.
        const MOST: usize = 1 << 12;
        Self::groups(std::iter::repeat_n(count, groups.min(MOST)))
    }

    /// One group of as many SMs as there are.
    pub fn all() -> Self {
        Self::groups([SmCount::All])
    }

    /// So many SMs are to be co-scheduled together in each group, which is what thread-block clusters of that
    /// size need: 2 to 32 on compute capability 9.0 and later, 2 before. By default the device's own
    /// ([`SmResource::coscheduled_alignment`](crate::SmResource::coscheduled_alignment)).
    #[must_use]
    pub fn coscheduled(mut self, count: impl Into<PerGroup<u32>>) -> Self {
        self.coscheduled = Some(count.into());
        self
    }

    /// Where possible, so many SMs are to be co-scheduled together: for clusters that are larger where they
    /// can be. A wish that may stay unmet; a driver that cannot even try refuses it.
    #[must_use]
    pub fn preferred_coscheduled(mut self, count: impl Into<PerGroup<u32>>) -> Self {
        self.preferred_coscheduled = Some(count.into());
        self
    }

    /// Whether a group may be filled up with SMs that are not co-scheduled, so that its size need not be a
    /// multiple of what is. At least one co-scheduled unit it has all the same.
    #[must_use]
    pub fn backfill(mut self, backfill: impl Into<PerGroup<bool>>) -> Self {
        self.backfill = backfill.into();
        self
    }
}

//! Requests for partitions.

use std::fmt;

/// The number of SMs that a partition asks for.
///
/// Sizes come in units: see [the planner](crate::planner). Each variant says how it rounds to whole units. SMs that
/// rounding leaves go to the rest or to the last share; without one they are left for further contexts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum SmRequest {
    /// This many SMs, rounded up to whole units.
    AtLeast(u32),
    /// At most this many SMs: rounded down, but to no less than one unit.
    Target(u32),
    /// A percentage of the device's SMs, 1 to 100: rounded down to whole SMs, then treated as a
    /// [`Target`](Self::Target).
    Percent(u32),
    /// A minimum, and a share by weight of the SMs that all counts, percentages and minimums leave.
    ///
    /// The minimum rounds up, to at least one unit; the share of what is left, `left × weight ÷ sum of
    /// weights`, rounds down. The last share of a list takes what the others leave, so that no SM is left.
    Share {
        /// The minimum in SMs; 0 for none.
        at_least: u32,
        /// The weight, relative to the other shares.
        weight: u32,
    },
    /// All SMs that the others leave. At most one request of a list can ask for it, and none beside a share.
    ///
    /// Before 13.1, beside [exact](PartitionRequest::exact) sizes, it may be rounded down to whole units, if only that
    /// meets those sizes.
    Rest,
}

/// A request for one partition.
///
/// ```
/// use cuda_green::planner::PartitionRequest;
///
/// let serving = PartitionRequest::at_least(64).cluster(8); // kernels in clusters of 8 run in it
/// let indexing = PartitionRequest::percent(25);
/// let rest = PartitionRequest::rest();
/// # let _ = (serving, indexing, rest);
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub struct PartitionRequest {
    /// The SMs that it asks for.
    pub sms: SmRequest,
    /// Blocks of the thread-block cluster that must run in it: 1, 2, 4 or 8. With 1, no cluster is demanded.
    pub cluster: u32,
    /// Whether the size must be exact to 2 SMs, even at the price of clusters above 2.
    pub exact: bool,
}

/// Writes it as the program `cuda-green` takes it: `64`, `25%`, `16+2` (at least 16 and a share of weight 2), `rest`; a
/// target as `up to 64`.
impl fmt::Display for SmRequest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::AtLeast(count) => write!(f, "{count}"),
            Self::Target(count) => write!(f, "up to {count}"),
            Self::Percent(percent) => write!(f, "{percent}%"),
            Self::Share { at_least, weight } => write!(f, "{at_least}+{weight}"),
            Self::Rest => f.write_str("rest"),
        }
    }
}

/// Writes the SMs, then the other demands: `64 exactly in clusters of 8`.
impl fmt::Display for PartitionRequest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.sms.fmt(f)?;
        if self.exact {
            f.write_str(" exactly")?;
        }
        if self.cluster > 1 {
            write!(f, " in clusters of {}", self.cluster)?;
        }
        Ok(())
    }
}

/// Returns a list of requests as one text.
pub(crate) fn in_words(requests: &[PartitionRequest]) -> String {
    without_runs(requests.iter().map(ToString::to_string)).join(", ")
}

/// Returns the texts with each long run of equal ones replaced by one with their number: `16 × 8`.
pub(crate) fn without_runs(texts: impl Iterator<Item = String>) -> Vec<String> {
    const MANY: usize = 5;
    let texts: Vec<String> = texts.collect();
    let runs = texts.chunk_by(|one, next| one == next);
    let shortened = runs.flat_map(|run| match run {
        [first, ..] if run.len() >= MANY => vec![format!("{} × {first}", run.len())],
        few => few.to_vec(),
    });
    shortened.collect()
}

impl From<SmRequest> for PartitionRequest {
    fn from(sms: SmRequest) -> Self {
        Self {
            sms,
            cluster: 1,
            exact: false,
        }
    }
}

impl PartitionRequest {
    /// Requests [`SmRequest::AtLeast`].
    pub fn at_least(sm_count: u32) -> Self {
        SmRequest::AtLeast(sm_count).into()
    }

    /// Requests [`SmRequest::Target`].
    pub fn target(sm_count: u32) -> Self {
        SmRequest::Target(sm_count).into()
    }

    /// Requests [`SmRequest::Percent`].
    pub fn percent(percent: u32) -> Self {
        SmRequest::Percent(percent).into()
    }

    /// Requests [`SmRequest::Share`].
    pub fn share(at_least: u32, weight: u32) -> Self {
        SmRequest::Share { at_least, weight }.into()
    }

    /// Requests [`SmRequest::Rest`].
    pub fn rest() -> Self {
        SmRequest::Rest.into()
    }

    /// Returns whether it accepts fewer SMs than it asks for.
    pub(crate) fn is_target(&self) -> bool {
        matches!(self.sms, SmRequest::Target(_) | SmRequest::Percent(_))
    }

    /// Returns the weight of a share; 0 for all others.
    pub(super) fn weight(&self) -> u64 {
        match self.sms {
            SmRequest::Share { weight, .. } => weight.into(),
            _ => 0,
        }
    }

    /// Demands that clusters of this many blocks run in it: 2, 4 or 8. Plans that do not ensure that are not used. The
    /// partition has at least as many SMs.
    #[must_use]
    pub fn cluster(self, blocks: u32) -> Self {
        Self {
            cluster: blocks,
            ..self
        }
    }

    /// Demands a size that is exact to 2 SMs: an odd count is rounded to an even one, up or down as the request rounds.
    ///
    /// From 13.1 on that costs nothing. From 12.5 to 13.0, on compute capability 9.0 and later, it makes all partitions
    /// of units of 2 SMs that ignore co-scheduling, unless whole units happen to fit: kernels in clusters above 2 no
    /// longer run in them. It has no effect on shares and the rest.
    #[must_use]
    pub fn exact(self) -> Self {
        Self {
            exact: true,
            ..self
        }
    }
}

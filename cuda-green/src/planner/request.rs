//! What partitions ask for.

use std::fmt;

/// How many SMs a partition asks for.
///
/// Sizes come in units: see [the planner](crate::planner). A request rounds to whole units as each variant
/// says, and what rounding leaves goes to the rest or to the last share; without one it is left for further
/// contexts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum SmRequest {
    /// This many or, where the units demand it, a few more: rounded up.
    AtLeast(u32),
    /// As near to this as can be without going over: rounded down, but to no less than one unit.
    Target(u32),
    /// This many percent of the device's SMs, 1 to 100: rounded down to whole SMs, then as a
    /// [`Target`](Self::Target).
    Percent(u32),
    /// A minimum, and a share by weight of what all counts, percents and minimums leave.
    ///
    /// The minimum rounds up, to at least one unit; the share of what is left, `left × weight ÷ sum of
    /// weights`, rounds down. The last share of a list takes what the others leave, so that nothing is over.
    Share {
        /// SMs that it has in any case; 0 is no minimum.
        at_least: u32,
        /// Its part of what is left, beside the weights of the other shares.
        weight: u32,
    },
    /// All that the others leave. At most one of a list, and not beside a share.
    ///
    /// Before 13.1, beside [exact](PartitionRequest::exact) sizes, it may be rounded down to whole units, where
    /// nothing else meets those.
    Rest,
}

/// What one partition asks for.
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
    /// How many SMs.
    pub sms: SmRequest,
    /// The thread-block cluster that must run in it, in blocks: 1, 2, 4 or 8. With 1, none is demanded.
    pub cluster: u32,
    /// Whether the size must be met to 2 SMs, even at the price of clusters above 2.
    pub exact: bool,
}

/// As the program `cuda-green` takes it: `64`, `25%`, `16+2` (at least 16 and a share of weight 2), `rest`; of a target
/// `up to 64`.
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

/// The SMs, then what else is demanded: `64 exactly in clusters of 8`.
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

/// A list of requests as one text.
pub(crate) fn in_words(requests: &[PartitionRequest]) -> String {
    without_runs(requests.iter().map(ToString::to_string)).join(", ")
}

/// The same texts, where many that follow each other are alike one with their number: `16 × 8`.
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
    /// [`SmRequest::AtLeast`].
    pub fn at_least(sms: u32) -> Self {
        SmRequest::AtLeast(sms).into()
    }

    /// [`SmRequest::Target`].
    pub fn target(sms: u32) -> Self {
        SmRequest::Target(sms).into()
    }

    /// [`SmRequest::Percent`].
    pub fn percent(percent: u32) -> Self {
        SmRequest::Percent(percent).into()
    }

    /// [`SmRequest::Share`].
    pub fn share(at_least: u32, weight: u32) -> Self {
        SmRequest::Share { at_least, weight }.into()
    }

    /// [`SmRequest::Rest`].
    pub fn rest() -> Self {
        SmRequest::Rest.into()
    }

    /// Whether it takes less than it asks for where units do not work out.
    pub(crate) fn is_target(&self) -> bool {
        matches!(self.sms, SmRequest::Target(_) | SmRequest::Percent(_))
    }

    /// The weight of a share; 0 of all others.
    pub(super) fn weight(&self) -> u64 {
        match self.sms {
            SmRequest::Share { weight, .. } => weight.into(),
            _ => 0,
        }
    }

    /// Demands that clusters of so many blocks run in it: 2, 4 or 8. Plans that cannot keep that are not
    /// used. A partition that demands it has at least as many SMs.
    #[must_use]
    pub fn cluster(self, blocks: u32) -> Self {
        Self {
            cluster: blocks,
            ..self
        }
    }

    /// Demands its size to 2 SMs: an odd count is rounded to an even one, up or down as the request rounds.
    ///
    /// From 13.1 on that costs nothing. From 12.5 to 13.0, on compute capability 9.0 and later, all
    /// partitions are then made of units of 2 SMs that ignore co-scheduling, if whole units do not do by
    /// chance: kernels in clusters above 2 no longer run in them. Shares and the rest take what there is.
    #[must_use]
    pub fn exact(self) -> Self {
        Self {
            exact: true,
            ..self
        }
    }
}

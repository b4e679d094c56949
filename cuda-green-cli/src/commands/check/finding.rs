//! A finding of `check`: how much it matters, and what to do about it.

/// How much a finding matters.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Grade {
    Good,
    /// Worth knowing, but nothing is broken.
    Note,
    /// Partitions do not hold.
    Bad,
}

#[derive(Debug)]
pub struct Finding {
    pub grade: Grade,
    pub what: String,
    /// What to do about it.
    pub mend: Option<String>,
}

impl Finding {
    pub fn good(what: impl Into<String>) -> Self {
        Self {
            grade: Grade::Good,
            what: what.into(),
            mend: None,
        }
    }

    pub fn note(what: impl Into<String>, mend: impl Into<String>) -> Self {
        Self {
            grade: Grade::Note,
            what: what.into(),
            mend: Some(mend.into()),
        }
    }

    pub fn bad(what: impl Into<String>, mend: impl Into<String>) -> Self {
        Self {
            grade: Grade::Bad,
            ..Self::note(what, mend)
        }
    }
}

//! Splitting a resource, and the dry run of it.

use std::fmt;

use cuda_green_sys::{CU_DEV_SM_RESOURCE_GROUP_PARAMS, CUresult};

use super::{
    check::{Input, check, in_words},
    lowering::{Merged, Recipe},
    sm::SmResource,
    sm_split::SmSplit,
    split_calls::{self, Split},
};
use crate::error::{Error, Result};

/// What a split gave: disjoint resources, which may be merged with each other and with nothing else.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct SmParts {
    /// The groups, in the order in which they were asked for.
    pub groups: Vec<SmResource>,
    /// All SMs that no group has. What of them is co-scheduled is not known; sure are 2 (measured on an
    /// H200). From 13.1 on it may be split again.
    pub remainder: Option<SmResource>,
}

/// What a split would give: the sizes alone, of which no context can be made.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub struct SmSizes {
    /// SMs of each group. A group of as many SMs as there are may find none: 0, which a real split refuses.
    pub groups: Vec<u32>,
    /// SMs that no group would have.
    pub remainder: u32,
}

impl SmResource {
    /// Splits it into groups and a remainder. See [`SmSplit`] for what each driver can do.
    ///
    /// It must have been asked of a device, a context or a stream, or be the remainder of a split on 13.1 and
    /// later: other parts of a split cannot be split again. A context's own resource can, and gives contexts
    /// within that context, whose SMs are some of its own.
    ///
    /// # Errors
    /// [`Error::InvalidArgument`] for groups that can never be, [`Error::SplitAgain`], [`Error::UnmetSplit`]
    /// where there are not so many SMs, [`Error::LimitedByMps`], and [`Error::Unsupported`] where the driver cannot do it, all before
    /// the driver splits anything; [`Error::SplitRefused`] where it refuses for reasons of the chip's topology;
    /// [`Error::Driver`].
    #[doc(alias = "cuDevSmResourceSplit")]
    #[doc(alias = "cuDevSmResourceSplitByCount")]
    pub fn split(&self, split: &SmSplit) -> Result<SmParts> {
        let recipe = self.recipe(split, false)?;
        let driver = self.device().driver();
        let (parts, sizes) = match &recipe {
            Recipe::Structured(params) => {
                let mut params = params.clone();
                let split = split_calls::split_with_params(driver, self, &mut params)
                    .map_err(|error| self.refused(&params, error))?;
                (SmParts::of(split), counts(&params))
            }
            Recipe::Equal {
                groups,
                size,
                flags,
            } => {
                let split = split_calls::split_by_count_with(driver, self, *groups, *size, *flags)?;
                (SmParts::of(split), vec![*size; *groups as usize])
            }
            Recipe::Units {
                unit,
                units,
                flags,
                groups,
            } => {
                let split = split_calls::split_by_count_with(driver, self, *units, *unit, *flags)?;
                let sizes = self.sizes_of_units(*unit, *units, groups).groups;
                (SmParts::merge(split, groups)?, sizes)
            }
        };
        // A driver that gives other sizes than it announced is not believed in silence.
        let given = parts.groups.iter().map(SmResource::sm_count);
        if given.eq(sizes.iter().copied()) {
            Ok(parts)
        } else {
            Err(Error::UnmetSplit {
                groups: in_words(sizes.iter().copied()),
                asked: sizes.iter().sum(),
                available: parts.groups.iter().map(SmResource::sm_count).sum(),
                total: self.sm_count(),
            })
        }
    }

    /// The sizes that [`split`](Self::split) would give; nothing is split.
    ///
    /// # Errors
    /// Those of [`split`](Self::split).
    pub fn dry_run(&self, split: &SmSplit) -> Result<SmSizes> {
        let recipe = self.recipe(split, true)?;
        let groups = match &recipe {
            Recipe::Structured(params) => {
                let mut params = params.clone();
                split_calls::sizes_with_params(self.device().driver(), self, &mut params)
                    .map_err(|error| self.refused(&params, error))?;
                counts(&params)
            }
            Recipe::Equal { groups, size, .. } => vec![*size; *groups as usize],
            Recipe::Units {
                unit,
                units,
                groups,
                ..
            } => return Ok(self.sizes_of_units(*unit, *units, groups)),
        };
        let given: u32 = groups.iter().sum();
        Ok(SmSizes {
            remainder: self.sm_count().saturating_sub(given),
            groups,
        })
    }

    fn recipe(&self, split: &SmSplit, dry: bool) -> Result<Recipe> {
        self.check_splittable()?;
        let device = self.device();
        device.check_mps_allows_splits()?;
        let input = Input {
            total: self.sm_count(),
            granularity: self.granularity(),
            has_clusters: device.facts().has_clusters(),
        };
        let wanted = check(&input, split)?;
        let count =
            |size, flags| split_calls::count_groups_with(device.driver(), self, size, flags);
        Recipe::of(&input, device.capabilities(), &wanted, dry, &count)
    }

    fn sizes_of_units(&self, unit: u32, units: u32, groups: &[Merged]) -> SmSizes {
        let left_over = self.sm_count().saturating_sub(unit.saturating_mul(units));
        let groups: Vec<u32> = groups
            .iter()
            .map(|group| group.units * unit + if group.remainder { left_over } else { 0 })
            .collect();
        let given: u32 = groups.iter().sum();
        SmSizes {
            remainder: self.sm_count().saturating_sub(given),
            groups,
        }
    }

    /// A refusal for reasons of topology, with the sizes that were refused.
    fn refused(&self, params: &[CU_DEV_SM_RESOURCE_GROUP_PARAMS], error: Error) -> Error {
        match error {
            Error::Driver {
                code: code @ CUresult::CUDA_ERROR_INVALID_RESOURCE_CONFIGURATION,
                ..
            } => Error::SplitRefused {
                groups: in_words(counts(params)),
                total: self.sm_count(),
                code,
            },
            other => other,
        }
    }
}

impl SmParts {
    fn of(split: Split) -> Self {
        Self {
            groups: split.groups,
            remainder: split.remainder,
        }
    }

    /// Groups of so many units each, in order; what is left is one remainder.
    fn merge(split: Split, groups: &[Merged]) -> Result<Self> {
        let mut units = split.groups.into_iter();
        let mut remainder = split.remainder;
        let groups = groups
            .iter()
            .map(|group| {
                let mut parts: Vec<SmResource> =
                    units.by_ref().take(group.units as usize).collect();
                if group.remainder {
                    parts.extend(remainder.take());
                }
                SmResource::merge(&parts)
            })
            .collect::<Result<_>>()?;
        let rest: Vec<SmResource> = units.chain(remainder).collect();
        Ok(Self {
            groups,
            remainder: if rest.is_empty() {
                None
            } else {
                Some(SmResource::merge(&rest)?)
            },
        })
    }
}

fn counts(params: &[CU_DEV_SM_RESOURCE_GROUP_PARAMS]) -> Vec<u32> {
    params.iter().map(|group| group.smCount).collect()
}

impl fmt::Display for SmSizes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for size in &self.groups {
            write!(f, "{size} + ")?;
        }
        write!(f, "{} left over", self.remainder)
    }
}

//! The split of a resource by an [`SmSplit`], and its dry run.

use cuda_green_sys::CUresult;

use super::{
    check::{Input, check, sizes_in_words},
    lowering::{Lowered, Lowering},
    sm::SmResource,
    sm_parts::{SmParts, SmSizes},
    sm_split::SmSplit,
};
use crate::{
    error::{Error, Result},
    planner::SplitCall,
};

impl SmResource {
    /// Splits it into groups and a remainder. See [`SmSplit`] for what each driver can do.
    ///
    /// It must be a queried resource of a device, a context or a stream, or the remainder of a split on 13.1 and later:
    /// other parts of a split cannot be split again. A split of a context's resource gives contexts within that context,
    /// whose SMs are some of its SMs.
    ///
    /// # Errors
    /// Before the driver splits anything: [`Error::InvalidArgument`] for groups that no driver can make,
    /// [`Error::SplitAgain`], [`Error::UnmetSplit`] where there are too few SMs, [`Error::LimitedByMps`], and
    /// [`Error::Unsupported`] where the driver cannot do it. Then [`Error::SplitRefused`] where the driver refuses
    /// for the chip's topology, [`Error::UnannouncedSizes`] where it gives other sizes than it announced, and
    /// [`Error::Driver`].
    #[doc(alias = "cuDevSmResourceSplit")]
    #[doc(alias = "cuDevSmResourceSplitByCount")]
    pub fn split(&self, split: &SmSplit) -> Result<SmParts> {
        match self.lower(split, false)? {
            Lowered::Groups(call) => {
                let parts = self.execute(&call);
                let parts = parts.map_err(|error| self.refused(&call, error))?;
                if let SplitCall::ByCount { .. } = call {
                    parts.check_sizes(self.sm_count(), &call.sizes())?;
                }
                Ok(parts)
            }
            Lowered::Merged(units, merged) => {
                let parts = self.execute(&units.call())?.merge(&merged)?;
                parts.check_sizes(self.sm_count(), &units.merged_sizes(&merged))?;
                Ok(parts)
            }
        }
    }

    /// Returns the sizes that [`split`](Self::split) would give; nothing is split.
    ///
    /// # Errors
    /// Those of [`split`](Self::split).
    pub fn dry_run(&self, split: &SmSplit) -> Result<SmSizes> {
        let groups = match self.lower(split, true)? {
            Lowered::Groups(call) => {
                let sizes = self.announced_sizes(&call);
                sizes.map_err(|error| self.refused(&call, error))?
            }
            Lowered::Merged(units, merged) => units.merged_sizes(&merged),
        };
        Ok(SmSizes::of(self.sm_count(), groups))
    }

    fn lower(&self, split: &SmSplit, is_dry_run: bool) -> Result<Lowered> {
        if !self.can_be_split() {
            return Err(Error::SplitAgain {
                sm_count: self.sm_count(),
            });
        }
        let device = self.device();
        device.check_mps_allows_splits()?;
        let input = Input {
            total: self.sm_count(),
            granularity: self.granularity(),
            has_clusters: device.facts().has_clusters(),
        };
        let lowering = Lowering {
            input,
            capabilities: device.capabilities(),
            groups: &check(&input, split)?,
            demands_coscheduling: split.coscheduled.is_some(),
            count_groups: &|sm_count, flag| self.count_groups(sm_count, flag),
            is_dry_run,
        };
        lowering.lower()
    }

    /// Returns a refusal of a structured split for the chip's topology with the sizes that were refused.
    fn refused(&self, call: &SplitCall, error: Error) -> Error {
        match (call, error) {
            (
                SplitCall::Structured(_),
                Error::Driver {
                    code: code @ CUresult::CUDA_ERROR_INVALID_RESOURCE_CONFIGURATION,
                    ..
                },
            ) => Error::SplitRefused {
                groups: sizes_in_words(&call.sizes()),
                total: self.sm_count(),
                code,
            },
            (_, error) => error,
        }
    }
}

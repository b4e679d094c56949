//! The plan that would be in force, told before anything is made.

use std::fmt::Debug;

use super::{PartitionMode, SmPartitionManager};
use crate::{
    error::{Error, Result},
    planner::{PartitionRequest, Plan},
};

impl<Id: Clone + Eq + Debug> SmPartitionManager<Id> {
    /// The plan that [`create_partitions`](Self::create_partitions) would follow for these requests on an
    /// unpartitioned device: exact sizes, clusters, SMs left over and stranded and why, and which better
    /// plans the driver refuses. The driver is asked by dry runs; nothing is made.
    ///
    /// ```
    /// use cuda_green::{Driver, SmPartitionManager, planner::PartitionRequest};
    ///
    /// # fn main() -> cuda_green::Result<()> {
    /// let device = Driver::open(&"sim:h200@12.4".parse()?)?.device(0)?;
    /// let plan = SmPartitionManager::on(&device)?
    ///     .plan(&[64, 32, 24, 12].map(PartitionRequest::at_least))?;
    /// let sizes: Vec<u32> = plan.partitions.iter().map(|partition| partition.sm_count).collect();
    /// assert_eq!((sizes, plan.left_over, plan.nested.len()), (vec![64, 32, 24, 12], 0, 2));
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// As [`planner::plans`](crate::planner::plans); [`Error::NotPartitioned`] in single-context mode;
    /// [`Error::Driver`].
    pub fn plan(&self, requests: &[PartitionRequest]) -> Result<Plan> {
        if self.mode != PartitionMode::Partitioned {
            return Err(Error::NotPartitioned {
                what: "a plan",
                instead: "every id stands for all SMs",
            });
        }
        self.device.check_mps_allows_splits()?;
        let all = self.device.sm_resource()?;
        let dry_run = |plan: &Plan| all.announced_sizes(&plan.call);
        let (plan, _) = self.first_plan(requests, &all, dry_run)?;
        Ok(plan)
    }
}

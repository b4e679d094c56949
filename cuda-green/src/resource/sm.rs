//! SM resources: sets of SMs that know their device and their provenance.

use std::{fmt, slice, sync::Arc};

use cuda_green_sys::{CUdevResource, CudaVersion};

use super::{provenance::Provenance, raw::RawResource};
use crate::{
    capabilities::Granularity,
    device::{CudaDevice, Lease},
    driver::{reported_granularity, sm_fields},
    error::{Error, Result},
    planner::Part,
};

/// A set of SMs that the driver described: those of a device, a context or a stream, or parts of a split.
///
/// It knows its device and the split that it is part of, so mistakes that the driver accepts silently, and then counts
/// wrongly, are errors here: parts of two splits in one context, or one part twice.
///
/// ```
/// use cuda_green::{Driver, GreenContext, GreenContextConfig, SmSplit};
///
/// # fn main() -> cuda_green::Result<()> {
/// let device = Driver::open(&"sim:h200@13.0".parse()?)?.device(0)?;
/// let parts = device.sm_resource()?.split(&SmSplit::groups([64, 32, 24]))?;
/// let rest = parts.remainder.as_ref().map_or(0, |rest| rest.sm_count());
/// assert_eq!(rest, 12); // of 132: nothing is lost
///
/// let context = GreenContext::from_resources(&parts.groups[..1], None, GreenContextConfig::default())?;
/// assert_eq!(context.sm_count(), 64);
/// # Ok(())
/// # }
/// ```
///
/// Two splits of one resource know nothing of each other and share SMs. [`SmPartitionManager`](crate::SmPartitionManager)
/// keeps account of who has which SMs.
#[derive(Clone)]
pub struct SmResource {
    device: CudaDevice,
    provenance: Provenance,
    first: SmPart,
    /// Further parts of the same split.
    more: Vec<SmPart>,
    /// Leases that keep a manager from giving these SMs to others. All parts of a split have those of what was split.
    leases: Vec<Arc<Lease>>,
}

/// One of the driver's resources, and the part of a split that it is.
#[derive(Clone, Copy)]
struct SmPart {
    raw: RawResource,
    part: Part,
    granularity: Granularity,
}

impl SmPart {
    fn new(raw: CUdevResource, part: Part, otherwise: Granularity) -> Self {
        Self {
            raw: RawResource(raw),
            part,
            granularity: reported_granularity(&raw).unwrap_or(otherwise),
        }
    }
}

impl SmResource {
    /// Returns the resource that the driver answered a query with. `coscheduled` is the caller's knowledge, used where
    /// the driver reports nothing.
    pub(crate) fn queried(
        device: &CudaDevice,
        raw: CUdevResource,
        coscheduled: Option<u32>,
    ) -> Self {
        let known = device.capabilities().granularity;
        let otherwise = match coscheduled.filter(|own| *own < known.coscheduled) {
            Some(own) => Granularity {
                min: own,
                coscheduled: own,
            },
            None => known,
        };
        Self {
            device: device.clone(),
            provenance: Provenance::Query,
            first: SmPart::new(raw, Part::Group(0), otherwise),
            more: Vec::new(),
            leases: Vec::new(),
        }
    }

    /// Returns the same SMs, held by these leases.
    pub(crate) fn leased(self, leases: &[Arc<Lease>]) -> Self {
        Self {
            leases: leases.to_vec(),
            ..self
        }
    }

    /// Returns the leases that hold the SMs.
    pub(crate) fn leases(&self) -> &[Arc<Lease>] {
        &self.leases
    }

    /// Returns a part of a split of this resource. `granularity` holds where the driver reports nothing.
    pub(super) fn part_of_split(
        &self,
        provenance: Provenance,
        part: Part,
        raw: CUdevResource,
        granularity: Granularity,
    ) -> Self {
        Self {
            device: self.device.clone(),
            provenance,
            first: SmPart::new(raw, part, granularity),
            more: Vec::new(),
            leases: self.leases.clone(),
        }
    }

    /// Returns its device.
    pub fn device(&self) -> &CudaDevice {
        &self.device
    }

    /// Returns the number of SMs.
    pub fn sm_count(&self) -> u32 {
        self.raw_parts().map(|raw| sm_fields(raw).smCount).sum()
    }

    /// Returns the SMs of the smallest partition of it: as the driver reports or, where it reports nothing (before 13.0,
    /// and on 13.0 for parts of a split), as NVIDIA's guide says for the device.
    pub fn min_partition_size(&self) -> u32 {
        self.granularity().min
    }

    /// Returns how many SMs are co-scheduled together in each of its groups. The source is that of
    /// [`min_partition_size`](Self::min_partition_size).
    pub fn coscheduled_alignment(&self) -> u32 {
        self.granularity().coscheduled
    }

    /// Returns the driver's flags of it (`CUdevSmResourceGroup_flags`, 13.1); 0 before.
    pub fn flags(&self) -> u32 {
        sm_fields(self.first_raw()).flags
    }

    /// Returns the driver's resources that it is made of: one, or several of one split.
    pub fn raw_parts(&self) -> impl Iterator<Item = &CUdevResource> {
        self.parts().map(|part| &part.raw.0)
    }

    /// Merges several parts of one split into one resource, for one context.
    ///
    /// ```
    /// use cuda_green::{Driver, Error, SmResource, SmSplit};
    ///
    /// # fn main() -> cuda_green::Result<()> {
    /// let all = Driver::open(&"sim:h200@13.0".parse()?)?.device(0)?.sm_resource()?;
    /// let parts = all.split(&SmSplit::equal(3, 32))?;
    /// let merged = SmResource::merge(&parts.groups[..2])?;
    /// assert_eq!(merged.sm_count(), 64);
    /// let twice = SmResource::merge(&[merged, parts.groups[0].clone()]);
    /// assert!(matches!(twice, Err(Error::IncompatibleResources { .. })));
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// [`Error::IncompatibleResources`] for no resource, for resources of two devices or two splits, for one part twice,
    /// for a queried resource beside others, and from 13.1 on for parts that are co-scheduled differently (the 13.1
    /// header). [`Error::Unsupported`] for several before CUDA 12.5.
    pub fn merge(resources: &[SmResource]) -> Result<SmResource> {
        let incompatible = |reason| Err(Error::IncompatibleResources { reason });
        let Some((first, others)) = resources.split_first() else {
            return incompatible("a context needs SMs, and no resource was given");
        };
        let mut merged = first.clone();
        let strict = merged.device.capabilities().structured_split;
        for other in others {
            if merged.device != other.device {
                return incompatible("they are of different devices");
            }
            let Provenance::Split { id, .. } = merged.provenance else {
                return incompatible(
                    "a resource queried of a device, context or stream has all of its SMs, so nothing can be added",
                );
            };
            if !matches!(other.provenance, Provenance::Split { id: its, .. } if its == id) {
                return incompatible(
                    "they are not parts of one split call: the driver would count the SMs that both have twice",
                );
            }
            if other
                .parts()
                .any(|part| merged.parts().any(|own| own.part == part.part))
            {
                return incompatible(
                    "one part was given twice: the driver would count its SMs twice",
                );
            }
            if strict && merged.granularity() != other.granularity() {
                return incompatible(
                    "from CUDA 13.1 on, only parts that are co-scheduled alike merge",
                );
            }
            merged.more.extend(other.parts());
        }
        if !merged.more.is_empty() && !merged.device.capabilities().merge {
            return Err(Error::Unsupported {
                what: "one context from several SM resources",
                needs: CudaVersion::new(12, 5),
                driver: merged.device.driver().version(),
            });
        }
        Ok(merged)
    }

    /// Returns whether the driver splits it: yes for a queried resource, and for the remainder of a structured split.
    pub(crate) fn can_be_split(&self) -> bool {
        match self.provenance {
            Provenance::Query => true,
            Provenance::Split { structured, .. } => {
                structured && self.first.part == Part::Remainder && self.more.is_empty()
            }
        }
    }

    /// Returns the granularity; of several parts the least, as a context over them reports it (measured on an H200).
    pub(super) fn granularity(&self) -> Granularity {
        self.parts()
            .map(|part| part.granularity)
            .min_by_key(|granularity| granularity.coscheduled)
            .unwrap_or(Granularity::PAIRS)
    }

    /// Returns the most SMs that are co-scheduled together in any of its parts: a group keeps its guarantee beside a
    /// remainder.
    pub(crate) fn best_coscheduled(&self) -> u32 {
        let alignments = self.parts().map(|part| part.granularity.coscheduled);
        alignments.max().unwrap_or(1)
    }

    pub(super) fn first_raw(&self) -> &CUdevResource {
        &self.first.raw.0
    }

    fn parts(&self) -> impl Iterator<Item = &SmPart> {
        slice::from_ref(&self.first).iter().chain(&self.more)
    }
}

impl fmt::Debug for SmResource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SmResource")
            .field("sm_count", &self.sm_count())
            .field("device", &self.device.ordinal())
            .field("provenance", &self.provenance)
            .finish_non_exhaustive()
    }
}

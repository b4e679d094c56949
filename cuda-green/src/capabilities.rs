//! What a driver and a device can do together: a pure function of their versions and facts.

use cuda_green_sys::CudaVersion;

/// What this driver and device can do. Each field says since when.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub struct Capabilities {
    /// The driver's CUDA version, of which the rest follows.
    pub driver: CudaVersion,
    /// Green contexts at all: 12.4.
    pub green_contexts: bool,
    /// Flags of the split by count, which allow finer units: 12.5.
    pub split_flags: bool,
    /// One context from several resources of one split: 12.5.
    pub merge: bool,
    /// Streams straight from a green context, without touching the thread's current context: 12.5.
    pub direct_streams: bool,
    /// Ids of green contexts, and the driver's own account of its granularity: 13.0.
    pub context_ids: bool,
    /// The structured split, with a size of its own for each group: 13.1.
    pub structured_split: bool,
    /// Workqueue resources: 13.1.
    pub workqueues: bool,
    /// Asking a stream for its SMs: 13.1. Before, they are its context's.
    pub stream_resources: bool,
    /// A green context without a default stream: 13.3. Before, the flag is required.
    pub plain_creation: bool,
    /// Locality domains: 13.4.
    pub locality_domains: bool,
    /// Whether one green context may be current to several threads at once, by the documents: 13.5.
    pub shared_current: bool,
    /// The smallest partition and the step between sizes.
    pub granularity: Granularity,
}

/// The smallest partition, and the step between sizes, in SMs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub struct Granularity {
    /// SMs of the smallest partition.
    pub min: u32,
    /// Partition sizes are multiples of this: so many SMs are co-scheduled.
    pub multiple: u32,
    /// Where both were learned from.
    pub source: GranularitySource,
}

/// Where a [`Granularity`] was learned from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum GranularitySource {
    /// The driver said so (13.0 and later).
    Driver,
    /// NVIDIA's guide for this compute capability; the driver is older than 13.0.
    ComputeCapability,
}

impl Granularity {
    /// What the driver reports, or else what holds for a compute capability.
    ///
    /// `reported` is `minSmPartitionSize` and `smCoscheduledAlignment` as the device's resource has
    /// them; drivers before 13.0 leave them zero. The other numbers are from NVIDIA's guide; for 9.0
    /// they were also measured (H200).
    pub fn of(compute_capability: (u32, u32), reported: Option<(u32, u32)>) -> Self {
        if let Some((min, multiple)) = reported.filter(|(min, multiple)| *min > 0 && *multiple > 0)
        {
            return Self {
                min,
                multiple,
                source: GranularitySource::Driver,
            };
        }
        let (min, multiple) = match compute_capability.0 {
            0..=6 => (1, 1),
            7 => (2, 2),
            8 => (4, 2),
            _ => (8, 8),
        };
        Self {
            min,
            multiple,
            source: GranularitySource::ComputeCapability,
        }
    }
}

impl Capabilities {
    /// The capabilities of a driver's version with a device of this granularity.
    ///
    /// ```
    /// use cuda_green::{Capabilities, CudaVersion, Granularity};
    ///
    /// let granularity = Granularity::of((9, 0), None);
    /// let old = Capabilities::of(CudaVersion::new(12, 4), granularity);
    /// assert!(old.green_contexts && !old.merge);
    /// ```
    pub fn of(driver: CudaVersion, granularity: Granularity) -> Self {
        let since = |major, minor| driver >= CudaVersion::new(major, minor);
        Self {
            driver,
            green_contexts: since(12, 4),
            split_flags: since(12, 5),
            merge: since(12, 5),
            direct_streams: since(12, 5),
            context_ids: since(13, 0),
            structured_split: since(13, 1),
            workqueues: since(13, 1),
            stream_resources: since(13, 1),
            plain_creation: since(13, 3),
            locality_domains: since(13, 4),
            shared_current: since(13, 5),
            granularity,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What each version adds, written out by hand beside the function that derives it.
    #[test]
    fn every_version_has_exactly_what_its_header_has() {
        type Field = fn(&Capabilities) -> bool;
        let since: [(Field, (u16, u8)); 11] = [
            (|c| c.green_contexts, (12, 4)),
            (|c| c.split_flags, (12, 5)),
            (|c| c.merge, (12, 5)),
            (|c| c.direct_streams, (12, 5)),
            (|c| c.context_ids, (13, 0)),
            (|c| c.structured_split, (13, 1)),
            (|c| c.workqueues, (13, 1)),
            (|c| c.stream_resources, (13, 1)),
            (|c| c.plain_creation, (13, 3)),
            (|c| c.locality_domains, (13, 4)),
            (|c| c.shared_current, (13, 5)),
        ];
        let granularity = Granularity::of((9, 0), None);
        for major in 11..=14 {
            for minor in 0..=9 {
                let capabilities = Capabilities::of(CudaVersion::new(major, minor), granularity);
                for (index, (field, first)) in since.iter().enumerate() {
                    assert_eq!(
                        field(&capabilities),
                        (major, minor) >= *first,
                        "field {index} at {major}.{minor}"
                    );
                }
            }
        }
    }

    #[test]
    fn the_driver_is_believed_over_the_guide() {
        assert_eq!(
            Granularity::of((9, 0), Some((4, 2))).source,
            GranularitySource::Driver
        );
        let guessed = Granularity::of((8, 6), Some((0, 0)));
        assert_eq!((guessed.min, guessed.multiple), (4, 2));
        assert_eq!(guessed.source, GranularitySource::ComputeCapability);
    }
}

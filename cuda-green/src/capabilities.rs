//! The capabilities of a driver with a device: a pure function of versions and facts.

use cuda_green_sys::CudaVersion;

/// One feature that a version of the driver introduces.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub struct Feature {
    /// The name of its field in [`Capabilities`].
    pub name: &'static str,
    /// Its use, in a few words.
    pub what: &'static str,
    /// The first version of the driver that has it.
    pub since: CudaVersion,
    /// Whether this driver has it.
    pub there: bool,
}

macro_rules! capabilities {
    ($(
        $(#[doc = $doc:literal])+
        $name:ident since ($major:literal, $minor:literal): $what:literal;
    )+) => {
        /// The capabilities of a driver with a device. Each field says since which version.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        #[non_exhaustive]
        pub struct Capabilities {
            /// The driver's CUDA version, from which the features follow.
            pub driver: CudaVersion,
            $(
                $(#[doc = $doc])+
                #[doc = concat!("\n\nSince ", $major, ".", $minor, ".")]
                pub $name: bool,
            )+
            /// The smallest partition and the step between sizes.
            pub granularity: Granularity,
            /// The source of the granularity.
            pub granularity_source: GranularitySource,
        }

        impl Capabilities {
            /// Returns the capabilities of a driver's version with a device of this compute capability.
            ///
            /// `reported` is the granularity that the driver reports. Before 13.0 it reports none, and NVIDIA's guide
            /// for the compute capability holds; for 9.0 its numbers were also measured (H200).
            ///
            /// ```
            /// use cuda_green::{Capabilities, CudaVersion};
            ///
            /// let old = Capabilities::of(CudaVersion::new(12, 4), (9, 0), None);
            /// assert!(old.green_contexts && !old.merge);
            /// ```
            pub fn of(
                driver: CudaVersion,
                compute_capability: (u32, u32),
                reported: Option<Granularity>,
            ) -> Self {
                match reported {
                    Some(granularity) => Self::new(driver, granularity, GranularitySource::Driver),
                    None => Self::new(
                        driver,
                        Granularity::of(compute_capability),
                        GranularitySource::ComputeCapability,
                    ),
                }
            }

            /// Returns the capabilities of the same device with another version of the driver.
            #[must_use]
            pub fn with_driver(self, driver: CudaVersion) -> Self {
                Self::new(driver, self.granularity, self.granularity_source)
            }

            fn new(
                driver: CudaVersion,
                granularity: Granularity,
                granularity_source: GranularitySource,
            ) -> Self {
                Self {
                    driver,
                    $($name: driver >= CudaVersion::new($major, $minor),)+
                    granularity,
                    granularity_source,
                }
            }

            /// Returns all features, oldest first, and whether this driver has them.
            ///
            /// ```
            /// # use cuda_green::{Capabilities, CudaVersion};
            /// let capabilities = Capabilities::of(CudaVersion::new(13, 0), (9, 0), None);
            /// let newer = capabilities.features().into_iter().find(|feature| !feature.there);
            /// assert_eq!(newer.map(|feature| feature.since), Some(CudaVersion::new(13, 1)));
            /// ```
            pub fn features(&self) -> Vec<Feature> {
                vec![$(
                    Feature {
                        name: stringify!($name),
                        what: $what,
                        since: CudaVersion::new($major, $minor),
                        there: self.$name,
                    },
                )+]
            }
        }
    };
}

// The one table of features. `tests/versions.rs` of the workspace checks each line against the headers.
capabilities! {
    /// Green contexts at all.
    green_contexts since (12, 4): "partitions with SMs of their own";
    /// Flags of the split by count, which allow finer units.
    split_flags since (12, 5): "units of 2 SMs, where clusters are not needed";
    /// One context over several resources of one split.
    merge since (12, 5): "partitions of unequal sizes from one split; rebalancing";
    /// Creation of streams from a green context, without touching the thread's current context.
    direct_streams since (12, 5): "streams in a partition without making it current";
    /// Ids of green contexts, and the granularity as the driver reports it.
    context_ids since (13, 0): "the granularity as the driver reports it";
    /// The structured split, with a separate size for each group.
    structured_split since (13, 1): "any even size, exactly, with clusters kept";
    /// Workqueue resources.
    workqueues since (13, 1): "workqueues of a partition's own";
    /// Queries of a stream's SMs. Before, they are taken to be its context's.
    stream_resources since (13, 1): "asking a stream for its SMs";
    /// A green context without a default stream. Before, the flag is required.
    plain_creation since (13, 3): "a green context without a default stream";
    /// Locality domains.
    locality_domains since (13, 4): "partitions within a locality domain";
    /// Permission, by the documentation, to have one green context current to several threads at once.
    shared_current since (13, 5): "one green context current to several threads";
}

/// The smallest partition, and the step between sizes, in SMs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub struct Granularity {
    /// SMs of the smallest partition.
    pub min: u32,
    /// SMs that are co-scheduled together; partition sizes are multiples of this.
    pub coscheduled: u32,
}

/// The source of a [`Granularity`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum GranularitySource {
    /// The driver, which reports it (13.0 and later).
    Driver,
    /// NVIDIA's guide for this compute capability; the driver is older than 13.0.
    ComputeCapability,
}

impl Granularity {
    /// The granularity where co-scheduling is ignored, and in a remainder (measured on an H200).
    pub(crate) const PAIRS: Self = Self {
        min: 2,
        coscheduled: 2,
    };

    fn of(compute_capability: (u32, u32)) -> Self {
        let (min, coscheduled) = match compute_capability.0 {
            0..=6 => (1, 1),
            7 => (2, 2),
            8 => (4, 2),
            _ => (8, 8),
        };
        Self { min, coscheduled }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_feature_is_there_from_its_version_on() {
        let at = |major, minor| Capabilities::of(CudaVersion::new(major, minor), (9, 0), None);
        let features = at(11, 8).features();
        assert!(features.is_sorted_by_key(|feature| feature.since));
        assert!(features.iter().all(|feature| !feature.there));
        for major in 11..=14 {
            for minor in 0..=9 {
                let version = CudaVersion::new(major, minor);
                for feature in at(major, minor).features() {
                    assert_eq!(
                        feature.there,
                        version >= feature.since,
                        "{} at {version}",
                        feature.name
                    );
                }
            }
        }
    }

    #[test]
    fn the_driver_is_believed_over_the_guide() {
        let of = |compute_capability, reported| {
            Capabilities::of(CudaVersion::new(13, 0), compute_capability, reported)
        };
        let reported = Granularity {
            min: 4,
            coscheduled: 2,
        };
        let believed = of((9, 0), Some(reported));
        assert_eq!(believed.granularity, reported);
        assert_eq!(believed.granularity_source, GranularitySource::Driver);
        let guessed = of((8, 6), None);
        assert_eq!(guessed.granularity, reported); // the guide has the same numbers for 8.x
        assert_eq!(
            guessed.granularity_source,
            GranularitySource::ComputeCapability
        );
        let older = believed.with_driver(CudaVersion::new(12, 4));
        assert_eq!(
            older,
            Capabilities::new(CudaVersion::new(12, 4), reported, GranularitySource::Driver)
        );
    }
}

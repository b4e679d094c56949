//! Where requests and floods run: the contexts, the priorities, and a service for each way to place both.

use std::sync::Arc;

use cuda_green::{
    ContextId, ContextPolicy, ContextPriority, CudaVersion, SmPartitionManager, Stream,
    planner::PartitionRequest,
};
use cuda_green_embed::{
    BertEncoder, BertModel, Embedder, Encoder, EncoderOptions, Lane, Tokenizer,
};
use serde::{Deserialize, Serialize};

use crate::commands::bench::embed::setup::Setup;

/// The SMs of the requests' partition.
pub const PARTITION: u32 = 32;

/// A way to place requests, and a flood beside them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Placement {
    /// No flood; requests have the whole GPU.
    AloneOnWholeGpu,
    /// No flood; requests have their partition.
    AloneInPartition,
    /// Both in the primary context, by streams of one priority.
    PlainStreams,
    /// Both in the primary context, by streams of the highest and the lowest priority.
    Priorities,
    /// The flood has the SMs that the requests' partition leaves.
    Partitions,
    /// Requests have their partition, and the flood was left in the primary context, which has all SMs.
    FloodInPrimary,
}

impl Placement {
    pub const ALONE: [Self; 2] = [Self::AloneOnWholeGpu, Self::AloneInPartition];
    pub const BESIDE: [Self; 4] = [
        Self::PlainStreams,
        Self::Priorities,
        Self::Partitions,
        Self::FloodInPrimary,
    ];

    pub fn name(self) -> &'static str {
        match self {
            Self::AloneOnWholeGpu => "alone, whole GPU",
            Self::AloneInPartition => "alone, in a partition",
            Self::PlainStreams => "two plain streams",
            Self::Priorities => "high- and low-priority streams",
            Self::Partitions => "flood in another partition",
            Self::FloodInPrimary => "partition, flood in the primary context",
        }
    }

    /// Returns where the flood runs. Alone it has the whole GPU.
    pub fn home(self) -> Home {
        match self {
            Self::Priorities => Home::PrimaryLow,
            Self::Partitions => Home::Rest,
            _ => Home::Primary,
        }
    }

    /// Returns where requests run.
    fn seat(self) -> Seat {
        match self {
            Self::AloneOnWholeGpu | Self::PlainStreams => Seat::Primary,
            Self::Priorities => Seat::PrimaryHigh,
            Self::AloneInPartition | Self::Partitions | Self::FloodInPrimary => Seat::Partition,
        }
    }
}

/// The context and the priority of a flood.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Home {
    Primary,
    PrimaryLow,
    /// All SMs but the partition's.
    Rest,
}

impl Home {
    pub const ALL: [Self; 3] = [Self::Primary, Self::PrimaryLow, Self::Rest];
}

/// The context and the priority of requests.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Seat {
    Primary,
    PrimaryHigh,
    Partition,
}

/// The managers of all placements. One splits the device; the others leave it whole, as without green contexts.
pub struct Places {
    split: SmPartitionManager,
    whole: SmPartitionManager,
    by_priority: SmPartitionManager,
}

impl Places {
    pub fn new(setup: &Setup<'_>) -> anyhow::Result<Self> {
        let device = setup.device();
        let split = SmPartitionManager::on(device)?;
        let policy = ContextPolicy::default();
        split.create_partitions(&[
            (
                ContextId::Embedding,
                PartitionRequest::target(PARTITION),
                policy,
            ),
            (ContextId::Dream, PartitionRequest::rest(), policy),
        ])?;
        let unsplit = |[embedding, dream]: [ContextPriority; 2]| -> anyhow::Result<_> {
            let manager: SmPartitionManager =
                SmPartitionManager::as_of(device, CudaVersion::new(12, 0))?;
            let of = |priority| ContextPolicy {
                priority,
                preemptible: false,
                ..policy
            };
            let all = PartitionRequest::at_least(1);
            manager.create_partitions(&[
                (ContextId::Embedding, all, of(embedding)),
                (ContextId::Dream, all, of(dream)),
            ])?;
            Ok(manager)
        };
        Ok(Self {
            split,
            whole: unsplit([ContextPriority::Medium; 2])?,
            by_priority: unsplit([ContextPriority::Critical, ContextPriority::Low])?,
        })
    }

    /// Returns the SMs of the requests' partition, and those of the other.
    pub fn sms(&self) -> anyhow::Result<[u32; 2]> {
        let sms = |id| anyhow::Ok(self.split.get_context(id)?.sm_count());
        Ok([sms(ContextId::Embedding)?, sms(ContextId::Dream)?])
    }

    /// Makes a stream for a flood.
    pub fn flood_stream(&self, home: Home) -> anyhow::Result<Stream> {
        Ok(self
            .of_home(home)
            .get_context(ContextId::Dream)?
            .create_stream()?)
    }

    fn of_home(&self, home: Home) -> &SmPartitionManager {
        match home {
            Home::Primary => &self.whole,
            Home::PrimaryLow => &self.by_priority,
            Home::Rest => &self.split,
        }
    }

    fn of_seat(&self, seat: Seat) -> &SmPartitionManager {
        match seat {
            Seat::Primary => &self.whole,
            Seat::PrimaryHigh => &self.by_priority,
            Seat::Partition => &self.split,
        }
    }
}

/// The services of all placements, over one copy of the weights and one encoder for each context and priority.
pub struct Services(Vec<(Placement, Embedder)>);

impl Services {
    pub fn new(
        places: &Places,
        model: &BertModel,
        tokenizer: &Tokenizer,
        options: LaneSizes,
    ) -> anyhow::Result<Self> {
        let encoder = |manager: &SmPartitionManager, id, options| -> anyhow::Result<_> {
            let stream = manager.create_stream(id)?;
            let encoder = BertEncoder::new(model, stream, options)?;
            Ok(Arc::new(encoder) as Arc<dyn Encoder>)
        };
        let mut for_requests = Vec::new();
        for seat in [Seat::Primary, Seat::PrimaryHigh, Seat::Partition] {
            let manager = places.of_seat(seat);
            let made = encoder(manager, ContextId::Embedding, options.interactive)?;
            for_requests.push((seat, made));
        }
        let mut for_bulk = Vec::new();
        for home in Home::ALL {
            let manager = places.of_home(home);
            let made = encoder(manager, ContextId::Dream, options.bulk)?;
            for_bulk.push((home, made));
        }
        let placements = Placement::ALONE.into_iter().chain(Placement::BESIDE);
        let services = placements.map(|placement| {
            let interactive = find(&for_requests, placement.seat())?;
            let bulk = find(&for_bulk, placement.home())?;
            let embedder = Embedder::builder()
                .tokenizer(tokenizer.clone())
                .encoder(Lane::Interactive, options.interactive)
                .encoder(Lane::Bulk, options.bulk)
                .build_with(Arc::clone(interactive), Arc::clone(bulk))?;
            Ok((placement, embedder))
        });
        Ok(Self(services.collect::<anyhow::Result<_>>()?))
    }

    /// Returns the service of a placement.
    pub fn of(&self, placement: Placement) -> anyhow::Result<&Embedder> {
        find(&self.0, placement)
    }
}

/// The sizes of the lanes' encoders.
#[derive(Clone, Copy)]
pub struct LaneSizes {
    pub interactive: EncoderOptions,
    pub bulk: EncoderOptions,
}

fn find<K: PartialEq + std::fmt::Debug, V>(made: &[(K, V)], key: K) -> anyhow::Result<&V> {
    let found = made.iter().find(|(of, _)| *of == key);
    let found = found.map(|(_, value)| value);
    found.ok_or_else(|| anyhow::anyhow!("nothing was made for {key:?}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_placement_is_another() {
        let all: Vec<_> = Placement::ALONE
            .into_iter()
            .chain(Placement::BESIDE)
            .collect();
        let places: Vec<_> = Placement::BESIDE
            .iter()
            .map(|placement| (placement.seat(), placement.home()))
            .collect();
        for (index, place) in places.iter().enumerate() {
            assert!(!places[..index].contains(place), "{place:?} twice");
        }
        for (index, placement) in all.iter().enumerate() {
            assert!(
                all[..index]
                    .iter()
                    .all(|other| other.name() != placement.name())
            );
        }
    }
}

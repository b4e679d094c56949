//! The split in force: its pieces, which of them are free, and contexts made of them.

use crate::{
    CudaDevice, GreenContext, GreenContextConfig, Result,
    context::Shape,
    planner::{DeviceFacts, FINE_UNIT, Part, Piece, SplitStrategy},
    resource::{SmResource, Split},
};

/// One split of the device, piece by piece.
pub(super) struct Layout {
    pub(super) strategy: SplitStrategy,
    facts: DeviceFacts,
    coscheduled: u32,
    pub(super) pieces: Vec<Piece>,
    /// The resource of each piece.
    resources: Vec<SmResource>,
}

impl Layout {
    pub(super) fn of(
        facts: DeviceFacts,
        strategy: SplitStrategy,
        coscheduled: u32,
        split: Split,
    ) -> Self {
        let groups = split
            .groups
            .into_iter()
            .enumerate()
            .map(|(index, group)| (Part::Group(index), group));
        let parts = groups.chain(split.remainder.map(|rest| (Part::Remainder, rest)));
        let (pieces, resources) = parts
            .map(|(part, resource)| {
                (
                    Piece {
                        part,
                        sm_count: resource.sm_count(),
                        free: true,
                    },
                    resource,
                )
            })
            .unzip();
        Self {
            strategy,
            facts,
            coscheduled,
            pieces,
            resources,
        }
    }

    pub(super) fn merges(&self) -> bool {
        use SplitStrategy::{MergedFineUnits, MergedUnits, StructuredUnits};
        matches!(
            self.strategy,
            StructuredUnits | MergedUnits | MergedFineUnits
        )
    }

    /// Creates a context over some of the pieces; nothing is marked as taken yet.
    pub(super) fn create(
        &self,
        device: &CudaDevice,
        config: GreenContextConfig,
        requested_sms: u32,
        pieces: &[usize],
    ) -> Result<GreenContext> {
        let (shape, resources) = self.shape(requested_sms, pieces);
        GreenContext::create(device, config, shape, &resources, None)
    }

    /// Creates a context to take another's place: the same configuration and memory, other pieces.
    pub(super) fn sibling(
        &self,
        device: &CudaDevice,
        of: &GreenContext,
        pieces: &[usize],
    ) -> Result<GreenContext> {
        let (shape, resources) = self.shape(of.requested_sms(), pieces);
        GreenContext::create(device, *of.config(), shape, &resources, Some(of))
    }

    fn shape(&self, requested_sms: u32, pieces: &[usize]) -> (Shape, Vec<SmResource>) {
        let resources: Vec<SmResource> = pieces
            .iter()
            .map(|index| self.resources[*index].clone())
            .collect();
        // What is left over keeps little together; with a group, that group's guarantee holds.
        let only_remainder = pieces
            .iter()
            .all(|index| self.pieces[*index].part == Part::Remainder);
        let coscheduled = if only_remainder {
            FINE_UNIT.min(self.coscheduled)
        } else {
            self.coscheduled
        };
        let shape = Shape {
            requested_sms,
            sm_count: resources.iter().map(SmResource::sm_count).sum(),
            coscheduled,
            max_cluster: self.facts.max_cluster(coscheduled),
        };
        (shape, resources)
    }

    pub(super) fn mark_taken(&mut self, pieces: &[usize]) {
        for index in pieces {
            self.pieces[*index].free = false;
        }
    }

    pub(super) fn mark_all_free_but<'a>(&mut self, taken: impl Iterator<Item = &'a usize>) {
        self.pieces.iter_mut().for_each(|piece| piece.free = true);
        for index in taken {
            self.pieces[*index].free = false;
        }
    }

    /// The pieces that are these parts; none if the split did not give them all.
    pub(super) fn find(&self, parts: &[Part]) -> Option<Vec<usize>> {
        parts
            .iter()
            .map(|part| self.pieces.iter().position(|piece| piece.part == *part))
            .collect()
    }
}

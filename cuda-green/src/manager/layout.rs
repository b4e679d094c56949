//! The layout: the split in force, its pieces, which of them are free, and contexts made of them.

use std::sync::Arc;

use crate::{
    device::{Claim, CudaDevice, Lease},
    error::Result,
    names::UsedPieces,
    partition::{ContextPolicy, ContextSms, GreenContext},
    planner::{
        self, Area, Choice, DeviceFacts, Part, PartitionRequest, Piece, PieceState, RefusedPlan,
        SmRequest, SplitCall, SplitStrategy,
    },
    resource::{SmParts, SmResource},
    sharing::HeldName,
};

/// A split of pieces, together: of one or, where pieces merge, several.
pub(super) struct NestedSplit {
    pub(super) pieces: Vec<usize>,
    pub(super) parts: Vec<usize>,
    /// The context over the pieces; none over the device, and over what a structured split left, which are split as
    /// they are.
    pub(super) scaffold: Option<GreenContext>,
}

/// One split of the device, piece by piece.
pub(super) struct Layout {
    /// Held by each of its contexts, too.
    pub(super) claim: Arc<Claim>,
    pub(super) strategy: SplitStrategy,
    /// Better plans that the driver refused.
    pub(super) refused: Vec<RefusedPlan>,
    pub(super) facts: DeviceFacts,
    pub(super) pieces: Vec<Piece>,
    /// The resource of each piece, without a lease.
    pub(super) resources: Vec<SmResource>,
    /// The lease of each piece, which contexts over it share: any other holder has the piece, too.
    pub(super) leases: Vec<Arc<Lease>>,
    /// Splits within pieces, an outer one before those within it.
    pub(super) nested: Vec<NestedSplit>,
    /// The number of groups so far, which names the next.
    pub(super) groups: usize,
    /// Pieces that are not this process's to give, each with its lease, by which it is taken.
    pub(super) withheld: Vec<(usize, Arc<Lease>)>,
}

impl Layout {
    /// Returns the layout of one split of the device.
    pub(super) fn of(
        claim: Arc<Claim>,
        facts: DeviceFacts,
        strategy: SplitStrategy,
        call: &SplitCall,
        split: SmParts,
    ) -> Self {
        let mut layout = Self::empty(claim, facts, strategy);
        let coscheduled = |index: usize| match call {
            SplitCall::Structured(groups) => groups.get(index).map_or(1, |group| group.coscheduled),
            SplitCall::ByCount { sm_count, .. } => facts.coscheduled_by_count(*sm_count),
        };
        for (index, group) in split.groups.into_iter().enumerate() {
            let area = Area::fixed(group.sm_count(), coscheduled(index));
            layout.add_group(area, group);
        }
        if let Some(rest) = split.remainder {
            let area = Area::fixed(rest.sm_count(), facts.coscheduled_left_over());
            layout.add_remainder(area, rest);
        }
        layout
    }

    pub(super) fn empty(claim: Arc<Claim>, facts: DeviceFacts, strategy: SplitStrategy) -> Self {
        Self {
            claim,
            strategy,
            refused: Vec::new(),
            facts,
            pieces: Vec::new(),
            resources: Vec::new(),
            leases: Vec::new(),
            nested: Vec::new(),
            groups: 0,
            withheld: Vec::new(),
        }
    }

    pub(super) fn add_group(&mut self, area: Area, resource: SmResource) -> usize {
        let part = Part::Group(self.groups);
        self.groups += 1;
        self.add(part, area, resource)
    }

    /// Adds the remainder of a split, if a partition can use it.
    pub(super) fn add_remainder(&mut self, area: Area, resource: SmResource) -> Option<usize> {
        let of_use = self.facts.is_of_use(area.sm_count) || (self.merges() && self.joins());
        of_use.then(|| self.add(Part::Remainder, area, resource))
    }

    fn add(&mut self, part: Part, area: Area, resource: SmResource) -> usize {
        let piece = Piece {
            part,
            area,
            state: PieceState::Free,
            within: false,
        };
        let gone = self
            .pieces
            .iter()
            .position(|piece| piece.state == PieceState::Gone);
        let lease = Lease::within(Arc::clone(&self.claim));
        if let Some(index) = gone {
            self.pieces[index] = piece;
            self.resources[index] = resource;
            self.leases[index] = lease;
            return index;
        }
        self.pieces.push(piece);
        self.resources.push(resource);
        self.leases.push(lease);
        self.pieces.len() - 1
    }

    pub(super) fn merges(&self) -> bool {
        self.strategy.merges()
    }

    /// Returns the number of SMs of the first group of the split, which is a unit where units merge.
    pub(super) fn unit(&self) -> Option<u32> {
        let first = self.pieces.iter();
        let mut first = first.filter(|piece| piece.part == Part::Group(0));
        first.next().map(|piece| piece.area.sm_count)
    }

    fn joins(&self) -> bool {
        self.facts.remainder_joins()
    }

    /// Chooses the pieces of one more context that runs clusters of this size: for a count, that many SMs or a few
    /// more; for a target, as near below as possible; for a share or the rest, all that one context can have.
    pub(super) fn choose_for(
        &self,
        request: &PartitionRequest,
        requested_sms: u32,
        cluster: u32,
    ) -> Option<Choice> {
        let keeps = |coscheduled| self.facts.max_cluster(coscheduled) >= cluster;
        let choose = |sm_count: u32| {
            let choice =
                planner::choose(&self.pieces, self.merges(), self.joins(), sm_count, keeps);
            let choice = self.cut_to_size(choice?, sm_count);
            // A group that is cut out may keep fewer SMs co-scheduled than the pieces.
            if let Choice::CutOut { pieces, sm_count } = &choice
                && !keeps(self.coscheduled_in(pieces, *sm_count))
            {
                return None;
            }
            Some((self.size(&choice), choice))
        };
        let most = |most: u32| (1..=most).rev().find_map(choose);
        // A cluster of a size takes that many SMs.
        let (_, choice) = match request.sms {
            SmRequest::AtLeast(count) => choose(count.max(cluster))?,
            SmRequest::Share { at_least, .. } => {
                most(self.available()).filter(|(size, _)| *size >= at_least)?
            }
            SmRequest::Rest => most(self.available())?,
            SmRequest::Target(_) | SmRequest::Percent(_) => (1..=requested_sms)
                .rev()
                .find_map(|sm_count| choose(sm_count).filter(|(size, _)| *size <= requested_sms))
                .or_else(|| choose(cluster))?,
        };
        Some(choice)
    }

    /// Cuts a choice of pieces with more SMs than requested to size, where the driver can (13.1): SMs come in pairs.
    fn cut_to_size(&self, choice: Choice, sm_count: u32) -> Choice {
        let sm_count = sm_count.max(1).next_multiple_of(2);
        match choice {
            Choice::Pieces(pieces)
                if self.merges()
                    && self.facts.capabilities.structured_split
                    && self.sm_count(&pieces) > sm_count =>
            {
                Choice::CutOut { pieces, sm_count }
            }
            whole => whole,
        }
    }

    /// Returns whether any of these pieces was cut out of others, so that it merges with none.
    pub(super) fn are_cut_out(&self, pieces: &[usize]) -> bool {
        pieces.iter().any(|index| self.pieces[*index].within)
    }

    /// Returns the number of SMs that are sure to be co-scheduled in a group of this size cut out of pieces.
    pub(super) fn coscheduled_in(&self, pieces: &[usize], sm_count: u32) -> u32 {
        planner::coscheduled_within(sm_count, self.best_coscheduled(pieces))
    }

    /// Returns the number of SMs that are sure to be co-scheduled in the best of these pieces. A cluster needs only some
    /// of a context's SMs, so that is what a context over all of them guarantees.
    fn best_coscheduled(&self, pieces: &[usize]) -> u32 {
        let guaranteed = pieces
            .iter()
            .map(|index| self.pieces[*index].area.coscheduled);
        guaranteed.max().unwrap_or(1)
    }

    /// Returns the SMs of a choice.
    pub(super) fn size(&self, choice: &Choice) -> u32 {
        match choice {
            Choice::Pieces(pieces) => self.sm_count(pieces),
            Choice::CutOut { sm_count, .. } | Choice::SplitOff { sm_count, .. } => *sm_count,
        }
    }

    /// Returns the largest cluster that a choice is sure to run.
    pub(super) fn max_cluster(&self, choice: &Choice) -> u32 {
        let guaranteed = match choice {
            Choice::Pieces(pieces) => self.best_coscheduled(pieces),
            Choice::CutOut { pieces, sm_count } => self.coscheduled_in(pieces, *sm_count),
            Choice::SplitOff { piece, sm_count } => {
                let split = self.pieces[*piece].area.split(1, *sm_count);
                split.map_or(1, |(group, _)| group.coscheduled)
            }
        };
        self.facts.max_cluster(guaranteed)
    }

    /// Returns the number of SMs that one more context could get.
    pub(super) fn available(&self) -> u32 {
        planner::available(&self.pieces, self.merges(), self.joins())
    }

    /// Returns the number of SMs in all free pieces, which several contexts could share.
    pub(super) fn free(&self) -> u32 {
        let free = self
            .leaves()
            .filter(|(_, piece)| piece.state == PieceState::Free);
        free.map(|(_, piece)| piece.area.sm_count).sum()
    }

    /// Returns the number of SMs that are in no piece, so that no context can be given them.
    pub(super) fn stranded(&self) -> u32 {
        let leaves = self.leaves().map(|(_, piece)| piece.area.sm_count);
        self.facts.sm_count.saturating_sub(leaves.sum())
    }

    /// Creates a context over some of the pieces; does not mark them as taken.
    pub(super) fn create(
        &self,
        device: &CudaDevice,
        policy: ContextPolicy,
        requested_sms: u32,
        pieces: &[usize],
    ) -> Result<GreenContext> {
        let (sms, resources) = self.sms(requested_sms, pieces);
        let leases = self.leases_of(pieces);
        GreenContext::create(device, policy, sms, &resources, leases, None)
    }

    /// Creates a context to take another's place: the same policy and memory, other pieces.
    pub(super) fn create_in_place_of(
        &self,
        device: &CudaDevice,
        of: &GreenContext,
        pieces: &[usize],
    ) -> Result<GreenContext> {
        let (sms, resources) = self.sms(of.requested_sms(), pieces);
        let leases = self.leases_of(pieces);
        GreenContext::create(device, *of.policy(), sms, &resources, leases, Some(of))
    }

    fn leases_of(&self, pieces: &[usize]) -> Vec<Arc<Lease>> {
        let leases = pieces.iter().map(|index| Arc::clone(&self.leases[*index]));
        leases.collect()
    }

    fn sms(&self, requested_sms: u32, pieces: &[usize]) -> (ContextSms, Vec<SmResource>) {
        let resources: Vec<SmResource> = pieces
            .iter()
            .map(|index| self.resources[*index].clone())
            .collect();
        let coscheduled = self.best_coscheduled(pieces);
        let sms = ContextSms {
            requested_sms,
            sm_count: resources.iter().map(SmResource::sm_count).sum(),
            coscheduled,
            max_cluster: self.facts.max_cluster(coscheduled),
        };
        (sms, resources)
    }

    /// Returns the number of SMs in these pieces together.
    pub(super) fn sm_count(&self, pieces: &[usize]) -> u32 {
        pieces
            .iter()
            .map(|index| self.pieces[*index].area.sm_count)
            .sum()
    }

    pub(super) fn mark_taken(&mut self, pieces: &[usize]) {
        for index in pieces {
            self.pieces[*index].state = PieceState::Taken;
        }
    }

    /// Frees all pieces but the taken ones, and those with more leases than the contexts of names have: a context that
    /// could not be destroyed has one, resources that were asked of a context, and contexts over those. Splits within
    /// pieces stay until [`tidy`](Self::tidy).
    pub(super) fn free_all_but(&mut self, used: &UsedPieces) {
        // Of each piece, the number of leases accounted for (the layout has one), and whether it is taken.
        let mut known = vec![(1, false); self.pieces.len()];
        for index in &used.leased {
            known[*index].0 += 1;
        }
        for index in &used.taken {
            known[*index].1 = true;
        }
        let pieces = self.pieces.iter_mut().zip(&self.leases).zip(known);
        for ((piece, lease), (leases, taken)) in pieces {
            if matches!(piece.state, PieceState::Free | PieceState::Taken) {
                let is_taken = taken || Arc::strong_count(lease) > leases;
                piece.state = if is_taken {
                    PieceState::Taken
                } else {
                    PieceState::Free
                };
            }
        }
    }

    /// Withholds all free pieces, under leases that hold nothing but the claim on the device: they belong to names of a
    /// plan among processes, which this one does not hold.
    pub(super) fn withhold_free_pieces(&mut self) {
        for (index, piece) in self.pieces.iter_mut().enumerate() {
            if piece.state != PieceState::Free {
                continue;
            }
            let lease = Lease::within(Arc::clone(&self.claim));
            piece.state = PieceState::Taken;
            self.withheld.push((index, Arc::clone(&lease)));
            self.leases[index] = lease;
        }
    }

    /// Creates a context of withheld pieces, which holds its name of the plan. The layout does not: so the name is given
    /// back with the last handle, whether or not the manager is used again.
    pub(super) fn create_as(
        &mut self,
        name: &Arc<HeldName>,
        device: &CudaDevice,
        policy: ContextPolicy,
        requested_sms: u32,
        pieces: &[usize],
    ) -> Result<GreenContext> {
        let leases = self.leases_as(name, pieces);
        let (sms, resources) = self.sms(requested_sms, pieces);
        GreenContext::create(device, policy, sms, &resources, leases, None)
    }

    /// Creates a context to take another's place, as [`create_in_place_of`](Self::create_in_place_of) does, of withheld
    /// pieces or such as the name has.
    pub(super) fn create_as_in_place_of(
        &mut self,
        name: &Arc<HeldName>,
        device: &CudaDevice,
        of: &GreenContext,
        pieces: &[usize],
    ) -> Result<GreenContext> {
        let leases = self.leases_as(name, pieces);
        let (sms, resources) = self.sms(of.requested_sms(), pieces);
        GreenContext::create(device, *of.policy(), sms, &resources, leases, Some(of))
    }

    fn leases_as(&mut self, name: &Arc<HeldName>, pieces: &[usize]) -> Vec<Arc<Lease>> {
        self.withheld.retain(|(index, _)| !pieces.contains(index));
        let leases = self.leases_of(pieces).into_iter();
        let leases = leases.map(|lease| Lease::within((lease, Arc::clone(name))));
        leases.collect()
    }

    /// Returns whether nothing of this process can run on a piece: it is withheld.
    pub(super) fn is_withheld(&self, piece: usize) -> bool {
        self.withheld.iter().any(|(index, _)| *index == piece)
    }

    pub(super) fn is_in_use(&self) -> bool {
        self.pieces
            .iter()
            .any(|piece| piece.state == PieceState::Taken)
    }

    /// Returns the pieces that are these parts; none if the split did not give them all.
    pub(super) fn find(&self, parts: &[Part]) -> Option<Vec<usize>> {
        parts
            .iter()
            .map(|part| {
                let mut leaves = self.leaves();
                leaves.find_map(|(index, piece)| (piece.part == *part).then_some(index))
            })
            .collect()
    }

    /// Returns the pieces that are not split further.
    pub(super) fn leaves(&self) -> impl Iterator<Item = (usize, &Piece)> {
        let pieces = self.pieces.iter().enumerate();
        pieces.filter(|(_, piece)| matches!(piece.state, PieceState::Free | PieceState::Taken))
    }
}

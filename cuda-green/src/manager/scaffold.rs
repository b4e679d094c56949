//! Splits within pieces, through scaffolds: where the driver cannot merge (12.4), or where units that merge are cut to
//! size (13.1). Pieces and their parts form a tree.
//!
//! The device itself is split directly. A piece is the result of a split, which the driver refuses to split again
//! (915, measured on an H200, driver 580); but the resource of a context over it can be split. So a piece is divided
//! through a scaffold: a context without work, over all of the piece. It lives until its parts are made whole again.

use std::sync::Arc;

use super::layout::{Layout, NestedSplit};
use crate::{
    device::{Claim, CudaDevice, Lease},
    error::{Error, Result},
    partition::{ContextPolicy, GreenContext},
    planner::{
        Area, DeviceFacts, Group, Part, Piece, PieceState, SplitCall, SplitFlag, SplitStrategy,
    },
    resource::SmResource,
};

impl Layout {
    /// Returns the layout of the whole device in one piece, of which this many whole units can be split off.
    pub(super) fn whole(
        claim: Arc<Claim>,
        facts: DeviceFacts,
        all: SmResource,
        units: u32,
    ) -> Self {
        let mut layout = Self::empty(claim, facts, SplitStrategy::EqualGroups);
        layout.pieces.push(Piece {
            part: Part::Remainder,
            area: Area::device(&facts, units),
            state: PieceState::Free,
            within: false,
        });
        layout.resources.push(all);
        layout.leases.push(Lease::within(Arc::clone(&layout.claim)));
        layout
    }

    /// Returns the number of scaffolds.
    pub(super) fn scaffolds(&self) -> usize {
        let nested = self.nested.iter();
        nested.filter(|split| split.scaffold.is_some()).count()
    }

    /// Divides a free piece into this many groups and a remainder; returns the groups.
    pub(super) fn divide(
        &mut self,
        device: &CudaDevice,
        piece: usize,
        groups: u32,
        sm_count: u32,
    ) -> Result<Vec<usize>> {
        let (area, resource) = (self.pieces[piece].area, self.resources[piece].clone());
        let is_device = self.nested.is_empty() && piece == 0;
        let scaffold = (!is_device)
            .then(|| self.scaffold(device, &[piece]))
            .transpose()?;
        let own = scaffold
            .as_ref()
            .map(GreenContext::sm_resource)
            .transpose()?
            .map(|own| own.leased(&[])); // the parts get leases of their own
        let call = SplitCall::ByCount {
            groups,
            sm_count,
            flag: SplitFlag::None,
        };
        let split = own.unwrap_or(resource).execute(&call)?;
        let expected = area.split(groups, sm_count);
        // A part with another size than expected is not divided again.
        let part = |expected: Option<Area>, resource: &SmResource| {
            expected
                .filter(|expected| expected.sm_count == resource.sm_count())
                .unwrap_or_else(|| {
                    Area::fixed(resource.sm_count(), self.facts.coscheduled_left_over())
                })
        };
        let group_areas: Vec<Area> = split
            .groups
            .iter()
            .map(|group| part(expected.map(|(group, _)| group), group))
            .collect();
        let rest = split
            .remainder
            .map(|rest| (part(expected.map(|(_, rest)| rest), &rest), rest));
        self.pieces[piece].state = PieceState::Split;
        let made: Vec<usize> = group_areas
            .into_iter()
            .zip(split.groups)
            .map(|(area, group)| self.add_group(area, group))
            .collect();
        let rest = rest.and_then(|(area, rest)| self.add_remainder(area, rest));
        let parts: Vec<usize> = made.iter().copied().chain(rest).collect();
        self.note_nested(vec![piece], parts, scaffold);
        self.name_strategy();
        Ok(made)
    }

    /// Cuts a group of this many SMs out of free pieces, together (13.1); returns the group. The remainder comes in
    /// pairs of SMs, and merges with nothing.
    ///
    /// By the 13.1 header, a context's resource and the remainder of a structured split can be split like this; no such
    /// driver was available.
    pub(super) fn cut_out(
        &mut self,
        device: &CudaDevice,
        pieces: &[usize],
        sm_count: u32,
    ) -> Result<Vec<usize>> {
        let coscheduled = self.coscheduled_in(pieces, sm_count);
        let call = SplitCall::Structured(vec![Group::new(sm_count, coscheduled, true)]);
        let as_it_is = match pieces {
            [piece] => Some(&self.resources[*piece]).filter(|resource| resource.can_be_split()),
            _ => None,
        };
        let (scaffold, own) = match as_it_is {
            Some(resource) => (None, resource.clone()),
            None => {
                let scaffold = self.scaffold(device, pieces)?;
                let own = scaffold.sm_resource()?.leased(&[]); // the parts get leases of their own
                (Some(scaffold), own)
            }
        };
        let split = own.execute(&call)?;
        for piece in pieces {
            self.pieces[*piece].state = PieceState::Split;
        }
        let groups = split.groups.into_iter().map(|group| {
            let area = Area::fixed(group.sm_count(), coscheduled);
            self.add_group(area, group)
        });
        let made: Vec<usize> = groups.collect();
        let left_over = self.facts.coscheduled_left_over();
        let rest = split
            .remainder
            .and_then(|rest| self.add_remainder(Area::fixed(rest.sm_count(), left_over), rest));
        let parts: Vec<usize> = made.iter().copied().chain(rest).collect();
        for part in &parts {
            self.pieces[*part].within = true;
        }
        self.note_nested(pieces.to_vec(), parts, scaffold);
        Ok(made)
    }

    /// Notes the parts of pieces. Each part holds the scaffold, if there is one.
    fn note_nested(
        &mut self,
        pieces: Vec<usize>,
        parts: Vec<usize>,
        scaffold: Option<GreenContext>,
    ) {
        if let Some(scaffold) = &scaffold {
            for part in &parts {
                self.leases[*part] = Lease::within(scaffold.clone());
            }
        }
        self.nested.push(NestedSplit {
            pieces,
            parts,
            scaffold,
        });
    }

    /// Creates a context over pieces without work, whose resource can be split.
    fn scaffold(&self, device: &CudaDevice, pieces: &[usize]) -> Result<GreenContext> {
        let sm_count = self.sm_count(pieces);
        self.create(device, ContextPolicy::default(), sm_count, pieces)
    }

    /// Splits one more group off the remainder of the last split.
    pub(super) fn divide_remainder(&mut self, device: &CudaDevice, sm_count: u32) -> Result<()> {
        let remainder = self
            .find(&[Part::Remainder])
            .and_then(|pieces| pieces.first().copied());
        let Some(piece) = remainder else {
            return Err(Error::InsufficientSms {
                requests: sm_count.to_string(),
                asked: sm_count,
                available: 0,
                stranded: self.stranded(),
                total: self.facts.sm_count,
            });
        };
        self.divide(device, piece, 1, sm_count).map(drop)
    }

    /// Returns the pieces themselves; of the device, which was not split yet, one group of all SMs.
    pub(super) fn undivided(
        &mut self,
        device: &CudaDevice,
        pieces: Vec<usize>,
    ) -> Result<Vec<usize>> {
        let is_nested = matches!(self.strategy, SplitStrategy::EqualGroups);
        if is_nested && self.nested.is_empty() && pieces == [0] {
            self.divide(device, 0, 1, self.facts.sm_count)
        } else {
            Ok(pieces)
        }
    }

    /// Makes pieces whole again whose parts are all free.
    ///
    /// # Errors
    /// The driver's refusal to destroy a scaffold; the piece is whole even then.
    pub(super) fn tidy(&mut self) -> Result<()> {
        let mut result = Ok(());
        // An inner split comes after the outer one.
        for index in (0..self.nested.len()).rev() {
            let parts = &self.nested[index].parts;
            if parts
                .iter()
                .any(|part| self.pieces[*part].state != PieceState::Free)
            {
                continue;
            }
            let split = self.nested.remove(index);
            for part in split.parts {
                self.pieces[part].state = PieceState::Gone;
                self.leases[part] = Lease::within(()); // lets go of the scaffold
            }
            for piece in split.pieces {
                self.pieces[piece].state = PieceState::Free;
            }
            if let Some(scaffold) = split.scaffold {
                result = result.and(scaffold.close().map_err(Error::from));
            }
        }
        self.name_strategy();
        result
    }

    fn name_strategy(&mut self) {
        if matches!(
            self.strategy,
            SplitStrategy::EqualGroups | SplitStrategy::Nested
        ) {
            self.strategy = if self.scaffolds() > 0 {
                SplitStrategy::Nested
            } else {
                SplitStrategy::EqualGroups
            };
        }
    }
}

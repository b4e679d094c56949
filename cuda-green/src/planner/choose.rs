//! The choice of pieces for one more context.

use super::{Area, Part, device_facts::FINE_UNIT};

/// A piece of the layout, as far as the choice depends on it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Piece {
    pub(crate) part: Part,
    pub(crate) area: Area,
    pub(crate) state: PieceState,
    /// Whether it was cut out of other pieces (13.1), so that it merges with no other.
    pub(crate) within: bool,
}

/// The state of a piece.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum PieceState {
    /// No context has it.
    Free,
    /// Part of a context.
    Taken,
    /// Split further: its SMs are in other pieces.
    Split,
    /// Gone: merged back into the piece that it was split off.
    Gone,
}

/// The SMs chosen for one more context.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Choice {
    /// Whole pieces.
    Pieces(Vec<usize>),
    /// A group to be cut out of several pieces at once (13.1).
    CutOut {
        /// The pieces.
        pieces: Vec<usize>,
        /// SMs of the group.
        sm_count: u32,
    },
    /// A group to be split off one piece.
    SplitOff {
        /// The piece.
        piece: usize,
        /// SMs of the group.
        sm_count: u32,
    },
}

/// Chooses pieces for one more context of at least `requested` SMs: those with the fewest SMs.
///
/// Where pieces merge, the choice is a set of groups, and the remainder where `joins` says that it merges with groups.
/// Where they do not merge, the choice is one piece, or a part of one. Pieces that keep no clusters above 2, such as a
/// remainder alone, are chosen only when nothing else is large enough.
///
/// `keeps_enough` decides from the number of SMs that are surely co-scheduled together whether the context may be made
/// of them.
pub(crate) fn choose(
    pieces: &[Piece],
    merge: bool,
    joins: bool,
    requested: u32,
    keeps_enough: impl Fn(u32) -> bool,
) -> Option<Choice> {
    if !merge {
        return single(pieces, requested, keeps_enough);
    }
    let kept = |chosen: &Vec<usize>| {
        let pieces = chosen.iter().filter_map(|index| pieces.get(*index));
        keeps_enough(
            pieces
                .map(|piece| piece.area.coscheduled)
                .max()
                .unwrap_or(1),
        )
    };
    merged(pieces, joins, requested)
        .filter(kept)
        .or_else(|| alone(pieces, requested).filter(kept))
        .map(Choice::Pieces)
}

/// Returns the free pieces that merge, or those that stand alone.
fn free(pieces: &[Piece], alone: bool) -> impl Iterator<Item = (usize, u32)> {
    pieces
        .iter()
        .enumerate()
        .filter(move |(_, piece)| {
            let stands_alone = piece.within || piece.part == Part::Remainder;
            piece.state == PieceState::Free && stands_alone == alone
        })
        .map(|(index, piece)| (index, piece.area.sm_count))
}

fn alone(pieces: &[Piece], requested: u32) -> Option<Vec<usize>> {
    free(pieces, true)
        .filter(|(_, sm_count)| *sm_count >= requested)
        .min_by_key(|(_, sm_count)| *sm_count)
        .map(|(index, _)| vec![index])
}

fn merged(pieces: &[Piece], joins: bool, requested: u32) -> Option<Vec<usize>> {
    // Each sum that groups can make, with its last group and the sum before that group.
    let all: u32 = free(pieces, false).map(|(_, sm_count)| sm_count).sum();
    let mut sums: Vec<Option<(usize, u32)>> = vec![None; all as usize + 1];
    for (index, sm_count) in free(pieces, false) {
        for sum in (sm_count..=all).rev() {
            let before = sum - sm_count;
            if sums[sum as usize].is_none() && (before == 0 || sums[before as usize].is_some()) {
                sums[sum as usize] = Some((index, before));
            }
        }
    }
    let least = |requested: u32| (requested.max(1)..=all).find(|sum| sums[*sum as usize].is_some());
    let without = least(requested).map(|sum| (sum, sum, None));
    let with = free(pieces, true)
        .next()
        .filter(|_| joins)
        .and_then(|(index, sm_count)| {
            let sum = least(requested.saturating_sub(sm_count))?;
            Some((sum + sm_count, sum, Some(index)))
        });
    let (_, mut sum, remainder) = without
        .into_iter()
        .chain(with)
        .min_by_key(|(total, ..)| *total)?;
    let mut chosen: Vec<usize> = remainder.into_iter().collect();
    while let Some((index, before)) = sums[sum as usize] {
        chosen.push(index);
        sum = before;
    }
    chosen.sort_unstable();
    Some(chosen)
}

fn single(pieces: &[Piece], requested: u32, keeps_enough: impl Fn(u32) -> bool) -> Option<Choice> {
    let leaves = pieces.iter().enumerate();
    let choices = leaves
        .filter(|(_, piece)| piece.state == PieceState::Free)
        .filter_map(|(index, piece)| {
            let area = piece.area;
            let part = area.size_of(requested).and_then(|size| area.split(1, size));
            let part = part.filter(|(_, rest)| rest.sm_count > 0);
            // A piece that cannot be split to this size is chosen whole.
            let given = part.map_or(area, |(group, _)| group);
            let key = (
                given.coscheduled <= FINE_UNIT,
                given.sm_count,
                part.is_some(),
                area.sm_count,
            );
            let choice = match part {
                Some((group, _)) => Choice::SplitOff {
                    piece: index,
                    sm_count: group.sm_count,
                },
                None => Choice::Pieces(vec![index]),
            };
            let fits = area.sm_count >= requested && keeps_enough(given.coscheduled);
            fits.then_some((key, choice))
        });
    choices
        .min_by_key(|(key, _)| *key)
        .map(|(_, choice)| choice)
}

/// Returns the most SMs that one more context can get.
pub(crate) fn available(pieces: &[Piece], merge: bool, joins: bool) -> u32 {
    let groups = free(pieces, false).map(|(_, sm_count)| sm_count);
    let remainders = free(pieces, true).map(|(_, sm_count)| sm_count);
    if merge && joins {
        groups.chain(remainders).sum()
    } else if merge {
        groups.sum::<u32>().max(remainders.max().unwrap_or(0))
    } else {
        groups.chain(remainders).max().unwrap_or(0)
    }
}

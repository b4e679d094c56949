//! Which pieces of a split one more context gets.

use super::{Area, Part, device_facts::FINE_UNIT};

/// A part of the split in force, as far as handing it out depends on it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Piece {
    pub(crate) part: Part,
    pub(crate) area: Area,
    pub(crate) state: State,
    /// Whether it was cut out of other pieces (13.1), so that it merges with none.
    pub(crate) within: bool,
}

/// What has become of a piece.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum State {
    /// To be given.
    Free,
    /// Part of a context.
    Taken,
    /// Split further: its SMs are in other pieces.
    Split,
    /// No longer there: whole again with those beside it.
    Gone,
}

/// What one more context is made of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Choice {
    /// These pieces as they are.
    Pieces(Vec<usize>),
    /// A group of this many SMs, to be cut out of these pieces together (13.1).
    CutOut {
        /// The pieces.
        pieces: Vec<usize>,
        /// SMs of the group.
        sm_count: u32,
    },
    /// A group of this many SMs, to be split off this piece.
    SplitOff {
        /// The piece.
        piece: usize,
        /// SMs of the group.
        sm_count: u32,
    },
}

/// The pieces for one more context of at least `asked` SMs: the fewest SMs that do.
///
/// Where pieces merge, that is a set of groups, with or without the remainder where that joins them. Where
/// they do not, it is one piece, or a part of one. Pieces that keep no clusters above 2, such as a remainder
/// alone, are given only when nothing else is enough.
///
/// `keeps_enough` tells from the SMs that are surely co-scheduled together whether the context may be made of
/// that.
pub(crate) fn choose(
    pieces: &[Piece],
    merge: bool,
    joins: bool,
    asked: u32,
    keeps_enough: impl Fn(u32) -> bool,
) -> Option<Choice> {
    if !merge {
        return single(pieces, asked, keeps_enough);
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
    merged(pieces, joins, asked)
        .filter(kept)
        .or_else(|| alone(pieces, asked).filter(kept))
        .map(Choice::Pieces)
}

/// Free pieces: groups that merge, or those that stand alone.
fn free(pieces: &[Piece], alone: bool) -> impl Iterator<Item = (usize, u32)> {
    pieces
        .iter()
        .enumerate()
        .filter(move |(_, piece)| {
            let stands_alone = piece.within || piece.part == Part::Remainder;
            piece.state == State::Free && stands_alone == alone
        })
        .map(|(index, piece)| (index, piece.area.sm_count))
}

fn alone(pieces: &[Piece], asked: u32) -> Option<Vec<usize>> {
    free(pieces, true)
        .filter(|(_, sm_count)| *sm_count >= asked)
        .min_by_key(|(_, sm_count)| *sm_count)
        .map(|(index, _)| vec![index])
}

fn merged(pieces: &[Piece], joins: bool, asked: u32) -> Option<Vec<usize>> {
    // Every sum that groups can make, each with its last group and the sum before that.
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
    let least = |asked: u32| (asked.max(1)..=all).find(|sum| sums[*sum as usize].is_some());
    let without = least(asked).map(|sum| (sum, sum, None));
    let with = free(pieces, true)
        .next()
        .filter(|_| joins)
        .and_then(|(index, sm_count)| {
            let sum = least(asked.saturating_sub(sm_count))?;
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

fn single(pieces: &[Piece], asked: u32, keeps_enough: impl Fn(u32) -> bool) -> Option<Choice> {
    let leaves = pieces.iter().enumerate();
    let choices = leaves
        .filter(|(_, piece)| piece.state == State::Free)
        .filter_map(|(index, piece)| {
            let area = piece.area;
            let part = area.size_of(asked).and_then(|size| area.split(1, size));
            let part = part.filter(|(_, rest)| rest.sm_count > 0);
            // A piece that cannot be split to this size is given whole.
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
            let fits = area.sm_count >= asked && keeps_enough(given.coscheduled);
            fits.then_some((key, choice))
        });
    choices
        .min_by_key(|(key, _)| *key)
        .map(|(_, choice)| choice)
}

/// SMs that one more context could get.
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

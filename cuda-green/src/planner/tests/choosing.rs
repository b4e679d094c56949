//! The choice of pieces for one more context, against every choice there is.

use proptest::prelude::*;

use super::*;

fn piece(part: Part, area: Area, free: bool) -> Piece {
    let state = if free {
        PieceState::Free
    } else {
        PieceState::Taken
    };
    Piece {
        part,
        area,
        state,
        within: false,
    }
}

proptest! {
    /// Against every subset there is: what is chosen is free, enough, and the least that is.
    #[test]
    fn choosing_units_is_right_and_thrifty(
        free in prop::collection::vec(any::<bool>(), 1..9),
        rest in prop::option::of(1..30u32),
        odd in any::<bool>(),
        unit in 1..9u32,
        joins in any::<bool>(),
        asked in 1..60u32,
    ) {
        let sizes = |index: usize| if odd && index + 1 == free.len() { unit + 4 } else { unit };
        let groups = free.iter().enumerate().map(|(index, &free)| {
            piece(Part::Group(index), Area::fixed(sizes(index), unit), free)
        });
        // A split has either a remainder or a last group of another size, never both.
        let rest = rest
            .filter(|_| !odd)
            .map(|sm_count| piece(Part::Remainder, Area::fixed(sm_count, 2), true));
        let pieces: Vec<Piece> = groups.chain(rest).collect();
        let size = |index: &usize| pieces[*index].area.sm_count;
        let is_rest = |index: &usize| pieces[*index].part == Part::Remainder;
        let best = (1u32..1 << pieces.len())
            .map(|mask| (0..pieces.len()).filter(|index| mask >> index & 1 == 1).collect::<Vec<_>>())
            .filter(|set| set.iter().all(|index| pieces[*index].state == PieceState::Free))
            .filter(|set| !set.iter().all(is_rest))
            .filter(|set| joins || !set.iter().any(is_rest))
            .map(|set| set.iter().map(size).sum::<u32>())
            .filter(|sum| *sum >= asked)
            .min()
            // The remainder alone is the last resort.
            .or_else(|| (0..pieces.len()).find(is_rest).map(|index| size(&index)).filter(|sum| *sum >= asked));
        let chosen = choose(&pieces, true, joins, asked, |_| true).map(|choice| match choice {
            Choice::Pieces(pieces) => pieces,
            other => panic!("{other:?}"),
        });
        prop_assert_eq!(chosen.as_ref().map(|set| set.iter().map(size).sum::<u32>()), best);
        if let Some(mut set) = chosen {
            prop_assert!(set.iter().all(|index| pieces[*index].state == PieceState::Free));
            let len = set.len();
            set.sort_unstable();
            set.dedup();
            prop_assert_eq!(set.len(), len);
        }
        let available = available(&pieces, true, joins);
        prop_assert_eq!(choose(&pieces, true, joins, available.max(1), |_| true).is_some(), available > 0);
        prop_assert!(choose(&pieces, true, joins, available + 1, |_| true).is_none());
    }

    /// Without merging: a part of a free piece, enough and no more than rounding asks for, from one that
    /// keeps its clusters if any does.
    #[test]
    fn choosing_a_part_is_right_and_thrifty(
        sizes in prop::collection::vec((1..20u32, any::<bool>()), 1..6),
        asked in 1..160u32,
    ) {
        let facts = facts(132, (9, 0), (12, 4));
        let device = Area::device(&facts, 15);
        let pieces: Vec<Piece> = sizes
            .iter()
            .enumerate()
            .filter_map(|(index, (units, free))| {
                let size = device.size_of((units * 8).min(120))?;
                let (group, rest) = device.split(1, size)?;
                Some(piece(Part::Group(index), if index % 2 == 0 { group } else { rest }, *free))
            })
            .collect();
        let free = || pieces.iter().filter(|piece| piece.state == PieceState::Free);
        let most = free().map(|piece| piece.area.sm_count).max().unwrap_or(0);
        prop_assert_eq!(available(&pieces, false, false), most);
        match choose(&pieces, false, false, asked, |_| true) {
            None => prop_assert!(asked > most),
            Some(choice) => {
                let (index, given) = match choice {
                    Choice::Pieces(whole) => (whole[0], pieces[whole[0]].area.sm_count),
                    Choice::SplitOff { piece, sm_count } => (piece, sm_count),
                    other => panic!("{other:?}"),
                };
                prop_assert_eq!(pieces[index].state, PieceState::Free);
                prop_assert!(given >= asked && given <= pieces[index].area.sm_count);
                prop_assert!(given < asked.max(8) + 8, "{} for {}", given, asked);
            }
        }
    }
}

/// What was cut out of units merges with nothing, and the smallest that is enough is given.
#[test]
fn what_was_cut_out_stands_alone() {
    let unit = |index| piece(Part::Group(index), Area::fixed(8, 8), true);
    let cut = |part, sm_count| Piece {
        within: true,
        ..piece(part, Area::fixed(sm_count, 2), true)
    };
    let pieces = [
        unit(0),
        cut(Part::Group(1), 22),
        cut(Part::Remainder, 6),
        cut(Part::Remainder, 2),
    ];
    let chosen = |asked| choose(&pieces, true, false, asked, |_| true);
    for (asked, expected) in [(8, Some(0)), (9, Some(1)), (22, Some(1)), (23, None)] {
        let expected = expected.map(|index| Choice::Pieces(vec![index]));
        assert_eq!(chosen(asked), expected, "{asked}");
    }
    let without_unit = |asked| choose(&pieces[1..], true, false, asked, |_| true);
    for (asked, expected) in [(2, 2), (3, 1), (7, 0)] {
        assert_eq!(
            without_unit(asked),
            Some(Choice::Pieces(vec![expected])),
            "{asked}"
        );
    }
    assert_eq!(available(&pieces, true, false), 22);
}

//! Circles of imports among files.

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    path::{Path, PathBuf},
};

use super::tree::Import;

/// Returns a sentence for each circle through files of different rooms: the shortest one through each import between
/// rooms, each circle once.
pub fn circles(imports: &[Import]) -> Vec<String> {
    let mut next: BTreeMap<&Path, BTreeSet<&Path>> = BTreeMap::new();
    // The root exports what all rooms have; through it everything would be a circle.
    let rooms = imports
        .iter()
        .filter(|import| import.from_room.is_some() && import.to_room.is_some());
    for import in rooms.clone() {
        next.entry(&import.from).or_default().insert(&import.to);
    }
    let between = rooms.filter(|import| import.from_room != import.to_room);
    let circles = between.filter_map(|import| way(&next, &import.to, &import.from));
    let distinct: BTreeSet<_> = circles.map(first_in_front).collect();
    let sentences = distinct.into_iter().map(|mut circle| {
        circle.extend(circle.first().cloned());
        let files: Vec<_> = circle
            .iter()
            .map(|file| file.display().to_string())
            .collect();
        format!("a circle of rooms: {}", files.join(" -> "))
    });
    sentences.collect()
}

/// Returns the files on the shortest way from one to another, both included.
fn way(next: &BTreeMap<&Path, BTreeSet<&Path>>, from: &Path, to: &Path) -> Option<Vec<PathBuf>> {
    let mut before: BTreeMap<&Path, &Path> = BTreeMap::new();
    let mut queue = VecDeque::from([from]);
    while let Some(file) = queue.pop_front() {
        if file == to {
            let mut way = vec![file.to_path_buf()];
            let mut at = file;
            while at != from {
                at = before[at];
                way.push(at.to_path_buf());
            }
            way.reverse();
            return Some(way);
        }
        for &after in next.get(file).into_iter().flatten() {
            if after != from && !before.contains_key(after) {
                before.insert(after, file);
                queue.push_back(after);
            }
        }
    }
    None
}

/// Turns a circle so that its first file by name is in front.
fn first_in_front(mut circle: Vec<PathBuf>) -> Vec<PathBuf> {
    let files = circle.iter().enumerate();
    let first = files.min_by_key(|(_, file)| (*file).clone());
    let first = first.map_or(0, |(index, _)| index);
    circle.rotate_left(first);
    circle
}

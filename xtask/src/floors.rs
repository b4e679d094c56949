//! The order of the rooms of `cuda-green`, and of the crates: imports only point down.
//!
//! A room is a module right under `lib.rs`, with all files below it. ARCHITECTURE.md lists the rooms floor by floor
//! between two markers, and the test reads them from there. An import counts wherever it stands, in a `use` or in the
//! middle of an expression, and leads to the file that defines the item, through re-exports. Code that only tests
//! compile may import anything.

mod graph;
mod scan;
mod tree;

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
};

use tree::{Import, Tree};

/// The crates, each of which names only those before it.
const CRATES: [&str; 7] = [
    "cuda-green-sys",
    "cuda-green-sim",
    "cuda-green-sim-driver",
    "cuda-green",
    "cuda-green-queue",
    "cuda-green-embed",
    "cuda-green-cli",
];

/// Rooms by name, with the number of their floor, from 1 at the bottom.
type Floors = BTreeMap<String, usize>;

/// Returns the lines of a document between `<!-- name: ... -->` and `<!-- end -->`.
fn between<'a>(document: &'a str, name: &str) -> Vec<&'a str> {
    let start = format!("<!-- {name}:");
    let lines = document
        .lines()
        .skip_while(|line| !line.starts_with(&start));
    let lines = lines.skip(1).take_while(|line| *line != "<!-- end -->");
    lines.collect()
}

/// Returns the names between backticks in the second column of each row of a table.
fn rows(lines: &[&str]) -> Vec<Vec<String>> {
    let rows = lines.iter().filter_map(|line| line.split('|').nth(2));
    let names = rows.map(|cell| {
        let quoted = cell.split('`').skip(1).step_by(2);
        quoted.map(|name| name.trim_end_matches('/').to_owned())
    });
    let names = names.map(Iterator::collect::<Vec<_>>);
    names.filter(|names| !names.is_empty()).collect()
}

fn floors(document: &str) -> Floors {
    let rows = rows(&between(document, "floors"));
    let rooms = rows.into_iter().zip(1..);
    let rooms = rooms.flat_map(|(names, floor)| names.into_iter().map(move |name| (name, floor)));
    rooms.collect()
}

/// Returns a sentence for each rule that a crate's sources break.
fn broken(tree: &Tree, floors: &Floors) -> Vec<String> {
    let mut broken = Vec::new();
    for room in tree.rooms() {
        if !floors.contains_key(room) {
            broken.push(format!("the room `{room}` stands on no floor"));
        }
    }
    for room in floors.keys() {
        if !tree.rooms().contains(room.as_str()) {
            broken.push(format!(
                "a floor names the room `{room}`, which is not there"
            ));
        }
    }
    let imports = tree.imports();
    for import in &imports {
        broken.extend(through_the_root(import).or_else(|| upward(import, floors)));
    }
    if broken.is_empty() {
        // One import that points up closes many circles, which would only hide it.
        broken.extend(graph::circles(&imports));
    }
    broken.sort();
    broken.dedup();
    broken
}

/// Says so where an import takes an item from `lib.rs` instead of the room that has it.
fn through_the_root(import: &Import) -> Option<String> {
    if import.from_room.is_none() || import.named_room.is_some() {
        return None;
    }
    Some(format!(
        "{} imports {} through lib.rs: name the room that has it, {}",
        import.from.display(),
        import.path,
        import.to.display()
    ))
}

/// Says so where an import leads to a higher floor, by the room that it names or by the file where it ends.
fn upward(import: &Import, floors: &Floors) -> Option<String> {
    let from = import.from_room.as_ref()?;
    let rooms = [import.named_room.as_ref(), import.to_room.as_ref()];
    let higher = rooms.into_iter().flatten().find(|to| {
        let (Some(here), Some(there)) = (floors.get(from), floors.get(*to)) else {
            return false;
        };
        *to != from && there > here
    })?;
    Some(format!(
        "{} (floor {}) imports {} from {} (`{higher}`, floor {}): imports only point down",
        import.from.display(),
        floors[from],
        import.path,
        import.to.display(),
        floors[higher]
    ))
}

/// Returns a sentence for each crate that names one which comes after it in the list.
fn crates_broken(root: &Path) -> Vec<String> {
    let mut broken = Vec::new();
    for (index, name) in CRATES.iter().enumerate() {
        for file in sources(&root.join(name).join("src")) {
            let words = scan::words(&fs::read_to_string(&file).unwrap());
            for later in &CRATES[index + 1..] {
                if words.contains(&later.replace('-', "_")) {
                    broken.push(format!("{} names {later}", file.display()));
                }
            }
        }
    }
    broken
}

/// Returns all Rust files in a folder and the folders below it.
fn sources(folder: &Path) -> Vec<PathBuf> {
    let mut files = Vec::new();
    for entry in fs::read_dir(folder).into_iter().flatten() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            files.extend(sources(&path));
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            files.push(path);
        }
    }
    files
}

#[test]
fn imports_of_cuda_green_only_point_down() {
    let architecture = fs::read_to_string(crate::root().join("ARCHITECTURE.md")).unwrap();
    let floors = floors(&architecture);
    assert!(floors.len() > 10, "ARCHITECTURE.md lists the floors");
    let tree = Tree::read(&crate::root(), Path::new("cuda-green/src/lib.rs"));
    let broken = broken(&tree, &floors);
    assert!(broken.is_empty(), "{}", broken.join("\n"));
}

#[test]
fn crates_only_name_those_before_them() {
    let broken = crates_broken(&crate::root());
    assert!(broken.is_empty(), "{}", broken.join("\n"));
}

#[cfg(test)]
mod tests {
    use super::{Tree, between, broken, floors, rows};

    const TABLE: &str = "\
<!-- floors: for this test -->
| floor | rooms | what they are |
|---|---|---|
| 1 | `error`, `size` | |
| 2 | `driver/` | |
| 3 | `memory/` | `not_a_room` |
<!-- end -->
| 4 | `elsewhere` | |";

    /// Files that break no rule, and then what others say of them.
    fn with(files: &[(&str, &str)]) -> Vec<String> {
        let good = [
            (
                "lib.rs",
                "mod error; mod size; mod driver; mod memory; pub use error::Error; pub use memory::Pool;",
            ),
            ("error.rs", "pub enum Error { Size(crate::size::Size) }"),
            ("size.rs", "pub struct Size;"),
            (
                "driver.rs",
                "mod calls; pub(crate) use calls::call; use crate::{error::Error as E, size};",
            ),
            (
                "driver/calls.rs",
                "pub(crate) fn call() -> super::E { crate::error::Error }",
            ),
            ("memory.rs", "mod pool; pub use pool::Pool;"),
            (
                "memory/pool.rs",
                "use crate::{driver::{self, call}, error::*}; pub struct Pool;",
            ),
        ];
        let files = good.map(|(name, text)| {
            let other = files.iter().find(|(other, _)| *other == name);
            other.copied().unwrap_or((name, text))
        });
        broken(&Tree::of(&files), &floors(TABLE))
    }

    /// The only sentence about some files.
    fn only(files: &[(&str, &str)]) -> String {
        let mut broken = with(files);
        assert_eq!(broken.len(), 1, "{broken:#?}");
        broken.remove(0)
    }

    #[test]
    fn a_table_is_read() {
        let floors = floors(TABLE);
        assert_eq!(
            (
                floors["size"],
                floors["driver"],
                floors["memory"],
                floors.len()
            ),
            (1, 2, 3, 4)
        );
        assert!(between(TABLE, "walls").is_empty() && rows(&[]).is_empty());
    }

    #[test]
    fn what_is_in_order_is_not_blamed() {
        assert_eq!(with(&[]), [""; 0]);
    }

    #[test]
    fn an_upward_import_is_found_in_every_form() {
        let forms = [
            "use crate::memory::Pool;",
            "pub(crate) use crate::{error::Error, memory::{self}};",
            "use crate::{error, memory::{pool::{Pool as P}}};",
            "use super::memory::*;",
            "fn f() { let _ = crate::memory::Pool; }",
            "fn f() { assert!(matches!(x, crate::memory::Pool)); }",
            "mod inner { use super::super::memory::Pool; }",
            "use crate::error::Error; impl crate::memory::Pool {}",
            "type T = Vec<crate::memory::pool::Pool>;",
            "macro_rules! m { () => { $crate::memory::Pool } }",
        ];
        for form in forms {
            let found = only(&[("size.rs", form)]);
            assert!(
                found.starts_with("size.rs (floor 1) imports crate::memory"),
                "{form}: {found}"
            );
            assert!(found.contains("`memory`, floor 3"), "{form}: {found}");
        }
        let file = only(&[("size.rs", "use crate::memory::Pool;")]);
        assert!(file.contains("from memory/pool.rs"), "{file}");
    }

    #[test]
    fn an_upward_import_through_a_lower_room_is_found() {
        let found = with(&[
            ("size.rs", "pub use crate::memory::Pool;"),
            ("error.rs", "use crate::size::Pool;"),
        ]);
        assert_eq!(found.len(), 2, "{found:#?}");
        assert!(found[0].starts_with("error.rs (floor 1) imports crate::size::Pool"));
    }

    #[test]
    fn imports_through_the_root_are_found() {
        let forms = [
            "use crate::Error;",
            "use crate::{Error, size::Size};",
            "fn f() -> crate::Error { todo!() }",
            "use super::super::Error;",
        ];
        for form in forms {
            let found = only(&[(
                "driver/calls.rs",
                &format!("{form} pub(crate) fn call() {{}}"),
            )]);
            assert!(
                found.contains("crate::Error through lib.rs"),
                "{form}: {found}"
            );
            assert!(found.ends_with("error.rs"), "{form}: {found}");
        }
        assert!(with(&[("size.rs", "fn f() { crate::some_macro!(x) }")]).is_empty());
    }

    #[test]
    fn a_circle_on_one_floor_is_found_with_its_files() {
        let found = only(&[("size.rs", "use crate::error::Error; pub struct Size;")]);
        assert_eq!(found, "a circle of rooms: error.rs -> size.rs -> error.rs");
    }

    #[test]
    fn tests_words_and_visibilities_are_no_imports() {
        let forms = [
            "#[cfg(test)] mod tests { use crate::{Error, memory::Pool}; }",
            "#[cfg(all(test, not(miri)))] mod tests { fn f() { crate::memory::Pool; } }",
            "#[cfg(test)] use crate::memory::Pool;",
            "/// See [`crate::memory::Pool`].\nfn f() { \"crate::memory::Pool\"; /* crate::memory::Pool */ }",
            "pub(in crate::memory) struct S;",
            "struct memory; impl memory { fn f(self) { self.memory; other::memory::Pool } }",
        ];
        for form in forms {
            let text = format!("{form} pub struct Size;");
            assert_eq!(with(&[("size.rs", &text)]), [""; 0], "{form}");
        }
        let text = "#[cfg(not(test))] use crate::memory::Pool; pub struct Size;";
        assert_eq!(with(&[("size.rs", text)]).len(), 1);
        let after = "#[cfg(test)] mod tests {} use crate::memory::Pool; pub struct Size;";
        assert_eq!(with(&[("size.rs", after)]).len(), 1);
    }

    #[test]
    fn rooms_and_floors_are_the_same() {
        let lib = "mod error; mod size; mod driver; mod memory; mod attic { struct S; }";
        assert_eq!(
            only(&[("lib.rs", lib)]),
            "the room `attic` stands on no floor"
        );
        let lib = "mod error; mod size; mod driver;";
        let found = with(&[("lib.rs", lib)]);
        assert_eq!(
            found,
            ["a floor names the room `memory`, which is not there"]
        );
    }
}

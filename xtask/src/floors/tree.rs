//! The modules of a crate, and the file to which each import leads.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::{Path, PathBuf},
};

use super::scan::{Found, Scanned, scan};

/// More re-exports than this do not follow each other.
const REEXPORTS: usize = 16;

type ModulePath = Vec<String>;

/// The modules of a crate by their paths from its root.
pub struct Tree(BTreeMap<ModulePath, Module>);

struct Module {
    file: PathBuf,
    is_test: bool,
    content: Scanned,
}

/// An import, resolved.
pub struct Import {
    pub from: PathBuf,
    /// The room of the importing file; none for `lib.rs`.
    pub from_room: Option<String>,
    /// As one would write it, from `crate` on.
    pub path: String,
    /// The room that the path begins with; none where it names an item of `lib.rs`.
    pub named_room: Option<String>,
    /// The file that defines the item.
    pub to: PathBuf,
    pub to_room: Option<String>,
}

impl Tree {
    /// Reads a crate from the file of its root, which is named from a folder.
    pub fn read(folder: &Path, root: &Path) -> Self {
        Self::read_by(root, &|file| fs::read_to_string(folder.join(file)).ok())
    }

    /// Makes a crate of some files, the first of which is its root.
    #[cfg(test)]
    pub fn of(files: &[(&str, &str)]) -> Self {
        Self::read_by(Path::new(files[0].0), &|file| {
            let found = files.iter().find(|(name, _)| Path::new(name) == file);
            found.map(|(_, text)| (*text).to_owned())
        })
    }

    fn read_by(root: &Path, text: &dyn Fn(&Path) -> Option<String>) -> Self {
        let mut tree = Self(BTreeMap::new());
        let content = scan(&text(root).unwrap());
        let folder = root.parent().unwrap();
        tree.add(Vec::new(), root, folder, false, content, text);
        tree
    }

    /// Adds a module and all below it, whose files lie in a folder.
    fn add(
        &mut self,
        path: ModulePath,
        file: &Path,
        folder: &Path,
        is_test: bool,
        mut content: Scanned,
        text: &dyn Fn(&Path) -> Option<String>,
    ) {
        for child in &mut content.modules {
            let mut child_path = path.clone();
            child_path.push(child.name.clone());
            let is_test = is_test || child.is_test;
            let below = folder.join(&child.name);
            if let Some(content) = child.content.take() {
                self.add(child_path, file, &below, is_test, content, text);
                continue;
            }
            let files = [
                folder.join(format!("{}.rs", child.name)),
                below.join("mod.rs"),
            ];
            let found = files.iter().find_map(|file| Some((file, text(file)?)));
            // One that stands elsewhere, by `#[path]`, is no module of this crate's.
            if let Some((file, text_of)) = found {
                self.add(child_path, file, &below, is_test, scan(&text_of), text);
            }
        }
        let file = file.to_path_buf();
        let module = Module {
            file,
            is_test,
            content,
        };
        self.0.insert(path, module);
    }

    /// Returns the names of the modules right under the root that have code and are not only for tests.
    pub fn rooms(&self) -> BTreeSet<&str> {
        let code = self.0.iter().filter(|(_, module)| {
            let Scanned { items, paths, .. } = &module.content;
            !module.is_test && (!items.is_empty() || !paths.is_empty())
        });
        code.filter_map(|(path, _)| path.first().map(String::as_str))
            .collect()
    }

    /// Returns the imports of all files, but for those of tests, and those within a file.
    pub fn imports(&self) -> Vec<Import> {
        let modules = self.0.iter().filter(|(_, module)| !module.is_test);
        let imports = modules.flat_map(|(path, module)| {
            let found = module.content.paths.iter().filter(|found| !found.is_test);
            found.filter_map(|found| self.import(path, module, found))
        });
        imports.collect()
    }

    fn import(&self, path: &ModulePath, module: &Module, found: &Found) -> Option<Import> {
        let named = self.absolute(path, found)?;
        let to = self.owner(&named, REEXPORTS)?;
        let room = |path: &ModulePath| path.first().cloned();
        let named_room = room(&named).filter(|name| self.0.contains_key([name.clone()].as_slice()));
        // The macros of a crate that are exported stand at its root, wherever they are defined.
        if named_room.is_none() && (found.is_macro || named.is_empty()) {
            return None;
        }
        let target = &self.0[to];
        if target.file == module.file && room(to) == room(path) {
            return None;
        }
        Some(Import {
            from: module.file.clone(),
            from_room: room(path),
            path: format!("crate::{}", named.join("::")),
            named_room,
            to: target.file.clone(),
            to_room: room(to),
        })
    }

    /// Returns a path that stands in a module as one from the crate's root; none for one into another crate.
    fn absolute(&self, module: &ModulePath, found: &Found) -> Option<ModulePath> {
        let mut base = module.clone();
        let mut segments = found.segments.iter();
        let first = segments.next()?;
        match first.as_str() {
            "crate" => base.clear(),
            "self" => {}
            "super" => drop(base.pop()?),
            name => {
                let mut child = base.clone();
                child.push(name.to_owned());
                if self.0.contains_key(&child) {
                    base = child;
                } else if found.bound.is_none() {
                    base = self.bound(module, name)?;
                } else {
                    return None;
                }
            }
        }
        for segment in segments {
            if segment == "super" {
                base.pop()?;
            } else {
                base.push(segment.clone());
            }
        }
        Some(base)
    }

    /// Returns what a `use` of a module gives this name to.
    fn bound(&self, module: &ModulePath, name: &str) -> Option<ModulePath> {
        let content = &self.0.get(module)?.content;
        let mut uses = content.paths.iter();
        let found = uses.find(|found| found.bound.as_deref() == Some(name))?;
        self.absolute(module, found)
    }

    /// Returns the module that defines what a path from the root names.
    fn owner(&self, path: &[String], reexports: usize) -> Option<&ModulePath> {
        let depth = (0..=path.len())
            .rev()
            .find(|depth| self.0.contains_key(&path[..*depth]))?;
        let (module, content) = self.0.get_key_value(&path[..depth])?;
        let Some(name) = path.get(depth) else {
            return Some(module);
        };
        if reexports == 0 || content.content.items.contains(name) {
            return Some(module);
        }
        if let Some(target) = self.bound(module, name) {
            return self.owner(&target, reexports - 1);
        }
        let all = content.content.paths.iter();
        let all = all.filter(|found| found.bound.as_deref() == Some("*"));
        let mut through = all.filter_map(|found| {
            let mut target = self.absolute(module, found)?;
            let defines = &self.0.get(&target)?.content;
            let has_it = defines.items.contains(name) || self.bound(&target, name).is_some();
            target.push(name.clone());
            has_it.then_some(target)
        });
        match through.next() {
            Some(target) => self.owner(&target, reexports - 1),
            None => Some(module),
        }
    }
}

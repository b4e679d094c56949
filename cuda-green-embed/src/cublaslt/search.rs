//! The search for the library's file.

use std::{
    ffi::{OsStr, OsString},
    fs,
    mem::ManuallyDrop,
    path::{Path, PathBuf},
};

use libloading::Library;

use super::{CUBLASLT_VARIABLE, api::Functions};
use crate::error::{Error, Result};

/// The first version with the functions and values that the crate uses in the form in which it uses them.
const OLDEST: usize = 12;

/// A loaded library.
pub(super) struct Loaded {
    pub functions: Functions,
    pub path: PathBuf,
}

/// All that decides where the library is looked for.
pub(super) struct Surroundings<'a> {
    /// Returns the value of an environment variable.
    pub variable: &'a dyn Fn(&str) -> Option<OsString>,
    /// The root of the file system.
    pub root: &'a Path,
    /// Whether whoever started the process has fewer rights than it has, and so must not choose what it loads.
    pub privileged: bool,
    /// The major versions that the driver can serve, best first.
    pub majors: &'a [u32],
}

impl Surroundings<'_> {
    /// Loads the library: the one that the variable names, or else the first that is found.
    pub(super) fn load(&self) -> Result<Loaded> {
        if let Some(file) = self.value(CUBLASLT_VARIABLE) {
            return load_file(Path::new(&file));
        }
        let mut tried = Vec::new();
        let names = self.majors.iter().map(|major| file_name(*major));
        for candidate in names.map(PathBuf::from).chain(self.files()) {
            match load(&candidate) {
                Ok(loaded) => return Ok(loaded),
                Err(reason) => tried.push((candidate, reason)),
            }
        }
        Err(Error::CublasLtMissing {
            tried,
            folders: self.folders(),
            package: match self.majors.first() {
                Some(13..) => "nvidia-cublas",
                _ => "nvidia-cublas-cu12",
            },
        })
    }

    /// Returns the value of a variable that is set, unless it must not be used.
    fn value(&self, name: &str) -> Option<OsString> {
        let value = (self.variable)(name).filter(|value| !value.is_empty());
        value.filter(|_| !self.privileged)
    }

    /// Returns the files of the library's names in the folders.
    fn files(&self) -> Vec<PathBuf> {
        let in_folder = |folder: PathBuf| {
            let names = self.majors.iter().map(|major| file_name(*major));
            names
                .map(|name| folder.join(name))
                .filter(|file| file.is_file())
                .collect::<Vec<_>>()
        };
        let folders = self.folders().into_iter().flat_map(|p| matching(&p));
        let mut files: Vec<PathBuf> = Vec::new();
        for file in folders.flat_map(in_folder) {
            if !files.contains(&file) {
                files.push(file);
            }
        }
        files
    }

    /// Returns the folders in which the library is looked for, in order. A `*` stands for any text.
    pub(super) fn folders(&self) -> Vec<PathBuf> {
        let mut folders = Vec::new();
        for name in ["CUDA_HOME", "CUDA_PATH"] {
            let within = ["lib64", "lib", "bin/x64", "bin"];
            let home = self.value(name).map(PathBuf::from);
            folders.extend(
                within
                    .iter()
                    .filter_map(|sub| Some(home.as_ref()?.join(sub))),
            );
        }
        for name in ["VIRTUAL_ENV", "CONDA_PREFIX"] {
            if let Some(environment) = self.value(name).map(PathBuf::from) {
                folders.extend(wheels(&environment.join("lib/python3*/site-packages")));
                if cfg!(windows) {
                    folders.extend(wheels(&environment.join("Lib/site-packages")));
                    folders.push(environment.join("Library/bin"));
                }
                folders.push(environment.join("lib"));
            }
        }
        let system = [
            "usr/local/cuda/lib64",
            "usr/local/cuda-*/lib64",
            "usr/lib/x86_64-linux-gnu",
            "usr/lib/aarch64-linux-gnu",
            "usr/lib64",
        ];
        folders.extend(system.map(|folder| self.root.join(folder)));
        if let Some(home) = self.value("HOME") {
            folders.extend(wheels(
                &Path::new(&home).join(".local/lib/python3*/site-packages"),
            ));
        }
        let python = [
            "usr/local/lib/python3*/dist-packages",
            "usr/local/lib/python3*/site-packages",
            "usr/lib/python3*/dist-packages",
            "usr/lib/python3*/site-packages",
        ];
        folders.extend(
            python
                .iter()
                .flat_map(|folder| wheels(&self.root.join(folder))),
        );
        folders
    }
}

/// Loads the library from a file that the user names.
pub(super) fn load_file(path: &Path) -> Result<Loaded> {
    load(path).map_err(|reason| Error::CublasLtUnloadable {
        path: path.to_owned(),
        reason,
    })
}

/// Loads a library; the error is the reason why not.
fn load(path: &Path) -> Result<Loaded, String> {
    // SAFETY: the initialisers of the library that the user or the system names as cuBLASLt are trusted, as by every
    // program linked to it.
    let library = unsafe { Library::new(path) }.map_err(|error| reason(&error))?;
    // It may have started threads: it is never unloaded, even if it is refused.
    let library = ManuallyDrop::new(library);
    // SAFETY: as above, and as the names say.
    let functions = unsafe { Functions::of(&library) }.map_err(|error| reason(&error))?;
    // SAFETY: the function takes nothing.
    let version = unsafe { (functions.get_version)() };
    if version / 10_000 < OLDEST {
        return Err(format!("version {version}; {OLDEST} or later is needed"));
    }
    Ok(Loaded {
        functions,
        path: path.to_owned(),
    })
}

/// Returns the loader's own words.
fn reason(error: &libloading::Error) -> String {
    let source = std::error::Error::source(error);
    source.map_or_else(|| error.to_string(), ToString::to_string)
}

/// Returns the library's file name in a major version.
fn file_name(major: u32) -> String {
    if cfg!(windows) {
        format!("cublasLt64_{major}.dll")
    } else {
        format!("libcublasLt.so.{major}")
    }
}

/// Returns the folders of a Python environment's packages in which NVIDIA's wheels have their libraries: since CUDA 13
/// in a common one, before in one for each.
fn wheels(packages: &Path) -> [PathBuf; 2] {
    if cfg!(windows) {
        ["nvidia/cu13/bin/x86_64", "nvidia/cublas/bin"].map(|folder| packages.join(folder))
    } else {
        ["nvidia/cu13/lib", "nvidia/cublas/lib"].map(|folder| packages.join(folder))
    }
}

/// Returns the paths that there are of a pattern: those in which one name may stand for its `*`. Later names come first,
/// so that `cuda-13.1` comes before `cuda-12.9`.
fn matching(pattern: &Path) -> Vec<PathBuf> {
    let mut found = vec![PathBuf::new()];
    for part in pattern.components() {
        let part: &OsStr = part.as_os_str();
        match part.to_str().and_then(|part| part.split_once('*')) {
            None => found.iter_mut().for_each(|path| path.push(part)),
            Some((start, end)) => {
                let fits = |name: &OsStr| {
                    let rest = name.to_str().and_then(|name| name.strip_prefix(start));
                    rest.is_some_and(|rest| rest.ends_with(end))
                };
                let within = |path: &PathBuf| {
                    let entries = fs::read_dir(path).into_iter().flatten().flatten();
                    let mut paths: Vec<_> = entries
                        .filter(|entry| fits(&entry.file_name()))
                        .map(|entry| entry.path())
                        .collect();
                    paths.sort();
                    paths.reverse();
                    paths
                };
                found = found.iter().flat_map(within).collect();
            }
        }
    }
    found
}

#[cfg(test)]
#[cfg(unix)]
mod tests {
    use std::collections::HashMap;

    use super::*;

    /// A file system of its own, and an environment.
    struct Machine {
        root: tempfile::TempDir,
        variables: HashMap<&'static str, OsString>,
        privileged: bool,
        majors: &'static [u32],
    }

    impl Machine {
        fn new() -> Self {
            Self {
                root: tempfile::tempdir().unwrap(),
                variables: HashMap::new(),
                privileged: false,
                majors: &[13, 12],
            }
        }

        /// Puts a file there that no loader takes.
        fn put(&self, path: &str) -> PathBuf {
            let path = self.root.path().join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(&path, "no library").unwrap();
            path
        }

        fn set(&mut self, name: &'static str, value: impl Into<OsString>) {
            self.variables.insert(name, value.into());
        }

        fn search<T>(&self, search: impl FnOnce(&Surroundings<'_>) -> T) -> T {
            search(&Surroundings {
                variable: &|name| self.variables.get(name).cloned(),
                root: self.root.path(),
                privileged: self.privileged,
                majors: self.majors,
            })
        }

        fn error(&self) -> Error {
            self.search(|search| search.load()).err().unwrap()
        }
    }

    #[test]
    fn files_are_found_in_order() {
        let mut machine = Machine::new();
        let home = machine.root.path().join("home/me");
        machine.set("HOME", &home);
        machine.set("VIRTUAL_ENV", machine.root.path().join("venv"));
        machine.set("CONDA_PREFIX", machine.root.path().join("conda"));
        machine.set("CUDA_HOME", machine.root.path().join("opt/cuda"));
        machine.set("CUDA_PATH", "");
        let files = [
            "opt/cuda/lib64/libcublasLt.so.13",
            "opt/cuda/lib64/libcublasLt.so.12",
            "venv/lib/python3.12/site-packages/nvidia/cu13/lib/libcublasLt.so.13",
            "venv/lib/python3.12/site-packages/nvidia/cublas/lib/libcublasLt.so.12",
            "conda/lib/libcublasLt.so.12",
            "usr/local/cuda/lib64/libcublasLt.so.12",
            "usr/local/cuda-13.1/lib64/libcublasLt.so.13",
            "usr/local/cuda-12.9/lib64/libcublasLt.so.12",
            "usr/lib/x86_64-linux-gnu/libcublasLt.so.12",
            "home/me/.local/lib/python3.11/site-packages/nvidia/cublas/lib/libcublasLt.so.12",
            "usr/local/lib/python3.13/site-packages/nvidia/cu13/lib/libcublasLt.so.13",
            "usr/lib/python3/dist-packages/nvidia/cublas/lib/libcublasLt.so.12",
        ];
        // None of these is one.
        machine.put("usr/local/cuda/lib64/libcublasLt.so.11");
        machine.put("usr/local/cuda/lib64/libcublasLt.so");
        machine.put("usr/local/nocuda-13/lib64/libcublasLt.so.13");
        machine.put("libcublasLt.so.13");
        let files: Vec<_> = files
            .iter()
            .rev()
            .map(|file| machine.put(file))
            .rev()
            .collect();
        assert_eq!(machine.search(|search| search.files()), files);

        let Error::CublasLtMissing {
            tried,
            folders,
            package,
        } = machine.error()
        else {
            panic!("not missing")
        };
        let names = ["libcublasLt.so.13", "libcublasLt.so.12"].map(PathBuf::from);
        let paths: Vec<_> = tried.iter().map(|(path, _)| path.clone()).collect();
        assert_eq!(paths, [&names[..], &files].concat());
        assert!(tried.iter().all(|(_, reason)| !reason.is_empty()));
        assert!(folders.contains(&machine.root.path().join("usr/local/cuda-*/lib64")));
        assert_eq!(package, "nvidia-cublas");
    }

    #[test]
    fn an_older_driver_gets_no_newer_library() {
        let mut machine = Machine::new();
        machine.majors = &[12];
        machine.put("usr/local/cuda/lib64/libcublasLt.so.13");
        let older = machine.put("usr/local/cuda/lib64/libcublasLt.so.12");
        assert_eq!(machine.search(|search| search.files()), [older]);
        let said = machine.error().to_string();
        assert!(said.contains("pip install nvidia-cublas-cu12"), "{said}");
    }

    #[test]
    fn the_variable_names_the_only_file_that_is_tried() {
        let mut machine = Machine::new();
        machine.put("usr/local/cuda/lib64/libcublasLt.so.13");
        let mine = machine.put("mine.so");
        machine.set(CUBLASLT_VARIABLE, &mine);
        let said = machine.error().to_string();
        assert!(
            said.contains("mine.so") && said.contains(CUBLASLT_VARIABLE),
            "{said}"
        );
        assert!(matches!(machine.error(), Error::CublasLtUnloadable { path, .. } if path == mine));
        // A library, but of something else.
        machine.set(CUBLASLT_VARIABLE, "libm.so.6");
        let said = machine.error().to_string();
        assert!(said.contains("cublasLtGetVersion"), "{said}");
    }

    #[test]
    fn a_process_with_raised_privileges_reads_no_variable() {
        let mut machine = Machine::new();
        let mine = machine.put("mine/lib/libcublasLt.so.13");
        for name in [CUBLASLT_VARIABLE, "CUDA_HOME", "CONDA_PREFIX", "HOME"] {
            machine.set(name, machine.root.path().join("mine"));
        }
        assert_eq!(machine.search(|search| search.files()), [mine]);
        machine.privileged = true;
        assert!(machine.search(|search| search.files()).is_empty());
        assert!(matches!(machine.error(), Error::CublasLtMissing { .. }));
    }
}

//! The program's output: standard output, whose reader may be gone, and files, which are opened before the measurement
//! that they are for.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, Write},
    path::{Path, PathBuf},
};

use anyhow::Context;

/// Prints text to standard output. If the reader is gone, the command goes on, so that its exit code still says what
/// it found.
pub fn print(text: &str) -> anyhow::Result<()> {
    let mut stdout = anstream::stdout().lock();
    let written = stdout
        .write_all(text.as_bytes())
        .and_then(|()| stdout.flush());
    match written {
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        written => written.context("cannot write to standard output"),
    }
}

/// A file to be written at the end of a long run. It is opened at the start, so that an error shows at once. Its old
/// content stays until it is written.
pub struct OutputFile {
    path: PathBuf,
    file: File,
    /// Whether the file is new and still empty.
    new: bool,
}

impl OutputFile {
    /// Opens a file, or creates it.
    pub fn open(path: &Path) -> anyhow::Result<Self> {
        let open = |new| -> io::Result<Self> {
            let mut options = OpenOptions::new();
            options.write(true).create(true).truncate(false);
            let file = options.create_new(new).open(path)?;
            let path = path.to_owned();
            Ok(Self { path, file, new })
        };
        match open(true) {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => open(false),
            opened => opened,
        }
        .with_context(|| format!("cannot write {}", path.display()))
    }

    /// Replaces the content.
    pub fn write(mut self, text: &str) -> anyhow::Result<()> {
        self.replace(text)
            .with_context(|| format!("cannot write {}", self.path.display()))?;
        self.new = false;
        Ok(())
    }

    fn replace(&mut self, text: &str) -> io::Result<()> {
        // Pipes and terminals have no length.
        if self.file.metadata()?.is_file() {
            self.file.set_len(0)?;
        }
        self.file.write_all(text.as_bytes())
    }
}

impl Drop for OutputFile {
    fn drop(&mut self) {
        if self.new {
            // Nothing was written, and an empty file would look like a result. If it cannot be removed, it does no
            // harm.
            let _ = fs::remove_file(&self.path);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_replaced_only_when_it_is_written() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("x.svg");
        drop(OutputFile::open(&path).unwrap());
        assert!(!path.exists(), "nothing was written, so nothing is left");
        OutputFile::open(&path)
            .unwrap()
            .write("first, long")
            .unwrap();
        drop(OutputFile::open(&path).unwrap());
        assert_eq!(fs::read_to_string(&path).unwrap(), "first, long");
        OutputFile::open(&path).unwrap().write("second").unwrap();
        assert_eq!(fs::read_to_string(&path).unwrap(), "second");
    }

    #[test]
    fn what_cannot_be_written_is_told_when_it_is_opened() {
        let folder = tempfile::tempdir().unwrap();
        for path in [folder.path().to_owned(), folder.path().join("none/x.svg")] {
            let error = OutputFile::open(&path).err().unwrap();
            let said = format!("{error:#}");
            let cannot = format!("cannot write {}: ", path.display());
            assert!(said.starts_with(&cannot), "{said}");
        }
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0);
    }

    #[test]
    #[cfg(unix)]
    fn a_link_to_nothing_is_written_through() {
        let folder = tempfile::tempdir().unwrap();
        let [link, end] = ["link", "end"].map(|name| folder.path().join(name));
        std::os::unix::fs::symlink(&end, &link).unwrap();
        OutputFile::open(&link).unwrap().write("text").unwrap();
        assert_eq!(fs::read_to_string(&end).unwrap(), "text");
    }
}

//! A JSON file of the model folder, and the checked reading of its members.

use std::{
    fs::File,
    io::{ErrorKind, Read},
    path::{Path, PathBuf},
};

use serde_json::Value;

use crate::error::{Error, Result};

/// The longest file that is read: the largest of published models, a multilingual vocabulary, has 17 MB.
const MOST_BYTES: u64 = 64 << 20;

/// A file and its content.
#[derive(Debug)]
pub(crate) struct JsonFile {
    path: PathBuf,
    value: Value,
}

impl JsonFile {
    /// Reads a file that must be there.
    pub(crate) fn read(path: PathBuf) -> Result<Self> {
        match Self::read_if_present(path.clone())? {
            Some(file) => Ok(file),
            None => Err(error(&path, "there is no such file")),
        }
    }

    /// Reads a file that may be absent.
    pub(crate) fn read_if_present(path: PathBuf) -> Result<Option<Self>> {
        let file = match File::open(&path) {
            Ok(file) => file,
            Err(failure) if failure.kind() == ErrorKind::NotFound => return Ok(None),
            Err(failure) => return Err(error(&path, failure)),
        };
        let mut bytes = Vec::new();
        let read = file.take(MOST_BYTES + 1).read_to_end(&mut bytes);
        read.map_err(|failure| error(&path, failure))?;
        if bytes.len() as u64 > MOST_BYTES {
            return Err(error(&path, format!("longer than {MOST_BYTES} bytes")));
        }
        match serde_json::from_slice(&bytes) {
            Ok(value) => Ok(Some(Self { path, value })),
            Err(failure) => Err(error(&path, format!("not JSON: {failure}"))),
        }
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    pub(crate) fn into_value(self) -> Value {
        self.value
    }

    /// Returns the elements of a file that is a list of objects.
    pub(crate) fn elements(&self) -> Result<impl Iterator<Item = Members<'_>>> {
        let Value::Array(elements) = &self.value else {
            return Err(error(&self.path, expected("a list", &self.value)));
        };
        let path = &self.path;
        Ok(elements.iter().map(move |value| Members { path, value }))
    }

    /// Returns the members of a file that is an object.
    pub(crate) fn members(&self) -> Members<'_> {
        Members {
            path: &self.path,
            value: &self.value,
        }
    }
}

/// The members of an object in a file. A member that is `null` counts as absent, as for the programs that write these
/// files.
#[derive(Clone, Copy)]
pub(crate) struct Members<'a> {
    path: &'a Path,
    value: &'a Value,
}

impl<'a> Members<'a> {
    pub(crate) fn get(self, key: &str) -> Result<Option<&'a Value>> {
        match self.value {
            Value::Object(members) => Ok(members.get(key).filter(|value| !value.is_null())),
            other => Err(error(self.path, expected("an object", other))),
        }
    }

    pub(crate) fn string(self, key: &str) -> Result<Option<&'a str>> {
        self.member(key, "a string", Value::as_str)
    }

    pub(crate) fn boolean(self, key: &str) -> Result<Option<bool>> {
        self.member(key, "true or false", Value::as_bool)
    }

    pub(crate) fn float(self, key: &str) -> Result<Option<f64>> {
        self.member(key, "a number", Value::as_f64)
    }

    /// Returns a size between 1 and `most`.
    pub(crate) fn size(self, key: &str, most: usize) -> Result<Option<usize>> {
        let wanted = format!("a whole number from 1 to {most}");
        self.member(key, &wanted, |value| {
            let size = usize::try_from(value.as_u64()?).ok()?;
            (1..=most).contains(&size).then_some(size)
        })
    }

    /// Returns a size between 1 and `most` that must be there.
    pub(crate) fn required_size(self, key: &str, most: usize) -> Result<usize> {
        match self.size(key, most)? {
            Some(size) => Ok(size),
            None => Err(self.absent(key)),
        }
    }

    /// Makes the error for a member that must be there.
    pub(crate) fn absent(self, key: &str) -> Error {
        self.refuse(format!("`{key}` is missing"))
    }

    /// Makes an error about the file.
    pub(crate) fn refuse(self, reason: impl ToString) -> Error {
        error(self.path, reason)
    }

    /// Makes the error for a file that asks for what this crate does not do.
    pub(crate) fn unsupported(
        self,
        property: &'static str,
        found: impl ToString,
        supported: &'static str,
    ) -> Error {
        Error::UnsupportedModel {
            path: self.path.to_owned(),
            property,
            found: shortened(found.to_string()),
            supported,
        }
    }

    fn member<T>(
        self,
        key: &str,
        wanted: &str,
        convert: impl FnOnce(&'a Value) -> Option<T>,
    ) -> Result<Option<T>> {
        let Some(value) = self.get(key)? else {
            return Ok(None);
        };
        match convert(value) {
            Some(value) => Ok(Some(value)),
            None => Err(self.refuse(format!("`{key}`: {}", expected(wanted, value)))),
        }
    }
}

pub(crate) fn error(path: &Path, reason: impl ToString) -> Error {
    Error::File {
        path: path.to_owned(),
        reason: reason.to_string(),
    }
}

fn expected(wanted: &str, found: &Value) -> String {
    format!("expected {wanted}, found {}", shortened(found.to_string()))
}

/// Cuts what a file says to a length that an error message can bear.
fn shortened(mut text: String) -> String {
    if let Some((end, _)) = text.char_indices().nth(80) {
        text.truncate(end);
        text.push('…');
    }
    text
}

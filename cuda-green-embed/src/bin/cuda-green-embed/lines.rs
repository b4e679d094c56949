//! The lines of the input as texts, read when they are asked for.

use std::{
    io::{self, BufRead, Read},
    sync::{Mutex, PoisonError},
};

use anyhow::{Context, anyhow, bail};

/// The longest line in bytes: longer than any text that counts, and short enough to be held for each thread.
const LONGEST: u64 = 16 << 20;

/// The place where the iterator leaves the reason for which it has ended early.
#[derive(Default)]
pub struct Failure(Mutex<Option<anyhow::Error>>);

impl Failure {
    pub fn into_result(self) -> anyhow::Result<()> {
        let failure = self.0.into_inner().unwrap_or_else(PoisonError::into_inner);
        failure.map_or(Ok(()), Err)
    }

    fn set(&self, error: anyhow::Error) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(error);
    }
}

/// Returns the texts of the lines, up to the first line that is none.
pub fn texts<'a>(
    mut input: impl BufRead + Send + 'a,
    json: bool,
    failure: &'a Failure,
) -> impl Iterator<Item = String> + Send + 'a {
    let mut line = Vec::new();
    let mut number = 0u64;
    std::iter::from_fn(move || {
        number += 1;
        let text = read(&mut input, &mut line, json);
        text.with_context(|| format!("line {number} of standard input"))
            .unwrap_or_else(|error| {
                failure.set(error);
                None
            })
    })
    .fuse()
}

/// Reads a line; none at the end of the input.
fn read(
    input: &mut impl BufRead,
    line: &mut Vec<u8>,
    json: bool,
) -> anyhow::Result<Option<String>> {
    line.clear();
    // One more for the line break.
    let read = input.take(LONGEST + 1).read_until(b'\n', line);
    if read.map_err(unreadable)? == 0 {
        return Ok(None);
    }
    if line.last() == Some(&b'\n') {
        line.pop();
    } else if line.len() as u64 > LONGEST {
        bail!("it is longer than {} MiB", LONGEST >> 20);
    }
    if json {
        let text = serde_json::from_slice(line);
        return text.map(Some).map_err(|error| anyhow!("{}", told(&error)));
    }
    if line.last() == Some(&b'\r') {
        line.pop();
    }
    match std::str::from_utf8(line) {
        Ok(text) => Ok(Some(text.to_owned())),
        Err(error) => bail!(
            "it is not UTF-8 from its byte {} on",
            error.valid_up_to() + 1
        ),
    }
}

fn unreadable(error: io::Error) -> anyhow::Error {
    anyhow!("it cannot be read: {error}")
}

/// Returns what is wrong with a line of JSON. serde_json counts lines within it, which would confuse.
fn told(error: &serde_json::Error) -> String {
    let text = error.to_string();
    let place = format!(" at line {} column {}", error.line(), error.column());
    let reason = text.strip_suffix(&place).unwrap_or(&text);
    format!(
        "it is not a JSON string, such as \"a text\": {reason} at column {}",
        error.column()
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn all(input: &[u8], json: bool) -> (Vec<String>, Option<String>) {
        let failure = Failure::default();
        let found = texts(input, json, &failure).collect();
        let error = failure.into_result().err();
        (found, error.map(|error| format!("{error:#}")))
    }

    #[test]
    fn each_line_is_a_text() {
        let (found, error) = all("one\r\n\n ünï \nlast".as_bytes(), false);
        assert_eq!(found, ["one", "", " ünï ", "last"]);
        assert_eq!(error, None);
        assert_eq!(all(b"", false), (vec![], None));
        let (found, error) = all(b"\"a\\nb\"\n \"c\" \r\n", true);
        assert_eq!((found, error), (vec!["a\nb".into(), "c".into()], None));
    }

    #[test]
    fn the_first_line_that_is_none_is_named() {
        let (found, error) = all(b"\"a\"\n[1]\n\"b\"\n", true);
        assert_eq!(found, ["a"]);
        let error = error.unwrap();
        assert!(
            error.starts_with("line 2 of standard input: it is not a JSON string"),
            "{error}"
        );
        let (found, error) = all(b"a\nb\xff\nc\n", false);
        assert_eq!(found, ["a"]);
        assert!(error.unwrap().contains("line 2") && all(b"\n", true).1.is_some());
    }

    #[test]
    fn a_line_without_an_end_is_not_held() {
        let endless = io::BufReader::new(io::repeat(b'x'));
        let failure = Failure::default();
        assert_eq!(texts(endless, false, &failure).count(), 0);
        let error = format!("{:#}", failure.into_result().unwrap_err());
        assert!(
            error.contains("line 1") && error.contains("16 MiB"),
            "{error}"
        );
        let longest = vec![b'x'; LONGEST as usize];
        assert_eq!(all(&longest, false).1, None);
    }
}

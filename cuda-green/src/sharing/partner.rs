//! The second process of the test whether groups are apart: a program that the first one starts, and the lines that they exchange.

use std::{
    ffi::OsString,
    io::{BufRead, BufReader, Read},
    os::{
        fd::{AsRawFd, OwnedFd},
        unix::net::UnixStream,
    },
    path::PathBuf,
    process::{Child, Command, Stdio},
    sync::mpsc::{Receiver, RecvTimeoutError, sync_channel},
    thread,
    time::{Duration, Instant},
};

use crate::sharing_error::SharingError;

/// How long the partner may take for an answer: to start, load a driver and make contexts.
const PATIENCE: Duration = Duration::from_secs(if cfg!(test) { 5 } else { 20 });
/// How long it may take to end once its input has.
const LEAVING: Duration = Duration::from_secs(if cfg!(test) { 1 } else { 5 });
/// The most bytes of a line.
const LONGEST: u64 = 64 << 10;
/// The most lines that wait to be read here; a program that writes more waits itself.
const LINES: usize = 16;

/// The program that serves as the second process.
#[derive(Clone, Debug)]
pub(crate) struct PartnerProgram {
    pub(crate) program: PathBuf,
    pub(crate) arguments: Vec<OsString>,
}

/// The second process.
pub(crate) struct Partner {
    process: Child,
    /// No pipe: writing to a program that has ended would end this process, where it has the default for `SIGPIPE`.
    input: Option<UnixStream>,
    lines: Receiver<String>,
    program: PathBuf,
}

impl Partner {
    pub(crate) fn start(program: &PartnerProgram) -> Result<Self, SharingError> {
        let failed = |error| SharingError::Io {
            what: "starting the second process of the test,",
            path: program.program.clone(),
            error,
        };
        let (input, theirs) = UnixStream::pair().map_err(failed)?;
        let mut process = Command::new(&program.program)
            .args(&program.arguments)
            .stdin(OwnedFd::from(theirs))
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .map_err(failed)?;
        let (sender, lines) = sync_channel(LINES);
        let output = process.stdout.take();
        // From here on it is ended in any case.
        let partner = Self {
            process,
            input: Some(input),
            lines,
            program: program.program.clone(),
        };
        if let Some(output) = output {
            let mut output = BufReader::new(output);
            // The thread ends with the output, which ends with the process, or when nobody reads its lines.
            let read = move || {
                let mut line = String::new();
                while matches!(output.by_ref().take(LONGEST).read_line(&mut line), Ok(1..))
                    && sender.send(std::mem::take(&mut line)).is_ok()
                {}
            };
            let thread = thread::Builder::new().name("cuda-green-partner".to_owned());
            thread.spawn(read).map_err(failed)?;
        }
        Ok(partner)
    }

    /// Says something; a partner that has ended is noticed by its answer.
    pub(crate) fn say(&mut self, text: &str) {
        let Some(input) = &self.input else {
            return;
        };
        let bytes = text.as_bytes();
        // SAFETY: the descriptor is open, and the bytes are as many. A line fits into the socket, or is lost, and with it
        // the answer.
        let _ = unsafe {
            libc::send(
                input.as_raw_fd(),
                bytes.as_ptr().cast(),
                bytes.len(),
                libc::MSG_NOSIGNAL | libc::MSG_DONTWAIT,
            )
        };
    }

    /// Waits for an answer that begins with a word; returns the rest of it. Other lines, such as those of a program's own, are
    /// passed over.
    pub(crate) fn answer(&self, word: &str) -> Result<String, SharingError> {
        let end = Instant::now() + PATIENCE;
        loop {
            let left = end.saturating_duration_since(Instant::now());
            // Lines that are there already come without a wait.
            let line = match left.is_zero() {
                true => Err(RecvTimeoutError::Timeout),
                false => self.lines.recv_timeout(left),
            };
            let line = line.map_err(|error| {
                let problem = match error {
                    RecvTimeoutError::Timeout => "it does not answer",
                    RecvTimeoutError::Disconnected => "it has ended",
                };
                self.failed(problem.to_owned())
            })?;
            let Some(said) = line.trim_end().strip_prefix("@ ") else {
                continue;
            };
            let (first, rest) = said.split_once(' ').unwrap_or((said, ""));
            if first == word {
                return Ok(rest.to_owned());
            }
            return Err(self.failed(said.to_owned()));
        }
    }

    fn failed(&self, problem: String) -> SharingError {
        SharingError::Partner {
            program: self.program.clone(),
            problem,
        }
    }
}

impl Drop for Partner {
    fn drop(&mut self) {
        self.input = None; // by which it is told to end
        let end = Instant::now() + LEAVING;
        while matches!(self.process.try_wait(), Ok(None)) && Instant::now() < end {
            thread::sleep(Duration::from_millis(1));
        }
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shell(script: &str) -> Partner {
        let program = PartnerProgram {
            program: "sh".into(),
            arguments: vec!["-c".into(), script.into()],
        };
        Partner::start(&program).unwrap()
    }

    #[test]
    #[cfg_attr(miri, ignore)] // starts processes
    fn answers_are_told_apart_from_other_lines_and_ends_are_noticed() {
        let mut partner = shell("echo hello; read x; echo \"@ ready $x\"; echo '@ error full'");
        partner.say("7\n");
        assert_eq!(partner.answer("ready").unwrap(), "7");
        let error = partner.answer("held").unwrap_err().to_string();
        assert!(error.contains("error full"), "{error}");
        let error = partner.answer("held").unwrap_err().to_string();
        assert!(error.contains("it has ended"), "{error}");
        partner.say("more\n"); // is no error, and no signal
    }

    /// Lines that nobody wants keep no one waiting for ever.
    #[test]
    #[cfg_attr(miri, ignore)] // starts processes
    fn a_program_that_writes_without_end_does_not_answer() {
        let partner = shell("while :; do echo more; done");
        let error = partner.answer("ready").unwrap_err().to_string();
        assert!(error.contains("it does not answer"), "{error}");
    }

    #[test]
    #[cfg_attr(miri, ignore)] // starts processes
    fn a_program_that_is_missing_is_named() {
        let none = PartnerProgram {
            program: "/none".into(),
            arguments: Vec::new(),
        };
        let missing = Partner::start(&none);
        assert!(matches!(missing, Err(SharingError::Io { .. })));
    }
}

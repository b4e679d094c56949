//! Registries' own clients, and what they say where they fail.

use anyhow::{Context, Result, bail};
use xshell::Cmd;

/// Runs a client without a word where it succeeds. Its failure is reported in its own words; that it cannot be
/// started, by what it is needed for.
pub(super) fn run(command: Cmd<'_>, needed: &str) -> Result<()> {
    let name = command.to_string();
    let name = name.split(' ').next().unwrap_or_default().to_owned();
    let output = command
        .quiet()
        .ignore_status()
        .output()
        .with_context(|| needed.to_owned())?;
    if output.status.success() {
        return Ok(());
    }
    let said = words(&String::from_utf8_lossy(&output.stderr));
    if said.is_empty() {
        bail!("{name} failed without a word ({})", output.status);
    }
    bail!("{name} failed: {said}");
}

/// Picks the errors among the lines that a client wrote, after the first of the others, which are often the same thing
/// again and again: pip warns of a connection that fails each time that it tries, and its errors at the end do
/// not speak of that.
fn words(stderr: &str) -> String {
    let lines = || {
        stderr
            .lines()
            .map(str::trim)
            .filter(|line| !line.is_empty())
    };
    let is_error = |line: &&str| {
        ["ERROR", "E:", "dpkg"]
            .iter()
            .any(|start| line.starts_with(start))
    };
    let first = lines().find(|line| !is_error(line));
    let mut said: Vec<&str> = first.into_iter().chain(lines().filter(is_error)).collect();
    said.dedup();
    said.join("; ")
}

#[cfg(test)]
mod tests {
    use xshell::{Shell, cmd};

    use super::*;

    fn fails(script: &str) -> String {
        let shell = Shell::new().unwrap();
        let error = run(cmd!(shell, "sh -c {script}"), "sh is needed").unwrap_err();
        format!("{error:#}")
    }

    #[test]
    fn a_client_that_fails_says_why_itself() {
        let retries = "for i in 4 3 2; do echo \"WARNING: Retrying (total=$i): connection refused\" >&2; done; \
                       echo 'ERROR: No matching distribution found for x' >&2; exit 1";
        assert_eq!(
            fails(retries),
            "sh failed: WARNING: Retrying (total=4): connection refused; \
             ERROR: No matching distribution found for x"
        );
        assert_eq!(
            fails("echo 'python3: No module named pip' >&2; exit 1"),
            "sh failed: python3: No module named pip"
        );
        assert_eq!(fails("exit 3"), "sh failed without a word (exit status: 3)");
    }

    #[test]
    fn a_client_that_is_not_there_is_named_with_its_purpose() {
        let shell = Shell::new().unwrap();
        let error = run(cmd!(shell, "no-such-client --flag"), "it is needed").unwrap_err();
        let said = format!("{error:#}");
        assert!(
            said.starts_with("it is needed: ") && said.contains("no-such-client"),
            "{said}"
        );
        assert!(run(cmd!(shell, "true"), "").is_ok());
    }
}

//! The output for shells and `man`: completions that shells can read, and a page for every command.

use std::{
    fs,
    path::Path,
    process::{Command, Stdio},
};

use crate::common::{note, run, text};

const PAGES: [&str; 10] = [
    "cuda-green",
    "cuda-green-demo",
    "cuda-green-info",
    "cuda-green-plan",
    "cuda-green-map",
    "cuda-green-check",
    "cuda-green-partitions",
    "cuda-green-partitions-end",
    "cuda-green-bench",
    "cuda-green-bench-isolation",
];

fn is_there(program: &str) -> bool {
    let mut command = Command::new(program);
    command
        .arg("--version")
        .stdout(Stdio::null())
        .stderr(Stdio::null());
    command.status().is_ok()
}

#[test]
fn bash_completes_commands_and_options() {
    if !is_there("bash") {
        return note("completions of bash: there is no bash");
    }
    let complete = |words: &str, at: usize| {
        let script = format!(
            "source <({} completions bash) && COMP_WORDS=({words}) COMP_CWORD={at} && \
             _cuda__green cuda-green \"${{COMP_WORDS[{at}]}}\" '' && echo \"${{COMPREPLY[@]}}\"",
            env!("CARGO_BIN_EXE_cuda-green")
        );
        let output = Command::new("bash").args(["-c", &script]).output().unwrap();
        assert!(output.status.success(), "{output:?}");
        text(&output.stdout).trim().to_owned()
    };
    assert_eq!(complete("cuda-green ch", 1), "check");
    assert_eq!(complete("cuda-green de", 1), "demo");
    assert!(complete("cuda-green map --s", 2).contains("--svg"));
    assert_eq!(complete("cuda-green completions fi", 2), "fish");
}

#[test]
fn every_shell_gets_completions() {
    for shell in ["bash", "elvish", "fish", "powershell", "zsh"] {
        let output = run(&["completions", shell]);
        assert!(output.status.success());
        let script = text(&output.stdout);
        assert!(
            script.contains("cuda-green") && script.contains("isolation"),
            "{shell}"
        );
    }
}

#[test]
fn every_command_has_a_page() {
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join("man/man1");
    let _ = fs::remove_dir_all(&folder);
    let output = run(&["man", "--dir", folder.to_str().unwrap()]);
    assert!(
        output.status.success() && output.stdout.is_empty(),
        "{output:?}"
    );
    let all = text(&run(&["man"]).stdout);
    for page in PAGES {
        let roff = fs::read_to_string(folder.join(format!("{page}.1"))).unwrap();
        assert!(roff.contains(&format!(".TH {page} 1")), "{roff}");
        assert!(
            all.contains(&roff),
            "{page} is not among the pages in a row"
        );
        assert!(
            roff.contains("\\-\\-driver"),
            "{page} lacks the options of every command"
        );
    }
    let files = fs::read_dir(&folder).unwrap().count();
    assert_eq!(all.matches(".TH ").count(), files);
    assert!(!folder.join("cuda-green-help.1").exists());
}

#[test]
fn man_can_read_them() {
    if !is_there("groff") {
        return note("manual pages: there is no groff");
    }
    let path = Path::new(env!("CARGO_TARGET_TMPDIR")).join("all.1");
    fs::write(&path, run(&["man"]).stdout).unwrap();
    let output = Command::new("groff")
        .args(["-man", "-Tascii", "-ww", "-rLL=80n", "-P-cbou"])
        .arg(&path)
        .output()
        .unwrap();
    assert!(output.status.success());
    assert_eq!(text(&output.stderr), "");
    // Without the blanks that justify lines.
    let shown = text(&output.stdout);
    let shown = shown.split_whitespace().collect::<Vec<_>>().join(" ");
    for word in ["NAME", "SYNOPSIS", "cuda-green map", "--svg", "--cluster"] {
        assert!(shown.contains(word), "{word} is missing in:\n{shown}");
    }
}

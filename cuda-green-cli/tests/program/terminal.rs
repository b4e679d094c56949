//! The program in a pipe and in colours: 80 columns, no trailing blanks, no misplaced escapes, and no panic without a
//! reader.

use std::process::Stdio;

use crate::common::{program, run, text};

const DEVICES: [&str; 10] = [
    "t4", "a100", "rtx4090", "l40s", "h100", "h200", "b200", "rtx5090", "gb10", "quad680",
];
const VERSIONS: [&str; 7] = ["11.4", "12.3", "12.4", "12.5", "13.0", "13.1", "13.5"];
const COMMANDS: [&[&str]; 9] = [
    &["info"],
    &["check"],
    &["map"],
    &["map", "8", "rest", "--exact"],
    &["plan"],
    &["plan", "8", "12", "25%", "16+2", "rest"],
    &["plan", "6", "--exact", "--cluster", "8"],
    &["plan", "30", "30"],
    &["plan", "5000"],
];

#[track_caller]
fn is_readable(output: &str, what: &str) {
    for line in output.lines() {
        let columns = line.chars().count();
        assert!(columns <= 80, "{what}: {columns} columns: {line}");
        assert_eq!(line, line.trim_end(), "{what}: a trailing blank: `{line}`");
        assert!(!line.contains('\u{1b}'), "{what}: an escape: {line:?}");
    }
    assert!(
        !output.contains("\n\n\n"),
        "{what}: two empty lines:\n{output}"
    );
    assert!(
        !output.ends_with("\n\n"),
        "{what}: an empty line at the end:\n{output}"
    );
    assert!(
        output.is_empty() || output.ends_with('\n'),
        "{what}: no end of line"
    );
}

#[test]
fn every_command_is_readable_in_80_columns_on_every_device_and_version() {
    std::thread::scope(|scope| {
        for device in DEVICES {
            scope.spawn(move || {
                for version in VERSIONS {
                    let driver = format!("sim:{device}@{version}");
                    for command in COMMANDS {
                        let output = run(&[command, &["--driver", &driver]].concat());
                        let what = format!("{} on {driver}", command.join(" "));
                        is_readable(&text(&output.stdout), &what);
                        is_readable(&text(&output.stderr), &what);
                        let code = output.status.code().unwrap();
                        let failed = code == 1 && (version < "12.4" || command[0] == "plan");
                        let failed = failed || code == 1 && command.len() > 1;
                        assert!(code == 0 || failed, "{what}: {code}");
                    }
                }
            });
        }
    });
}

#[test]
fn the_demo_is_readable_in_80_columns_on_every_device() {
    for device in DEVICES {
        for version in ["11.4", "13.0"] {
            let driver = format!("sim:{device}@{version}");
            let output = run(&["demo", "--driver", &driver]);
            assert_eq!(output.status.code(), Some(0), "{output:?}");
            is_readable(&text(&output.stdout), &driver);
            is_readable(&text(&output.stderr), &driver);
        }
    }
}

/// Returns the commands that a help text lists, except `help` itself.
fn commands(help: &str) -> Vec<String> {
    let listed = help.lines().skip_while(|line| *line != "Commands:").skip(1);
    let names = listed.take_while(|line| !line.is_empty());
    names
        .filter(|line| line.starts_with("  ") && !line.starts_with("   "))
        .filter_map(|line| line.split_whitespace().next())
        .filter(|name| *name != "help")
        .map(str::to_owned)
        .collect()
}

/// Reads the help of a command and of all its subcommands, and returns their number.
fn help(command: &[&str]) -> usize {
    let mut count = 1;
    for flag in ["-h", "--help"] {
        let output = run(&[command, &[flag]].concat());
        assert!(output.status.success());
        is_readable(
            &text(&output.stdout),
            &format!("{} {flag}", command.join(" ")),
        );
        if flag == "--help" {
            for name in commands(&text(&output.stdout)) {
                count += help(&[command, &[name.as_str()]].concat());
            }
        }
    }
    count
}

#[test]
fn the_help_of_every_command_is_readable_in_80_columns() {
    // demo, info, plan, map, check, completions, man, bench and what it measures, beside the program itself.
    assert!(help(&[]) >= 10);
}

#[test]
fn errors_are_readable_in_80_columns() {
    for arguments in [
        &["info", "--driver", ""] as &[&str],
        &["info", "--driver", "sim:"],
        &["info", "--driver", "sim:h200"],
        &["info", "--driver", "sim:h900@13.0"],
        &["info", "--driver", "sim:h200@9.0"],
        &["info", "--driver", "sim:h200@13.0", "--device", "1"],
        &["info", "--driver", "h200@13.0"],
        &["info", "--driver", "/etc/passwd"],
        &["info", "--driver", "/nowhere/libcuda.so.1"],
        &["plan", "x"],
        &["plan", "64", "--cluster", "x"],
        &["plan", "64", "--cluster", "16", "--driver", "sim:h200@13.0"],
        &["plan", "0", "--driver", "sim:h200@13.0"],
        &["plan", "101%", "--driver", "sim:h200@13.0"],
        &["bench"],
        &["nothing"],
        &[],
    ] {
        let output = run(arguments);
        assert!(!output.status.success(), "{arguments:?}");
        assert!(
            output.stdout.is_empty() && !output.stderr.is_empty(),
            "{arguments:?}"
        );
        is_readable(&text(&output.stderr), &format!("{arguments:?}"));
    }
}

/// Text from outside moves no cursor, not even on a terminal with colours.
#[test]
fn escapes_in_arguments_are_shown_and_not_obeyed() {
    for arguments in [
        &["info", "--driver", "/nowhere/\u{1b}[2J.so"] as &[&str],
        &["info", "--driver", "sim:\u{1b}[2J"],
        &["info", "--device", "\u{1b}[2J"],
        &["plan", "\u{1b}[2J"],
        &["\u{1b}[2J"],
        &[
            "map",
            "--svg",
            "/nowhere/\u{1b}[2J",
            "--driver",
            "sim:h200@13.0",
        ],
    ] {
        let output = program(arguments).env("CLICOLOR_FORCE", "1").output();
        let output = output.unwrap();
        let said = text(&output.stderr);
        assert!(
            !output.status.success() && !said.is_empty(),
            "{arguments:?}"
        );
        assert!(!said.contains("\u{1b}[2J"), "{arguments:?}: {said:?}");
    }
}

#[test]
#[cfg(unix)]
fn a_driver_s_path_need_not_be_text() {
    use std::os::unix::ffi::OsStrExt;
    let path = std::ffi::OsStr::from_bytes(b"/nowhere/\xff.so");
    let named = program(&["info", "--driver"]).arg(path).output().unwrap();
    let by_variable = program(&["info"])
        .env("CUDA_GREEN_DRIVER", path)
        .output()
        .unwrap();
    for output in [named, by_variable] {
        let said = text(&output.stderr);
        assert_eq!(output.status.code(), Some(1), "{said}");
        assert!(
            said.contains("cannot be loaded: /nowhere/\u{fffd}.so"),
            "{said}"
        );
    }
}

#[test]
fn colours_are_for_those_who_want_them() {
    for command in ["demo", "info", "plan", "map", "check"] {
        let with = |arguments: &[&str], variables: &[(&str, &str)]| {
            let driver = ["--driver", "sim:h200@13.0"];
            let mut program = program(&[&[command] as &[&str], &driver, arguments].concat());
            let output = program.envs(variables.iter().copied()).output().unwrap();
            text(&output.stdout)
        };
        let (force, no) = (("CLICOLOR_FORCE", "1"), ("NO_COLOR", "1"));
        let coloured = with(&["--color", "always"], &[]);
        let plain = with(&[], &[]);
        assert!(coloured.contains("\u{1b}["), "{command}");
        assert_eq!(anstream::adapter::strip_str(&coloured).to_string(), plain);
        assert!(with(&[], &[force]).contains("\u{1b}["), "{command}");
        assert_eq!(with(&[], &[force, no]), plain, "NO_COLOR on a terminal");
        assert_eq!(with(&["--color", "never"], &[force]), plain, "{command}");
        assert!(
            with(&["--color", "always"], &[no]).contains("\u{1b}["),
            "{command}"
        );
    }
}

/// Runs the program without a reader, and returns its exit code and its errors.
fn unread(arguments: &[&str], variables: &[(&str, &str)]) -> (Option<i32>, String) {
    let (reader, writer) = std::io::pipe().unwrap();
    drop(reader);
    let mut program = program(arguments);
    program.env("CUDA_GREEN_DRIVER", "sim:h200@13.0");
    let program = program.envs(variables.iter().copied()).stdout(writer);
    let output = program.stderr(Stdio::piped()).output().unwrap();
    (output.status.code(), text(&output.stderr))
}

#[test]
fn a_reader_that_is_gone_is_no_error() {
    for arguments in [
        &["demo"] as &[&str],
        &["info"],
        &["info", "--json"],
        &["plan"],
        &["map"],
        &["check"],
        &["bench", "rebalance", "--quick"],
        &["bench", "startup", "--quick", "--json"],
        &["completions", "bash"],
        &["man"],
        &["--help"],
    ] {
        assert_eq!(
            unread(arguments, &[]),
            (Some(0), String::new()),
            "{arguments:?}"
        );
    }
}

/// Scripts rely on the exit code, whether or not the text is read.
#[test]
fn what_was_found_is_told_by_the_exit_code_where_nobody_reads() {
    let everywhere = [("CUDA_GREEN_SIM_FAULTS", "green#2=everywhere")];
    let old = [("CUDA_GREEN_DRIVER", "sim:t4@11.4")];
    let lost = [("CUDA_GREEN_SIM_FAULTS", "cuMemPoolDestroy=INVALID_VALUE")];
    let soak: &[&str] = &["bench", "alloc", "--soak", "0.1", "--threads", "1"];
    for (arguments, variables) in [
        (&["check"] as &[&str], &everywhere),
        (&["map"], &everywhere),
        (&["demo"], &everywhere),
        (&["info"], &old),
        (&["check"], &old),
        (soak, &lost),
    ] {
        for json in [&[] as &[&str], &["--json"]] {
            let arguments = [arguments, json].concat();
            let (code, said) = unread(&arguments, variables);
            assert_eq!(code, Some(1), "{arguments:?}: {said}");
            assert!(!said.contains("panicked"), "{arguments:?}: {said}");
        }
    }
    assert_eq!(unread(&["plan", "5000", "--json"], &[]).0, Some(1));
    assert_eq!(unread(&["nothing", "--json"], &[]).0, Some(2));
}

/// Output lost for any other reason is an error.
#[test]
#[cfg(target_os = "linux")]
fn a_full_disk_is_an_error() {
    for arguments in [
        &["check"] as &[&str],
        &["info", "--json"],
        &["bench", "rebalance", "--quick"],
        &["completions", "bash"],
        &["man"],
    ] {
        let full = std::fs::OpenOptions::new().write(true).open("/dev/full");
        let mut program = program(arguments);
        let program = program.env("CUDA_GREEN_DRIVER", "sim:h200@13.0");
        let output = program.stdout(full.unwrap()).output().unwrap();
        let said = text(&output.stderr);
        assert_eq!(output.status.code(), Some(1), "{arguments:?}: {said}");
        assert!(
            said.starts_with("error: cannot write to standard output: No space"),
            "{said}"
        );
    }
}

//! Proves that a process with raised privileges takes no driver from its environment: a copy of this
//! package's binary that is set-user-id, and one that has a file capability.
//!
//! Only root can make such copies; without root, or where the system ignores them, the tests say so.

#![cfg(target_os = "linux")]
// clippy's own exception for tests does not reach the functions that they share.
#![allow(clippy::unwrap_used, clippy::panic)]

use std::{
    fs,
    io::ErrorKind,
    os::unix::{
        fs::{PermissionsExt, chown},
        process::CommandExt,
    },
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use cuda_green_sys::DRIVER_VARIABLE;
use driver_matrix::{
    drivers::{Loads, Report},
    skip::note,
};

/// `nobody`, on Debian and on most others. Any user but root serves.
const OTHER_USER: u32 = 65534;

/// A folder of copies that is open to every user and is gone at the end of the test.
struct Copies(PathBuf);

impl Copies {
    fn new(name: &str) -> Self {
        let id = std::process::id();
        let folder = std::env::temp_dir().join(format!("driver-matrix-{name}-{id}"));
        fs::create_dir_all(&folder).unwrap();
        fs::set_permissions(&folder, fs::Permissions::from_mode(0o755)).unwrap();
        let copies = Self(folder);
        for (from, to) in [
            (env!("CARGO_BIN_EXE_driver-matrix"), "matrix"),
            ("/bin/cat", "cat"),
        ] {
            fs::copy(from, copies.0.join(to)).unwrap();
        }
        copies
    }

    /// Does the same to both copies; says what failed, if anything did.
    fn each(&self, change: impl Fn(&Path) -> Result<(), String>) -> Result<(), String> {
        ["matrix", "cat"]
            .map(|name| self.0.join(name))
            .iter()
            .try_for_each(|path| change(path))
    }

    /// A line of `/proc/self/status`, as the copy of `cat` finds it: what the kernel made of the copy,
    /// told by a program that has nothing to do with ours.
    fn status(&self, user: Option<u32>, line: &str) -> String {
        let output = self.run("cat", user, &["/proc/self/status"], None);
        let found = output.lines().find_map(|text| text.strip_prefix(line));
        found.unwrap_or_default().trim().to_owned()
    }

    fn run(&self, name: &str, user: Option<u32>, args: &[&str], driver: Option<&str>) -> String {
        let mut command = Command::new(self.0.join(name));
        command.args(args).env_remove(DRIVER_VARIABLE);
        command.envs(driver.map(|driver| (DRIVER_VARIABLE, driver)));
        if let Some(user) = user {
            command.uid(user).gid(user);
        }
        let output = loop {
            match command.output() {
                // A process that the other test starts has the copy open for writing, until it is another program.
                Err(error) if error.kind() == ErrorKind::ExecutableFileBusy => {
                    std::thread::sleep(Duration::from_millis(10));
                }
                output => break output.unwrap(),
            }
        };
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{name} {args:?}: {stderr}");
        String::from_utf8(output.stdout).unwrap()
    }

    /// The kinds of error that the three ways to the environment's driver give: `DriverSpec::from_env`,
    /// `Api::load`, `cuda_green::Driver::load`.
    fn errors(&self, user: Option<u32>, driver: Option<&str>) -> [String; 3] {
        let report: Report =
            serde_json::from_str(&self.run("matrix", user, &["report"], driver)).unwrap();
        let loads: Loads =
            serde_json::from_str(&self.run("matrix", user, &["load"], driver)).unwrap();
        let text = |kinds: std::collections::BTreeSet<String>| Vec::from_iter(kinds).join(", ");
        [
            report.error_kind.unwrap_or_default(),
            text(loads.api_errors),
            text(loads.driver_errors),
        ]
    }
}

impl Drop for Copies {
    fn drop(&mut self) {
        // Privileged programs must not be left behind; a folder that is gone already is none.
        let _ = fs::remove_dir_all(&self.0);
    }
}

const NAMED: &str = "/nowhere/libcuda.so.1";

fn refused(copies: &Copies, user: Option<u32>) {
    assert_eq!(copies.errors(user, Some(NAMED)), ["VariableRefused"; 3]);
    assert_eq!(
        copies.errors(user, Some("sim:h200@13.0")),
        ["VariableRefused"; 3]
    );
    // What names no library does no harm, and the system's driver is looked for as ever.
    let system = copies.errors(user, None);
    assert_ne!(system[0], "VariableRefused");
    assert_eq!(copies.errors(user, Some("system")), system);
    assert_eq!(copies.errors(user, Some("")), system);
}

#[test]
fn a_set_user_id_program_takes_no_driver_from_the_environment() {
    let copies = Copies::new("set-user-id");
    assert_eq!(
        copies.errors(None, Some(NAMED)),
        ["DriverUnloadable"; 3],
        "the test's own premise"
    );
    let changed = copies.each(|path| {
        chown(path, Some(OTHER_USER), Some(OTHER_USER))
            .and_then(|()| fs::set_permissions(path, fs::Permissions::from_mode(0o4755)))
            .map_err(|error| error.to_string())
    });
    if let Err(error) = changed {
        return note(&format!(
            "set-user-id and {DRIVER_VARIABLE}: only root can try it: {error}"
        ));
    }
    let ids = copies.status(None, "Uid:");
    if ids.split_whitespace().nth(1) != Some(&OTHER_USER.to_string()) {
        return note(&format!(
            "set-user-id and {DRIVER_VARIABLE}: this system ignores set-user-id"
        ));
    }
    refused(&copies, None);
}

#[test]
fn a_program_with_file_capabilities_takes_no_driver_from_the_environment() {
    let copies = Copies::new("capabilities");
    let what = format!("file capabilities and {DRIVER_VARIABLE}");
    let changed = copies.each(|path| {
        let output = Command::new("setcap")
            .arg("cap_net_bind_service+ep")
            .arg(path)
            .output();
        let output = output.map_err(|error| format!("setcap: {error}"))?;
        let said = String::from_utf8_lossy(&output.stderr).trim().to_owned();
        output.status.success().then_some(()).ok_or(said)
    });
    if let Err(error) = changed {
        return note(&format!(
            "{what}: only root with `setcap` can try it: {error}"
        ));
    }
    // Root has all capabilities anyway, so the kernel sees nothing raised: another user must run it.
    let effective = copies.status(Some(OTHER_USER), "CapEff:");
    if effective.bytes().all(|digit| digit == b'0') {
        return note(&format!("{what}: this system ignores file capabilities"));
    }
    refused(&copies, Some(OTHER_USER));
}

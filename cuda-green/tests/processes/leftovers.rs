//! Names of killed clients of an MPS server, whose control program is a script here.

use std::{fs, os::unix::fs::symlink, path::Path, process::Command};

use cuda_green::{SharedDevice, SharingStep};

use super::{
    child::VARIABLE,
    daemon::{Daemon, Server},
    parent::{Child, Folder, LIST, step},
};

/// Starts a client of the server.
fn start(folder: &Folder) -> Child {
    Child::start_with(folder, |command| under_mps(folder, command))
}

fn under_mps(folder: &Folder, command: &mut Command) {
    let path = std::env::var("PATH").unwrap();
    command
        .env("PATH", format!("{}:{path}", folder.path().display()))
        .env("CUDA_GREEN_SIM_FAULTS", "mps=100%")
        .env("CUDA_MPS_PIPE_DIRECTORY", folder.path().join("pipes"));
}

#[test]
fn a_killed_clients_name_is_dirty_until_the_server_is_rid_of_it() {
    let folder = Folder::new("dirty");
    let daemon = Daemon::new(&folder);
    let (mut dead, mut other) = (start(&folder), start(&folder));
    let pid = dead.id();
    dead.does(&format!("join 0 {LIST} a"));
    other.does(&format!("join 0 {LIST} b"));
    dead.kill();

    // The server does not answer.
    let dirty = other.fails("claim a");
    assert!(
        dirty.contains(&format!("was held by process {pid}")),
        "{dirty}"
    );
    assert!(
        dirty.contains("must be in PATH and reach the daemon"),
        "{dirty}"
    );
    // The server still has it.
    daemon.list(77, &[pid, other.id()]);
    assert!(other.fails("claim a").contains("still lists it"));
    assert!(
        other
            .does("status")
            .contains("a:64:not given back: the MPS server still lists it")
    );
    // The server's numbers are not those seen here.
    daemon.list(77, &[1]);
    assert!(
        other
            .fails("claim a")
            .contains("does not list this process")
    );
    // The server is rid of it.
    daemon.list(77, &[other.id()]);
    assert!(other.does("status").contains("a:64:free"));
    other.does("claim a");
}

#[test]
fn who_gives_a_name_back_leaves_nothing_to_ask_for() {
    let folder = Folder::new("clean");
    fs::create_dir(folder.path().join("pipes")).unwrap();
    let (mut one, mut other) = (start(&folder), start(&folder)); // no program is there
    one.does(&format!("join 0 {LIST} a"));
    one.does("leave a");
    one.kill();
    other.does(&format!("join 0 {LIST} a"));
}

#[test]
fn the_folder_is_where_the_environment_says() {
    let folder = Folder::new("where");
    let (pipes, link) = (folder.path().join("pipes"), folder.path().join("link"));
    fs::create_dir(&pipes).unwrap();
    symlink(&pipes, &link).unwrap();
    let start = |pipes: &Path, shared: &Path| {
        Child::start_with(&folder, |command| {
            under_mps(&folder, command);
            command
                .env("CUDA_MPS_PIPE_DIRECTORY", pipes)
                .env("CUDA_GREEN_SHARED_DIR", shared)
                .env(VARIABLE, "sim:h200@13.0 -");
        })
    };
    // Beside the pipes, by whichever path.
    let unset = Path::new("");
    let (mut one, mut other) = (start(&pipes, unset), start(&link, unset));
    one.does(&format!("join 0 {LIST} a"));
    let held = other.fails(&format!("join 0 {LIST} a"));
    assert!(held.contains("held by process"), "{held}");
    assert!(folder.path().join("pipes.cuda-green").is_dir());
    // The variable comes first.
    let mut third = start(&pipes, &folder.path().join("elsewhere"));
    third.does(&format!("join 0 {LIST} a"));
    assert!(folder.path().join("elsewhere").is_dir());
    let mut relative = start(&pipes, Path::new("elsewhere"));
    let refused = relative.fails(&format!("join 0 {LIST} a"));
    assert!(
        refused.contains("processes start in different folders; give an absolute one"),
        "{refused}"
    );
}

#[test]
fn processes_of_two_servers_do_not_mix() {
    let folder = Folder::new("servers");
    fs::create_dir(folder.path().join("pipes")).unwrap();
    let (mut one, mut other) = (start(&folder), Child::start(&folder));
    one.does(&format!("join 0 {LIST} a"));
    let refused = other.fails(&format!("join 0 {LIST} b"));
    assert!(refused.contains("MPS server of the pipes"), "{refused}");
    assert!(
        refused.contains("asks for none; start all processes under one"),
        "{refused}"
    );
}

/// The work of a killed process is the business of its own server, whoever comes next to the folder.
#[test]
fn names_are_judged_by_the_server_of_their_plan() {
    for (name, changes) in [("mixed", false), ("mixed-change", true)] {
        let folder = Folder::new(name);
        let daemon = Daemon::new(&folder);
        let server = Server::start(&folder);
        let mut dead = daemon.start(&folder);
        dead.does(&format!("join 0 {LIST} a"));
        daemon.list(server.id(), &[dead.id()]);
        if changes {
            dead.stop_at(step(SharingStep::Announced), libc::SIGKILL);
            assert_eq!(dead.ask("set a=32"), None);
        }
        dead.kill();

        // One that is no client of that server, and one that does not even know of it.
        let mut other = Child::start_with(&folder, |command| daemon.environment(command));
        let join = format!("join 0 {LIST} a");
        let refused = other.fails(&join);
        assert!(refused.contains("still lists it"), "{refused}");
        let mut stranger = Child::start(&folder);
        let refused = stranger.fails(&join);
        assert!(refused.contains("of another MPS daemon"), "{refused}");
        let plans = SharedDevice::list(Some(Path::new(&folder.shared()))).unwrap();
        assert_eq!(plans[0].status.generation, 1);

        daemon.list(server.id(), &[]);
        other.does(&join);
    }
}

//! The examples, run as a user runs it: on a simulated GPU, and where there is none.
#![cfg(not(loom))]
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)] // these are tests

use std::process::{Command, Output};

/// Runs an example, which `cargo test` builds beside the tests.
fn run(name: &str, driver: Option<&str>) -> Output {
    let test = std::env::current_exe().unwrap();
    let folder = test.parent().and_then(|deps| deps.parent()).unwrap();
    let mut command = Command::new(folder.join("examples").join(name));
    command.env_remove("CUDA_GREEN_DRIVER");
    match driver {
        Some(driver) => command.env("CUDA_GREEN_DRIVER", driver),
        // Where there is a GPU, it is hidden.
        None => command.env("CUDA_VISIBLE_DEVICES", ""),
    };
    command.output().unwrap()
}

fn text(output: &Output) -> String {
    assert!(output.status.success(), "{output:?}");
    String::from_utf8(output.stdout.clone()).unwrap()
}

#[test]
fn a_kernel_asks_for_squares() {
    let found = text(&run("first_task", Some("sim:h200@13.0")));
    assert!(found.starts_with("[0, 1, 4, 9, 16, 25, "), "{found}");
    assert!(found.ends_with(", 900, 961]\n"), "{found}");
}

#[test]
fn a_kernel_walks_through_pages_that_the_cpu_brings() {
    let found = text(&run("pages", Some("sim:h200@13.0")));
    assert!(found.contains("80 nodes were walked"), "{found}");
    assert!(found.contains("the sums match"), "{found}");
    assert!(found.contains("requests beside the walk"), "{found}");
    assert!(found.contains("pages::Page: "), "{found}");
}

#[test]
fn without_a_gpu_the_cpu_has_its_tasks_all_the_same() {
    let found = text(&run("pages", None));
    assert!(found.contains("page 3 begins with node 1536"), "{found}");
}

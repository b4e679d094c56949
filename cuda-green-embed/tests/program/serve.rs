//! `serve`, on a free port of this machine, and clients that this project did not write.

use std::{
    env,
    io::{BufRead, BufReader, Read, Write},
    net::{SocketAddr, TcpStream},
    path::{Path, PathBuf},
    process::{Child, Command, Output, Stdio},
    sync::mpsc,
    thread::{self, JoinHandle},
    time::Duration,
};

use crate::{
    model, program,
    support::{SmallModel, fetched, mini_lm},
    text,
};

/// A server of the program's. It is killed when this is dropped.
struct Served {
    child: Child,
    address: SocketAddr,
    /// The line that says what runs where.
    ready: String,
    told: JoinHandle<String>,
}

fn serve(model: &Path, options: &[&str]) -> Command {
    let mut command = program();
    command.arg("serve").arg("--model").arg(model);
    if !options.contains(&"--driver") {
        command.args(["--driver", "sim:h200@13.0"]);
    }
    if !options.contains(&"--bind") {
        command.args(["--bind", "127.0.0.1:0"]);
    }
    command.args(options);
    command
}

impl Served {
    /// Starts a server, and waits until it is ready.
    fn start(model: &Path, options: &[&str]) -> Self {
        let mut child = serve(model, options)
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let (sender, lines) = mpsc::channel();
        let mut stderr = BufReader::new(child.stderr.take().unwrap());
        let told = thread::spawn(move || {
            let mut all = String::new();
            let mut line = String::new();
            while stderr.read_line(&mut line).unwrap_or(0) > 0 {
                all += &line;
                // Nobody listens once it is ready.
                let _ = sender.send(std::mem::take(&mut line));
            }
            all
        });
        let mut address = None;
        loop {
            // Far longer than it takes.
            let line = lines.recv_timeout(Duration::from_secs(120));
            let line = line.expect("the server ended, or hangs");
            if let Some(rest) = line.strip_prefix("listening on http://") {
                let (found, _) = rest.split_once(',').unwrap();
                address = Some(found.parse().unwrap());
            }
            if line.starts_with("serving ") {
                return Self {
                    child,
                    address: address.unwrap(),
                    ready: line,
                    told,
                };
            }
        }
    }

    fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Sends a request, and returns the whole answer.
    fn send(&self, head: &str, body: &str) -> String {
        let mut stream = TcpStream::connect(self.address).unwrap();
        let length = body.len();
        write!(
            stream,
            "{head} HTTP/1.1\r\nhost: x\r\nconnection: close\r\ncontent-type: application/json\r\n\
             content-length: {length}\r\n\r\n{body}"
        )
        .unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        answer
    }

    /// Ends it as a supervisor does, and returns all that it told. Every request must have an answer.
    #[cfg(unix)]
    fn end(mut self) -> String {
        let id = self.child.id().to_string();
        let kill = Command::new("kill").args(["-TERM", &id]).status().unwrap();
        assert!(kill.success());
        let status = self.child.wait().unwrap();
        let told = std::mem::replace(&mut self.told, thread::spawn(String::new));
        let told = told.join().unwrap();
        assert!(status.success() && !told.contains("panicked"), "{told}");
        told
    }
}

impl Drop for Served {
    fn drop(&mut self) {
        // It has ended, or nothing can be done.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

const SMALL: [&str; 2] = ["--batch-tokens", "48"];

#[test]
#[cfg(unix)]
fn a_server_says_what_runs_where_serves_and_ends() {
    let model = model();
    let named = format!("small={}", model.path().display());
    let served = Served::start(Path::new(&named), &SMALL);
    for part in [
        "serving small at http://127.0.0.1:",
        "64 values in f16, up to 10 tokens a text, on NVIDIA H200",
        "interactive on 32 SMs, bulk on 100 SMs; partitioned\n",
    ] {
        assert!(served.ready.contains(part), "{}", served.ready);
    }
    let answer = served.send("GET /health", "");
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    let answer = served.send("POST /bulk/v1/embeddings", r#"{"input":["a","b c"]}"#);
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    let answer = served.send("POST /v1/embeddings", r#"{"input":"a","model":"x"}"#);
    assert!(answer.starts_with("HTTP/1.1 404"), "{answer}");
    let told = served.end();
    assert!(told.starts_with("SIMULATED"), "{told}");
    assert_eq!(told.lines().count(), 3, "{told}");
}

#[test]
fn other_layouts_are_said() {
    let model = model();
    for (options, expected) in [
        (
            &["--driver", "sim:h200@12.2"][..],
            "single context, so bulk work delays queries",
        ),
        (&["--interactive-sms", "16"], "interactive on 16 SMs"),
        (&["--elastic"], "elastic, fixed now"),
    ] {
        let served = Served::start(model.path(), &[&SMALL, options].concat());
        assert!(served.ready.contains(expected), "{}", served.ready);
        let answer = served.send("POST /embed", r#"{"inputs":"a"}"#);
        assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    }
}

#[test]
fn what_cannot_be_served_is_told() {
    let model = model();
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let taken = taken.local_addr().unwrap().to_string();
    for (options, expected) in [
        (&["--bind", &*taken][..], "cannot listen on 127.0.0.1:"),
        (
            &["--batch-tokens", "4"],
            "--batch-tokens 4 has no room for a text of 10 tokens",
        ),
        (&["--interactive-sms", "1000"], "1000"),
        (&["--driver", "sim:t4@13.0"], "compute capability 7.5"),
    ] {
        let output = serve(model.path(), options).output().unwrap();
        let told = text(&output.stderr);
        assert_eq!(output.status.code(), Some(1), "{told}");
        assert!(
            told.contains(expected) && !told.contains("panicked"),
            "{told}"
        );
    }
}

/// Runs a Python program of clients against a server, or says what is missing.
fn python(program: &str, served: &Served) -> Option<Output> {
    let packages = fetched("clients/python")?;
    let program = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("tests/program")
        .join(program);
    let output = Command::new("python3")
        .arg(program)
        .arg(served.url())
        .env("PYTHONPATH", packages)
        .env("PYTHONDONTWRITEBYTECODE", "1")
        .env("NO_PROXY", "127.0.0.1")
        .env("HF_HUB_OFFLINE", "0")
        .output();
    Some(output.unwrap())
}

/// The vectors of the real model, by OpenAI's client and Hugging Face's.
#[test]
#[cfg(unix)]
fn clients_from_pypi_work_unmodified() {
    let Some(model) = mini_lm() else { return };
    let served = Served::start(&model, &["--batch-tokens", "256"]);
    let Some(output) = python("clients.py", &served) else {
        return;
    };
    let said = format!("{}{}", text(&output.stdout), text(&output.stderr));
    assert!(
        output.status.success() && said.contains("went well"),
        "{said}"
    );
    served.end();
}

fn wrk() -> Option<(PathBuf, PathBuf)> {
    Some((
        fetched("clients/wrk")?.join("wrk"),
        fetched("clients/luajit")?,
    ))
}

/// A load generator on many connections: no error, and a client beside it is always answered.
#[test]
#[cfg(target_os = "linux")]
fn a_load_generator_sees_no_error_and_a_neighbour_no_loss() {
    let Some((wrk, library)) = wrk() else { return };
    let model: SmallModel = model();
    let served = Served::start(model.path(), &SMALL);
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/program/load.lua");
    let mut load = Command::new(wrk)
        .args(["--threads", "1", "--connections", "16", "--duration", "3s"])
        .arg("--script")
        .arg(script)
        .arg(served.url())
        .env("LD_LIBRARY_PATH", library)
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut answered = 0;
    while load.try_wait().unwrap().is_none() {
        let answer = served.send("POST /v1/embeddings", r#"{"input":"a b c"}"#);
        assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
        answered += 1;
    }
    let output = load.wait_with_output().unwrap();
    let said = text(&output.stdout);
    let figure = |name: &str| -> u64 {
        let line = said.lines().find_map(|line| line.strip_prefix(name));
        line.unwrap_or_else(|| panic!("no {name}: {said}"))
            .trim()
            .parse()
            .unwrap()
    };
    assert!(output.status.success() && answered > 0, "{said}");
    assert!(figure("requests:") > 16, "{said}");
    assert_eq!(figure("errors:"), 0, "{said}");
    served.end();
}

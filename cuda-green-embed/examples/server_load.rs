//! The load of clients on a server, beside the same calls of the library: what HTTP costs.
//!
//! ```sh
//! cuda-green-embed serve --model all-MiniLM-L6-v2
//! cargo run --release -p cuda-green-embed --example server_load -- 127.0.0.1:8080 texts.txt all-MiniLM-L6-v2
//! ```
//!
//! Each client sends its next request when it has the answer to the last: one text at a time from one client, and then lists
//! of 64 from many, as numbers and as base64. With a model's folder, the library does the same first, in partitions
//! of the same sizes. It prints a line of JSON for each.

use std::{
    env, error, fs,
    io::{BufRead, BufReader, Read, Write},
    net::TcpStream,
    process::ExitCode,
    sync::Arc,
    thread,
    time::{Duration, Instant},
};

use cuda_green::{ContextId, ContextPolicy, SmPartitionManager, planner::PartitionRequest};
use cuda_green_embed::{Embedder, Lane};
use serde_json::json;

type Result<T> = std::result::Result<T, Box<dyn error::Error + Send + Sync>>;

/// The time that each case takes.
const TIME: Duration = Duration::from_secs(5);

/// Clients at a time, texts of a request, and the lane: one query after another, and lists that keep the GPU busy.
const CASES: [(usize, usize, Lane); 2] = [(1, 1, Lane::Interactive), (32, 64, Lane::Bulk)];

fn main() -> ExitCode {
    let arguments: Vec<_> = env::args().skip(1).collect();
    let [server, texts, model @ ..] = &arguments[..] else {
        eprintln!("usage: server_load HOST:PORT TEXTS [MODEL]");
        return ExitCode::from(2);
    };
    match run(server, texts, model.first()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::FAILURE
        }
    }
}

fn run(server: &str, texts: &str, model: Option<&String>) -> Result<()> {
    let texts = fs::read_to_string(texts)?;
    let texts: Vec<_> = texts.lines().filter(|line| !line.is_empty()).collect();
    if texts.len() < 64 {
        return Err("the file has fewer than 64 texts".into());
    }
    if let Some(model) = model {
        let embedder = library(model)?;
        for (clients, list, lane) in CASES {
            let call = |from: usize| -> Result<()> {
                let texts: Vec<_> = texts.iter().cycle().skip(from).take(list).collect();
                let lane = embedder.lane(lane);
                for vector in lane.embed_batch(&texts).wait()? {
                    vector?;
                }
                Ok(())
            };
            measure("library", clients, list, texts.len(), || Ok(call))?;
        }
        embedder.shutdown();
    }
    for (clients, list, lane) in CASES {
        for encoding in ["float", "base64"] {
            let client = || {
                let mut connection = Connection::open(server)?;
                let texts = &texts;
                Ok(move |from: usize| {
                    let input: Vec<_> = texts.iter().cycle().skip(from).take(list).collect();
                    let ask = json!({"input": input, "encoding_format": encoding});
                    connection.ask(&format!("/{lane}/v1/embeddings"), &ask.to_string())
                })
            };
            measure(encoding, clients, list, texts.len(), client)?;
        }
    }
    Ok(())
}

/// Returns a service with the server's own division of the GPU.
fn library(model: &str) -> Result<Embedder> {
    let manager = SmPartitionManager::new(0)?;
    let policy = ContextPolicy::default();
    manager.create_partitions(&[
        (ContextId::Embedding, PartitionRequest::percent(25), policy),
        (ContextId::Dream, PartitionRequest::rest(), policy),
    ])?;
    Ok(Embedder::builder().load(model, Arc::new(manager))?)
}

/// Has clients ask again and again, and prints how long that took.
fn measure<C: FnMut(usize) -> Result<()>>(
    what: &str,
    clients: usize,
    list: usize,
    texts: usize,
    client: impl Fn() -> Result<C> + Sync,
) -> Result<()> {
    let one = |number: usize| -> Result<Vec<f64>> {
        let mut call = client()?;
        let mut took = Vec::new();
        let mut from = number * 7919 % texts;
        // The first calls of a client are not counted.
        for _ in 0..10 {
            call(from)?;
        }
        let start = Instant::now();
        while start.elapsed() < TIME {
            from = (from + list) % texts;
            let asked = Instant::now();
            call(from)?;
            took.push(asked.elapsed().as_secs_f64() * 1e3);
        }
        Ok(took)
    };
    let mut took = thread::scope(|scope| {
        let one = &one;
        let clients: Vec<_> = (0..clients)
            .map(|number| scope.spawn(move || one(number)))
            .collect();
        let mut all = Vec::new();
        for client in clients {
            all.extend(client.join().map_err(|_| "a client panicked")??);
        }
        Result::Ok(all)
    })?;
    took.sort_by(f64::total_cmp);
    let at = |share: f64| took.get((took.len() as f64 * share) as usize).copied();
    let line = json!({
        "what": what,
        "clients": clients,
        "texts_in_a_request": list,
        "requests": took.len(),
        "texts_per_s": (took.len() * list) as f64 / TIME.as_secs_f64(),
        "p50_ms": at(0.5),
        "p99_ms": at(0.99),
    });
    println!("{line}");
    Ok(())
}

/// A connection that is kept from request to request.
struct Connection {
    stream: BufReader<TcpStream>,
    answer: Vec<u8>,
}

impl Connection {
    fn open(server: &str) -> Result<Self> {
        let stream = TcpStream::connect(server)?;
        stream.set_nodelay(true)?;
        Ok(Self {
            stream: BufReader::with_capacity(1 << 18, stream),
            answer: Vec::new(),
        })
    }

    /// Sends a request, and reads its answer to the end.
    fn ask(&mut self, path: &str, body: &str) -> Result<()> {
        let request = format!(
            "POST {path} HTTP/1.1\r\nhost: server\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n{body}",
            body.len()
        );
        self.stream.get_mut().write_all(request.as_bytes())?;
        let (mut status, mut length) = (String::new(), None);
        self.stream.read_line(&mut status)?;
        loop {
            let mut line = String::new();
            if self.stream.read_line(&mut line)? == 0 {
                return Err("the server closed the connection".into());
            }
            match line.trim_end().split_once(": ") {
                Some(("content-length", value)) => length = Some(value.parse()?),
                Some(_) => {}
                None => break,
            }
        }
        self.answer.clear();
        self.answer.resize(length.unwrap_or(0), 0);
        self.stream.read_exact(&mut self.answer)?;
        match status.starts_with("HTTP/1.1 200") {
            true => Ok(()),
            false => Err(format!(
                "{}: {}",
                status.trim_end(),
                String::from_utf8_lossy(&self.answer)
            )
            .into()),
        }
    }
}

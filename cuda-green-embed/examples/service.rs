//! Queries beside bulk work: a model's folder, a file of texts, and queries from the keyboard.
//!
//! ```sh
//! cargo run --release -p cuda-green-embed --example service -- all-MiniLM-L6-v2 texts.txt
//! ```
//!
//! The texts are indexed in the bulk lane, in the context `Dream`; meanwhile each line from stdin is a query in the
//! interactive lane, in `Embedding`, and is answered with the nearest texts indexed so far. A third argument names another
//! driver: with `--features test-utils`, `sim:h200@13.0` works without a GPU.

use std::{
    env, error, fs,
    io::{BufRead, stdin},
    process::ExitCode,
    sync::{Arc, Mutex, PoisonError},
    thread,
    time::Instant,
};

use cuda_green::{Driver, SmPartitionManager};
use cuda_green_embed::{Embedder, EncoderOptions, Error, Lane};

/// The texts of one bulk request.
const CHUNK: usize = 4096;

fn main() -> ExitCode {
    let arguments: Vec<_> = env::args().skip(1).collect();
    let [model, texts, driver @ ..] = &arguments[..] else {
        eprintln!("usage: service MODEL TEXTS [DRIVER]");
        return ExitCode::from(2);
    };
    match run(model, texts, driver.first()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::FAILURE
        }
    }
}

fn run(model: &str, texts: &str, driver: Option<&String>) -> Result<(), Box<dyn error::Error>> {
    let manager = match driver {
        Some(driver) => SmPartitionManager::on(&Driver::open(&driver.parse()?)?.device(0)?)?,
        None => SmPartitionManager::new(0)?,
    };
    let mut builder = Embedder::builder();
    if manager.device().driver().is_simulated() {
        // It computes on the CPU, and an encoder runs each of its sizes once.
        let small = EncoderOptions::default().max_tokens(256);
        builder = builder.encoder(Lane::Interactive, small);
        builder = builder.encoder(Lane::Bulk, small);
    }
    let embedder = builder.load(model, Arc::new(manager))?;
    let texts = fs::read_to_string(texts)?;
    let texts: Vec<_> = texts.lines().collect();
    let index = Mutex::new(Vec::new());
    println!("{}", embedder.status());
    thread::scope(|scope| {
        let indexing = scope.spawn(|| -> Result<(), Error> {
            for texts in texts.chunks(CHUNK) {
                // A text that cannot be embedded is left out, and counted as failed.
                let vectors = embedder.embed_batch(texts).wait()?;
                let good = texts.iter().zip(vectors).filter_map(|(text, vector)| {
                    let vector = vector.ok()?;
                    Some((*text, vector))
                });
                index
                    .lock()
                    .unwrap_or_else(PoisonError::into_inner)
                    .extend(good);
            }
            Ok(())
        });
        for query in stdin().lock().lines() {
            let (query, start) = (query?, Instant::now());
            let vector = embedder.embed(&query).wait()?;
            let took = start.elapsed();
            let index = index.lock().unwrap_or_else(PoisonError::into_inner);
            println!(
                "{:.3} ms, among {} texts:",
                took.as_secs_f64() * 1e3,
                index.len()
            );
            for (likeness, text) in nearest(&index, &vector) {
                println!("  {likeness:.3}  {text}");
            }
        }
        indexing
            .join()
            .map_err(|_| "the thread that indexes panicked")??;
        Ok::<(), Box<dyn error::Error>>(())
    })?;
    println!("{}", embedder.status());
    embedder.shutdown();
    Ok(())
}

/// Returns the three nearest texts, by cosine: the model scales its vectors to length 1.
fn nearest<'a>(index: &[(&'a str, Vec<f32>)], query: &[f32]) -> Vec<(f32, &'a str)> {
    let mut all: Vec<_> = index
        .iter()
        .map(|(text, vector)| {
            let dot = vector.iter().zip(query).map(|(a, b)| a * b).sum::<f32>();
            (dot, *text)
        })
        .collect();
    all.sort_by(|a, b| b.0.total_cmp(&a.0));
    all.truncate(3);
    all
}

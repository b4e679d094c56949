//! The figures, as a table, as JSON, and as a picture.

use serde::{Deserialize, Serialize};

use crate::{
    commands::bench::{
        run::{Drawn, Figures},
        samples::Latencies,
    },
    render::{duration::duration, page::printable_line, svg::Curve},
};

#[derive(Serialize, Deserialize)]
pub struct EmbedFigures {
    pub model: Model,
    pub bulk: Vec<Bulk>,
    pub sorted: Vec<Sorted>,
    pub by_sms: Vec<BySms>,
    pub one_text: Vec<OneText>,
    pub shapes: Vec<Shape>,
    /// Empty with a single GPU.
    #[serde(default)]
    pub several_gpus: Vec<Gpus>,
    pub tokeniser: Tokeniser,
    pub memory: Memory,
    pub first_vector_s: f64,
    pub accuracy: Vec<Accuracy>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub to_peers: Option<Vec<ToPeer>>,
}

#[derive(Serialize, Deserialize)]
pub struct Model {
    pub name: String,
    pub layers: usize,
    pub hidden_size: usize,
    pub precision: String,
    /// The multiplications and additions of the matrix products, without attention's.
    pub flop_per_token: u64,
    pub texts: usize,
    pub cores: usize,
}

/// All texts, from text to vector.
#[derive(Serialize, Deserialize)]
pub struct Bulk {
    pub batch_tokens: u32,
    pub texts_per_s: f64,
    pub tokens_per_s: f64,
    pub mean_tokens: f64,
    /// The time that the same texts take on the GPU back to back, as a share of the time of the run.
    pub gpu_busy: f64,
    /// The share of the run in which a batch was on its way, from its submission to its vectors.
    pub computing: f64,
    pub tokenising_hidden: f64,
}

/// All texts, tokenised before and sorted by length.
#[derive(Serialize, Deserialize)]
pub struct Sorted {
    pub batch_tokens: u32,
    pub tokens_per_s: f64,
    pub of_790_tflops: f64,
}

#[derive(Serialize, Deserialize)]
pub struct BySms {
    pub sms: u32,
    pub texts_per_s: f64,
}

#[derive(Serialize, Deserialize)]
pub struct OneText {
    pub sms: u32,
    pub tokens: usize,
    pub flood: Option<String>,
    #[serde(flatten)]
    pub latencies: Latencies,
}

/// A model of a true shape with random weights.
#[derive(Serialize, Deserialize)]
pub struct Shape {
    pub name: String,
    pub tokens_of_text: usize,
    pub texts_of_batch: usize,
    pub tokens_per_s: f64,
}

/// All texts, tokenised before, on several GPUs that take batches from one queue.
#[derive(Serialize, Deserialize)]
pub struct Gpus {
    pub gpus: usize,
    pub tokens_per_s: f64,
    /// The speed as a multiple of one GPU's.
    pub to_one: f64,
}

#[derive(Serialize, Deserialize)]
pub struct Tokeniser {
    pub one_core_texts_per_s: f64,
    pub all_cores_texts_per_s: f64,
}

#[derive(Default, Serialize, Deserialize)]
pub struct Memory {
    pub batch_tokens: u32,
    pub weight_bytes: u64,
    pub activation_bytes: u64,
    pub pool_used_bytes: u64,
    pub pool_used_after_all_texts_bytes: u64,
    pub pool_high_water_bytes: u64,
    /// What the device has less than before, with the code of kernels and libraries.
    pub device_bytes: u64,
    pub device_after_all_texts_bytes: u64,
}

/// The vectors of a precision beside those in 32 bits.
#[derive(Serialize, Deserialize)]
pub struct Accuracy {
    pub precision: String,
    pub texts: usize,
    pub least_cosine: f64,
    pub mean_cosine: f64,
    pub among: usize,
    pub queries: usize,
    pub same_of_ten_nearest: f64,
}

/// A figure beside a peer's.
#[derive(Serialize, Deserialize)]
pub struct ToPeer {
    pub figure: String,
    pub peer: String,
    pub ours: f64,
    pub theirs: f64,
    /// How many times as good ours is.
    pub times: f64,
}

impl OneText {
    fn name(&self) -> String {
        let flood = self.flood.as_deref();
        let flood = flood.map(|name| format!(", beside {name}"));
        let flood = flood.unwrap_or_default();
        format!("{} tokens, {} SMs{flood}", self.tokens, self.sms)
    }
}

/// Writes a number with a unit of thousands or millions.
fn many(number: f64) -> String {
    match number {
        ..1e4 => format!("{number:.0}"),
        ..1e6 => format!("{:.1} k", number / 1e3),
        _ => format!("{:.2} M", number / 1e6),
    }
}

impl Figures for EmbedFigures {
    fn table(&self) -> String {
        let mut table = String::new();
        let mut line = |name: &str, value: String| {
            table += &format!("{:<54} {value:>24}\n", printable_line(name));
        };
        for row in &self.bulk {
            let name = format!("end to end, batches of {} tokens", row.batch_tokens);
            line(&name, format!("{} texts/s", many(row.texts_per_s)));
            line("  GPU busy", format!("{:.0} %", row.gpu_busy * 100.0));
        }
        for row in &self.sorted {
            let name = format!("pre-tokenised, batches of {} tokens", row.batch_tokens);
            line(&name, format!("{} tokens/s", many(row.tokens_per_s)));
        }
        for row in &self.by_sms {
            let name = format!("pre-tokenised, {} SMs", row.sms);
            line(&name, format!("{} texts/s", many(row.texts_per_s)));
        }
        for row in &self.shapes {
            let name = format!("{} shape, {} tokens a text", row.name, row.tokens_of_text);
            line(&name, format!("{} tokens/s", many(row.tokens_per_s)));
        }
        for row in &self.several_gpus {
            let name = format!("pre-tokenised, {} GPUs, {:.2} × one", row.gpus, row.to_one);
            line(&name, format!("{} tokens/s", many(row.tokens_per_s)));
        }
        let one = many(self.tokeniser.one_core_texts_per_s);
        line("tokeniser, one core", format!("{one} texts/s"));
        let all = many(self.tokeniser.all_cores_texts_per_s);
        line("tokeniser, all cores", format!("{all} texts/s"));
        for row in &self.one_text {
            let [p50, p99] =
                [row.latencies.p50_us, row.latencies.p99_us].map(|us| duration(us * 1e3));
            line(&row.name(), format!("p50 {p50}, p99 {p99}"));
        }
        line(
            "first vector after start",
            duration(self.first_vector_s * 1e9),
        );
        for row in &self.accuracy {
            let name = format!("{}: least cosine to f32", row.precision);
            line(&name, format!("{:.6}", row.least_cosine));
            let same = row.same_of_ten_nearest * 100.0;
            line("  the same among the ten nearest", format!("{same:.2} %"));
        }
        let mib = |bytes: u64| format!("{:.1} MiB", bytes as f64 / f64::from(1 << 20));
        let memory = &self.memory;
        line("weights", mib(memory.weight_bytes));
        line("activations", mib(memory.activation_bytes));
        line(
            "the pool's high-water mark",
            mib(memory.pool_high_water_bytes),
        );
        line("taken from the device", mib(memory.device_bytes));
        for row in self.to_peers.iter().flatten() {
            let name = format!("{} / {}", row.figure, row.peer);
            line(&name, format!("{:.2} times", row.times));
        }
        table.trim_end().to_owned()
    }
}

impl Drawn for EmbedFigures {
    const COMMAND: &str = "embed";
    const TITLE: &str = "Latency of one text, text in and vector out";
    const OF: &str = "texts";

    /// Returns the shortest text in each set-up, and the longest in the partition.
    fn curves(&self) -> Vec<Curve> {
        let tokens = || self.one_text.iter().map(|row| row.tokens);
        let ends = [tokens().min(), tokens().max()];
        let curve = |row: &OneText| Curve::of_us(row.name(), &row.latencies.percentiles_by_half_us);
        let shown = self.one_text.iter();
        shown
            .filter(|row| ends.contains(&Some(row.tokens)))
            .map(curve)
            .collect()
    }
}

//! One text after another, embedded beside bulk embedding, by a model of MiniLM's shape. Its weights are random, which
//! changes no time.

use std::{
    collections::VecDeque,
    sync::atomic::{AtomicBool, Ordering},
    thread,
    time::{Duration, Instant},
};

use cuda_green::{
    ContextId, ContextPolicy, CudaDevice, CudaVersion, GpuMemoryPool, SmPartitionManager,
    planner::PartitionRequest, sim::Sim,
};
use cuda_green_embed::{
    BertConfig, BertEncoder, BertModel, BertWeights, CublasLt, Encoder, EncoderOptions, Error,
    InferencePrecision, ModelHead, PackedBatch, PendingEmbeddings, Pooling, register_kernel_times,
};
use indicatif::ProgressBar;

use super::{LIMIT, REQUESTS, Row, request_sms};
use crate::commands::bench::{
    numbers::Numbers,
    samples::{Latencies, Samples},
};

/// The tokens of a query, and the most of one.
const QUERY_TOKENS: usize = 14;
const LONGEST: usize = 64;
/// The texts of a bulk batch, and the tokens of each.
const BULK: [usize; 2] = [1024, 16];
/// Bulk batches that are on their way at a time.
const DEPTH: usize = 2;
/// Queries in virtual time, where more would change nothing.
const SIMULATED_QUERIES: usize = 16;
/// The memory that the model and its encoders may use.
const MEMORY: u64 = 2 << 30;
/// A version without green contexts.
const BEFORE_PARTITIONS: CudaVersion = CudaVersion::new(12, 3);

/// Measures queries without partitions and, if the device has them, with partitions; or returns the reason why nothing
/// can be embedded here.
pub fn measure(
    device: &CudaDevice,
    partitions: bool,
    progress: &ProgressBar,
) -> anyhow::Result<Result<Vec<Row>, String>> {
    let model = match Model::new(device) {
        Ok(model) => model,
        Err(
            error @ (Error::CublasLtMissing { .. }
            | Error::Device { .. }
            | Error::Simulated
            | Error::UnsupportedPrecision { .. }),
        ) => return Ok(Err(error.to_string())),
        Err(error) => return Err(error.into()),
    };
    let mut rows = Vec::new();
    let mut add = |set_up: &str, encoders: &Encoders, beside| -> anyhow::Result<()> {
        progress.set_message(set_up.to_owned());
        rows.push(encoders.row(set_up, beside)?);
        progress.inc(1);
        Ok(())
    };
    let whole = model.without_partitions()?;
    add("alone", &whole, false)?;
    add("beside bulk embedding, without partitions", &whole, true)?;
    drop(whole);
    if partitions {
        let apart = model.with_partitions()?;
        let alone = format!("alone, in a partition of {} SMs", apart.sms.unwrap_or(0));
        add(&alone, &apart, false)?;
        add("beside bulk embedding, with partitions", &apart, true)?;
    }
    Ok(Ok(rows))
}

struct Model {
    device: CudaDevice,
    model: BertModel,
}

impl Model {
    fn new(device: &CudaDevice) -> cuda_green_embed::Result<Self> {
        let config = BertConfig::mini_lm();
        BertModel::ensure_supported(&config, device)?;
        let cublaslt = CublasLt::load(device)?;
        let weights = BertWeights::random(&config, 1);
        let head = ModelHead {
            pooling: Pooling::Mean,
            normalize: true,
            max_length: LONGEST,
        };
        let pool = GpuMemoryPool::on(device, MEMORY)?;
        let precision = InferencePrecision::detect_optimal(device).precision;
        let model = BertModel::from_weights(&config, &weights, head, &pool, precision, cublaslt)?;
        if let Some(sim) = device.driver().simulator() {
            register_kernel_times(sim);
        }
        let device = device.clone();
        Ok(Self { device, model })
    }

    fn without_partitions(&self) -> anyhow::Result<Encoders> {
        self.encoders(&SmPartitionManager::as_of(&self.device, BEFORE_PARTITIONS)?)
    }

    fn with_partitions(&self) -> anyhow::Result<Encoders> {
        self.encoders(&SmPartitionManager::on(&self.device)?)
    }

    fn encoders(&self, manager: &SmPartitionManager) -> anyhow::Result<Encoders> {
        let own = PartitionRequest::target(request_sms(&self.device));
        let policy = ContextPolicy::default();
        manager.create_partitions(&[
            (ContextId::Embedding, own, policy),
            (ContextId::Dream, PartitionRequest::rest(), policy),
        ])?;
        let encoder = |id, tokens: usize, texts: usize| -> anyhow::Result<BertEncoder> {
            let options = EncoderOptions::default()
                .max_tokens(tokens as u32)
                .max_texts(texts as u32);
            let stream = manager.create_stream(id)?;
            Ok(BertEncoder::new(&self.model, stream, options)?)
        };
        let context = manager.get_context(ContextId::Embedding)?;
        let mut ids = Numbers(1);
        let mut texts = |texts: usize, tokens: usize| -> PackedBatch {
            let text = |_| -> Vec<u32> {
                (0..tokens)
                    .map(|_| 1_000 + ids.below(20_000) as u32)
                    .collect()
            };
            (0..texts).map(text).collect()
        };
        let [bulk_texts, bulk_tokens] = BULK;
        Ok(Encoders {
            sms: context.is_partitioned().then(|| context.sm_count()),
            simulator: self.device.driver().simulator().cloned(),
            is_simulated: self.device.driver().is_simulated(),
            query: encoder(ContextId::Embedding, LONGEST, 1)?,
            bulk: encoder(ContextId::Dream, bulk_texts * bulk_tokens, bulk_texts)?,
            query_batch: texts(1, QUERY_TOKENS),
            bulk_batch: texts(bulk_texts, bulk_tokens),
        })
    }
}

/// The encoders of queries and of bulk work.
struct Encoders {
    /// The SMs of the queries' partition.
    sms: Option<u32>,
    simulator: Option<Sim>,
    is_simulated: bool,
    query: BertEncoder,
    bulk: BertEncoder,
    query_batch: PackedBatch,
    bulk_batch: PackedBatch,
}

impl Encoders {
    fn row(&self, set_up: &str, beside: bool) -> anyhow::Result<Row> {
        let samples = match &self.simulator {
            Some(sim) => self.in_virtual_time(sim, beside)?,
            None if beside => self.beside_bulk()?,
            None => self.queries()?,
        };
        let latencies = Latencies::from(Samples::of(samples));
        Ok(Row::new(set_up, self.sms, beside, &latencies))
    }

    /// Measures queries one after another, in microseconds.
    fn queries(&self) -> anyhow::Result<Vec<f64>> {
        // The host's times mean nothing on a simulated driver.
        let count = if self.is_simulated { 5 } else { REQUESTS };
        let begin = Instant::now();
        let mut samples = Vec::with_capacity(count);
        while samples.len() < count && begin.elapsed() < LIMIT {
            let start = Instant::now();
            self.query.encode(&self.query_batch)?;
            samples.push(start.elapsed().as_secs_f64() * 1e6);
        }
        Ok(samples)
    }

    fn beside_bulk(&self) -> anyhow::Result<Vec<f64>> {
        let stop = AtomicBool::new(false);
        thread::scope(|scope| {
            let bulk = thread::Builder::new().spawn_scoped(scope, || self.bulk_until(&stop))?;
            // One batch has surely been submitted when another one has ended.
            let queries = self
                .bulk
                .encode(&self.bulk_batch)
                .map_err(anyhow::Error::from)
                .and_then(|_| self.queries());
            stop.store(true, Ordering::Relaxed);
            let ended = bulk.join();
            ended.map_err(|_| anyhow::anyhow!("the thread of the bulk work panicked"))??;
            queries
        })
    }

    fn bulk_until(&self, stop: &AtomicBool) -> anyhow::Result<()> {
        let mut pending = VecDeque::new();
        while !stop.load(Ordering::Relaxed) {
            pending.push_back(self.bulk.submit(&self.bulk_batch)?);
            if pending.len() > DEPTH {
                pending
                    .pop_front()
                    .map(PendingEmbeddings::wait)
                    .transpose()?;
            }
        }
        Ok(())
    }

    /// Measures by the clock that all threads share. A query comes at a random moment of a bulk batch, with another
    /// batch behind that.
    fn in_virtual_time(&self, sim: &Sim, beside: bool) -> anyhow::Result<Vec<f64>> {
        let timed = |encoder: &BertEncoder, batch| -> anyhow::Result<Duration> {
            let start = sim.now();
            encoder.encode(batch)?;
            Ok(sim.now() - start)
        };
        let bulk_takes = timed(&self.bulk, &self.bulk_batch)?.as_nanos() as u64;
        let mut moments = Numbers(2);
        let mut samples = Vec::with_capacity(SIMULATED_QUERIES);
        for _ in 0..SIMULATED_QUERIES {
            let mut pending = Vec::new();
            if beside {
                for _ in 0..DEPTH {
                    pending.push(self.bulk.submit(&self.bulk_batch)?);
                }
                sim.advance(Duration::from_nanos(moments.below(bulk_takes.max(1))));
            }
            samples.push(timed(&self.query, &self.query_batch)?.as_secs_f64() * 1e6);
            for bulk in pending {
                bulk.wait()?;
            }
        }
        Ok(samples)
    }
}

//! An encoder whose batches end when a test lets them, and fail by the tokens in them.

use std::{
    collections::BTreeSet,
    sync::{Arc, Condvar, Mutex},
    thread,
};

use cuda_green_embed::{
    Embeddings, Encoder, EncoderLimits, Error, PackedBatch, PendingEmbeddings, Result,
};

use crate::fake_encoder::vectors;

/// Refused as unknown when its batch is submitted.
pub const UNKNOWN: u32 = 900;
/// Makes its vector overflow, which shows at the end.
pub const OVERFLOW: u32 = 901;
pub const PANIC_IN_SUBMIT: u32 = 902;
pub const PANIC_IN_WAIT: u32 = 903;
/// Makes the GPU fail once for each batch, when it is submitted or at the end.
pub const GPU_IN_SUBMIT_ONCE: u32 = 904;
pub const GPU_IN_WAIT_ONCE: u32 = 905;
/// Makes the GPU fail each time.
pub const GPU: u32 = 906;
/// Fails the batch, whose other texts have nothing to do with it.
pub const BATCH: u32 = 907;

#[derive(Default)]
pub struct Gated(Arc<(Mutex<State>, Condvar)>);

#[derive(Default)]
struct State {
    is_held: bool,
    /// Batches that may end though it is held.
    permits: usize,
    submitted: Vec<Vec<Vec<u32>>>,
    failed_once: BTreeSet<Vec<u32>>,
    /// Names of the threads that submitted and that waited.
    threads: Vec<String>,
}

impl Gated {
    /// Holds batches up from now on.
    pub fn hold(&self) {
        self.0.0.lock().unwrap().is_held = true;
    }

    /// Lets one batch end.
    pub fn permit(&self) {
        self.0.0.lock().unwrap().permits += 1;
        self.0.1.notify_all();
    }

    /// Lets all batches end.
    pub fn open(&self) {
        self.0.0.lock().unwrap().is_held = false;
        self.0.1.notify_all();
    }

    /// Returns the texts of each batch so far, in each the shortest first.
    pub fn submitted(&self) -> Vec<Vec<Vec<u32>>> {
        let mut submitted = self.0.0.lock().unwrap().submitted.clone();
        submitted.iter_mut().for_each(|batch| batch.sort());
        submitted
    }

    pub fn threads(&self) -> Vec<String> {
        self.0.0.lock().unwrap().threads.clone()
    }

    pub fn note_thread(&self) {
        let name = thread::current().name().unwrap_or("?").to_owned();
        self.0.0.lock().unwrap().threads.push(name);
    }

    /// Returns the index of the first text with a token.
    fn text_with(batch: &PackedBatch, token: u32) -> Option<usize> {
        (0..batch.texts()).find(|text| batch.text(*text).unwrap().contains(&token))
    }

    /// Fails the first time that it is asked for a batch with a text.
    fn fail_once(&self, batch: &PackedBatch, token: u32) -> Result<()> {
        let Some(text) = Self::text_with(batch, token) else {
            return Ok(());
        };
        // Of texts that fail once, only the first fails: a second failure in a row would be one too many.
        let text = batch.text(text).unwrap().to_vec();
        let mut state = self.0.0.lock().unwrap();
        let others = (0..batch.texts()).map(|text| batch.text(text).unwrap().to_vec());
        let is_first = state.failed_once.insert(text);
        state.failed_once.extend(others);
        match is_first {
            true => Err(gpu_error(1)),
            false => Ok(()),
        }
    }
}

/// Returns an error of the GPU that can be told from others.
pub fn gpu_error(asked: u32) -> Error {
    Error::Gpu(cuda_green::Error::NoSuchDevice { asked, count: 0 })
}

impl Encoder for Gated {
    fn limits(&self) -> EncoderLimits {
        EncoderLimits {
            dimension: 3,
            tokens_of_text: 16,
            tokens: 64,
            texts: 8,
        }
    }

    fn submit(&self, batch: &PackedBatch) -> Result<PendingEmbeddings> {
        self.note_thread();
        let texts = (0..batch.texts()).map(|text| batch.text(text).unwrap().to_vec());
        self.0.0.lock().unwrap().submitted.push(texts.collect());
        self.limits().check(batch, 10_000)?;
        if let Some(text) = Self::text_with(batch, UNKNOWN) {
            return Err(Error::UnknownToken {
                text,
                token: UNKNOWN,
                vocabulary: 10,
            });
        }
        assert!(
            Self::text_with(batch, PANIC_IN_SUBMIT).is_none(),
            "as asked"
        );
        if Self::text_with(batch, BATCH).is_some() {
            return Err(Error::UnsupportedPrecision {
                precision: "f7",
                reason: "as asked",
            });
        }
        self.fail_once(batch, GPU_IN_SUBMIT_ONCE)?;
        let (this, batch) = (Self(Arc::clone(&self.0)), batch.clone());
        Ok(PendingEmbeddings::new(move || this.end(&batch)))
    }
}

impl Gated {
    fn end(&self, batch: &PackedBatch) -> Result<Embeddings> {
        self.note_thread();
        let mut state = self.0.0.lock().unwrap();
        while state.is_held && state.permits == 0 {
            state = self.0.1.wait(state).unwrap();
        }
        if state.is_held {
            state.permits -= 1;
        }
        drop(state);
        assert!(Self::text_with(batch, PANIC_IN_WAIT).is_none(), "as asked");
        self.fail_once(batch, GPU_IN_WAIT_ONCE)?;
        if Self::text_with(batch, GPU).is_some() {
            return Err(gpu_error(2));
        }
        match Self::text_with(batch, OVERFLOW) {
            Some(text) => Err(Error::Overflow {
                text,
                precision: "f16",
            }),
            None => Ok(vectors(batch)),
        }
    }
}

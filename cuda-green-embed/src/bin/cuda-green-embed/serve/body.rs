//! The reading of a request's body, within limits of size, memory and time.

use std::sync::Arc;

use axum::body::Body;
use http_body_util::BodyExt;
use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore},
    time::{Instant, timeout_at},
};

use super::{
    limits::Limits,
    refusal::{Kind, Refusal},
};

/// The unit in which memory is counted.
const UNIT: usize = 16 << 10;

/// The most bytes of a refused body that are read, so that the client hears the answer and not of a closed connection.
const DISCARDED: usize = 256 << 20;

/// The memory for the bodies of all requests.
pub struct Memory(Arc<Semaphore>);

impl Memory {
    pub fn new(bytes: usize) -> Self {
        let units = bytes.div_ceil(UNIT).min(Semaphore::MAX_PERMITS);
        Self(Arc::new(Semaphore::new(units)))
    }
}

/// A body, whose memory is counted until it is dropped.
pub struct Whole {
    pub bytes: Vec<u8>,
    memory: Option<OwnedSemaphorePermit>,
}

/// Reads a body.
pub async fn read(mut body: Body, limits: &Limits, memory: &Memory) -> Result<Whole, Refusal> {
    let deadline = Instant::now() + limits.body_time;
    let slow = |_| {
        let seconds = limits.body_time.as_secs_f64();
        let message = format!("the body did not come within {seconds} s");
        Err(Refusal::new(Kind::SlowBody, message))
    };
    let read = timeout_at(deadline, collect(&mut body, limits, memory)).await;
    let read = read.unwrap_or_else(slow);
    if let Err(Refusal {
        kind: Kind::TooLarge | Kind::Overloaded,
        ..
    }) = read
    {
        // Its end does not matter: the connection is closed if it does not come.
        let _ = timeout_at(deadline, discard(&mut body)).await;
    }
    read
}

async fn collect(body: &mut Body, limits: &Limits, memory: &Memory) -> Result<Whole, Refusal> {
    let mut whole = Whole {
        bytes: Vec::new(),
        memory: None,
    };
    while let Some(frame) = body.frame().await {
        let broken = |_| Refusal::new(Kind::Syntax, "the body ended early");
        let Ok(data) = frame.map_err(broken)?.into_data() else {
            continue; // trailers
        };
        let bytes = whole.bytes.len().saturating_add(data.len());
        if bytes > limits.body {
            let message = format!("the body exceeds the server's {} bytes", limits.body);
            return Err(Refusal::new(Kind::TooLarge, message));
        }
        whole.reserve(bytes, memory)?;
        whole.bytes.extend_from_slice(&data);
    }
    Ok(whole)
}

async fn discard(body: &mut Body) {
    let mut read = 0;
    while let Some(Ok(frame)) = body.frame().await {
        read += frame.data_ref().map_or(0, |data| data.len());
        if read > DISCARDED {
            return;
        }
    }
}

impl Whole {
    /// Counts so many bytes.
    fn reserve(&mut self, bytes: usize, memory: &Memory) -> Result<(), Refusal> {
        let counted = self.memory.as_ref().map_or(0, |one| one.num_permits());
        let more = bytes.div_ceil(UNIT).saturating_sub(counted);
        let more = u32::try_from(more).unwrap_or(u32::MAX);
        if more == 0 {
            return Ok(());
        }
        let more = Arc::clone(&memory.0).try_acquire_many_owned(more);
        let more = more.map_err(|_| {
            let message = "the server holds as many requests as it can; try again later";
            Refusal::new(Kind::Overloaded, message)
        })?;
        match &mut self.memory {
            Some(counted) => counted.merge(more),
            None => self.memory = Some(more),
        }
        Ok(())
    }
}

//! One request's way from its body to the bytes of its answer: the parts that compute, each called on a thread that may.

use std::{
    sync::{
        Arc, OnceLock,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use base64::{Engine, prelude::BASE64_STANDARD};
use cuda_green_embed::{EmbedBatchFuture, Error, Lane};
use serde::Serialize;

use super::{
    ask::{Ask, Encoding},
    limits::Limits,
    model::Model,
    refusal::{Api, Kind, Refusal},
};

/// A request whose texts are on their way.
pub struct Submitted {
    pub vectors: EmbedBatchFuture,
    pub form: Form,
}

/// What the answer is to be made of, beside the vectors.
pub struct Form {
    model: Arc<Model>,
    api: Api,
    tokens: usize,
    texts: usize,
    encoding: Encoding,
    normalize: bool,
    dimensions: Option<usize>,
}

/// Returns the lane of a request: that of its field, header or path, in this order, or else one text's is interactive and
/// a long list's is bulk.
pub fn lane(ask: &Ask, around: Option<Lane>, limits: &Limits) -> Lane {
    let by_size = match ask.texts.len() {
        texts if texts <= limits.interactive_texts => Lane::Interactive,
        _ => Lane::Bulk,
    };
    ask.lane.or(around).unwrap_or(by_size)
}

/// Tokenises the texts and queues them.
pub fn submit(
    ask: &Ask,
    api: Api,
    lane: Lane,
    model: Arc<Model>,
    limits: &Limits,
    time_left: Duration,
) -> Result<Submitted, Refusal> {
    let dimension = model.embedder.dimension();
    if let Some(asked) = ask.dimensions
        && !(1..=dimension).contains(&asked)
    {
        let message = format!("`dimensions` is {asked}; the model has 1 to {dimension}");
        return Err(Refusal::new(Kind::Invalid, message));
    }
    let room = model.queue_limit(lane);
    if ask.texts.len() > room {
        let message = format!(
            "{} texts never have room in the queue of the {lane} lane, which takes {room}",
            ask.texts.len()
        );
        return Err(Refusal::new(Kind::TooLarge, message));
    }
    let encode = model
        .texts
        .encoder(ask.prompt_name.as_deref(), ask.truncate, ask.side)?;
    let tokens = AtomicUsize::new(0);
    let refused = OnceLock::new();
    // Long lists are tokenised by several threads.
    let indexed: Vec<_> = ask.texts.iter().enumerate().collect();
    let lane = model.embedder.lane(lane).timeout(time_left);
    let vectors = lane.embed_batch_with(&indexed, |(index, text)| {
        // If the answer is a refusal already, the rest need not be tokenised.
        if refused.get().is_none() {
            let made = encode(text)
                .map_err(|refusal| refusal.of_text(*index))
                .and_then(|ids| within(ids, &tokens, limits));
            match made {
                Ok(ids) => return Ok(ids),
                // The first refusal is as good as any other.
                Err(refusal) => drop(refused.set(refusal)),
            }
        }
        let reason = "it is refused".to_owned();
        Err(Error::Tokenize { text: 0, reason })
    });
    drop(encode);
    if let Some(refusal) = refused.into_inner() {
        // Dropping the vectors' future gives the other texts up.
        return Err(refusal);
    }
    Ok(Submitted {
        vectors,
        form: Form {
            model,
            api,
            tokens: tokens.into_inner(),
            texts: ask.texts.len(),
            encoding: ask.encoding,
            normalize: ask.normalize,
            dimensions: ask.dimensions,
        },
    })
}

/// Counts a text's tokens.
fn within(ids: Vec<u32>, tokens: &AtomicUsize, limits: &Limits) -> Result<Vec<u32>, Refusal> {
    // It cannot overflow: all of them came in one body.
    let before = tokens.fetch_add(ids.len(), Ordering::Relaxed);
    let most = limits.tokens;
    if before + ids.len() > most {
        let message = format!("the request has more than the server's {most} tokens");
        return Err(Refusal::new(Kind::TooLarge, message));
    }
    Ok(ids)
}

impl Form {
    /// Returns the number of values that are to be written.
    pub fn values(&self) -> usize {
        let dimension = self.model.embedder.dimension();
        self.texts * self.dimensions.unwrap_or(dimension)
    }

    /// Writes the answer. One text without a vector fails the request.
    pub fn write(
        &self,
        results: cuda_green_embed::Result<Vec<cuda_green_embed::Result<Vec<f32>>>>,
    ) -> Result<Vec<u8>, Refusal> {
        let results = results.map_err(|error| Refusal::from(&error))?;
        let per_value = match self.encoding {
            Encoding::Float => 13,
            Encoding::Base64 => 6,
        };
        let mut out = Vec::with_capacity(self.values() * per_value + self.texts * 64 + 256);
        if self.api == Api::OpenAi {
            out.extend_from_slice(br#"{"object":"list","data":"#);
        }
        let mut scratch = Vec::new();
        for (index, vector) in results.into_iter().enumerate() {
            let mut vector = vector.map_err(|error| Refusal::from(&error))?;
            self.fit(&mut vector);
            out.push(if index == 0 { b'[' } else { b',' });
            match self.api {
                Api::Tei => json(&mut out, &vector)?,
                Api::OpenAi => {
                    out.extend_from_slice(br#"{"object":"embedding","index":"#);
                    json(&mut out, &index)?;
                    out.extend_from_slice(br#","embedding":"#);
                    self.encode(&mut out, &vector, &mut scratch)?;
                    out.push(b'}');
                }
            }
        }
        out.push(b']');
        if self.api == Api::OpenAi {
            out.extend_from_slice(br#","model":"#);
            json(&mut out, &self.model.name)?;
            let tokens = self.tokens;
            let usage =
                format!(r#","usage":{{"prompt_tokens":{tokens},"total_tokens":{tokens}}}}}"#);
            out.extend_from_slice(usage.as_bytes());
        }
        Ok(out)
    }

    /// Cuts a vector to the dimensions that were asked for, and scales it to length 1 if it is to be.
    fn fit(&self, vector: &mut Vec<f32>) {
        if let Some(most) = self.dimensions {
            vector.truncate(most);
        }
        if !self.normalize {
            return;
        }
        let length = vector.iter().map(|value| value * value).sum::<f32>().sqrt();
        if length > 0.0 && length.is_finite() && (length - 1.0).abs() > 1e-6 {
            vector.iter_mut().for_each(|value| *value /= length);
        }
    }

    fn encode(
        &self,
        out: &mut Vec<u8>,
        vector: &[f32],
        scratch: &mut Vec<u8>,
    ) -> Result<(), Refusal> {
        if self.encoding == Encoding::Float {
            return json(out, vector);
        }
        scratch.clear();
        scratch.extend(vector.iter().flat_map(|value| value.to_le_bytes()));
        out.push(b'"');
        let start = out.len();
        let encoded = base64::encoded_len(scratch.len(), true).ok_or_else(Refusal::internal)?;
        out.resize(start + encoded, 0);
        let target = out.get_mut(start..).unwrap_or_default();
        let written = BASE64_STANDARD.encode_slice(&*scratch, target);
        written.map_err(|_| Refusal::internal())?;
        out.push(b'"');
        Ok(())
    }
}

fn json(out: &mut Vec<u8>, value: &(impl Serialize + ?Sized)) -> Result<(), Refusal> {
    serde_json::to_writer(out, value).map_err(|_| Refusal::internal())
}

//! The server in this process, over encoders that a test holds up and lets fail.

#![allow(clippy::unwrap_used, clippy::panic)] // tests

mod answers;
#[allow(dead_code)] // as `library` needs it
#[path = "../../../../tests/library/service/gated.rs"]
mod gated;
mod lanes;
mod network;
mod properties;
mod refusals;
#[allow(dead_code)] // as `library` needs it
#[path = "../../../../tests/library/support.rs"]
mod support;

use std::sync::{Arc, OnceLock};

use axum::{
    Router,
    body::Body,
    http::{Request, Response, StatusCode, header},
};
use cuda_green_embed::{BatchConfig, Embedder, InferencePrecision, Lane, ModelFolder, PackedBatch};
use gated::Gated;
use http_body_util::BodyExt;
use metrics_exporter_prometheus::PrometheusHandle;
use serde_json::{Value, json};
use support::SmallModel;
use tower::ServiceExt;

use super::{
    app::{self, App},
    figures::{self, Figures},
    limits::Limits,
    model::{Model, Models, NamedFolder, Texts},
};
use crate::fake_encoder::vectors;

/// A server with the small model's tokeniser, and its encoders.
struct Server {
    app: Arc<App>,
    router: Router,
    interactive: Arc<Gated>,
    bulk: Arc<Gated>,
}

/// Returns the recorder of this process: there can be one alone.
fn recorder() -> PrometheusHandle {
    static ONE: OnceLock<PrometheusHandle> = OnceLock::new();
    let made = ONE.get_or_init(|| figures::builder().unwrap().install_recorder().unwrap());
    made.clone()
}

/// Returns a model that takes up to 10 tokens, of a vocabulary of 16, and has the prompt `query` as its default.
fn model(name: Option<&str>, encoders: [Arc<Gated>; 2], waiting: usize) -> Model {
    let small = SmallModel::new();
    let folder = ModelFolder::open(small.path()).unwrap();
    let texts = Texts::new(&folder, Some(""), false).unwrap();
    let config = BatchConfig {
        max_wait: std::time::Duration::ZERO,
        min_batch_size: 1,
        max_pending: waiting,
        ..BatchConfig::default()
    };
    let mut builder = Embedder::builder().submitted(Lane::Bulk, 1);
    for lane in Lane::ALL {
        builder = builder.batches(lane, config.clone());
    }
    let [interactive, bulk] = encoders;
    let embedder = builder.build_with(interactive, bulk).unwrap();
    let named = NamedFolder {
        name: name.map(str::to_owned),
        path: small.path().to_owned(),
    };
    Model::new(&named, &folder, texts, InferencePrecision::FP16, embedder)
}

fn small_limits() -> Limits {
    Limits {
        body: 64 << 10,
        texts: 20,
        tokens: 100,
        interactive_texts: 2,
        ..Limits::default()
    }
}

impl Server {
    fn new() -> Self {
        Self::of(Some("small"), small_limits(), 1000)
    }

    fn of(name: Option<&str>, limits: Limits, waiting: usize) -> Self {
        let mut server = Self::loading(limits);
        server.interactive = Arc::default();
        server.bulk = Arc::default();
        let encoders = [Arc::clone(&server.interactive), Arc::clone(&server.bulk)];
        server
            .app
            .ready(Models::new(model(name, encoders, waiting)));
        server
    }

    /// Returns a server whose model is not there yet.
    fn loading(limits: Limits) -> Self {
        let app = Arc::new(App::new(limits, Figures::of(recorder()), None));
        Self {
            router: app::router(Arc::clone(&app)),
            app,
            interactive: Arc::default(),
            bulk: Arc::default(),
        }
    }

    async fn send(&self, request: Request<Body>) -> Answer {
        let response = self.router.clone().oneshot(request).await.unwrap();
        Answer::of(response).await
    }

    async fn get(&self, path: &str) -> Answer {
        self.send(Request::get(path).body(Body::empty()).unwrap())
            .await
    }

    async fn post(&self, path: &str, body: impl Into<Body>) -> Answer {
        self.send(post(path, body)).await
    }

    async fn json(&self, path: &str, body: Value) -> Answer {
        self.post(path, body.to_string()).await
    }
}

fn post(path: &str, body: impl Into<Body>) -> Request<Body> {
    let request = Request::post(path).header(header::CONTENT_TYPE, "application/json");
    request.body(body.into()).unwrap()
}

/// An answer, whose body is JSON or text.
#[derive(Debug)]
struct Answer {
    status: StatusCode,
    headers: axum::http::HeaderMap,
    text: String,
}

impl Answer {
    async fn of(response: Response<Body>) -> Self {
        let (parts, body) = response.into_parts();
        let bytes = body.collect().await.unwrap().to_bytes();
        Self {
            status: parts.status,
            headers: parts.headers,
            text: String::from_utf8(bytes.to_vec()).unwrap(),
        }
    }

    /// Returns the body of an answer with this status.
    #[track_caller]
    fn with(self, status: u16) -> Value {
        assert_eq!(self.status, status, "{}", self.text);
        assert_eq!(self.headers[header::CONTENT_TYPE], "application/json");
        serde_json::from_str(&self.text).unwrap()
    }
}

/// Returns the vector that the encoders give these tokens, scaled to length 1.
fn vector(tokens: &[u32]) -> Vec<f32> {
    scaled(raw(tokens))
}

fn raw(tokens: &[u32]) -> Vec<f32> {
    let batch: PackedBatch = [tokens].into_iter().collect();
    vectors(&batch).into_values()
}

fn scaled(mut vector: Vec<f32>) -> Vec<f32> {
    let length = vector.iter().map(|value| value * value).sum::<f32>().sqrt();
    vector.iter_mut().for_each(|value| *value /= length);
    vector
}

/// Returns the values of a JSON array.
fn values(array: &Value) -> Vec<f32> {
    let values = array.as_array().unwrap().iter();
    values.map(|value| value.as_f64().unwrap() as f32).collect()
}

#[track_caller]
fn assert_near(found: &[f32], expected: &[f32]) {
    assert_eq!(found.len(), expected.len());
    let near = found
        .iter()
        .zip(expected)
        .all(|(a, b)| (a - b).abs() < 1e-6);
    assert!(near, "{found:?} {expected:?}");
}

/// Lets all other tasks and threads go on until something holds. Fails instead of hanging.
async fn until(what: &str, holds: impl Fn() -> bool) {
    let start = std::time::Instant::now();
    while !holds() {
        assert!(start.elapsed().as_secs() < 20, "never: {what}");
        tokio::task::yield_now().await;
        std::thread::yield_now();
    }
}

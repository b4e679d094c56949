//! The paths, and each request's way through the server.

use std::{
    sync::{
        Arc, OnceLock,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use axum::{
    Router,
    body::Body,
    extract::{Path, State},
    http::{HeaderMap, HeaderValue, Request, Response, StatusCode, Uri, header},
    routing::{get, post},
};
use cuda_green::SmPartitionManager;
use cuda_green_embed::Lane;
use serde_json::{Value, json};
use tokio::{
    sync::Semaphore,
    task::spawn_blocking,
    time::{Instant, timeout_at},
};

use super::{
    ask::{self, Ask},
    body::{self, Memory},
    figures::Figures,
    limits::{Limits, QUICK_BODY, QUICK_VALUES},
    model::Models,
    refusal::{Api, Kind, Refusal},
    work,
};

/// The header that names a request's lane.
pub const LANE_HEADER: &str = "x-cuda-green-lane";

/// The server's state.
pub struct App {
    /// Empty while they are loaded.
    models: OnceLock<Models>,
    manager: Option<Arc<SmPartitionManager>>,
    pub limits: Limits,
    pub figures: Figures,
    memory: Memory,
    /// The threads that tokenise long lists and write long answers.
    slow: Semaphore,
    closing: AtomicBool,
}

impl App {
    pub fn new(limits: Limits, figures: Figures, manager: Option<Arc<SmPartitionManager>>) -> Self {
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        Self {
            models: OnceLock::new(),
            manager,
            memory: Memory::new(limits.bodies),
            limits,
            figures,
            slow: Semaphore::new(cores),
            closing: AtomicBool::new(false),
        }
    }

    /// Begins to serve.
    pub fn ready(&self, models: Models) {
        // Set once, by whoever loads them.
        let _ = self.models.set(models);
    }

    /// Has `/health` fail from now on, so that no balancer sends more.
    pub fn close(&self) {
        self.closing.store(true, Ordering::SeqCst);
    }

    /// Returns the models, once nobody uses them any more.
    pub fn into_models(self) -> Option<Models> {
        self.models.into_inner()
    }

    fn models(&self) -> Result<&Models, Refusal> {
        let loading = || Refusal::new(Kind::Unavailable, "the model is being loaded");
        self.models.get().ok_or_else(loading)
    }

    /// Returns the reason for which the server is not healthy, if there is one.
    fn ill(&self) -> Result<(), Refusal> {
        if self.closing.load(Ordering::SeqCst) {
            return Err(Refusal::from(&cuda_green_embed::Error::ShutDown));
        }
        let models = self.models()?;
        match models.all().find_map(|model| model.embedder.death()) {
            Some(first) => Err((&cuda_green_embed::Error::ServiceDead { first }).into()),
            None => Ok(()),
        }
    }

    /// Returns what `/info` shows.
    pub fn info(&self) -> Result<Value, Refusal> {
        let first = self.models()?.get(None)?;
        Ok(first.info(&self.limits))
    }

    /// Computes here if it is quick, or else on one of the threads for that.
    async fn compute<T: Send + 'static>(
        &self,
        is_quick: bool,
        task: impl FnOnce() -> Result<T, Refusal> + Send + 'static,
    ) -> Result<T, Refusal> {
        if is_quick {
            return task();
        }
        let _permit = self.slow.acquire().await.map_err(|_| Refusal::internal())?;
        let done = spawn_blocking(task).await;
        done.unwrap_or_else(|_| Err(Refusal::internal()))
    }

    /// Answers a request for vectors.
    async fn embed(
        self: Arc<Self>,
        api: Api,
        lane: Option<Lane>,
        request: Request<Body>,
    ) -> Result<Vec<u8>, Refusal> {
        let deadline = Instant::now() + self.limits.time;
        let models = self.models()?;
        let (parts, body) = request.into_parts();
        ensure_json(&parts.headers)?;
        let around = match header_lane(&parts.headers)? {
            None => lane,
            some => some,
        };
        let body = body::read(body, &self.limits, &self.memory).await?;
        let is_quick = body.bytes.len() <= QUICK_BODY;
        let app = Arc::clone(&self);
        let (ask, body) = self
            .compute(is_quick, move || {
                let ask = Ask::parse(&body.bytes, api, &app.limits)?;
                Ok((ask, body))
            })
            .await?;
        let model = models.get(ask.model.as_deref())?;
        let app = Arc::clone(&self);
        let submitted = self.compute(is_quick, move || {
            let lane = work::lane(&ask, around, &app.limits);
            let left = deadline.saturating_duration_since(Instant::now());
            let submitted = work::submit(&ask, api, lane, model, &app.limits, left);
            drop(body);
            submitted
        });
        let late = |_| {
            let seconds = self.limits.time.as_secs_f64();
            Refusal::new(
                Kind::Late,
                format!("the vectors were not there within {seconds} s"),
            )
        };
        let submitted = timeout_at(deadline, submitted).await.map_err(late)??;
        let form = submitted.form;
        let vectors = timeout_at(deadline, submitted.vectors).await;
        let vectors = vectors.map_err(late)?;
        let is_quick = form.values() <= QUICK_VALUES;
        self.compute(is_quick, move || form.write(vectors)).await
    }
}

/// Ensures that the body says of itself that it is JSON. A browser asks before it sends that to another site, so no page
/// can use a server on its reader's machine.
fn ensure_json(headers: &HeaderMap) -> Result<(), Refusal> {
    let kind = headers.get(header::CONTENT_TYPE);
    let kind = kind.and_then(|value| value.to_str().ok());
    let kind = kind.and_then(|text| text.split(';').next()).map(str::trim);
    if kind.is_some_and(|kind| kind.eq_ignore_ascii_case("application/json")) {
        return Ok(());
    }
    let message = "the content type must be application/json";
    Err(Refusal::new(Kind::MediaType, message))
}

fn header_lane(headers: &HeaderMap) -> Result<Option<Lane>, Refusal> {
    let Some(value) = headers.get(LANE_HEADER) else {
        return Ok(None);
    };
    ask::lane(value.to_str().unwrap_or_default()).map(Some)
}

/// Returns the paths of a server.
pub fn router(app: Arc<App>) -> Router {
    let mut router = embeddings(None)
        .route("/health", get(health))
        .route("/info", get(info))
        .route("/metrics", get(metrics))
        .route("/v1/models", get(models))
        .route("/v1/models/{*name}", get(model));
    for lane in Lane::ALL {
        router = router.nest(&format!("/{lane}"), embeddings(Some(lane)));
    }
    router
        .fallback(no_such_path)
        .method_not_allowed_fallback(no_such_method)
        .with_state(app)
}

/// Returns the paths for vectors.
fn embeddings(lane: Option<Lane>) -> Router<Arc<App>> {
    let handler = move |api: Api| {
        move |State(app): State<Arc<App>>, request: Request<Body>| async move {
            match app.embed(api, lane, request).await {
                Ok(bytes) => json_response(StatusCode::OK, bytes),
                Err(refusal) => refusal.response(api),
            }
        }
    };
    Router::new()
        .route("/v1/embeddings", post(handler(Api::OpenAi)))
        .route("/embed", post(handler(Api::Tei)))
        // That of Hugging Face's InferenceClient.
        .route("/", post(handler(Api::Tei)))
}

fn json_response(status: StatusCode, bytes: impl Into<Body>) -> Response<Body> {
    let mut response = Response::new(bytes.into());
    *response.status_mut() = status;
    let json = HeaderValue::from_static("application/json");
    response.headers_mut().insert(header::CONTENT_TYPE, json);
    response
}

async fn health(State(app): State<Arc<App>>) -> Response<Body> {
    match app.ill() {
        Ok(()) => Response::new(Body::empty()),
        Err(refusal) => refusal.response(Api::Tei),
    }
}

async fn info(State(app): State<Arc<App>>) -> Response<Body> {
    match app.info() {
        Ok(info) => json_response(StatusCode::OK, info.to_string()),
        Err(refusal) => refusal.response(Api::Tei),
    }
}

async fn metrics(State(app): State<Arc<App>>) -> Response<Body> {
    let text = app.figures.render(app.models.get(), app.manager.as_deref());
    let mut response = Response::new(Body::from(text));
    let kind = HeaderValue::from_static("text/plain; version=0.0.4; charset=utf-8");
    response.headers_mut().insert(header::CONTENT_TYPE, kind);
    response
}

async fn models(State(app): State<Arc<App>>) -> Response<Body> {
    match app.models() {
        Ok(models) => {
            let data: Vec<_> = models.all().map(|model| model.listed()).collect();
            let list = json!({"object": "list", "data": data});
            json_response(StatusCode::OK, list.to_string())
        }
        Err(refusal) => refusal.response(Api::OpenAi),
    }
}

async fn model(State(app): State<Arc<App>>, Path(name): Path<String>) -> Response<Body> {
    let found = app.models().and_then(|models| models.get(Some(&name)));
    match found {
        Ok(model) => json_response(StatusCode::OK, model.listed().to_string()),
        Err(refusal) => refusal.response(Api::OpenAi),
    }
}

async fn no_such_path(uri: Uri) -> Response<Body> {
    let refusal = Refusal::new(Kind::NoSuchPath, "there is no such path");
    refusal.response(api_of(&uri))
}

async fn no_such_method(uri: Uri) -> Response<Body> {
    let refusal = Refusal::new(Kind::Method, "the path takes another method");
    refusal.response(api_of(&uri))
}

fn api_of(uri: &Uri) -> Api {
    match uri.path().split('/').any(|part| part == "v1") {
        true => Api::OpenAi,
        false => Api::Tei,
    }
}

/// The time between two upkeeps of the figures.
pub const UPKEEP: Duration = Duration::from_secs(5);

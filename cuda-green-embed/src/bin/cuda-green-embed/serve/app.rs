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
    extract::{Path, State, rejection::PathRejection},
    http::{HeaderMap, HeaderValue, Request, Response, StatusCode, Uri, header},
    routing::{get, post},
};
use cuda_green::SmPartitionManager;
use cuda_green_embed::{Error, Lane};
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
    work::{self, Results},
};

/// The header that names a request's lane.
pub const LANE_HEADER: &str = "x-cuda-green-lane";

/// The server's state.
pub struct App {
    /// Empty while they are loaded.
    models: OnceLock<Arc<Models>>,
    manager: Option<Arc<SmPartitionManager>>,
    pub limits: Limits,
    pub figures: Figures,
    memory: Memory,
    /// The threads that tokenise long lists and write long answers.
    slow: Semaphore,
    closing: AtomicBool,
    died: AtomicBool,
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
            died: AtomicBool::new(false),
        }
    }

    /// Begins to serve.
    pub fn ready(&self, models: Arc<Models>) {
        // Set once, by whoever loads them.
        let _ = self.models.set(models);
    }

    /// Has `/health` fail from now on, so that no balancer sends more.
    pub fn close(&self) {
        self.closing.store(true, Ordering::SeqCst);
    }

    fn models(&self) -> Result<&Arc<Models>, Refusal> {
        let loading = || Refusal::new(Kind::Unavailable, "the model is being loaded");
        self.models.get().ok_or_else(loading)
    }

    /// Returns the reason for which the server is not healthy, if there is one.
    fn ill(&self) -> Result<(), Refusal> {
        if self.closing.load(Ordering::SeqCst) {
            return Err(Refusal::from(&Error::ShutDown));
        }
        self.models()?;
        match self.died.load(Ordering::SeqCst) {
            true => Err(Refusal::dead()),
            false => Ok(()),
        }
    }

    /// Notes it if the GPU has failed: it fails all models, and does not recover in this process.
    fn watch(&self, vectors: &Results) {
        let is_dead = |error: &Error| matches!(error, Error::ServiceDead { .. });
        let found = match vectors {
            Err(error) => is_dead(error).then_some(error),
            Ok(results) => {
                let mut errors = results.iter().filter_map(|one| one.as_ref().err());
                errors.find(|error| is_dead(error))
            }
        };
        if let Some(error) = found
            && !self.died.swap(true, Ordering::SeqCst)
        {
            log::error!("{error}");
        }
    }

    /// Returns what `/info` shows.
    pub fn info(&self) -> Result<Value, Refusal> {
        let models = self.models()?;
        let mut info = models.find(None)?.info(&self.limits);
        if let Some(Value::Object(lanes)) = models.only().map(|model| model.lanes())
            && let Some(info) = info.as_object_mut()
        {
            info.extend(lanes);
        }
        if let Some(library) = models.library()
            && library.models.len() > 1
        {
            let models = library.models.iter();
            let models =
                models.map(|one| json!({"name": one.name, "state": one.state.to_string()}));
            info["models"] = models.collect();
        }
        Ok(info)
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
        let facts = models.find(ask.model.as_deref())?;
        let late = |_| {
            let seconds = self.limits.time.as_secs_f64();
            let message = format!("the vectors were not there within {seconds} s");
            Refusal::new(Kind::Late, message)
        };
        let model = match models.loaded(facts) {
            Some(model) => model,
            None => {
                let (models, facts) = (Arc::clone(models), Arc::clone(facts));
                let loaded = self.compute(false, move || models.load(&facts));
                timeout_at(deadline, loaded).await.map_err(late)??
            }
        };
        let app = Arc::clone(&self);
        let submitted = self.compute(is_quick, move || {
            let lane = work::lane(&ask, around, &app.limits);
            let left = deadline.saturating_duration_since(Instant::now());
            let submitted = work::submit(&ask, api, lane, model, &app.limits, left);
            drop(body);
            submitted
        });
        let submitted = timeout_at(deadline, submitted).await.map_err(late)??;
        let form = submitted.form;
        let vectors = timeout_at(deadline, submitted.vectors).await;
        let vectors = vectors.map_err(late)?;
        self.watch(&vectors);
        let is_quick = form.values() <= QUICK_VALUES;
        self.compute(is_quick, move || form.write(vectors)).await
    }
}

/// Ensures that the body says of itself that it is JSON. A browser asks before it sends that to another site, so a page
/// of another site cannot use a server on its reader's machine, unless it has the browser take that for its own site (DNS
/// rebinding).
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
    let lanes = headers.get_all(LANE_HEADER).iter();
    let lanes: Result<Vec<_>, _> = lanes
        .map(|value| ask::lane(value.to_str().unwrap_or_default()))
        .collect();
    match lanes?[..] {
        [] => Ok(None),
        [lane] => Ok(Some(lane)),
        _ => Err(Refusal::new(Kind::Invalid, "the lane is given twice")),
    }
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
    let text = app
        .figures
        .render(app.models.get().map(Arc::as_ref), app.manager.as_deref());
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

async fn model(
    State(app): State<Arc<App>>,
    name: Result<Path<String>, PathRejection>,
) -> Response<Body> {
    let Ok(Path(name)) = name else {
        let refusal = Refusal::new(Kind::NoSuchPath, "the name is not UTF-8");
        return refusal.response(Api::OpenAi);
    };
    let found = app.models().and_then(|models| models.find(Some(&name)));
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

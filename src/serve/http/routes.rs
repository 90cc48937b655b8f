//! Who answers what. Every endpoint that scores takes a place among those that are answered at once, reads a bounded body in bounded
//! time, and hands it to the scorer of one arm.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Instant;

use axum::body::{Body, Bytes};
use axum::extract::{MatchedPath, Path, Request, State};
use axum::http::header::{CONTENT_ENCODING, CONTENT_LENGTH, CONTENT_TYPE};
use axum::http::{HeaderMap, HeaderValue, StatusCode};
use axum::middleware::{Next, from_fn};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Json, Router};
use http_body_util::{BodyExt as _, LengthLimitError, Limited};
use metrics::{counter, histogram};
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::sync::SemaphorePermit;
use tokio::time::timeout;

use super::answer::HttpRefusal;
use super::app::{EXTENSIONS, IndexEntry, NAME, about, check_version, count, inputs};
use super::arms::Arm;
use super::infer::{Answer, InferRequest};
use super::rows::OUTPUTS;
use super::{App, metrics as exposition};
use crate::serve::model::ServedModel;
use crate::serve::scorer::Predictions;

/// What a request may say which arm it is for: the same key meets the same arm.
const KEY: &str = "x-deepfm-key";

/// How many of a body's first bytes are JSON; binary tensors follow.
const JSON_LENGTH: &str = "inference-header-content-length";

type Shared = State<Arc<App>>;

pub(super) fn router(app: Arc<App>) -> Router {
    Router::new()
        .route("/v2", get(server_metadata))
        .route("/v2/health/live", get(live))
        .route("/v2/health/ready", get(ready))
        .route("/v2/models/{name}", get(model_metadata))
        .route("/v2/models/{name}/ready", get(model_ready))
        .route("/v2/models/{name}/infer", post(infer))
        .route("/v2/models/{name}/versions/{version}", get(version_metadata))
        .route("/v2/models/{name}/versions/{version}/ready", get(version_ready))
        .route("/v2/models/{name}/versions/{version}/infer", post(version_infer))
        .route("/v2/repository/index", post(index))
        .route("/v1/rank", post(rank))
        .route("/status", get(status))
        .route("/metrics", get(metrics_text))
        .fallback(|| async { HttpRefusal::NotFound("there is nothing at this path".to_owned()) })
        .method_not_allowed_fallback(|| async { HttpRefusal::Method })
        .layer(from_fn(measured))
        .with_state(app)
}

/// Counts a request and its time.
async fn measured(request: Request, next: Next) -> Response {
    let start = Instant::now();
    let endpoint = request.extensions().get::<MatchedPath>().map_or("none", MatchedPath::as_str).to_owned();
    let response = next.run(request).await;
    let status = response.status().as_u16().to_string();
    counter!("deepfm_serve_requests_total", "endpoint" => endpoint.clone(), "status" => status).increment(1);
    histogram!("deepfm_serve_request_seconds", "endpoint" => endpoint).record(start.elapsed().as_secs_f64());
    response
}

async fn server_metadata() -> Json<Value> {
    Json(json!({
        "name": NAME,
        "version": env!("CARGO_PKG_VERSION"),
        "extensions": EXTENSIONS,
    }))
}

async fn live() -> StatusCode {
    StatusCode::OK
}

/// Ready from the first version of every arm to the end, whatever reloads come to.
async fn ready(State(app): Shared) -> StatusCode {
    if app.is_ready() { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE }
}

impl App {
    /// Takes a place, and reads the body of a request.
    async fn read(&self, headers: &HeaderMap, body: Body) -> Result<(SemaphorePermit<'_>, Bytes), HttpRefusal> {
        let limits = &self.limits;
        let place = self.place()?;
        let encoding = headers.get(CONTENT_ENCODING).filter(|encoding| *encoding != "identity");
        if let Some(encoding) = encoding {
            return Err(HttpRefusal::Encoded(String::from_utf8_lossy(encoding.as_bytes()).chars().take(100).collect()));
        }
        let stated = headers.get(CONTENT_LENGTH).and_then(|length| length.to_str().ok()?.parse::<u64>().ok());
        if stated.is_some_and(|stated| stated > limits.body_bytes_max as u64) {
            return Err(HttpRefusal::TooLong(limits.body_bytes_max));
        }
        let whole = timeout(limits.request_max, Limited::new(body, limits.body_bytes_max).collect()).await;
        match whole {
            Err(_) => Err(HttpRefusal::TooSlow(limits.request_max.as_secs())),
            Ok(Err(error)) if error.is::<LengthLimitError>() => Err(HttpRefusal::TooLong(limits.body_bytes_max)),
            Ok(Err(error)) => Err(HttpRefusal::Half(error.to_string())),
            Ok(Ok(body)) => Ok((place, body.to_bytes())),
        }
    }
}

fn metadata(app: &App, model: &ServedModel, versions: &[String]) -> Json<Value> {
    let input = |(name, shape): (&str, &[i64])| json!({"name": name, "datatype": "BYTES", "shape": shape});
    let inputs: Vec<Value> = inputs(model).into_iter().map(input).collect();
    let outputs = OUTPUTS.map(|name| json!({"name": name, "datatype": "FP64", "shape": [-1]}));
    Json(json!({
        "name": app.model,
        "versions": versions,
        "platform": NAME,
        "inputs": inputs,
        "outputs": outputs,
    }))
}

async fn model_metadata(State(app): Shared, Path(name): Path<String>) -> Result<Json<Value>, HttpRefusal> {
    app.check(&name)?;
    let (model, versions) = app.versions()?;
    Ok(metadata(&app, &model, &versions))
}

async fn version_metadata(
    State(app): Shared,
    Path((name, version)): Path<(String, String)>,
) -> Result<Json<Value>, HttpRefusal> {
    let (arm, _) = app.arm_of(&name, &version)?;
    Ok(metadata(&app, &*arm.model().ok_or(HttpRefusal::NoVersion)?, &[version]))
}

async fn model_ready(State(app): Shared, Path(name): Path<String>) -> Result<StatusCode, HttpRefusal> {
    app.check(&name)?;
    Ok(ready(State(app)).await)
}

async fn version_ready(
    State(app): Shared,
    Path((name, version)): Path<(String, String)>,
) -> Result<StatusCode, HttpRefusal> {
    app.arm_of(&name, &version)?;
    Ok(ready(State(app)).await)
}

#[derive(Deserialize)]
struct IndexRequest {
    #[serde(default)]
    ready: bool,
}

async fn index(State(app): Shared, headers: HeaderMap, body: Body) -> Result<Json<Value>, HttpRefusal> {
    let (_place, body) = app.read(&headers, body).await?;
    let only_ready = if body.is_empty() {
        false
    } else {
        let request: IndexRequest =
            serde_json::from_slice(&body).map_err(|error| HttpRefusal::BadRequest(format!("the request: {error}")))?;
        request.ready
    };
    let entry = |IndexEntry { version, state, reason }: IndexEntry| {
        let mut entry = json!({"name": app.model, "state": state, "reason": reason});
        if let Some(version) = version {
            entry["version"] = version.into();
        }
        entry
    };
    Ok(Json(app.index(only_ready).into_iter().map(entry).collect()))
}

async fn infer(
    State(app): Shared,
    Path(name): Path<String>,
    headers: HeaderMap,
    body: Body,
) -> Result<Response, HttpRefusal> {
    app.check(&name)?;
    inferred(&app, None, &headers, body).await
}

async fn version_infer(
    State(app): Shared,
    Path((name, version)): Path<(String, String)>,
    headers: HeaderMap,
    body: Body,
) -> Result<Response, HttpRefusal> {
    let asked = app.arm_of(&name, &version)?;
    inferred(&app, Some(asked), &headers, body).await
}

async fn inferred(
    app: &App,
    asked: Option<(&Arm, u64)>,
    headers: &HeaderMap,
    body: Body,
) -> Result<Response, HttpRefusal> {
    let json_bytes = match headers.get(JSON_LENGTH) {
        None => None,
        Some(length) => Some(length.to_str().ok().and_then(|length| length.parse().ok()).ok_or_else(|| {
            HttpRefusal::BadRequest("Inference-Header-Content-Length is no number of bytes".to_owned())
        })?),
    };
    let (_place, body) = app.read(headers, body).await?;
    let (request, binary) = InferRequest::read(&body, json_bytes)?;
    let key = headers.get(KEY).map(|key| key.as_bytes().to_vec()).or_else(|| request.key().map(String::into_bytes));
    let arm = app.chosen(asked, key.as_deref());
    let Answer { json, binary } = arm.with_scorer(|scorer| {
        let rows = scorer.request()?;
        check_version(asked, rows.model().version())?;
        let about = about(arm, rows.model());
        request.score(binary, rows, about, |scores| count(arm, scores))
    })?;
    let json = serde_json::to_vec(&json).map_err(|error| HttpRefusal::BadRequest(error.to_string()))?;
    let Some(binary) = binary else {
        return Ok(([(CONTENT_TYPE, "application/json")], json).into_response());
    };
    let length = json.len();
    let mut response = ([(CONTENT_TYPE, "application/octet-stream")], [json, binary].concat()).into_response();
    response.headers_mut().insert(JSON_LENGTH, HeaderValue::from(length));
    Ok(response)
}

#[derive(Deserialize)]
struct RankKey {
    #[serde(default)]
    request_id: Option<Value>,
}

async fn rank(State(app): Shared, headers: HeaderMap, body: Body) -> Result<Response, HttpRefusal> {
    let (_place, body) = app.read(&headers, body).await?;
    let arm = if let Some(key) = headers.get(KEY) {
        app.arm(Some(key.as_bytes()))
    } else if app.arms.is_single() {
        app.arm(None)
    } else {
        // What is wrong with the document the scorer says.
        let id = serde_json::from_slice::<RankKey>(&body).ok().and_then(|key| key.request_id);
        let key = id.map(|id| id.as_str().map_or_else(|| id.to_string(), str::to_owned));
        app.arm(key.as_deref().map(str::as_bytes))
    };
    let json = arm.with_scorer(|scorer| {
        let scores = scorer.rank_body(&body)?;
        count(arm, &scores);
        Ok::<_, HttpRefusal>(ranked(arm, &scores))
    })?;
    Ok(([(CONTENT_TYPE, "application/json")], json).into_response())
}

/// The answer to a ranking. Version and arm come first, and scores in the order of the candidates.
fn ranked(arm: &Arm, scores: &Predictions<'_>) -> String {
    let mut answer = about(arm, scores.model);
    answer.insert("model_version".to_owned(), scores.version().to_string().into());
    answer.insert("unknown_fields".to_owned(), scores.unknown_fields.into());
    answer.insert("scores".to_owned(), scores.probabilities().collect::<Vec<f64>>().into());
    Value::Object(answer).to_string()
}

async fn status(State(app): Shared) -> Json<Value> {
    let is_draining = app.is_draining.load(Ordering::Acquire);
    Json(json!({
        "model": app.model,
        "ready": app.is_ready(),
        "draining": is_draining,
        "arms": app.statuses(),
        "acknowledgements": app.acknowledgements.read(),
    }))
}

async fn metrics_text(State(app): Shared) -> Response {
    let text = exposition::text(&app, &app.statuses());
    ([(CONTENT_TYPE, "text/plain; version=0.0.4")], text).into_response()
}

//! Which method answers what. Every request is counted with its time and its status; one that scores takes a place among those
//! that are answered at once, before anything of it is read.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Instant;

use hyper::body::Incoming;
use hyper::{Request, Response};
use metrics::{counter, histogram};
use prost::Message;
use tokio::time::timeout;
use tonic::body::Body;
use tonic::server::{Grpc, UnaryService};
use tonic::{Code, Status};

use super::codec::Bounded;
use super::infer::infer;
use super::messages::{
    Empty, ModelIndex, ModelInferRequest, ModelMetadataResponse, ModelRequest, ReadyResponse, RepositoryIndexRequest,
    RepositoryIndexResponse, ServerLiveResponse, ServerMetadataResponse, TensorMetadata,
};
use crate::serve::http::App;
use crate::serve::http::answer::HttpRefusal;
use crate::serve::http::app::{EXTENSIONS, NAME, inputs};
use crate::serve::http::rows::OUTPUTS;
use crate::serve::model::ServedModel;

/// What stands before the name of a method.
const SERVICE: &str = "/inference.GRPCInferenceService/";

/// The most bytes of a request that scores nothing.
const QUESTION_BYTES_MAX: usize = 16 << 10;

impl From<HttpRefusal> for Status {
    fn from(refusal: HttpRefusal) -> Self {
        let code = match &refusal {
            HttpRefusal::BadRequest(_) | HttpRefusal::Half(_) => Code::InvalidArgument,
            HttpRefusal::NotFound(_) => Code::NotFound,
            HttpRefusal::Method | HttpRefusal::Encoded(_) => Code::Unimplemented,
            HttpRefusal::TooSlow(_) => Code::DeadlineExceeded,
            HttpRefusal::TooLong(_) => Code::ResourceExhausted,
            HttpRefusal::Busy(_) | HttpRefusal::NoVersion => Code::Unavailable,
        };
        Self::new(code, refusal.to_string())
    }
}

/// Answers a request.
pub(super) async fn answer(app: Arc<App>, request: Request<Incoming>) -> Response<Body> {
    let start = Instant::now();
    let method = request.uri().path().strip_prefix(SERVICE).unwrap_or_default().to_owned();
    let (endpoint, response) = answered(&app, &method, request).await;
    // An answer that went well has its status behind it.
    let status = response.headers().get(Status::GRPC_STATUS).map_or("0", |status| status.to_str().unwrap_or("2"));
    let endpoint = format!("grpc {endpoint}");
    counter!("deepfm_serve_requests_total", "endpoint" => endpoint.clone(), "status" => status.to_owned()).increment(1);
    histogram!("deepfm_serve_request_seconds", "endpoint" => endpoint).record(start.elapsed().as_secs_f64());
    response
}

async fn answered(app: &Arc<App>, method: &str, request: Request<Incoming>) -> (&'static str, Response<Body>) {
    let shared = Arc::clone(app);
    let small = QUESTION_BYTES_MAX;
    match method {
        "ServerLive" => {
            let live = |Empty {}| Ok(ServerLiveResponse { live: true });
            ("ServerLive", unary(app, request, small, live).await)
        }
        "ServerReady" => {
            let ready = move |Empty {}| Ok(ReadyResponse { ready: shared.is_ready() });
            ("ServerReady", unary(app, request, small, ready).await)
        }
        "ModelReady" => ("ModelReady", unary(app, request, small, move |asked| model_ready(&shared, &asked)).await),
        "ServerMetadata" => ("ServerMetadata", unary(app, request, small, |Empty {}| Ok(server_metadata())).await),
        "ModelMetadata" => {
            ("ModelMetadata", unary(app, request, small, move |asked| model_metadata(&shared, &asked)).await)
        }
        "RepositoryIndex" => {
            ("RepositoryIndex", unary(app, request, small, move |asked| Ok(index(&shared, &asked))).await)
        }
        "ModelInfer" => {
            // Held until it is answered.
            let _place = match app.place() {
                Ok(place) => place,
                Err(busy) => return ("ModelInfer", Status::from(busy).into_http()),
            };
            let scored = move |asked: ModelInferRequest| infer(&shared, &asked);
            ("ModelInfer", unary(app, request, app.limits.body_bytes_max, scored).await)
        }
        _ => ("none", Status::unimplemented("there is no such method").into_http()),
    }
}

/// A function as a method.
struct Method<F>(Option<F>);

impl<A, B, F: FnOnce(A) -> Result<B, HttpRefusal>> UnaryService<A> for Method<F> {
    type Response = B;
    type Future = std::future::Ready<Result<tonic::Response<B>, Status>>;

    fn call(&mut self, request: tonic::Request<A>) -> Self::Future {
        // It is called once.
        let method = self.0.take();
        let done = method.map(|method| method(request.into_inner()).map(tonic::Response::new).map_err(Status::from));
        std::future::ready(done.unwrap_or_else(|| Err(Status::internal("called twice"))))
    }
}

/// Reads a bounded request in bounded time, and answers it by a function.
fn unary<'a, A, B, F>(
    app: &'a App,
    request: Request<Incoming>,
    bytes_max: usize,
    method: F,
) -> Pin<Box<dyn Future<Output = Response<Body>> + Send + 'a>>
where
    A: Message + Default + 'static,
    B: Message + 'static,
    F: FnOnce(A) -> Result<B, HttpRefusal> + Send + 'a,
{
    let limit = app.limits.request_max;
    Box::pin(async move {
        let mut grpc = Grpc::new(Bounded::<A, B>::default()).max_decoding_message_size(bytes_max);
        let answered = timeout(limit, grpc.unary(Method(Some(method)), request)).await;
        answered.unwrap_or_else(|_| Status::from(HttpRefusal::TooSlow(limit.as_secs())).into_http())
    })
}

fn model_ready(app: &App, asked: &ModelRequest) -> Result<ReadyResponse, HttpRefusal> {
    app.check(&asked.name)?;
    if !asked.version.is_empty() {
        app.arm_of(&asked.name, &asked.version)?;
    }
    Ok(ReadyResponse { ready: app.is_ready() })
}

fn server_metadata() -> ServerMetadataResponse {
    ServerMetadataResponse {
        name: NAME.to_owned(),
        version: env!("CARGO_PKG_VERSION").to_owned(),
        extensions: EXTENSIONS.map(str::to_owned).to_vec(),
    }
}

fn model_metadata(app: &App, asked: &ModelRequest) -> Result<ModelMetadataResponse, HttpRefusal> {
    app.check(&asked.name)?;
    if asked.version.is_empty() {
        let (model, versions) = app.versions()?;
        return Ok(metadata(app, &model, versions));
    }
    let (arm, _) = app.arm_of(&asked.name, &asked.version)?;
    Ok(metadata(app, &*arm.model().ok_or(HttpRefusal::NoVersion)?, vec![asked.version.clone()]))
}

fn metadata(app: &App, model: &ServedModel, versions: Vec<String>) -> ModelMetadataResponse {
    let tensor = |name: &str, datatype: &str, shape: &[i64]| TensorMetadata {
        name: name.to_owned(),
        datatype: datatype.to_owned(),
        shape: shape.to_vec(),
    };
    ModelMetadataResponse {
        name: app.model.clone(),
        versions,
        platform: NAME.to_owned(),
        inputs: inputs(model).into_iter().map(|(name, shape)| tensor(name, "BYTES", shape)).collect(),
        outputs: OUTPUTS.iter().map(|name| tensor(name, "FP64", &[-1])).collect(),
    }
}

fn index(app: &App, asked: &RepositoryIndexRequest) -> RepositoryIndexResponse {
    let entries = app.index(asked.ready).into_iter();
    let models = entries.map(|entry| ModelIndex {
        name: app.model.clone(),
        version: entry.version.unwrap_or_default(),
        state: entry.state.to_owned(),
        reason: entry.reason,
    });
    RepositoryIndexResponse { models: models.collect() }
}

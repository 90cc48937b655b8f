//! The admin port: `/metrics` for Prometheus, `/livez` for a supervisor, `/status` for people.

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use axum::extract::State;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use axum::{Json, Router};
use metrics_exporter_prometheus::{PrometheusBuilder, PrometheusHandle};
use tokio::net::TcpListener;

use super::listener;
use super::status::{self, StatusBoard};

/// A learner that has not been heard of for this long is taken for dead: a checkpoint of a large model may take a while.
const SILENCE_MAX: Duration = Duration::from_mins(2);

/// The process's metrics registry, as text.
#[derive(Clone, Debug)]
pub struct Registry(PrometheusHandle);

impl Registry {
    /// Installs the registry of this process. A second call in one process gives a registry that stays empty, since
    /// metrics go to the first.
    pub fn install() -> Self {
        let recorder = PrometheusBuilder::new().build_recorder();
        let handle = recorder.handle();
        if metrics::set_global_recorder(recorder).is_ok() {
            status::describe_metrics();
        }
        Self(handle)
    }
}

/// The admin server, bound but not yet serving.
#[derive(Debug)]
pub struct Admin {
    listener: TcpListener,
    routes: Router,
}

impl Admin {
    /// Binds the address; port 0 takes a free one.
    ///
    /// # Errors
    /// When the address cannot be bound.
    pub async fn bind(address: &str, registry: Registry, board: StatusBoard) -> io::Result<Self> {
        let listener = TcpListener::bind(address).await?;
        let routes = Router::new()
            .route("/metrics", get(metrics_text))
            .route("/livez", get(alive))
            .route("/status", get(status_document))
            .with_state((registry, board));
        Ok(Self { listener, routes })
    }

    /// The address that was bound.
    ///
    /// # Errors
    /// When the operating system does not tell.
    pub fn address(&self) -> io::Result<SocketAddr> {
        self.listener.local_addr()
    }

    /// Serves until the task is dropped.
    pub async fn serve(self) {
        listener::serve(self.listener, self.routes).await;
    }
}

async fn alive(State((_, board)): State<(Registry, StatusBoard)>) -> (StatusCode, String) {
    let age = board.age();
    let code = if age < SILENCE_MAX { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    (code, format!("the learner was last heard of {:.1} s ago\n", age.as_secs_f64()))
}

async fn metrics_text(State((registry, board)): State<(Registry, StatusBoard)>) -> Response {
    board.read().export();
    ([("content-type", "text/plain; version=0.0.4")], registry.0.render()).into_response()
}

async fn status_document(State((_, board)): State<(Registry, StatusBoard)>) -> Response {
    Json(board.read()).into_response()
}

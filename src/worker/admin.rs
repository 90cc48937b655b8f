//! The admin port: `/metrics` for Prometheus, `/livez` for a supervisor, `/readyz` for who waits for fresh models, `/status` for people.

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use axum::extract::State;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use axum::{Json, Router};
use tokio::net::TcpListener;

use super::exposition::Registry;
use super::listener;
use super::status::StatusBoard;

/// A learner that has not been heard of for this long is taken for dead: a checkpoint of a large model may take a while.
const SILENCE_MAX: Duration = Duration::from_mins(2);

/// The admin server, bound but not yet serving.
#[derive(Debug)]
pub struct AdminPort {
    listener: TcpListener,
    routes: Router,
}

impl AdminPort {
    /// Binds the address; port 0 takes a free one.
    ///
    /// # Errors
    /// When the address cannot be bound.
    pub async fn bind(address: &str, registry: Registry, board: StatusBoard) -> io::Result<Self> {
        let listener = TcpListener::bind(address).await?;
        let routes = Router::new()
            .route("/metrics", get(metrics_text))
            .route("/livez", get(alive))
            .route("/readyz", get(ready))
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

/// Whether the model is kept fresh: not while the brokers are away, nor before a start has caught up.
async fn ready(State((_, board)): State<(Registry, StatusBoard)>) -> (StatusCode, String) {
    match board.read().not_ready() {
        None => (StatusCode::OK, "ready\n".to_owned()),
        Some(reason) => (StatusCode::SERVICE_UNAVAILABLE, format!("{reason}\n")),
    }
}

async fn metrics_text(State((registry, board)): State<(Registry, StatusBoard)>) -> Response {
    let text = registry.render(&board.read(), board.age());
    ([("content-type", "text/plain; version=0.0.4")], text).into_response()
}

async fn status_document(State((_, board)): State<(Registry, StatusBoard)>) -> Response {
    Json(board.read()).into_response()
}

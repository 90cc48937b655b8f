//! The reference server: the Open Inference Protocol v2 over REST, JSON and the binary tensor extension, and over gRPC; `POST /v1/rank`, and
//! what monitors ask for. Arms follow versions each by itself; a request is answered by one arm from one version, and both
//! are named in the answer.
//!
//! Bounds: connections, requests at once (503 with `Retry-After` beyond), bytes of a body, rows, the time that a request may
//! take. A body that does not come whole within the time is answered 408, and who does not take an answer within as long is cut
//! off. Errors are JSON, `{"error": "…"}`.

pub mod answer;
mod app;
pub mod arms;
#[cfg(feature = "grpc")]
mod grpc;
mod infer;
pub mod listen;
pub mod metrics;
mod patient;
mod routes;
mod rows;
mod tensor;

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64};
use std::time::Duration;

use tokio::net::TcpListener;
use tokio::sync::Semaphore;

use super::said::AcknowledgementBoard;
use crate::http::registry::MetricRegistry;
use arms::Arms;
#[doc(hidden)]
pub use infer::infer_body;

/// How much is taken at once.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct ServeLimits {
    /// Connections; others wait to be accepted.
    pub connections_max: usize,
    /// Requests that are read or scored at once.
    pub concurrency_max: usize,
    /// Bytes of a request's body.
    pub body_bytes_max: usize,
    /// How long a request may take, its body's arrival included; and how long its answer may take to be sent.
    pub request_max: Duration,
}

impl Default for ServeLimits {
    /// 1,024 connections, 256 requests at once, 8 MiB a body, 10 s.
    fn default() -> Self {
        Self {
            connections_max: 1024,
            concurrency_max: 256,
            body_bytes_max: 8 << 20,
            request_max: Duration::from_secs(10),
        }
    }
}

/// What all requests share.
#[derive(Debug)]
pub(super) struct App {
    model: String,
    arms: Arms,
    limits: ServeLimits,
    registry: MetricRegistry,
    acknowledgements: AcknowledgementBoard,
    places: Semaphore,
    is_draining: AtomicBool,
    /// Requests without a key are shared out in turn.
    turn: AtomicU64,
}

/// The server, bound but not yet serving.
#[derive(Debug)]
pub struct HttpServer {
    listener: TcpListener,
    /// Of gRPC.
    grpc: Option<TcpListener>,
    app: Arc<App>,
}

impl HttpServer {
    /// Binds the address, and that of gRPC; port 0 takes a free one. `acknowledgements` are shown.
    ///
    /// # Errors
    /// When an address cannot be bound, or gRPC was not built in.
    pub async fn bind(
        address: SocketAddr,
        grpc: Option<SocketAddr>,
        model: &str,
        arms: Arms,
        limits: ServeLimits,
        registry: MetricRegistry,
        acknowledgements: AcknowledgementBoard,
    ) -> io::Result<Self> {
        let app = App {
            model: model.to_owned(),
            arms,
            limits,
            registry,
            acknowledgements,
            places: Semaphore::new(limits.concurrency_max),
            is_draining: AtomicBool::new(false),
            turn: AtomicU64::new(0),
        };
        let grpc = match grpc {
            Some(_) if !cfg!(feature = "grpc") => {
                return Err(io::Error::new(io::ErrorKind::Unsupported, "this program was built without gRPC"));
            }
            Some(grpc) => Some(TcpListener::bind(grpc).await?),
            None => None,
        };
        Ok(Self { listener: TcpListener::bind(address).await?, grpc, app: Arc::new(app) })
    }

    /// The address that was bound.
    ///
    /// # Errors
    /// When the operating system does not tell.
    pub fn address(&self) -> io::Result<SocketAddr> {
        self.listener.local_addr()
    }

    /// The address that was bound for gRPC, if one was asked for.
    ///
    /// # Errors
    /// When the operating system does not tell.
    pub fn grpc_address(&self) -> io::Result<Option<SocketAddr>> {
        self.grpc.as_ref().map(TcpListener::local_addr).transpose()
    }
}

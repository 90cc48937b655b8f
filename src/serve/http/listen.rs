//! Takes connections, so many at once, until asked to end; then requests that have begun are finished and nothing new begins.

use std::future::Future;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use axum::Router;
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, watch};
use tokio::task::JoinSet;
use tokio::time::{Instant, interval, sleep, sleep_until, timeout};

#[cfg(feature = "grpc")]
use super::grpc::connection;
use super::patient::Patient;
use super::{App, HttpServer, routes};

/// How long a request's head may take, and a connection be without one. Longer than balancers keep theirs, 60 s as a rule:
/// if they are not the ones that close, a request of theirs meets a connection that is just being closed.
const HEAD_MAX: Duration = Duration::from_secs(75);

/// Bytes that are buffered of a connection; a longer head is refused.
const BUFFER_BYTES_MAX: usize = 64 << 10;

/// How long nobody is let in after the operating system refused a connection, for want of descriptors say.
const PAUSE: Duration = Duration::from_millis(100);

/// How often scorers that no request uses let go of old versions.
const REFRESH: Duration = Duration::from_secs(1);

/// What is spoken at a port.
#[derive(Clone)]
enum Speech {
    /// REST.
    Http(Router),
    /// gRPC.
    #[cfg(feature = "grpc")]
    Grpc,
}

/// What every port has a share in.
#[derive(Clone)]
struct Door {
    app: Arc<App>,
    /// For connections, of whichever port.
    places: Arc<Semaphore>,
    /// True from when no connection is taken and no request begun.
    is_ending: watch::Receiver<bool>,
}

impl HttpServer {
    /// Serves until `stop` comes. From then on it says that it is not ready, for `drain` with requests answered as before, so
    /// that whoever shares them out hears of it; then no connection is taken and no request begun, and those that have
    /// begun are finished.
    pub async fn serve(self, stop: impl Future<Output = ()>, drain: Duration) {
        let Self { listener, grpc, app } = self;
        let (ending, is_ending) = watch::channel(false);
        let places = Arc::new(Semaphore::new(app.limits.connections_max));
        let door = Door { app: Arc::clone(&app), places, is_ending };
        let mut ports = JoinSet::new();
        ports.spawn(take(listener, door.clone(), Speech::Http(routes::router(Arc::clone(&app)))));
        #[cfg(feature = "grpc")]
        if let Some(listener) = grpc {
            ports.spawn(take(listener, door, Speech::Grpc));
        }
        #[cfg(not(feature = "grpc"))]
        drop((grpc, door));
        let mut refresh = interval(REFRESH);
        let mut stop = pin!(stop);
        let mut end: Option<Instant> = None;
        loop {
            let drained = async {
                match end {
                    Some(end) => sleep_until(end).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                () = &mut stop, if end.is_none() => {
                    app.is_draining.store(true, Ordering::Release);
                    end = Some(Instant::now() + drain);
                }
                () = drained => break,
                _ = refresh.tick() => {
                    app.arms.refresh();
                    app.registry.upkeep();
                }
            }
        }
        // A port that has ended does not want to know.
        let _ = ending.send(true);
        while ports.join_next().await.is_some() {}
    }
}

/// Comes when the server ends.
pub(super) async fn end_of(is_ending: &mut watch::Receiver<bool>) {
    // Without who would say so, it has ended.
    let _ = is_ending.wait_for(|is_ending| *is_ending).await;
}

/// Takes the connections of a port, until the end; and waits for theirs.
async fn take(listener: TcpListener, door: Door, speech: Speech) {
    let mut connections = JoinSet::new();
    let mut is_ending = door.is_ending.clone();
    loop {
        let accept = async {
            let place = Arc::clone(&door.places).acquire_owned().await;
            (place, listener.accept().await)
        };
        tokio::select! {
            () = end_of(&mut is_ending) => break,
            // So that those that have ended take no memory.
            Some(_) = connections.join_next() => {}
            (place, accepted) = accept => match accepted {
                Ok((stream, _)) => {
                    // Small answers are not to wait for more.
                    let _ = stream.set_nodelay(true);
                    let (door, speech) = (door.clone(), speech.clone());
                    connections.spawn(async move {
                        talk(stream, door, speech).await;
                        drop(place);
                    });
                }
                Err(error) => {
                    tracing::warn!("the server cannot take a connection: {error}");
                    sleep(PAUSE).await;
                }
            },
        }
    }
    drop(listener);
    let bound = door.app.limits.request_max;
    let ended = async { while connections.join_next().await.is_some() {} };
    if timeout(bound + PAUSE, ended).await.is_err() {
        tracing::warn!("requests were not done within {bound:?} and are given up");
    }
}

/// Answers what comes over one connection.
async fn talk(stream: TcpStream, door: Door, speech: Speech) {
    let Door { app, mut is_ending, places: _ } = door;
    let stream = Patient::new(stream, app.limits.request_max);
    match speech {
        Speech::Http(router) => {
            let mut http = http1::Builder::new();
            http.timer(TokioTimer::new()).header_read_timeout(HEAD_MAX).max_buf_size(BUFFER_BYTES_MAX);
            let service = TowerToHyperService::new(router);
            let mut connection = pin!(http.serve_connection(TokioIo::new(stream), service));
            let mut is_told = false;
            loop {
                tokio::select! {
                    done = connection.as_mut() => {
                        if let Err(error) = done {
                            tracing::debug!("a connection: {error}");
                        }
                        return;
                    }
                    () = end_of(&mut is_ending), if !is_told => {
                        connection.as_mut().graceful_shutdown();
                        is_told = true;
                    }
                }
            }
        }
        #[cfg(feature = "grpc")]
        Speech::Grpc => connection::serve(app, stream, end_of(&mut is_ending), HEAD_MAX).await,
    }
}

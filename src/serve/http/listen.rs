//! Takes connections, so many at once, until asked to end; then requests that have begun are finished and nothing new begins.

use std::future::Future;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::server::graceful::GracefulShutdown;
use hyper_util::service::TowerToHyperService;
use tokio::sync::Semaphore;
use tokio::time::{Instant, interval, sleep, sleep_until, timeout};

use super::patient::Patient;
use super::{HttpServer, routes};

/// How long a request's head may take, and a connection be without one. Longer than balancers keep theirs, 60 s as a rule:
/// if they are not the ones that close, a request of theirs meets a connection that is just being closed.
const HEAD_MAX: Duration = Duration::from_secs(75);

/// Bytes that are buffered of a connection; a longer head is refused.
const BUFFER_BYTES_MAX: usize = 64 << 10;

/// How long nobody is let in after the operating system refused a connection, for want of descriptors say.
const PAUSE: Duration = Duration::from_millis(100);

/// How often scorers that no request uses let go of old versions.
const REFRESH: Duration = Duration::from_secs(1);

impl HttpServer {
    /// Serves until `stop` comes. From then on it says that it is not ready, for `drain` with requests answered as before, so
    /// that whoever shares them out hears of it; then no connection is taken and no request begun, and those that have
    /// begun are finished.
    pub async fn serve(self, stop: impl Future<Output = ()>, drain: Duration) {
        let Self { listener, app } = self;
        let router = routes::router(Arc::clone(&app));
        let graceful = GracefulShutdown::new();
        let places = Arc::new(Semaphore::new(app.limits.connections_max));
        let mut refresh = interval(REFRESH);
        let mut stop = pin!(stop);
        let mut end: Option<Instant> = None;
        loop {
            let accept = async {
                let place = Arc::clone(&places).acquire_owned().await;
                (place, listener.accept().await)
            };
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
                (place, accepted) = accept => match accepted {
                    Ok((stream, _)) => {
                        // Small answers are not to wait for more.
                        let _ = stream.set_nodelay(true);
                        let mut http = http1::Builder::new();
                        http.timer(TokioTimer::new()).header_read_timeout(HEAD_MAX).max_buf_size(BUFFER_BYTES_MAX);
                        let service = TowerToHyperService::new(router.clone());
                        let connection = graceful.watch(http.serve_connection(TokioIo::new(Patient::new(stream, app.limits.request_max)), service));
                        tokio::spawn(async move {
                            if let Err(error) = connection.await {
                                tracing::debug!("a connection: {error}");
                            }
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
        if timeout(app.limits.request_max + PAUSE, graceful.shutdown()).await.is_err() {
            tracing::warn!("requests were not done within {:?} and are given up", app.limits.request_max);
        }
    }
}

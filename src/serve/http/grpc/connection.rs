//! One connection of HTTP/2: as many requests at once as the server takes, and closed when it has been without one for long, or
//! when the server ends and what has begun is answered.

use std::future::Future;
use std::pin::pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use hyper::server::conn::http2;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::time::{Instant, sleep_until};

use super::service;
use crate::serve::http::App;

/// The most requests at once of one connection.
const STREAMS_MAX: u32 = 256;

/// The most bytes of a request's headers.
const HEADERS_BYTES_MAX: u32 = 16 << 10;

/// How often a peer that says nothing is asked whether it is there, and how long it may take to say so.
const PING: (Duration, Duration) = (Duration::from_secs(30), Duration::from_secs(20));

/// What goes on in a connection: requests, and when the last of them began or ended.
#[derive(Debug)]
struct Activity(Mutex<(usize, Instant)>);

impl Activity {
    fn note(&self, change: impl FnOnce(usize) -> usize) {
        let mut noted = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        *noted = (change(noted.0), Instant::now());
    }

    /// When it will have been idle for so long, if nothing happens until then.
    fn idle_at(&self, idle_max: Duration) -> Instant {
        let (requests, at) = *self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let since = if requests > 0 { Instant::now() } else { at };
        since + idle_max
    }
}

/// A request, as long as it is answered.
struct Begun(Arc<Activity>);

impl Begun {
    fn of(activity: &Arc<Activity>) -> Self {
        activity.note(|requests| requests + 1);
        Self(Arc::clone(activity))
    }
}

impl Drop for Begun {
    fn drop(&mut self) {
        self.0.note(|requests| requests.saturating_sub(1));
    }
}

/// Answers the requests of a connection until it is closed, idle for `idle_max`, or the server ends.
pub(in crate::serve::http) async fn serve<S>(
    app: Arc<App>,
    stream: S,
    ending: impl Future<Output = ()>,
    idle_max: Duration,
) where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let (request_max, mut ending) = (app.limits.request_max, pin!(ending));
    let activity = Arc::new(Activity(Mutex::new((0, Instant::now()))));
    let answer = {
        let activity = Arc::clone(&activity);
        service_fn(move |request| {
            let (app, begun) = (Arc::clone(&app), Begun::of(&activity));
            async move {
                let answer = service::answer(app, request).await;
                drop(begun);
                Ok::<_, std::convert::Infallible>(answer)
            }
        })
    };
    let mut http = http2::Builder::new(TokioExecutor::new());
    http.timer(TokioTimer::new())
        .max_concurrent_streams(STREAMS_MAX)
        .max_header_list_size(HEADERS_BYTES_MAX)
        .keep_alive_interval(PING.0)
        .keep_alive_timeout(PING.1);
    let mut connection = pin!(http.serve_connection(TokioIo::new(stream), answer));
    // When what has begun is given up.
    let mut end: Option<Instant> = None;
    loop {
        let wake = end.unwrap_or_else(|| activity.idle_at(idle_max));
        tokio::select! {
            done = connection.as_mut() => {
                if let Err(error) = done {
                    tracing::debug!("a connection: {error}");
                }
                return;
            }
            () = &mut ending, if end.is_none() => {
                connection.as_mut().graceful_shutdown();
                end = Some(Instant::now() + request_max);
            }
            () = sleep_until(wake) => {
                if end.is_some() {
                    return;
                }
                if activity.idle_at(idle_max) <= Instant::now() {
                    connection.as_mut().graceful_shutdown();
                    end = Some(Instant::now() + request_max);
                }
            }
        }
    }
}

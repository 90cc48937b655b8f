//! One connection of HTTP/2: as many requests at once as the server takes, and closed when it has been without one for long, or
//! when the server ends and what has begun is answered. One that has nothing to wait for does not hold up that end, also when its
//! peer says nothing any more.

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

/// How long a peer is waited for that has nothing to come or to take, and was told of the end: it may have asked meanwhile.
const FAREWELL: Duration = Duration::from_secs(1);

/// What goes on in a connection.
#[derive(Clone, Copy, Debug)]
struct Noted {
    /// Requests that are not answered yet.
    requests: usize,
    /// When the last of them began or ended; the connection itself, before the first.
    at: Instant,
    /// When the last of them was answered, if one was. Its answer may still be on its way.
    answered: Option<Instant>,
}

#[derive(Debug)]
struct Activity(Mutex<Noted>);

impl Activity {
    fn begun() -> Self {
        Self(Mutex::new(Noted { requests: 0, at: Instant::now(), answered: None }))
    }

    fn note(&self, change: impl FnOnce(&mut Noted)) {
        let mut noted = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        noted.at = Instant::now();
        change(&mut noted);
    }

    fn noted(&self) -> Noted {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// When it will have been idle for so long, if nothing happens until then.
    fn idle_at(&self, idle_max: Duration) -> Instant {
        let Noted { requests, at, .. } = self.noted();
        let since = if requests > 0 { Instant::now() } else { at };
        since + idle_max
    }

    /// When a peer that was told of the end is waited for no longer, if nothing happens until then: whoever sends a request or takes
    /// an answer has `request_max` for it.
    fn over_at(&self, told: Instant, request_max: Duration) -> Instant {
        let Noted { requests, answered, .. } = self.noted();
        let (least, most) = (told + FAREWELL, told + request_max);
        match answered {
            _ if requests > 0 => most,
            Some(answered) => least.max(answered + request_max).min(most),
            None => least.min(most),
        }
    }
}

/// A request, as long as it is answered.
struct Begun(Arc<Activity>);

impl Begun {
    fn of(activity: &Arc<Activity>) -> Self {
        activity.note(|noted| noted.requests += 1);
        Self(Arc::clone(activity))
    }
}

impl Drop for Begun {
    fn drop(&mut self) {
        self.0.note(|noted| {
            noted.requests = noted.requests.saturating_sub(1);
            noted.answered = Some(noted.at);
        });
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
    let activity = Arc::new(Activity::begun());
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
    // When the peer was told that it ends.
    let mut told: Option<Instant> = None;
    loop {
        let over_at = told.map(|told| activity.over_at(told, request_max));
        // What goes on may end before the time that it has.
        let wake = over_at.map_or_else(|| activity.idle_at(idle_max), |at| at.min(Instant::now() + FAREWELL));
        tokio::select! {
            done = connection.as_mut() => {
                if let Err(error) = done {
                    tracing::debug!("a connection: {error}");
                }
                return;
            }
            () = &mut ending, if told.is_none() => {
                connection.as_mut().graceful_shutdown();
                told = Some(Instant::now());
            }
            () = sleep_until(wake) => match told {
                Some(told) if activity.over_at(told, request_max) <= Instant::now() => return,
                None if activity.idle_at(idle_max) <= Instant::now() => {
                    connection.as_mut().graceful_shutdown();
                    told = Some(Instant::now());
                }
                _ => {}
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_peer_is_waited_for_as_long_as_it_may_send_or_take_something() {
        let (request_max, told) = (Duration::from_secs(10), Instant::now() + Duration::from_mins(1));
        let activity = Arc::new(Activity::begun());
        let over_at = |activity: &Activity| activity.over_at(told, request_max) - told;
        assert_eq!(over_at(&activity), FAREWELL, "nothing was asked");
        let begun = Begun::of(&activity);
        assert_eq!(over_at(&activity), request_max, "something is being answered");
        sleep_until(told - Duration::from_secs(4)).await;
        drop(begun);
        assert_eq!(over_at(&activity), Duration::from_secs(6), "the answer may be on its way");
        let later = told + Duration::from_secs(20);
        assert_eq!(activity.over_at(later, request_max) - later, FAREWELL, "it was taken long ago");
        assert_eq!(activity.over_at(later, Duration::from_millis(10)) - later, Duration::from_millis(10));
    }
}

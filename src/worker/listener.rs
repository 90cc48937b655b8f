//! Answers HTTP on few connections, each for a short time. Whoever opens many, or sends requests by halves, takes nothing
//! that the worker needs: descriptors and memory are bounded, and an honest request is still answered at once.
//!
//! At the bound the oldest connection makes room. Refusing the newest, or letting it wait, would lock out the supervisor
//! for as long as somebody holds all places; an honest request needs its place for milliseconds only.

use std::collections::VecDeque;
use std::time::Duration;

use axum::Router;
use axum::extract::Request;
use axum::http::StatusCode;
use axum::http::header::HOST;
use axum::http::uri::Authority;
use axum::middleware::{Next, from_fn};
use axum::response::{IntoResponse as _, Response};
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;

/// Connections at once.
const CONNECTIONS_MAX: usize = 32;

/// How long a request's head may take to arrive.
const HEAD_MAX: Duration = Duration::from_secs(5);

/// How long a connection may last, answer included. It has one request.
const CONNECTION_MAX: Duration = Duration::from_secs(10);

/// Bytes that are buffered of a request; a longer head is refused.
const BUFFER_BYTES_MAX: usize = 8192;

/// How long nobody is let in after the operating system refused a connection, for want of descriptors say.
const PAUSE: Duration = Duration::from_millis(100);

/// Serves until the task is dropped.
pub(super) async fn serve(listener: TcpListener, routes: Router) {
    let is_local = listener.local_addr().is_ok_and(|address| address.ip().is_loopback());
    let routes = if is_local { routes.layer(from_fn(only_local_names)) } else { routes };
    let mut connections: VecDeque<JoinHandle<()>> = VecDeque::with_capacity(CONNECTIONS_MAX);
    loop {
        let stream = match listener.accept().await {
            Ok((stream, _)) => stream,
            Err(error) => {
                tracing::warn!("the admin port cannot take a connection: {error}");
                tokio::time::sleep(PAUSE).await;
                continue;
            }
        };
        connections.retain(|connection| !connection.is_finished());
        while connections.len() >= CONNECTIONS_MAX {
            let oldest = connections.pop_front().expect("there are that many");
            oldest.abort();
            // Its end is awaited, so that its descriptor is free. That it was aborted is no news.
            let _ = oldest.await;
        }
        connections.push_back(tokio::spawn(answer(stream, routes.clone())));
    }
}

/// Answers one request.
async fn answer(stream: TcpStream, routes: Router) {
    let mut http = http1::Builder::new();
    http.timer(TokioTimer::new()).header_read_timeout(HEAD_MAX).keep_alive(false).max_buf_size(BUFFER_BYTES_MAX);
    let connection = http.serve_connection(TokioIo::new(stream), TowerToHyperService::new(routes));
    match tokio::time::timeout(CONNECTION_MAX, connection).await {
        Ok(Ok(())) => {}
        Ok(Err(error)) => tracing::debug!("admin port: {error}"),
        Err(_) => tracing::debug!("admin port: a connection took longer than {CONNECTION_MAX:?}"),
    }
}

/// A port of this machine alone answers to this machine's names alone: a web page whose name was made to lead here could
/// otherwise read it through its visitor's browser.
async fn only_local_names(request: Request, next: Next) -> Response {
    let named = request.headers().get_all(HOST).iter().map(|host| Authority::try_from(host.as_bytes()).ok());
    let asked = request.uri().authority().cloned().map(Some);
    if named.chain(asked).all(|authority| authority.is_some_and(|authority| is_local_name(authority.host()))) {
        return next.run(request).await;
    }
    let refusal = "this port answers to the names of its own machine only: localhost and loopback addresses\n";
    (StatusCode::MISDIRECTED_REQUEST, refusal).into_response()
}

fn is_local_name(host: &str) -> bool {
    let plain = host.trim_start_matches('[').trim_end_matches(']');
    host.eq_ignore_ascii_case("localhost")
        || plain.parse::<std::net::IpAddr>().is_ok_and(|address| address.to_canonical().is_loopback())
}

#[cfg(test)]
mod tests {
    use std::net::SocketAddr;

    use axum::routing::get;
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

    use super::*;

    /// A server with a page that comes and one that never does.
    async fn server() -> SocketAddr {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let address = listener.local_addr().expect("it is bound");
        let routes = Router::new()
            .route("/now", get(|| async { "here" }))
            .route("/never", get(|| async { std::future::pending::<&str>().await }));
        tokio::spawn(serve(listener, routes));
        address
    }

    async fn send(address: SocketAddr, request: &str) -> TcpStream {
        let mut stream = TcpStream::connect(address).await.expect("it listens");
        stream.write_all(request.as_bytes()).await.expect("it takes the bytes");
        stream
    }

    /// What comes until the server closes the connection; a reset is a close too.
    async fn rest(mut stream: TcpStream) -> String {
        let mut answer = Vec::new();
        let mut part = [0; 1024];
        while let Ok(length @ 1..) = stream.read(&mut part).await {
            answer.extend_from_slice(&part[..length]);
        }
        String::from_utf8(answer).expect("the answer is text")
    }

    async fn status(address: SocketAddr, request: &str) -> String {
        let answer = rest(send(address, request).await).await;
        answer.split(' ').nth(1).unwrap_or_default().to_owned()
    }

    const HALF: &str = "GET /now HTTP/1.1\r\nHost: localhost\r\n";
    const WHOLE: &str = "GET /now HTTP/1.1\r\nHost: localhost\r\n\r\n";

    #[tokio::test]
    async fn whoever_holds_all_connections_with_half_requests_loses_the_oldest_and_keeps_nobody_out() {
        let address = server().await;
        let mut halves = VecDeque::new();
        for _ in 0..4 * CONNECTIONS_MAX {
            halves.push_back(send(address, HALF).await);
        }
        assert_eq!(status(address, WHOLE).await, "200");
        for _ in 0..=3 * CONNECTIONS_MAX {
            let oldest = halves.pop_front().expect("there are more");
            assert_eq!(rest(oldest).await, "", "it made room");
        }
        let mut newest = halves.pop_back().expect("it has its place");
        newest.write_all(b"\r\n").await.expect("the connection is open");
        assert!(rest(newest).await.starts_with("HTTP/1.1 200"));
    }

    #[tokio::test(start_paused = true)]
    async fn half_a_request_is_given_up_in_time_and_so_is_an_answer_that_does_not_come() {
        let address = server().await;
        for (request, bound) in
            [(HALF, HEAD_MAX), ("", HEAD_MAX), ("GET /never HTTP/1.1\r\nHost: localhost\r\n\r\n", CONNECTION_MAX)]
        {
            let start = tokio::time::Instant::now();
            rest(send(address, request).await).await;
            let took = start.elapsed();
            assert!(took >= bound && took < bound + Duration::from_secs(1), "{request:?} took {took:?}");
        }
    }

    #[tokio::test]
    async fn a_connection_has_one_request_and_a_head_that_is_too_long_is_refused() {
        let address = server().await;
        let twice = rest(send(address, &WHOLE.repeat(2)).await).await;
        assert_eq!(twice.matches("HTTP/1.1 200").count(), 1, "{twice}");
        let long = format!("GET /now HTTP/1.1\r\nHost: localhost\r\nX: {}\r\n\r\n", "x".repeat(2 * BUFFER_BYTES_MAX));
        assert_eq!(status(address, &long).await, "431");
    }

    #[tokio::test]
    async fn a_port_of_this_machine_answers_to_this_machines_names_only() {
        let address = server().await;
        for (host, code) in [
            ("localhost:9464", "200"),
            ("LOCALHOST", "200"),
            ("127.0.0.1:9464", "200"),
            ("127.8.8.8", "200"),
            ("[::1]:9464", "200"),
            ("rebound.example", "421"),
            ("rebound.example:9464", "421"),
            ("localhost.rebound.example", "421"),
            ("192.168.1.1:9464", "421"),
            ("user@localhost@rebound.example", "421"),
            ("", "421"),
        ] {
            assert_eq!(status(address, &format!("GET /now HTTP/1.1\r\nHost: {host}\r\n\r\n")).await, code, "{host:?}");
        }
        let twice = "GET /now HTTP/1.1\r\nHost: localhost\r\nHost: rebound.example\r\n\r\n";
        assert_ne!(status(address, twice).await, "200");
        let by_proxy = "GET http://rebound.example/now HTTP/1.1\r\nHost: localhost\r\n\r\n";
        assert_eq!(status(address, by_proxy).await, "421");
        assert_eq!(status(address, "GET /now HTTP/1.0\r\n\r\n").await, "200", "no browser leaves the name out");
    }
}

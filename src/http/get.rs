//! Asks a port of this program for a document, as a command does: once, in bounded time, for a bounded answer.

use std::io::{self, Read as _, Write as _};
use std::net::{TcpStream, ToSocketAddrs as _};
use std::time::{Duration, Instant};

use serde_json::Value;

/// How long it may take to be connected, and each piece of an answer to come.
const STEP_MAX: Duration = Duration::from_secs(3);

/// How long the answer may take in all.
const ANSWER_MAX: Duration = Duration::from_secs(10);

/// The most bytes of an answer: a status names every partition.
const ANSWER_BYTES_MAX: usize = 16 << 20;

/// There is no document.
#[derive(Debug, thiserror::Error)]
#[expect(missing_docs, reason = "fields of errors say it by name and type")]
pub enum GetError {
    /// Its address is none.
    #[error("{0:?} is no address of a port: write http://HOST:PORT")]
    Address(String),
    /// Nobody answers.
    #[error("http://{authority} does not answer")]
    Away { authority: String, source: io::Error },
    /// It answers with something else.
    #[error("http://{authority}{path} answers {answer:?}")]
    Refused { authority: String, path: String, answer: String },
    /// It says more than is read.
    #[error("http://{0} answers with more than {ANSWER_BYTES_MAX} bytes")]
    Long(String),
    /// It is no document.
    #[error("http://{authority}{path} does not answer with JSON")]
    Form { authority: String, path: String, source: serde_json::Error },
}

/// The host and port of an address such as `http://127.0.0.1:9464` or `127.0.0.1:9464`.
///
/// # Errors
/// When there is none.
pub fn authority(url: &str) -> Result<&str, GetError> {
    let rest = url.strip_prefix("http://").unwrap_or(url).trim_end_matches('/');
    let is_plain = |text: &str| text.bytes().all(|byte| byte.is_ascii_graphic() && !b"/@?#".contains(&byte));
    match rest.rsplit_once(':') {
        Some((host, port)) if !host.is_empty() && is_plain(host) && port.parse::<u16>().is_ok() => Ok(rest),
        _ => Err(GetError::Address(url.chars().take(100).collect())),
    }
}

/// The document at a path.
///
/// # Errors
/// When nobody answers in time, or with something else than a document.
pub fn json(authority: &str, path: &str) -> Result<Value, GetError> {
    let answer = ask(authority, path)?;
    let end = answer.windows(4).position(|four| four == b"\r\n\r\n").unwrap_or(answer.len());
    let (head, body) = answer.split_at(end);
    let head = String::from_utf8_lossy(head);
    let first = head.lines().next().unwrap_or_default();
    let named = || (authority.to_owned(), path.to_owned());
    if first.split(' ').nth(1) != Some("200") {
        let (authority, path) = named();
        return Err(GetError::Refused { authority, path, answer: first.chars().take(100).collect() });
    }
    serde_json::from_slice(body).map_err(|source| {
        let (authority, path) = named();
        GetError::Form { authority, path, source }
    })
}

/// What comes until the other side closes: without keeping connections an answer has no chunks.
fn ask(authority: &str, path: &str) -> Result<Vec<u8>, GetError> {
    let away = |source| GetError::Away { authority: authority.to_owned(), source };
    let start = Instant::now();
    let mut failed = io::Error::new(io::ErrorKind::NotFound, "the host has no address");
    let addresses = authority.to_socket_addrs().map_err(away)?;
    let connected = addresses
        .into_iter()
        .find_map(|address| TcpStream::connect_timeout(&address, STEP_MAX).map_err(|error| failed = error).ok());
    let Some(mut stream) = connected else { return Err(away(failed)) };
    stream.set_read_timeout(Some(STEP_MAX)).map_err(away)?;
    stream.set_write_timeout(Some(STEP_MAX)).map_err(away)?;
    // In one piece: who answers after the first of several closes a connection that more is sent to.
    let question = format!("GET {path} HTTP/1.0\r\nHost: {authority}\r\nConnection: close\r\n\r\n");
    stream.write_all(question.as_bytes()).map_err(away)?;
    let (mut answer, mut piece) = (Vec::new(), [0; 16 << 10]);
    loop {
        match stream.read(&mut piece).map_err(away)? {
            0 => return Ok(answer),
            length => answer.extend_from_slice(&piece[..length]),
        }
        if answer.len() > ANSWER_BYTES_MAX {
            return Err(GetError::Long(authority.to_owned()));
        }
        if start.elapsed() > ANSWER_MAX {
            return Err(away(io::ErrorKind::TimedOut.into()));
        }
    }
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;

    use super::*;

    #[test]
    fn an_address_is_a_host_and_a_port() {
        for (url, found) in [
            ("http://127.0.0.1:9464", "127.0.0.1:9464"),
            ("http://localhost:80/", "localhost:80"),
            ("[::1]:80", "[::1]:80"),
        ] {
            assert_eq!(authority(url).expect("it is one"), found);
        }
        for url in
            ["", "localhost", "https://a:1", "http://a:99999", "http://a b:1", "http://u@a:1", "a:1/status", ":1"]
        {
            assert!(matches!(authority(url), Err(GetError::Address(_))), "{url}");
        }
    }

    #[test]
    fn an_answer_is_a_document_or_an_error() {
        for (answer, words) in [
            ("HTTP/1.0 200 OK\r\n\r\n{\"a\":1}", ""),
            ("HTTP/1.0 503 Busy\r\n\r\n{}", "answers \"HTTP/1.0 503 Busy\""),
            ("HTTP/1.0 200 OK\r\n\r\n{", "does not answer with JSON"),
            ("", "answers \"\""),
        ] {
            let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
            let authority = listener.local_addr().expect("it is bound").to_string();
            let found = std::thread::scope(|scope| {
                scope.spawn(|| {
                    let (mut stream, _) = listener.accept().expect("somebody comes");
                    let (mut asked, mut piece) = (Vec::new(), [0; 1024]);
                    while !asked.ends_with(b"\r\n\r\n") {
                        let length = stream.read(&mut piece).expect("it asks");
                        asked.extend_from_slice(&piece[..length]);
                    }
                    stream.write_all(answer.as_bytes()).expect("it takes the bytes");
                });
                json(&authority, "/status")
            });
            match found {
                Ok(document) => assert_eq!((document, words), (serde_json::json!({"a": 1}), "")),
                Err(error) => assert!(!words.is_empty() && error.to_string().contains(words), "{error}"),
            }
        }
        let gone = TcpListener::bind("127.0.0.1:0").and_then(|listener| listener.local_addr()).expect("a free port");
        assert!(matches!(json(&gone.to_string(), "/"), Err(GetError::Away { .. })));
    }
}

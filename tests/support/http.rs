//! A client of HTTP/1.1 over one connection, for what stock clients do not send.

use std::io::{Read as _, Write as _};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::path::Path;

use serde_json::Value;

use super::DEADLINE;

/// The code and the text that a path of an admin port answers, if somebody listens there: a GET, or a POST of what is given.
pub(crate) fn ask(address: SocketAddr, path: &str, body: Option<&str>) -> Option<(u16, String)> {
    let mut stream = TcpStream::connect(address).ok()?;
    stream.set_read_timeout(Some(DEADLINE)).expect("it can be set");
    let (method, body) = body.map_or(("GET", ""), |body| ("POST", body));
    // It answers to this machine's names only.
    let head =
        format!("{method} {path} HTTP/1.1\r\nhost: {address}\r\nconnection: close\r\ncontent-length: {}", body.len());
    stream.write_all(format!("{head}\r\n\r\n{body}").as_bytes()).ok()?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).ok()?;
    let (head, text) = answer.split_once("\r\n\r\n")?;
    Some((head.split(' ').nth(1)?.parse().ok()?, text.to_owned()))
}

/// The first address that a process has said in its log.
pub(crate) fn said_address(log: &Path) -> Option<SocketAddr> {
    let said = std::fs::read_to_string(log).ok()?;
    let (_, rest) = said.split_once("http://")?;
    // Something comes after it, so it is whole.
    rest[..rest.find([' ', '/', '\n'])?].parse().ok()
}

/// The same of a process that may not have said it yet.
pub(crate) fn address_in(log: &Path) -> SocketAddr {
    super::wait_for("an address in the log", || said_address(log))
}

/// One connection, which is kept.
pub(crate) struct Client {
    stream: TcpStream,
    read: Vec<u8>,
}

/// An answer.
#[derive(Debug)]
pub(crate) struct Reply {
    pub(crate) status: u16,
    pub(crate) head: String,
    pub(crate) body: Vec<u8>,
}

impl Reply {
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.head.lines().find_map(|line| {
            let (found, value) = line.split_once(':')?;
            found.eq_ignore_ascii_case(name).then_some(value.trim())
        })
    }

    pub(crate) fn json(&self) -> Value {
        serde_json::from_slice(&self.body)
            .unwrap_or_else(|error| panic!("{error}: {} {}", self.status, String::from_utf8_lossy(&self.body)))
    }

    /// The reason of an error.
    pub(crate) fn error(&self) -> String {
        self.json()["error"].as_str().expect("errors have their reason").to_owned()
    }
}

impl Client {
    pub(crate) fn connect(address: SocketAddr) -> Self {
        let stream = TcpStream::connect(address).expect("it listens");
        stream.set_read_timeout(Some(DEADLINE)).expect("it can be set");
        stream.set_nodelay(true).expect("it can be set");
        Self { stream, read: Vec::new() }
    }

    /// Sends bytes as they are.
    pub(crate) fn send(&mut self, bytes: &[u8]) {
        self.stream.write_all(bytes).expect("the connection is open");
    }

    /// Says that nothing more comes.
    pub(crate) fn finish(&mut self) {
        self.stream.shutdown(Shutdown::Write).expect("the connection is open");
    }

    /// The head of a request.
    pub(crate) fn head(method: &str, path: &str, headers: &[(&str, &str)], length: usize) -> Vec<u8> {
        let headers: Vec<String> = headers.iter().map(|(name, value)| format!("{name}: {value}\r\n")).collect();
        let headers = headers.concat();
        format!("{method} {path} HTTP/1.1\r\nHost: localhost\r\n{headers}Content-Length: {length}\r\n\r\n").into_bytes()
    }

    pub(crate) fn request(&mut self, method: &str, path: &str, headers: &[(&str, &str)], body: &[u8]) -> Reply {
        let request = [Self::head(method, path, headers, body.len()), body.to_vec()].concat();
        self.send(&request);
        self.reply()
    }

    pub(crate) fn get(&mut self, path: &str) -> Reply {
        self.request("GET", path, &[], b"")
    }

    pub(crate) fn post(&mut self, path: &str, body: &str) -> Reply {
        self.request("POST", path, &[], body.as_bytes())
    }

    /// Begins to send a body, and says what is still to come of it.
    pub(crate) fn begin<'b>(&mut self, path: &str, body: &'b str) -> &'b [u8] {
        let (begun, rest) = body.as_bytes().split_at(5);
        self.send(&Self::head("POST", path, &[], body.len()));
        self.send(begun);
        rest
    }

    /// The next answer.
    pub(crate) fn reply(&mut self) -> Reply {
        let end = loop {
            if let Some(at) = self.read.windows(4).position(|four| four == b"\r\n\r\n") {
                break at + 4;
            }
            assert!(self.more(), "the connection was closed: {}", String::from_utf8_lossy(&self.read));
        };
        let head = String::from_utf8(self.read.drain(..end).collect()).expect("a head is text");
        let status = head.split(' ').nth(1).and_then(|status| status.parse().ok()).expect("it has a status");
        let mut reply = Reply { status, head, body: Vec::new() };
        let length: usize = reply.header("content-length").map_or(0, |length| length.parse().expect("a number"));
        while self.read.len() < length {
            assert!(self.more(), "the connection was closed within a body");
        }
        reply.body = self.read.drain(..length).collect();
        reply
    }

    /// Whether the other side has closed the connection.
    pub(crate) fn is_closed(&mut self) -> bool {
        self.read.is_empty() && !self.more()
    }

    fn more(&mut self) -> bool {
        let mut part = [0; 16 << 10];
        match self.stream.read(&mut part) {
            Ok(length @ 1..) => {
                self.read.extend_from_slice(&part[..length]);
                true
            }
            Ok(0) => false,
            Err(error) if error.kind() == std::io::ErrorKind::ConnectionReset => false,
            other => panic!("{other:?}"),
        }
    }
}

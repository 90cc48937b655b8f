//! A server of ours as a process, and a connection to it.

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::process::{Command, Stdio};

use super::process::Process;

impl Process {
    /// Starts `deepfm serve`; where it listens, which it logs.
    pub(crate) fn serve(command: &mut Command) -> (Self, SocketAddr) {
        let mut process = Self::start(command.stderr(Stdio::piped()));
        let mut log = BufReader::new(process.0.stderr.take().expect("it is piped")).lines();
        let line = log.find_map(|line| line.ok()?.split_once("at http://").map(|(_, address)| address.to_owned()));
        // Nobody may be held up by a full pipe.
        std::thread::spawn(move || log.for_each(drop));
        (process, line.expect("it says where it is").trim().parse().expect("an address"))
    }
}

/// A ranking as it is sent.
pub(crate) fn request(body: &str) -> Vec<u8> {
    let length = body.len();
    let kind = "Content-Type: application/json";
    format!("POST /v1/rank HTTP/1.1\r\nHost: localhost\r\n{kind}\r\nContent-Length: {length}\r\n\r\n{body}")
        .into_bytes()
}

/// A connection that is kept, with no more work for an answer than it takes to find its end.
pub(crate) struct Connection {
    stream: TcpStream,
    read: Vec<u8>,
}

impl Connection {
    pub(crate) fn open(address: SocketAddr) -> Self {
        let stream = TcpStream::connect(address).expect("it listens");
        stream.set_nodelay(true).expect("it can be set");
        Self { stream, read: Vec::new() }
    }

    /// Status and body of the answer.
    pub(crate) fn ask(&mut self, request: &[u8]) -> (u16, Vec<u8>) {
        self.stream.write_all(request).expect("the connection is open");
        self.read.clear();
        let mut part = [0; 16 << 10];
        loop {
            let length = self.stream.read(&mut part).expect("it answers");
            assert!(length > 0, "the connection was closed");
            self.read.extend_from_slice(&part[..length]);
            let Some(end) = self.read.windows(4).position(|four| four == b"\r\n\r\n") else { continue };
            let head = std::str::from_utf8(&self.read[..end]).expect("a head is text");
            let length = head.lines().find_map(|line| {
                let (name, value) = line.split_once(':')?;
                name.eq_ignore_ascii_case("content-length").then(|| value.trim().parse::<usize>().expect("a number"))
            });
            if self.read.len() >= end + 4 + length.unwrap_or(0) {
                let status = head.split(' ').nth(1).and_then(|status| status.parse().ok()).expect("it has a status");
                return (status, self.read[end + 4..].to_vec());
            }
        }
    }
}

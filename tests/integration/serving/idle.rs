//! Connections of HTTP/2 on which nobody asks anything when the server ends.

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use super::{GRPC, Served, grpc_address_in};
use crate::support::wait_for;

/// What a client of HTTP/2 says first, and settings that leave everything as it is.
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\x00\x00\x00\x04\x00\x00\x00\x00\x00";

/// Types of frames.
const SETTINGS: u8 = 4;
const PING: u8 = 6;
const GOAWAY: u8 = 7;

/// An idle peer.
struct Peer {
    stream: TcpStream,
    answers: bool,
}

impl Peer {
    /// One that has been greeted. It answers what the server asks, or it says nothing any more.
    fn greeted(address: SocketAddr, answers: bool) -> Self {
        let mut stream = TcpStream::connect(address).expect("it listens");
        stream.set_read_timeout(Some(crate::support::DEADLINE)).expect("it is a time");
        stream.write_all(PREFACE).expect("it listens");
        let mut peer = Self { stream, answers };
        assert_eq!(peer.frame(), Some(SETTINGS));
        peer
    }

    /// The type of the next frame; nothing at the end.
    fn frame(&mut self) -> Option<u8> {
        let mut head = [0; 9];
        if let Err(error) = self.stream.read_exact(&mut head) {
            assert!(
                matches!(error.kind(), std::io::ErrorKind::UnexpectedEof | std::io::ErrorKind::ConnectionReset),
                "{error}"
            );
            return None;
        }
        let [high, middle, low, kind, flags, ..] = head;
        let mut body = vec![0; u32::from_be_bytes([0, high, middle, low]) as usize];
        self.stream.read_exact(&mut body).expect("a frame comes whole");
        if self.answers && flags & 1 == 0 && matches!(kind, SETTINGS | PING) {
            let body = if kind == PING { body } else { Vec::new() };
            let length = u8::try_from(body.len()).expect("it is eight bytes");
            self.stream.write_all(&[&[0, 0, length, kind, 1, 0, 0, 0, 0], &body[..]].concat()).expect("it listens");
        }
        Some(kind)
    }
}

#[test]
fn an_idle_grpc_connection_is_closed_when_the_server_ends_and_does_not_hold_it_up() {
    let limits = ["--request-seconds-max", "3600", "--drain-seconds", "2"];
    let served = Served::with(&[7], &[&GRPC[..], &limits].concat());
    served.wait_until_ready();
    let address = grpc_address_in(&served.root.path().join("log"));
    let peers = [true, false].map(|answers| Peer::greeted(address, answers));
    let start = Instant::now();
    served.process.signal("-TERM");
    // While it drains connections stay, and new ones are taken.
    let mut watching = served.client();
    wait_for("unreadiness", || (watching.get("/v2/health/ready").status == 503).then_some(()));
    let late = Peer::greeted(address, true);
    for mut peer in peers.into_iter().chain([late]) {
        let kinds: Vec<u8> = std::iter::from_fn(|| peer.frame()).collect();
        assert!(kinds.contains(&GOAWAY), "it is told that the server ends, and the connection is closed: {kinds:?}");
    }
    assert_eq!(served.process.wait().code, Some(0));
    let took = start.elapsed();
    assert!(took < Duration::from_mins(1), "a request has an hour, a peer without one has not: {took:?}");
}

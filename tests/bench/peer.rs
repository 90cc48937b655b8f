//! A server that is compared: a process of its own that answers rankings over HTTP, and a closed loop of connections that ask it.

use std::net::SocketAddr;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use serde_json::Value;

use super::cpu;
use super::process::Process;
use super::served::{Connection, request};

/// Connections that ask, each for the next answer when it has the one before.
pub(crate) const CONNECTIONS: usize = 4;

/// A server of rankings, which is ended with this.
pub(crate) struct Peer {
    process: Process,
    address: SocketAddr,
}

impl Peer {
    /// A process that listens there.
    pub(crate) fn at(process: Process, address: SocketAddr) -> Self {
        Self { process, address }
    }

    /// `deepfm serve` of a directory of versions of the model `bench`, at a free port; `before` is what starts the program.
    pub(crate) fn deepfm(versions: &Path, before: &[&str]) -> Self {
        let mut command = command(before, env!("CARGO_BIN_EXE_deepfm"));
        command.args(["--log", "info", "serve", "--model", "bench", "--listen", "127.0.0.1:0", "--versions"]);
        let (process, address) = Process::serve(command.arg(versions));
        Self::at(process, address).wait_until_ready()
    }

    fn wait_until_ready(self) -> Self {
        let ready = b"GET /v2/health/ready HTTP/1.1\r\nHost: localhost\r\n\r\n";
        let mut connection = Connection::open(self.address);
        while connection.ask(ready).0 != 200 {
            std::thread::park_timeout(Duration::from_millis(5));
        }
        self
    }

    /// CPU time that the process has taken, in seconds.
    pub(crate) fn cpu(&self) -> f64 {
        let stat = format!("/proc/{}/stat", self.process.0.id());
        cpu::taken(Path::new(&stat)).expect("it is running").1
    }

    /// The scores of a ranking.
    pub(crate) fn scores(&self, body: &str) -> Vec<f64> {
        let (status, answer) = Connection::open(self.address).ask(&request(body));
        assert_eq!(status, 200, "{}", String::from_utf8_lossy(&answer));
        scores(&answer)
    }

    /// Asks for so long; how long each answer took, ascending.
    ///
    /// # Panics
    /// When an answer is none.
    pub(crate) fn ask(&self, bodies: &[String], duration: Duration) -> Vec<Duration> {
        let requests: Vec<Vec<u8>> = bodies.iter().map(|body| request(body)).collect();
        let start = Instant::now();
        let ask = |connection: usize| {
            let (mut client, mut times) = (Connection::open(self.address), Vec::new());
            for request in requests.iter().cycle().skip(connection * requests.len() / CONNECTIONS) {
                let begun = Instant::now();
                let (status, answer) = client.ask(request);
                times.push(begun.elapsed());
                assert_eq!(status, 200, "{}", String::from_utf8_lossy(&answer));
                if start.elapsed() >= duration {
                    break;
                }
            }
            times
        };
        let mut times: Vec<Duration> = std::thread::scope(|scope| {
            let asking: Vec<_> = (0..CONNECTIONS).map(|connection| scope.spawn(move || ask(connection))).collect();
            asking.into_iter().flat_map(|asking| asking.join().expect("every answer is one")).collect()
        });
        times.sort_unstable();
        times
    }
}

/// A command line, behind what starts it: `taskset` and a core, say.
pub(crate) fn command(before: &[&str], program: &str) -> Command {
    match before {
        [] => Command::new(program),
        [first, others @ ..] => {
            let mut command = Command::new(first);
            command.args(others).arg(program);
            command
        }
    }
}

/// What stands under `scores` in an answer.
pub(crate) fn scores(answer: &[u8]) -> Vec<f64> {
    let answer: Value = serde_json::from_slice(answer).expect("it is JSON");
    let scores = answer["scores"].as_array().unwrap_or_else(|| panic!("no scores: {answer}"));
    scores.iter().map(|score| score.as_f64().expect("a number")).collect()
}

/// By how much two lists of scores differ at most.
pub(crate) fn difference(one: &[f64], other: &[f64]) -> f64 {
    assert_eq!(one.len(), other.len());
    one.iter().zip(other).map(|(one, other)| (one - other).abs()).fold(0.0, f64::max)
}

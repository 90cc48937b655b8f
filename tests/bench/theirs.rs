//! A learner in Python (`peers/learners.py`): a process that is told what to learn, a line each, and answers with a line of JSON.

use std::io::{BufRead as _, BufReader, Write as _};
use std::ops::Range;
use std::path::Path;
use std::process::{ChildStdin, ChildStdout, Command, Stdio};

use serde_json::Value;

use super::alone::Done;
use super::process::Process;

/// A learner that is compared with ours, which is ended with this.
pub(crate) struct Theirs {
    _process: Process,
    orders: ChildStdin,
    answers: BufReader<ChildStdout>,
}

impl Theirs {
    /// Starts one, on a stream of a directory; it has read that when this returns.
    pub(crate) fn start(python: &Path, name: &str, stream: &Path) -> Self {
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/bench/peers/learners.py");
        let mut command = Command::new(python);
        command.arg("-B").arg(script).arg(name).arg(stream).stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut process = Process::start(&mut command);
        let orders = process.0.stdin.take().expect("it is piped");
        let answers = BufReader::new(process.0.stdout.take().expect("it is piped"));
        let mut started = Self { _process: process, orders, answers };
        started.answer();
        started
    }

    /// Lets it learn these examples.
    pub(crate) fn learn(&mut self, span: Range<usize>) -> Done {
        let answer = self.ask(&format!("learn {} {}", span.start, span.end));
        let number = |name: &str| answer[name].as_f64().unwrap_or_else(|| panic!("no {name}: {answer}"));
        Done { examples: span.len(), seconds: number("seconds"), loss: number("loss") }
    }

    /// Gives it an order.
    pub(crate) fn ask(&mut self, order: &str) -> Value {
        writeln!(self.orders, "{order}").and_then(|()| self.orders.flush()).expect("it is there");
        self.answer()
    }

    /// The next line that is JSON.
    ///
    /// # Panics
    /// When it has ended; it has said why.
    fn answer(&mut self) -> Value {
        let mut line = String::new();
        let read = self.answers.read_line(&mut line).expect("it is text");
        assert!(read > 0, "the learner has ended: see above");
        serde_json::from_str(&line).unwrap_or_else(|error| panic!("{error}: {line}"))
    }
}

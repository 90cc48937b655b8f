//! A command's failure: the error for the user, and the exit code for the script that called.

use std::fmt::Display;
use std::process::ExitCode;

use deepfm_stream::event::plain::plain;

/// The longest line of an error, in characters.
const LINE_CHARS_MAX: usize = 10_000;

/// Exit codes, after BSD's `sysexits`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum Exit {
    Usage = 2,
    Threshold = 10,
    BadInput = 65,
    Unreachable = 69,
    Software = 70,
    Disk = 74,
    Locked = 75,
    Configuration = 78,
}

/// Why a command failed.
#[derive(Debug)]
pub(crate) struct Failure {
    exit: Exit,
    error: anyhow::Error,
}

impl Failure {
    pub(crate) fn new(exit: Exit, error: impl Into<anyhow::Error>) -> Self {
        Self { exit, error: error.into() }
    }

    pub(crate) fn usage(error: impl Into<anyhow::Error>) -> Self {
        Self::new(Exit::Usage, error)
    }

    /// Says on stderr what went wrong, with every cause, and gives the exit code.
    pub(crate) fn report(self) -> ExitCode {
        // Errors may quote what others wrote. Lines are ours: a list of errors has several.
        let text = format!("{:#}", self.error);
        let lines: Vec<String> = text.split('\n').map(|line| plain(line, LINE_CHARS_MAX)).collect();
        eprintln!("error: {}", lines.join("\n"));
        ExitCode::from(self.exit as u8)
    }
}

/// Gives errors of the library their exit code.
pub(crate) trait OrExit<T> {
    /// The value, or a failure with this exit code.
    fn or_exit(self, exit: Exit) -> Result<T, Failure>;

    /// The same, with a line before the error that says what was being done.
    fn or_exit_with(self, exit: Exit, doing: impl Display + Send + Sync + 'static) -> Result<T, Failure>;
}

impl<T, E: Into<anyhow::Error>> OrExit<T> for Result<T, E> {
    fn or_exit(self, exit: Exit) -> Result<T, Failure> {
        self.map_err(|error| Failure::new(exit, error))
    }

    fn or_exit_with(self, exit: Exit, doing: impl Display + Send + Sync + 'static) -> Result<T, Failure> {
        self.map_err(|error| Failure::new(exit, error.into().context(doing.to_string())))
    }
}

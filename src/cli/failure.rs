//! A command's failure: the error for the user, and the exit code for the script that called.

use std::fmt::Display;
use std::process::ExitCode;

pub(crate) use super::exit::Exit;
use super::log::{self, Form};

/// Every exit code with its meaning and what to do about it. README has the same table, which a test checks.
pub(crate) const TABLE: [(u8, &str, &str); 10] = [
    (0, "ended as asked", "nothing"),
    (Exit::Usage as u8, "wrong usage of a command", "mend the command line"),
    (
        Exit::Threshold as u8,
        "a threshold is not met, or a replay differs from what was published",
        "find out why; nothing to restart",
    ),
    (Exit::BadInput as u8, "bad input data", "mend the data or the mapping"),
    (
        Exit::Unreachable as u8,
        "brokers unreachable, topic or version not there, or records deleted",
        "restart; see \"records out of retention\"",
    ),
    (Exit::Software as u8, "a bug: a thread panicked", "restart: what was committed is safe; report it"),
    (
        Exit::Disk as u8,
        "disk, or state damaged, lost, or of topics that were recreated",
        "do not restart blindly; see \"state\"",
    ),
    (
        Exit::Locked as u8,
        "another worker holds the state, or fenced this one off",
        "do not restart; find the other worker",
    ),
    (
        Exit::Configuration as u8,
        "configuration; credentials or rights that the brokers refuse",
        "mend it; a restart changes nothing",
    ),
    (130, "second signal: ended at once", "restart: nothing is lost but time"),
];

/// The table as text for `--help`.
pub(crate) fn help() -> String {
    let rows = TABLE.map(|(code, meaning, _)| format!("  {code:>3}  {}", meaning.replace('`', "")));
    format!("Exit codes:\n{}", rows.join("\n"))
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

    /// What went wrong, with every cause.
    pub(crate) fn words(&self) -> String {
        format!("{:#}", self.error)
    }

    /// Says on stderr what went wrong, with every cause, and gives the exit code.
    pub(crate) fn report(self, form: Form) -> ExitCode {
        log::last_words(form, &self.words(), self.exit as u8);
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_readme_has_the_table_of_exit_codes_as_it_is_here() {
        let readme = include_str!("../../README.md");
        let rows: Vec<&str> = readme
            .lines()
            .skip_while(|line| !line.starts_with("| code | meaning |"))
            .skip(2)
            .take_while(|line| line.starts_with('|'))
            .collect();
        let wanted = TABLE.map(|(code, meaning, advice)| format!("| {code} | {meaning} | {advice} |"));
        assert_eq!(rows, wanted);
    }
}

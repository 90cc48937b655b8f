//! What is wrong with a configuration: every error at once, each with its place, its key and the fix.

use std::cell::RefCell;
use std::fmt;
use std::sync::Arc;

use thiserror::Error;

/// Where a value was given.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Origin {
    /// At a line of the file, counted from 1.
    Line(usize),
    /// At a line and column of the file, both counted from 1: where the file is not TOML.
    Place(usize, usize),
    /// In an environment variable.
    Variable(Arc<str>),
    /// Nowhere: something is missing, or the file as a whole is at fault.
    Whole,
}

/// One error of a configuration.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConfigError {
    /// Where the value was given.
    pub origin: Origin,
    /// The key with its section, such as `model.mlp.layers`; empty where the file could not be read that far.
    pub key: String,
    /// What is wrong.
    pub problem: String,
    /// What to do about it; empty where the problem says it.
    pub fix: String,
}

/// Everything that is wrong with one configuration, in the order of the file, environment variables after it.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("{}", self.describe())]
pub struct ConfigErrors {
    /// The name of the file, as the user gave it.
    pub file: String,
    /// The errors, at least one.
    pub errors: Vec<ConfigError>,
}

impl ConfigErrors {
    /// One line for each error, as compilers write them: `file:line: key: problem; fix`.
    fn describe(&self) -> String {
        let count = self.errors.len();
        let plural = if count == 1 { "error" } else { "errors" };
        let mut text = format!("{count} {plural} in configuration {}", self.file);
        for error in &self.errors {
            text.push('\n');
            text.push_str(&Placed { file: &self.file, error }.to_string());
        }
        text
    }
}

/// An error together with the file it is in.
struct Placed<'a> {
    file: &'a str,
    error: &'a ConfigError,
}

impl fmt::Display for Placed<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.error.origin {
            Origin::Line(line) => write!(f, "{}:{line}: ", self.file)?,
            Origin::Place(line, column) => write!(f, "{}:{line}:{column}: ", self.file)?,
            Origin::Variable(name) => write!(f, "{name}: ")?,
            Origin::Whole => write!(f, "{}: ", self.file)?,
        }
        if !self.error.key.is_empty() {
            write!(f, "{}: ", self.error.key)?;
        }
        f.write_str(&self.error.problem)?;
        if !self.error.fix.is_empty() {
            write!(f, "; {}", self.error.fix)?;
        }
        Ok(())
    }
}

/// Errors as they are found. Readers share it, so that the walk never stops at the first.
#[derive(Debug, Default)]
pub(super) struct Report {
    errors: RefCell<Vec<ConfigError>>,
}

impl Report {
    /// Notes an error.
    pub(super) fn add(&self, origin: Origin, key: impl Into<String>, problem: impl Into<String>, fix: &str) {
        let error = ConfigError { origin, key: key.into(), problem: problem.into(), fix: fix.to_owned() };
        let mut errors = self.errors.borrow_mut();
        // A section that is looked at twice has its mistakes once.
        if !errors.contains(&error) {
            errors.push(error);
        }
    }

    /// Whether nothing was noted.
    pub(super) fn is_empty(&self) -> bool {
        self.errors.borrow().is_empty()
    }

    /// Whether nothing was noted about this key or what is inside it.
    pub(super) fn is_sound(&self, key: &str) -> bool {
        let inside = format!("{key}.");
        !self.errors.borrow().iter().any(|error| error.key == key || error.key.starts_with(&inside))
    }

    /// `value` if nothing was noted, else everything that was, in order.
    pub(super) fn settle<T>(self, file: &str, value: T) -> Result<T, ConfigErrors> {
        let mut errors = self.errors.into_inner();
        if errors.is_empty() {
            return Ok(value);
        }
        errors.sort_by(|a, b| rank(&a.origin).cmp(&rank(&b.origin)));
        Err(ConfigErrors { file: file.to_owned(), errors })
    }
}

/// Lines first, in order; then what is missing; then variables by name.
fn rank(origin: &Origin) -> (u8, usize, usize, &str) {
    match origin {
        Origin::Line(line) => (0, *line, 0, ""),
        Origin::Place(line, column) => (0, *line, *column, ""),
        Origin::Whole => (1, 0, 0, ""),
        Origin::Variable(name) => (2, 0, 0, name),
    }
}

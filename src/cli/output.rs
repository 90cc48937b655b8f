//! What commands print on stdout.

use std::io::{self, Write};

use serde::Serialize;

use super::failure::{Exit, Failure, OrExit};

/// Prints one JSON document.
pub(crate) fn json(document: &impl Serialize) -> Result<(), Failure> {
    let text = serde_json::to_string_pretty(document).or_exit(Exit::Software)?;
    lines([text])
}

/// Prints lines. A reader that has gone away (`| head`) is no failure.
pub(crate) fn lines(lines: impl IntoIterator<Item = impl AsRef<str>>) -> Result<(), Failure> {
    let mut out = io::stdout().lock();
    for line in lines {
        match writeln!(out, "{}", line.as_ref()) {
            Err(error) if error.kind() == io::ErrorKind::BrokenPipe => return Ok(()),
            written => written.or_exit(Exit::Disk)?,
        }
    }
    Ok(())
}

//! Where log lines go: to stderr, or to a file while something else holds the terminal.

use std::borrow::Cow;
use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};

use deepfm_core::event::plain::plain;

/// The longest line of an error, in characters.
const LINE_CHARS_MAX: usize = 10_000;

/// How log lines look.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Form {
    /// For people.
    Text,
    /// One JSON object a line.
    Json,
}

/// Says why the process ends. This line is shown whatever the filter, and in the form of the others.
pub(crate) fn last_words(form: Form, message: &str, exit_code: u8) {
    match form {
        Form::Text => {
            // Errors may quote what others wrote. Lines are ours: a list of errors has several.
            let lines: Vec<String> = message.split('\n').map(|line| plain(line, LINE_CHARS_MAX)).collect();
            eprintln!("error: {}", lines.join("\n"));
        }
        Form::Json => {
            let line = serde_json::json!({
                "timestamp": jiff::Timestamp::now().to_string(),
                "level": "ERROR",
                "fields": { "message": message, "exit_code": exit_code },
                "target": "deepfm",
            });
            eprintln!("{line}");
        }
    }
}

/// Lets a panic be told as the other lines are: what it said, and where.
pub(crate) fn tell_panics(form: Form) {
    if form == Form::Json {
        std::panic::set_hook(Box::new(|panic| {
            let thread = std::thread::current();
            let name = thread.name().unwrap_or("a");
            last_words(Form::Json, &format!("thread {name} panicked: {panic}"), super::exit::Exit::Software as u8);
        }));
    }
}

/// Whether the last line of the terminal is a bar.
static IS_LINE_HELD: AtomicBool = AtomicBool::new(false);

/// Moves to the beginning of the terminal's line and empties it.
const EMPTY_LINE: &[u8] = b"\r\x1b[2K";

/// The terminal's last line is drawn again and again until this goes: log lines take its place, and it moves on.
#[derive(Debug)]
pub(crate) struct HeldLine(());

pub(crate) fn hold_line() -> HeldLine {
    IS_LINE_HELD.store(true, Ordering::Relaxed);
    HeldLine(())
}

impl Drop for HeldLine {
    fn drop(&mut self) {
        IS_LINE_HELD.store(false, Ordering::Relaxed);
    }
}

static FILE: Mutex<Option<File>> = Mutex::new(None);

/// Writes one log line.
#[derive(Debug)]
pub(crate) struct LogWriter;

/// The writer of the next line.
pub(crate) fn writer() -> LogWriter {
    LogWriter
}

/// From now on log lines go to this file, which is made anew.
pub(crate) fn to_file(path: &Path) -> io::Result<()> {
    if let Err(error) = std::fs::remove_file(path)
        && error.kind() != io::ErrorKind::NotFound
    {
        return Err(error);
    }
    let file = OpenOptions::new().write(true).create_new(true).mode(0o640).open(path)?;
    *FILE.lock().unwrap_or_else(PoisonError::into_inner) = Some(file);
    Ok(())
}

impl Write for LogWriter {
    /// Takes one event at a time, which is written as one line whatever is quoted in it.
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let line = one_line(bytes);
        match &mut *FILE.lock().unwrap_or_else(PoisonError::into_inner) {
            Some(file) => file.write_all(&line)?,
            None if IS_LINE_HELD.load(Ordering::Relaxed) => io::stderr().write_all(&[EMPTY_LINE, &line].concat())?,
            None => io::stderr().write_all(&line)?,
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        match &mut *FILE.lock().unwrap_or_else(PoisonError::into_inner) {
            Some(file) => file.flush(),
            None => io::stderr().flush(),
        }
    }
}

/// An event with the line ends inside it escaped, so that no text out of a topic forges a line. Escapes that colour a
/// line are the logging library's own; it writes those of others in hexadecimal.
fn one_line(event: &[u8]) -> Cow<'_, [u8]> {
    let (event_end, body) = event.split_last().map_or((None, event), |(last, body)| match last {
        b'\n' => (Some(b'\n'), body),
        _ => (None, event),
    });
    if !body.iter().any(|byte| matches!(byte, b'\n' | b'\r')) {
        return Cow::Borrowed(event);
    }
    let escaped = |byte: &u8| match byte {
        b'\n' => b"\\n".to_vec(),
        b'\r' => b"\\r".to_vec(),
        other => vec![*other],
    };
    Cow::Owned(body.iter().flat_map(escaped).chain(event_end).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_event_is_one_line_whatever_is_quoted_in_it() {
        assert_eq!(one_line(b"WARN fine\n"), Cow::Borrowed(b"WARN fine\n"));
        assert_eq!(&*one_line(b"WARN a\r\nERROR forged\n"), b"WARN a\\r\\nERROR forged\n");
    }
}

//! What commands print on stdout.

use std::io::{self, IsTerminal as _, Write};

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

/// Columns of the terminal that stdout is; nothing where it is none.
pub(crate) fn columns() -> Option<usize> {
    let stdout = io::stdout();
    let size = stdout.is_terminal().then(|| rustix::termios::tcgetwinsize(&stdout)).and_then(Result::ok)?;
    (size.ws_col > 0).then(|| usize::from(size.ws_col))
}

/// A line without anything that a terminal could take for a command, cut to its columns; whole where there is no terminal.
pub(crate) fn cut(line: &str, columns: Option<usize>) -> String {
    let plain: String = line.chars().map(|c| if c.is_control() { '\u{fffd}' } else { c }).collect();
    match columns {
        Some(columns) if plain.chars().count() > columns => plain.chars().take(columns - 1).chain(['…']).collect(),
        _ => plain,
    }
}

/// Ascending numbers as ranges: `1–121, 123`.
pub(crate) fn ranges(numbers: &[u64]) -> String {
    let runs = numbers.chunk_by(|one, next| one.checked_add(1) == Some(*next));
    let runs = runs.map(|run| match run {
        [first, .., last] => format!("{first}–{last}"),
        [only] => only.to_string(),
        [] => String::new(),
    });
    let texts: Vec<String> = runs.collect();
    if texts.is_empty() { "none".to_owned() } else { texts.join(", ") }
}

/// A number of bytes, to three digits.
pub(crate) fn size(bytes: u64) -> String {
    let mut value = bytes as f64;
    for unit in ["B", "kB", "MB", "GB"] {
        if value < 999.5 {
            let digits = usize::from(unit != "B" && value < 99.95);
            return format!("{value:.digits$} {unit}");
        }
        value /= 1000.0;
    }
    format!("{value:.1} TB")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ascending_numbers_are_told_as_ranges() {
        let texts: Vec<String> = [&[][..], &[7], &[1, 2, 3, 5, 8, 9], &[u64::MAX - 1, u64::MAX]].map(ranges).to_vec();
        assert_eq!(texts, ["none", "7", "1–3, 5, 8–9", "18446744073709551614–18446744073709551615"]);
    }

    #[test]
    fn sizes_have_a_unit_that_fits() {
        let texts: Vec<String> = [0, 999, 1_000, 99_940, 123_456_789, 7_600_000_000, u64::MAX].map(size).to_vec();
        assert_eq!(texts, ["0 B", "999 B", "1.0 kB", "99.9 kB", "123 MB", "7.6 GB", "18446744.1 TB"]);
    }
}

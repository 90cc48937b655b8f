//! CPU time as the system counts it, in hundredths of a second.

use std::path::Path;

/// The name of a process or thread, and the CPU time that it has taken, in seconds; of a `stat` file below `/proc`.
///
/// # Errors
/// When there is no such process any more.
pub(crate) fn taken(stat: &Path) -> std::io::Result<(String, f64)> {
    let stat = std::fs::read_to_string(stat)?;
    // After the name, which may have blanks: the state is the first, and user and system time are ticks.
    let (head, values) = stat.rsplit_once(')').expect("it has a name");
    let (_, name) = head.split_once('(').expect("it has a name");
    let ticks = values.split_whitespace().skip(11).take(2).map(|ticks| ticks.parse::<f64>().expect("a number"));
    Ok((name.to_owned(), ticks.sum::<f64>() / 100.0))
}

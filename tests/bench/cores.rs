//! On which cores this process runs.

use std::process::{Command, Stdio};

/// Runs this process, and what it starts from now on, on these cores, as `taskset` writes them.
///
/// # Panics
/// Where there are no such cores, or no `taskset`.
pub(crate) fn pin(cores: &str) {
    let own = std::process::id().to_string();
    let pinned = Command::new("taskset").args(["-a", "-c", "-p", cores, &own]).stdout(Stdio::null()).status();
    assert!(pinned.is_ok_and(|status| status.success()), "cores {cores} and taskset (util-linux) are needed");
}

//! On which cores this process runs.

use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Instant;

/// Runs this process, and what it starts from now on, on these cores, as `taskset` writes them.
///
/// # Panics
/// Where there are no such cores, or no `taskset`.
pub(crate) fn pin(cores: &str) {
    let own = std::process::id().to_string();
    let pinned = Command::new("taskset").args(["-a", "-c", "-p", cores, &own]).stdout(Stdio::null()).status();
    assert!(pinned.is_ok_and(|status| status.success()), "cores {cores} and taskset (util-linux) are needed");
}

/// How many nanoseconds it takes to give a value to a thread on another core and to see its answer: what threads that share work wait
/// for again and again. On a virtual machine it depends on where its cores happen to be, and changes while it runs.
#[allow(dead_code, reason = "not every bench has threads")]
pub(crate) fn hand_over_ns() -> f64 {
    const TIMES: u32 = 200_000;
    let said = AtomicU32::new(0);
    let wait_for = |number: u32| {
        while said.load(Ordering::Acquire) != number {
            std::hint::spin_loop();
        }
    };
    let say = |number: u32| said.store(number, Ordering::Release);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            (0..TIMES).for_each(|time| {
                wait_for(2 * time + 1);
                say(2 * time + 2);
            });
        });
        let start = Instant::now();
        (0..TIMES).for_each(|time| {
            say(2 * time + 1);
            wait_for(2 * time + 2);
        });
        start.elapsed().as_secs_f64() * 1e9 / f64::from(TIMES)
    })
}

//! What the program takes of the machine's memory: an allocator that gives back, and no more with time.

use std::time::Duration;

use crate::support::command::{Running, deepfm};
use crate::support::rounds;

#[test]
fn the_program_and_its_c_libraries_run_on_jemalloc_with_few_arenas() {
    let mut command = deepfm(&["--version"]);
    let output = command.env("MALLOC_CONF", "stats_print:true").output().expect("the binary starts");
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(said.contains("Begin jemalloc statistics"), "{said}");
    assert!(said.lines().any(|line| line.trim() == "opt.narenas: 4"), "{said}");
}

/// Resident megabytes of a process, while it is there.
fn resident(id: u32) -> Option<f64> {
    let status = std::fs::read_to_string(format!("/proc/{id}/status")).ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    line.trim().strip_suffix(" kB")?.parse().ok().map(|kilobytes: f64| kilobytes / 1024.0)
}

/// The largest of a part of the samples.
fn most(samples: &[f64]) -> f64 {
    samples.iter().copied().fold(0.0, f64::max)
}

/// Five minutes, in the torture only. It stands between 80 and 110 MB; on glibc's allocator it had 261 MB in the end, and rose.
#[test]
fn under_steady_traffic_memory_does_not_grow() {
    for seed in 0..rounds(0, 1) {
        let seed = seed.to_string();
        let mut demo = Running::start(&["demo", "--json", "--seconds", "300", "--rate", "3000", "--seed", &seed]);
        let mut samples = Vec::new();
        while demo.is_running() {
            samples.extend(resident(demo.id()));
            std::thread::park_timeout(Duration::from_millis(500));
        }
        let outcome = demo.wait();
        assert_eq!(outcome.code, Some(0), "{}", outcome.stderr);
        let third = samples.len() / 3;
        let (before, last) = (most(&samples[third..2 * third]), most(&samples[2 * third..]));
        assert!(third > 100, "{} samples", samples.len());
        assert!(last < 1.15 * before && last < 160.0, "{before:.0} MB, then {last:.0} MB: {samples:.0?}");
    }
}

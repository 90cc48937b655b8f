//! Helpers shared by the integration tests: a real broker, the binary, real data, and skipping by name.

pub(crate) mod broker;
pub(crate) mod cluster;
pub(crate) mod command;
pub(crate) mod counting;
pub(crate) mod disk;
pub(crate) mod http;
pub(crate) mod python;
pub(crate) mod raw;
pub(crate) mod s3;

use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use deepfm_core::kernel::InstructionSet;

/// How long anything may take before a test gives up on it.
pub(crate) const DEADLINE: Duration = Duration::from_mins(2);

/// Says by name that a test is skipped; with `CI=true` that is a failure.
pub(crate) fn skip(test: &str, reason: &str) {
    assert!(std::env::var("CI").as_deref() != Ok("true"), "{test} must not be skipped in CI: {reason}");
    println!("skipped: {test}: {reason}");
}

/// A set of real events, unless the data is not on this machine: then the test is skipped by name. That is a failure in
/// CI only where the place of the data is known to exist.
pub(crate) fn real_data(test: &str, name: &str) -> Option<PathBuf> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let given = std::env::var_os("DEEPFM_DATA_DIR").map(PathBuf::from);
    let is_expected = given.is_some() || root.join("../shared").exists();
    let directory = given.unwrap_or_else(|| root.join("../shared/data")).join(name);
    if directory.join("impressions.jsonl").exists() {
        return Some(directory);
    }
    let reason = format!("{} is absent", directory.display());
    if is_expected {
        skip(test, &reason);
    } else {
        println!("skipped: {test}: {reason}");
    }
    None
}

/// Copies a directory with everything in it.
pub(crate) fn copy_directory(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).expect("the disk takes it");
    for entry in std::fs::read_dir(from).expect("it is there").flatten() {
        let target = to.join(entry.file_name());
        if entry.path().is_dir() {
            copy_directory(&entry.path(), &target);
        } else {
            std::fs::copy(entry.path(), target).expect("the disk takes it");
        }
    }
}

/// Runs something under every instruction set of this processor, one test at a time: it is the whole process's. The others
/// need not know, since every set gives the same bits.
pub(crate) fn under_each_instruction_set(mut run: impl FnMut(InstructionSet)) {
    static TURN: Mutex<()> = Mutex::new(());
    let _turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
    let before = InstructionSet::in_use();
    for set in InstructionSet::available() {
        InstructionSet::choose(set.name()).expect("it is available");
        run(set);
    }
    InstructionSet::choose(before.name()).expect("it was in use");
}

/// How many rounds a random test goes: few in an ordinary run, many with `DEEPFM_TORTURE=1` (`./dev torture`).
pub(crate) fn rounds(ordinary: usize, torture: usize) -> usize {
    if std::env::var("DEEPFM_TORTURE").as_deref() == Ok("1") { torture } else { ordinary }
}

/// Waits for a condition, looking often.
pub(crate) fn wait_for<T>(what: &str, condition: impl FnMut() -> Option<T>) -> T {
    wait_for_or(what, String::new, condition)
}

/// The same; what is known is said when it is given up.
pub(crate) fn wait_for_or<T>(what: &str, known: impl Fn() -> String, mut condition: impl FnMut() -> Option<T>) -> T {
    let start = Instant::now();
    loop {
        if let Some(value) = condition() {
            return value;
        }
        assert!(start.elapsed() < DEADLINE, "{what} did not happen within {DEADLINE:?} {}", known());
        std::thread::yield_now();
        std::thread::park_timeout(Duration::from_millis(2));
    }
}

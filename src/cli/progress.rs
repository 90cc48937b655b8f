//! How far a command is, on a terminal: share, rate and time left. Nothing is shown where stderr is no terminal.

use std::io::IsTerminal as _;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use deepfm_stream::progress::Progress;
use deepfm_stream::thread;
use deepfm_stream::worker::status::{Phase, StatusBoard};
use indicatif::{ProgressBar, ProgressStyle};

use super::log;

/// How often the bar is drawn.
const FRAME: Duration = Duration::from_millis(250);

/// What is counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Unit {
    Bytes,
    Records,
}

/// Does a job, and shows on a terminal how far it is.
pub(crate) fn show<T>(unit: Unit, progress: &Progress, job: impl FnOnce() -> T) -> T {
    draw_beside(unit, &|| progress.read(), job)
}

/// The same for a worker that reads up to an end, which its board has.
pub(crate) fn show_run<T>(board: &StatusBoard, job: impl FnOnce() -> T) -> T {
    let first = OnceLock::new();
    let read = || {
        let status = board.read();
        if status.phase == Phase::Starting {
            return (0, 0);
        }
        let left: u64 = status.partitions.values().filter_map(|partition| partition.lag_records).sum();
        let done = status.records.saturating_sub(*first.get_or_init(|| status.records));
        (done, done + left)
    };
    draw_beside(Unit::Records, &read, job)
}

/// `read` says what is done, and what is to be done in all.
fn draw_beside<T>(unit: Unit, read: &(impl Fn() -> (u64, u64) + Sync), job: impl FnOnce() -> T) -> T {
    if !std::io::stderr().is_terminal() {
        return job();
    }
    let company = |is_over: &AtomicBool| {
        let _held = log::hold_line();
        let bar = bar(unit);
        while !is_over.load(Ordering::Acquire) {
            draw(&bar, read());
            std::thread::park_timeout(FRAME);
        }
        draw(&bar, read());
        bar.finish_and_clear();
    };
    thread::beside(company, job)
}

fn bar(unit: Unit) -> ProgressBar {
    let template = match unit {
        Unit::Bytes => "{percent:>3} % of {total_bytes}  {binary_bytes_per_sec}, {eta} left",
        Unit::Records => "{percent:>3} % of {human_len} records  {per_sec}, {eta} left",
    };
    ProgressBar::new(0).with_style(ProgressStyle::with_template(template).expect("the template is sound"))
}

fn draw(bar: &ProgressBar, (done, expected): (u64, u64)) {
    if expected > 0 {
        bar.set_length(expected);
        bar.set_position(done.min(expected));
    }
}

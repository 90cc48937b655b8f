//! How far a command is, on a terminal: share, rate and time left. Nothing is shown where stderr is no terminal.

use std::io::IsTerminal as _;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, Thread};
use std::time::Duration;

use deepfm_stream::progress::Progress;
use indicatif::{ProgressBar, ProgressStyle};

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
    if !std::io::stderr().is_terminal() {
        return job();
    }
    let over = AtomicBool::new(false);
    thread::scope(|scope| {
        let drawer = scope.spawn(|| {
            let bar = bar(unit);
            while !over.load(Ordering::Acquire) {
                draw(&bar, progress);
                thread::park_timeout(FRAME);
            }
            draw(&bar, progress);
            bar.finish_and_clear();
        });
        // Also when the job panics: the scope would wait for the drawer for ever.
        let _ending = Ending { over: &over, drawer: drawer.thread().clone() };
        job()
    })
}

/// Ends the drawing when it goes.
struct Ending<'a> {
    over: &'a AtomicBool,
    drawer: Thread,
}

impl Drop for Ending<'_> {
    fn drop(&mut self) {
        self.over.store(true, Ordering::Release);
        self.drawer.unpark();
    }
}

fn bar(unit: Unit) -> ProgressBar {
    let template = match unit {
        Unit::Bytes => "{percent:>3} % of {total_bytes}  {binary_bytes_per_sec}, {eta} left",
        Unit::Records => "{percent:>3} % of {human_len} records  {per_sec}, {eta} left",
    };
    ProgressBar::new(0).with_style(ProgressStyle::with_template(template).expect("the template is sound"))
}

fn draw(bar: &ProgressBar, progress: &Progress) {
    let (done, expected) = progress.read();
    if expected > 0 {
        bar.set_length(expected);
        bar.set_position(done.min(expected));
    }
}

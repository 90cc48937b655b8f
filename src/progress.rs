//! How far the reading of a bounded log is, and whether its lines go back in time: written by readers, read by whoever
//! waits for them.

use std::io::{self, Read};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use deepfm_core::event::EventKind;

/// A shared count of what was read, in bytes of files or in records. Clones count together.
#[derive(Clone, Debug, Default)]
pub struct Progress(Arc<Counts>);

#[derive(Debug, Default)]
struct Counts {
    done: AtomicU64,
    expected: AtomicU64,
    /// Of impressions and clicks: lines that go back, and by how much the furthest does, in milliseconds.
    back: [[AtomicU64; 2]; 2],
}

/// Lines of a file that go back in time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Disorder {
    /// The file.
    pub kind: EventKind,
    /// How many lines have a time before that of an earlier line.
    pub lines: u64,
    /// By how much the furthest is before the latest time until then, in milliseconds.
    pub furthest_ms: u64,
}

impl Progress {
    /// Expects so much more.
    pub fn expect(&self, units: u64) {
        self.0.expected.fetch_add(units, Ordering::Relaxed);
    }

    /// So much more was done.
    pub fn advance(&self, units: u64) {
        self.0.done.fetch_add(units, Ordering::Relaxed);
    }

    /// What was done, and what is expected in all.
    pub fn read(&self) -> (u64, u64) {
        (self.0.done.load(Ordering::Relaxed), self.0.expected.load(Ordering::Relaxed))
    }

    /// Notes a line that goes back.
    pub fn goes_back(&self, kind: EventKind, ms: u64) {
        let [lines, furthest] = &self.0.back[usize::from(kind == EventKind::Click)];
        lines.fetch_add(1, Ordering::Relaxed);
        furthest.fetch_max(ms, Ordering::Relaxed);
    }

    /// The files whose lines go back in time.
    pub fn disorder(&self) -> Vec<Disorder> {
        let of = |(kind, [lines, furthest]): (EventKind, &[AtomicU64; 2])| Disorder {
            kind,
            lines: lines.load(Ordering::Relaxed),
            furthest_ms: furthest.load(Ordering::Relaxed),
        };
        let kinds = [EventKind::Impression, EventKind::Click].into_iter().zip(&self.0.back);
        kinds.map(of).filter(|disorder| disorder.lines > 0).collect()
    }
}

/// A reader whose bytes are counted.
#[derive(Debug)]
pub struct Counted<R> {
    inner: R,
    progress: Progress,
}

impl<R> Counted<R> {
    /// Counts what is read from `inner`.
    pub fn new(inner: R, progress: Progress) -> Self {
        Self { inner, progress }
    }
}

impl<R: Read> Read for Counted<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.inner.read(buffer)?;
        self.progress.advance(read as u64);
        Ok(read)
    }
}

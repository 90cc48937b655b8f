//! A source that counts what is consumed of it, for whoever waits for its end.

use std::time::Duration;

use super::{Confirmation, Source, SourceError, SourceEvent};
use crate::progress::Progress;
use crate::stream::Partition;

/// A source whose records are counted as they are consumed.
#[derive(Debug)]
pub struct Watched<S> {
    inner: S,
    progress: Progress,
}

impl<S> Watched<S> {
    /// Counts what is consumed of `inner`.
    pub fn new(inner: S, progress: Progress) -> Self {
        Self { inner, progress }
    }
}

impl<S: Source> Source for Watched<S> {
    fn next(&mut self, timeout: Duration) -> Result<Option<SourceEvent>, SourceError> {
        self.inner.next(timeout)
    }

    fn consumed(&mut self, partition: Partition, records: usize) {
        self.progress.advance(records as u64);
        self.inner.consumed(partition, records);
    }

    fn confirm_end(&mut self, partition: Partition, offset: i64) -> Result<Confirmation, SourceError> {
        self.inner.confirm_end(partition, offset)
    }
}

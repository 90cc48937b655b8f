//! A source that counts what is consumed of it, for whoever waits for its end.

use std::time::Duration;

use super::{Confirmation, Source, SourceError, SourceEvent};
use crate::progress::Progress;
use deepfm_core::feature::Features;
use deepfm_core::stream::Partition;

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

    /// Records are consumed one by one; the room of a large one counts in queues, not here.
    fn consumed(&mut self, partition: Partition, weight: usize) {
        self.progress.advance(1);
        self.inner.consumed(partition, weight);
    }

    fn take_back(&mut self, features: &mut Vec<Features>) {
        self.inner.take_back(features);
    }

    fn confirm_end(&mut self, partition: Partition, offset: i64) -> Result<Confirmation, SourceError> {
        self.inner.confirm_end(partition, offset)
    }
}

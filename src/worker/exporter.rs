//! Training exports at their own pace: after a commit, when one is due, a thread of its own reads the checkpoint that was just
//! made durable and writes it out, while commits and learning go on. One at a time.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use crate::config::operation::Exports;
use crate::publish::exports::{self, ExportIoError};
use crate::publish::turning_back;
use crate::store::Store;
use crate::thread::{self, give_way};

/// The least time between two tries of an export that fails.
const RETRY_AFTER: Duration = Duration::from_mins(1);

/// Writes exports when they are due.
#[derive(Debug)]
pub struct Exporter {
    root: PathBuf,
    /// The directory of the state.
    state: PathBuf,
    model: String,
    interval: Duration,
    keep: usize,
    due_at: Instant,
    running: Option<(Instant, JoinHandle<Result<PathBuf, ExportIoError>>)>,
    stop: Arc<AtomicBool>,
}

impl Exporter {
    /// An exporter that goes on where the exports on disk end; none when exports are off.
    pub fn new(settings: &Exports, model: &str, state: &Path) -> Option<Self> {
        if settings.interval_seconds == 0 {
            return None;
        }
        let interval = Duration::from_secs(settings.interval_seconds);
        // Without an export there is nothing to fall back on: the first one is made soon.
        let first = RETRY_AFTER.min(interval);
        let root = settings.of(model);
        let wait = exports::age(&root).map_or(first, |age| interval.saturating_sub(age));
        Some(Self {
            root,
            state: state.to_owned(),
            model: model.to_owned(),
            interval,
            keep: settings.keep,
            due_at: Instant::now() + wait,
            running: None,
            stop: Arc::default(),
        })
    }

    /// Begins an export of the store's newest checkpoint if one is due, and takes note of one that has ended.
    pub fn after_commit(&mut self, store: &dyn Store) {
        if let Some((since, thread)) = self.running.take_if(|(_, thread)| thread.is_finished()) {
            self.note(since, thread);
        }
        if self.running.is_some() || Instant::now() < self.due_at {
            return;
        }
        self.due_at = Instant::now() + self.interval;
        let read = match store.reader() {
            Ok(read) => read,
            Err(error) => return self.failed(&error.into()),
        };
        let (root, state, model) = (self.root.clone(), self.state.clone(), self.model.clone());
        let (keep, stop) = (self.keep, Arc::clone(&self.stop));
        let export = move || {
            give_way();
            let (path, _) = exports::write(&root, &model, read, &stop)?;
            // One that a rollback of training asks for is not pulled away from under it.
            let asked = turning_back::pending(&state).ok().flatten();
            exports::prune(&root, keep, asked.as_ref().map(|asked| asked.export.as_str()))?;
            Ok(path)
        };
        self.running = Some((Instant::now(), thread::aside("exporting", export)));
    }

    fn note(&mut self, since: Instant, thread: JoinHandle<Result<PathBuf, ExportIoError>>) {
        match thread.join() {
            Ok(Ok(path)) => {
                let seconds = since.elapsed().as_secs_f64();
                metrics::counter!("deepfm_exports_total").increment(1);
                tracing::info!("training export {} was written within {seconds:.1} s", path.display());
            }
            Ok(Err(ExportIoError::GivenUp)) => {}
            Ok(Err(error)) => self.failed(&error),
            Err(_) => tracing::error!("the exporting thread has panicked"),
        }
    }

    /// An export that fails costs nothing but itself: it is tried again.
    fn failed(&mut self, error: &ExportIoError) {
        metrics::counter!("deepfm_export_failures_total").increment(1);
        let source = std::error::Error::source(error).map(|source| format!(": {source}")).unwrap_or_default();
        tracing::error!("a training export failed: {error}{source}");
        self.due_at = Instant::now() + RETRY_AFTER.min(self.interval);
    }
}

impl Drop for Exporter {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Release);
        if let Some((since, thread)) = self.running.take() {
            self.note(since, thread);
        }
    }
}

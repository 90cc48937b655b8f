//! The writing thread: learning goes on while a cut is encoded, committed, and the versions that it knows of installed.
//! At most one commit is in flight. A commit that fails is tried again, with everything, when the next one is due; until
//! then nothing is lost, only undurable.

use std::ops::ControlFlow;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use super::error::WorkerError;
use super::exporter::Exporter;
use crate::publish::artefacts;
use crate::store::Store;
use crate::thread::{Hand, Panicked, give_way};
use deepfm_core::checkpoint::{self, Lineage};
use deepfm_core::train::{Scope, StateCut};
use deepfm_core::version::outbox::OutboxEntry;

/// How long a commit may take before the worker gives up on the disk: as long as it may be undurable, but no less than this, …
const COMMIT_MIN: Duration = Duration::from_mins(1);

/// … and no more than this.
const COMMIT_MAX: Duration = Duration::from_mins(10);

/// What is to be committed.
#[derive(Debug)]
pub struct Job {
    /// The state.
    pub cut: StateCut,
    /// Where its versions come from, and what is to be sent.
    pub lineage: Lineage,
    /// Versions that are staged, to be installed once the commit is durable.
    pub staged: Vec<OutboxEntry>,
    /// Whether the worker ends: then nothing in the background is waited for.
    pub is_last: bool,
}

/// What has become of the commit in flight.
#[derive(Debug)]
pub enum CommitProgress {
    /// There is none, or it has not ended.
    Pending,
    /// It is durable.
    Durable(Committed),
    /// It failed, which was logged; there is time to try again.
    Failed,
}

/// A commit that is durable, and its versions in place.
#[derive(Debug)]
pub struct Committed {
    /// Its number.
    pub commit: u64,
    /// Versions that were installed, and can be announced now; those after one that could not be installed wait with it.
    pub installed: Vec<OutboxEntry>,
    /// Bytes that were given to the store.
    pub bytes: u64,
    /// How long it took.
    pub elapsed: Duration,
}

struct Outcome {
    result: Result<Committed, WorkerError>,
    wants: Scope,
}

/// The hand that gives cuts to the writing thread.
pub struct Committer {
    hand: Hand<Job, Outcome>,
    /// Since when a commit is in flight.
    busy_since: Option<Instant>,
    wants: Scope,
    durable_at: Instant,
    undurable_max: Duration,
}

impl Committer {
    /// Starts the thread over a store that was loaded. Past `undurable_max` without a durable commit a failure is final.
    pub fn start(
        mut store: Box<dyn Store>,
        versions_dir: PathBuf,
        undurable_max: Duration,
        mut exporter: Option<Exporter>,
    ) -> Self {
        let wants = store.wants();
        let work = move |job: Job, tell: &mut dyn FnMut(Outcome)| {
            give_way();
            let result = commit(&mut *store, job, &versions_dir);
            if result.is_ok()
                && let Some(exporter) = &mut exporter
            {
                exporter.after_commit(&*store);
            }
            tell(Outcome { result, wants: store.wants() });
            ControlFlow::Continue(())
        };
        let last_words = |panicked: Panicked| Outcome { result: Err(panicked.into()), wants: Scope::Everything };
        let hand = Hand::start("writing", 1, work, last_words);
        Self { hand, busy_since: None, wants, durable_at: Instant::now(), undurable_max }
    }

    /// Whether a commit is in flight.
    pub fn is_busy(&self) -> bool {
        self.busy_since.is_some()
    }

    /// What the next cut must hold.
    pub fn wants(&self) -> Scope {
        self.wants
    }

    /// Gives a job to the thread, which must not be busy.
    pub fn submit(&mut self, job: Job) {
        self.busy_since = Some(Instant::now());
        self.hand.give(job);
    }

    /// What becomes of the commit in flight within `patience`.
    ///
    /// # Errors
    /// When nothing has become durable for too long, or a commit does not end.
    pub fn poll(&mut self, patience: Duration) -> Result<CommitProgress, WorkerError> {
        let Some(since) = self.busy_since else {
            return Ok(CommitProgress::Pending);
        };
        let patience_max = self.undurable_max.clamp(COMMIT_MIN, COMMIT_MAX);
        match self.hand.take_within(patience) {
            Ok(Some(outcome)) => self.take(outcome),
            Ok(None) if since.elapsed() < patience_max => Ok(CommitProgress::Pending),
            Ok(None) | Err(_) => Err(WorkerError::CommitStuck(patience_max)),
        }
    }

    fn take(&mut self, outcome: Outcome) -> Result<CommitProgress, WorkerError> {
        self.busy_since = None;
        self.wants = outcome.wants;
        match outcome.result {
            Ok(committed) => {
                self.durable_at = Instant::now();
                Ok(CommitProgress::Durable(committed))
            }
            Err(error @ WorkerError::Panicked(_)) => Err(error),
            Err(error) if self.durable_at.elapsed() >= self.undurable_max => Err(error),
            Err(error) => {
                let undurable = self.durable_at.elapsed().as_secs();
                metrics::counter!("deepfm_checkpoint_failures_total").increment(1);
                tracing::error!(
                    "a checkpoint failed, nothing has been durable for {undurable} of {:?}: {:#}",
                    self.undurable_max,
                    anyhow::Error::from(error)
                );
                Ok(CommitProgress::Failed)
            }
        }
    }
}

fn commit(store: &mut dyn Store, job: Job, versions_dir: &std::path::Path) -> Result<Committed, WorkerError> {
    let start = Instant::now();
    if job.is_last {
        store.end_soon();
    }
    let layer = checkpoint::encode(&job.cut, &job.lineage);
    let bytes = layer.bytes();
    drop(job.cut);
    let commit = store.commit(&layer).map_err(WorkerError::Store)?;
    let mut installed = Vec::new();
    for entry in job.staged {
        if let Err(error) = artefacts::install(versions_dir, entry.directory()) {
            // The commit is durable all the same, and knows of the version: it is tried again with the next one.
            tracing::error!("version {} cannot be installed: {:#}", entry.version(), anyhow::Error::from(error));
            metrics::counter!("deepfm_version_failures_total").increment(1);
            break;
        }
        installed.push(entry);
    }
    Ok(Committed { commit, installed, bytes, elapsed: start.elapsed() })
}

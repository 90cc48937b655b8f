//! The writing thread: learning goes on while a version is encoded and staged, and while a cut of the state is encoded,
//! committed, and the versions that it knows of installed. At most one of them is in flight. After a commit
//! that fails the next one holds what the store then wants: everything, or what changed since where changes found no room. Until
//! that is durable nothing is lost, only undurable.

use std::ops::ControlFlow;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::error::WorkerError;
use super::exporter::Exporter;
use crate::artefacts::Artefacts;
use crate::store::Store;
use crate::thread::{Hand, Panicked, give_way};
use deepfm_core::checkpoint::{self, Lineage};
use deepfm_core::train::{Scope, StateCut};
use deepfm_core::version::announcement::Announcement;
use deepfm_core::version::artefact::{Base, VersionCut};
use deepfm_core::version::gate::Judgement;
use deepfm_core::version::outbox::OutboxEntry;

/// How long a commit may take before the worker gives up on the disk: as long as it may be undurable, but no less than this, …
const COMMIT_MIN: Duration = Duration::from_mins(1);

/// … and no more than this.
const COMMIT_MAX: Duration = Duration::from_mins(10);

/// What is to be written.
#[derive(Debug)]
pub enum Job {
    /// A version.
    Version(Box<NewVersion>),
    /// A checkpoint.
    Checkpoint(Box<NewCheckpoint>),
}

/// A version that is to be staged.
#[derive(Debug)]
pub struct NewVersion {
    /// What is in it.
    pub cut: VersionCut,
    /// When it was cut.
    pub at: Instant,
    /// What the gate says of it, but for its weights.
    pub judgement: Judgement,
}

/// A checkpoint that is to be committed.
#[derive(Debug)]
pub struct NewCheckpoint {
    /// The state.
    pub cut: StateCut,
    /// Where its versions come from, and what is to be sent.
    pub lineage: Lineage,
    /// Versions that are staged, to be installed once the commit is durable.
    pub staged: Vec<OutboxEntry>,
    /// Whether the worker ends: then nothing in the background is waited for.
    pub is_last: bool,
}

/// What has become of what is in flight.
#[derive(Debug)]
pub enum WriteProgress {
    /// There is nothing, or it has not ended.
    Pending,
    /// The version is staged. Nobody knows of it until it is committed with its place in the outbox.
    Staged(Box<StagedVersion>),
    /// The version could not be staged: nothing of it is there.
    NotStaged(WorkerError),
    /// The checkpoint is durable.
    Durable(Committed),
    /// The checkpoint failed, which was logged; there is time to try again.
    Failed,
}

/// A version that is staged.
#[derive(Debug)]
pub struct StagedVersion {
    /// What is owed to the world.
    pub entry: OutboxEntry,
    /// What the next version can be a delta on.
    pub base: Base,
    /// Examples learned when it was cut.
    pub learned: u64,
    /// When that was.
    pub at: Instant,
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

enum Outcome {
    Version(Result<Box<StagedVersion>, WorkerError>),
    Checkpoint { result: Result<Committed, WorkerError>, wants: Scope },
    Panicked(Panicked),
}

/// The hand that gives cuts to the writing thread.
pub struct Committer {
    hand: Hand<Job, Outcome>,
    /// Since when something is in flight, and how long that may take.
    in_flight: Option<(Instant, Duration)>,
    wants: Scope,
    durable_at: Instant,
    undurable_max: Duration,
}

impl Committer {
    /// Starts the thread over a store that was loaded. Past `undurable_max` without a durable commit a failure is final.
    pub fn start(
        mut store: Box<dyn Store>,
        artefacts: Arc<dyn Artefacts>,
        undurable_max: Duration,
        mut exporter: Option<Exporter>,
    ) -> Self {
        let wants = store.wants();
        let work = move |job: Job, tell: &mut dyn FnMut(Outcome)| {
            give_way();
            match job {
                Job::Version(version) => tell(Outcome::Version(stage(*version, &*artefacts))),
                Job::Checkpoint(checkpoint) => {
                    let result = commit(&mut *store, *checkpoint, &*artefacts);
                    if result.is_ok()
                        && let Some(exporter) = &mut exporter
                    {
                        exporter.after_commit(&*store);
                    }
                    tell(Outcome::Checkpoint { result, wants: store.wants() });
                }
            }
            ControlFlow::Continue(())
        };
        let hand = Hand::start("writing", 1, work, Outcome::Panicked);
        Self { hand, in_flight: None, wants, durable_at: Instant::now(), undurable_max }
    }

    /// Whether something is in flight.
    pub fn is_busy(&self) -> bool {
        self.in_flight.is_some()
    }

    /// What the next cut must hold.
    pub fn wants(&self) -> Scope {
        self.wants
    }

    /// Gives a job to the thread, which must not be busy.
    pub fn submit(&mut self, job: Job) {
        let patience_max = match job {
            // It takes as long as the model is large.
            Job::Version(_) => COMMIT_MAX,
            Job::Checkpoint(_) => self.undurable_max.clamp(COMMIT_MIN, COMMIT_MAX),
        };
        self.in_flight = Some((Instant::now(), patience_max));
        self.hand.give(job);
    }

    /// What becomes of what is in flight within `patience`.
    ///
    /// # Errors
    /// When nothing has become durable for too long, or a commit does not end.
    pub fn poll(&mut self, patience: Duration) -> Result<WriteProgress, WorkerError> {
        let Some((since, patience_max)) = self.in_flight else {
            return Ok(WriteProgress::Pending);
        };
        match self.hand.take_within(patience) {
            Ok(Some(outcome)) => self.take(outcome),
            Ok(None) if since.elapsed() < patience_max => Ok(WriteProgress::Pending),
            Ok(None) | Err(_) => Err(WorkerError::CommitStuck(patience_max)),
        }
    }

    fn take(&mut self, outcome: Outcome) -> Result<WriteProgress, WorkerError> {
        let since = self.in_flight.take().map(|(since, _)| since);
        let (result, wants) = match outcome {
            Outcome::Panicked(panicked) => return Err(panicked.into()),
            Outcome::Version(result) => {
                // No checkpoint could be written meanwhile, and none has failed.
                self.durable_at += since.map_or(Duration::ZERO, |since| since.elapsed());
                return Ok(result.map_or_else(WriteProgress::NotStaged, WriteProgress::Staged));
            }
            Outcome::Checkpoint { result, wants } => (result, wants),
        };
        self.wants = wants;
        match result {
            Ok(committed) => {
                self.durable_at = Instant::now();
                Ok(WriteProgress::Durable(committed))
            }
            Err(error) if self.durable_at.elapsed() >= self.undurable_max => Err(error),
            Err(error) => {
                let undurable = self.durable_at.elapsed().as_secs();
                metrics::counter!("deepfm_checkpoint_failures_total").increment(1);
                tracing::error!(
                    "a checkpoint failed, nothing has been durable for {undurable} of {:?}: {:#}",
                    self.undurable_max,
                    anyhow::Error::from(error)
                );
                Ok(WriteProgress::Failed)
            }
        }
    }
}

fn stage(version: NewVersion, artefacts: &dyn Artefacts) -> Result<Box<StagedVersion>, WorkerError> {
    let NewVersion { cut, at, judgement } = version;
    let judgement = judgement.with_weights(cut.is_finite());
    let (learned, journal) = (cut.learned(), cut.journal().to_vec());
    let (goes_live, held) = (judgement.passed, judgement.refusal());
    // Servers that follow a directory hear of it by the manifest alone.
    let artefact = cut.held(held.clone()).encode();
    artefacts.stage(&artefact)?;
    let announcement = Announcement { gate: Some(judgement), held, ..Announcement::of(&artefact) };
    let entry = OutboxEntry { announcement, goes_live, journal };
    Ok(Box::new(StagedVersion { entry, base: artefact.base, learned, at }))
}

fn commit(store: &mut dyn Store, job: NewCheckpoint, artefacts: &dyn Artefacts) -> Result<Committed, WorkerError> {
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
        if let Err(error) = artefacts.install(entry.directory()) {
            // The commit is durable all the same, and knows of the version: it is tried again with the next one.
            tracing::error!("version {} cannot be installed: {:#}", entry.version(), anyhow::Error::from(error));
            metrics::counter!("deepfm_version_failures_total").increment(1);
            break;
        }
        installed.push(entry);
    }
    Ok(Committed { commit, installed, bytes, elapsed: start.elapsed() })
}

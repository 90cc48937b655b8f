//! Why a worker cannot start or go on.

use std::path::PathBuf;

use crate::artefacts::ArtefactIoError;
use crate::drive::DriveError;
use crate::letters::DeadLetterError;
use crate::publish::outbox::OutboxError;
use crate::publish::topic::TopicError;
use crate::remote::RemoteError;
use crate::source::SourceError;
use crate::store::StoreError;
use crate::thread::vital::Panicked;
use deepfm_core::checkpoint::CheckpointError;
use deepfm_core::event::MappingError;
use deepfm_core::feature::field::FieldError;
use deepfm_core::stream::StreamError;

/// A worker cannot start or go on. What was committed is safe.
#[derive(Debug, thiserror::Error)]
#[expect(missing_docs, reason = "fields of errors say it by name and type")]
pub enum WorkerError {
    /// It was asked to stop before it had begun: nothing was consumed.
    #[error("asked to stop during the start: nothing was consumed")]
    StoppedAtStart,
    /// The fields are not a model's.
    #[error(transparent)]
    Fields(#[from] FieldError),
    /// The mapping cannot be used.
    #[error(transparent)]
    Mapping(#[from] MappingError),
    /// Checkpoints cannot be read or written.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// A worker without a checkpoint could not write its first one.
    #[error("the first checkpoint cannot be written; see the log for why")]
    NoFirstCheckpoint,
    /// The disk does not answer.
    #[error(
        "a checkpoint or a version was not written within {0:?}, or the thread that writes them has ended; the log says more"
    )]
    CommitStuck(std::time::Duration),
    /// The checkpoint cannot be understood.
    #[error(
        "the checkpoint in {path} cannot be used; should it be damaged, `--restore EXPORT` goes on from a training export, and \
         `--reset-state` starts anew"
    )]
    Checkpoint {
        /// The state directory, or the training export.
        path: PathBuf,
        source: CheckpointError,
    },
    /// The checkpoint asks for things that a worker of this model does not owe.
    #[error("the checkpoint in {path} is refused, and nothing was done by it")]
    Outbox {
        /// The state directory, or the training export.
        path: PathBuf,
        source: Box<OutboxError>,
    },
    /// There is no number left that is larger than those of all versions.
    #[error(
        "the versions topic {topic}, the directory of versions or the state knows the largest number that a version of model          {model} can have: none is left. Whoever wrote it did so by mistake: go on under another model.name"
    )]
    NumbersUsedUp { model: String, topic: String },
    /// The configuration would give another state from the same log.
    #[error(
        "the checkpoint in {path} was made with another configuration: {}. Undo the change, or start anew with \
         `--reset-state`",
        differences.join("; ")
    )]
    Configuration {
        /// The state directory, or the training export.
        path: PathBuf,
        differences: Vec<String>,
    },
    /// The versions topic knows the model, but the state directory is empty: the state is lost, not new.
    #[error(
        "the versions topic {topic} knows version {version} of model {model}, but {path} holds no state: it was lost, or \
         this is another machine. Bring the state back, go on from a training export with `--restore EXPORT`, or start anew \
         with `--reset-state` (versions go on at {})",
        version + 1
    )]
    StateLost { topic: String, model: String, version: u64, path: PathBuf },
    /// A training export was to replace a state that is whole.
    #[error(
        "{path} holds checkpoint {checkpoint}, which is whole: start without `--restore`, or give it up with `--reset-state`"
    )]
    StateIsWhole { path: PathBuf, checkpoint: u64 },
    /// The state is another model's.
    #[error(
        "{path} holds the state of model {theirs}, the configuration (model.name) is of {ours}: give each model a directory of \
         its own, or start this one anew with `--reset-state`"
    )]
    OtherModel {
        /// The state directory, or the training export.
        path: PathBuf,
        theirs: String,
        ours: String,
    },
    /// The state is from before versions that are announced.
    #[error(
        "the state in {path} is from before {} of model {model}, which topic {topic} has: it is an old copy, or newer \
         checkpoints of it are damaged. Bring the newer state back, or go on without them with `--abandon-versions`, \
         which announces them as abandoned",
        named(versions)
    )]
    VersionsAhead {
        path: PathBuf,
        topic: String,
        model: String,
        /// The versions that would be abandoned, rising.
        versions: Vec<u64>,
    },
    /// Reading failed.
    #[error(transparent)]
    Source(#[from] SourceError),
    /// A decision at the start does not fit the state.
    #[error(transparent)]
    Stream(#[from] StreamError),
    /// What was read does not fit the state.
    #[error(transparent)]
    Log(DriveError),
    /// The versions topic failed.
    #[error(transparent)]
    Topic(#[from] TopicError),
    /// An artefact cannot be written.
    #[error(transparent)]
    Artefact(#[from] ArtefactIoError),
    /// Object storage cannot be used.
    #[error(transparent)]
    Storage(#[from] RemoteError),
    /// Dead letters cannot be sent.
    #[error(transparent)]
    DeadLetters(#[from] DeadLetterError),
    /// A thread has panicked.
    #[error(transparent)]
    Panicked(#[from] Panicked),
    /// The admin port cannot be opened.
    #[error("the admin port {address} (admin.listen) cannot be opened")]
    Admin { address: String, source: std::io::Error },
}

/// Versions in words: `version 7`, `versions 7 to 9 (3)`.
fn named(versions: &[u64]) -> String {
    match versions {
        [one] => format!("version {one}"),
        [first, .., last] => format!("versions {first} to {last} ({})", versions.len()),
        [] => "no version".to_owned(),
    }
}

impl From<DriveError> for WorkerError {
    fn from(error: DriveError) -> Self {
        match error {
            DriveError::Source(error) => Self::Source(error),
            error => Self::Log(error),
        }
    }
}

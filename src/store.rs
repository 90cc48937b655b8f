//! Checkpoints on disk. A commit is one atomic step: after any crash either the whole new state or the whole old one is
//! found.
//!
//! [`Store`] is all that the worker knows; sled is behind it, and nothing outside this module knows sled.

mod choice;
mod commits;
mod database;
mod disk;
mod merging;
mod recovery;
mod sled_disk;
mod stage;
mod witness;

use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use deepfm_core::checkpoint::{Block, Layer};
use deepfm_core::train::Scope;

pub use commits::{CommitStore, UNFIT_BYTES_MAX};
#[doc(hidden)]
pub use disk::{Aside, Disk, Engine, Take};
pub use stage::{AtStage, Stage};

/// A checkpoint that was read back.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Saved {
    /// Its number.
    pub commit: u64,
    /// Its layers: the base, then the deltas on it, the newest last.
    pub layers: Vec<Layer>,
    /// Present when newer checkpoints were damaged and this is the newest that is whole: what was wrong.
    pub fell_back: Option<String>,
}

/// The store failed. Whether a commit that failed is durable is only known after a restart. The next one must hold what
/// [`Store::wants`] then says: everything, which goes into a fresh place, or changes where the last ones only found no room.
#[derive(Debug, thiserror::Error)]
#[expect(missing_docs, reason = "fields of errors say it by name and type")]
pub enum StoreError {
    /// Another process uses the directory.
    #[error("the state directory {0} (state.dir) is in use by another worker")]
    Locked(PathBuf),
    /// A file operation failed.
    #[error("cannot {doing} {path}")]
    Io { doing: &'static str, path: PathBuf, source: io::Error },
    /// A database failed.
    #[error("the store in {path} failed")]
    Engine { path: PathBuf, source: io::Error },
    /// Opening took too long.
    #[error("the store in {path} did not open within {patience:.0?}")]
    Stuck { path: PathBuf, patience: Duration },
    /// What was committed is not there, or not as it was written.
    #[error(
        "the checkpoints in {path} are damaged: {reason}; `--restore EXPORT` goes on from a training export, \
         `--reset-state` starts anew and keeps version numbers rising"
    )]
    Damaged { path: PathBuf, reason: String },
    /// The disk is too full for a commit.
    #[error("{path} has {available} bytes free, a checkpoint needs {needed}")]
    Full {
        path: PathBuf,
        available: u64,
        /// Bytes that the checkpoint may take.
        needed: u64,
    },
    /// An earlier call on the same database failed.
    #[error("the store in {0} failed before and takes nothing more")]
    Poisoned(PathBuf),
    /// Whoever ends does not wait for it.
    #[error("it was given up, since the worker ends")]
    GivenUp,
    /// A delta was given where there is nothing that it could be a delta on.
    #[error("a checkpoint of everything is needed first")]
    NoBase,
}

impl StoreError {
    /// Whether it says nothing of what is on the disk: that is full, read-only, slow or the like.
    fn is_of_the_world(&self) -> bool {
        let source = match self {
            // A disk that is slow says nothing of what is on it.
            Self::Stuck { .. } => return true,
            Self::Io { source, .. } | Self::Engine { source, .. } => source,
            _ => return false,
        };
        let is_too_many_files = matches!(source.raw_os_error(), Some(23 | 24));
        let is_of_the_world = matches!(
            source.kind(),
            io::ErrorKind::StorageFull
                | io::ErrorKind::QuotaExceeded
                | io::ErrorKind::ReadOnlyFilesystem
                | io::ErrorKind::PermissionDenied
                | io::ErrorKind::OutOfMemory
                | io::ErrorKind::Interrupted
                | io::ErrorKind::TimedOut
                | io::ErrorKind::WouldBlock
                | io::ErrorKind::ResourceBusy
                | io::ErrorKind::StaleNetworkFileHandle
        );
        is_of_the_world || is_too_many_files
    }

    /// The error and its cause in one line.
    fn text(&self) -> String {
        let source = std::error::Error::source(self).map(|source| format!(": {source}")).unwrap_or_default();
        format!("{self}{source}")
    }
}

/// Gives the blocks of a checkpoint to a function, as one layer of everything, its lineage first; an error of that function ends it.
pub type ReadMerged = Box<dyn FnOnce(&mut dyn FnMut(Block) -> Result<(), StoreError>) -> Result<(), StoreError> + Send>;

/// When the newest checkpoint of a state directory was made durable: no checkpoint says it of itself, but the witness is written
/// with each.
pub fn committed_at(directory: &Path) -> Option<SystemTime> {
    let modified = |name: &str| directory.join(name).metadata().ok()?.modified().ok();
    witness::NAMES.into_iter().filter_map(modified).max()
}

/// Where checkpoints go.
pub trait Store: Send {
    /// The newest checkpoint, if there ever was one.
    ///
    /// # Errors
    /// When it cannot be read, or is damaged and so is the one before: never a silent fresh start.
    fn load(&mut self) -> Result<Option<Saved>, StoreError>;

    /// Removes every checkpoint, for a deliberate fresh start.
    ///
    /// # Errors
    /// When something cannot be removed.
    fn reset(&mut self) -> Result<(), StoreError>;

    /// What the next commit must hold: changes, or everything when there is no base, or writing has failed.
    fn wants(&self) -> Scope;

    /// Makes a checkpoint durable, as one step. Returns its number. What comes after that, such as removing what is old,
    /// fails no commit. Changes that find no room are kept for the commit after, which holds them as well.
    ///
    /// # Errors
    /// When anything fails; whether the checkpoint is durable is then only known after a restart.
    fn commit(&mut self, layer: &Layer) -> Result<u64, StoreError>;

    /// The commits that follow are the last: they wait for no work in the background, and none is begun.
    fn end_soon(&mut self);

    /// A reader of the newest checkpoint as it is now, for another thread: commits may go on meanwhile.
    ///
    /// # Errors
    /// When there is no checkpoint, or the store failed before.
    fn reader(&self) -> Result<ReadMerged, StoreError>;
}

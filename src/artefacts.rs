//! Where the versions of a model lie. A version is first *staged*: every file written and durable, where no server looks. It
//! is *installed* by one step after the checkpoint that knows of it was committed, so that a crash in between leaves
//! something to install and never something half written.

pub mod directory;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::SystemTime;

use crate::config::operation;
use crate::durable::DurableError;
use deepfm_core::version::artefact::{Artefact, ArtefactError, Verified};
use deepfm_core::version::manifest::Manifest;
use directory::Directory;

/// A version that is installed, by its name: its number and the beginning of its digest.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Installed {
    /// Its number. A worker that was fenced off may have left another version of the same number.
    pub version: u64,
    /// Its name.
    pub directory: String,
    /// What of it is there.
    pub shelf: Shelf,
}

/// What is left of an installed version.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Shelf {
    /// Of a version that was removed: its manifest and its segment of the journal, for replays.
    Journals,
    /// All of it.
    Versions,
}

/// What happens to the journal of a version that is removed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Journal {
    /// It is kept, with the manifest: replays need it.
    Keep,
    /// It goes with the version.
    Remove,
}

/// An artefact cannot be written or read.
#[derive(Debug, thiserror::Error)]
#[expect(missing_docs, reason = "fields of errors say it by name and type")]
pub enum ArtefactIoError {
    /// A file operation failed.
    #[error(transparent)]
    Io(#[from] DurableError),
    /// The artefact is not what it says.
    #[error("artefact {path}")]
    Artefact { path: PathBuf, source: ArtefactError },
    /// What a delta stands on is not beside it.
    #[error("artefact {path} is a delta, and its parent is not beside it: {parent} is missing")]
    Parent { path: PathBuf, parent: PathBuf },
    /// A directory was asked for that no version has.
    #[error("{0:?} is no directory of a version")]
    NotAVersion(String),
    /// The directory is named after another version or content.
    #[error("directory {path} holds version {version} with digest {digest}")]
    Name { path: PathBuf, version: u64, digest: String },
}

/// The versions of a model. A name that is no version's is refused: whatever else it leads to is not ours.
pub trait Artefacts: Send + Sync {
    /// Makes every file of a version durable, where no server looks yet.
    ///
    /// # Errors
    /// When there is no room for it; nothing of it is left then.
    fn stage(&self, artefact: &Artefact) -> Result<(), ArtefactIoError>;

    /// Whether a version is there, staged or installed: with this very manifest, since a name has only the first digits of its
    /// digest.
    fn is_present(&self, name: &str, manifest_digest: &str) -> bool;

    /// Shows a staged version to servers. Does nothing when it is installed already.
    ///
    /// # Errors
    /// When the version is neither staged nor installed, or cannot be installed.
    fn install(&self, name: &str) -> Result<(), ArtefactIoError>;

    /// Removes a version that will not be announced, staged or installed.
    ///
    /// # Errors
    /// When it cannot be removed.
    fn remove(&self, name: &str) -> Result<(), ArtefactIoError>;

    /// Takes a version away from servers, as one step, and removes it; its manifest and its segment of the journal are kept
    /// aside if they are still needed.
    ///
    /// # Errors
    /// When it cannot be removed, or its journal not be kept; it is as it was then, or away.
    fn retire(&self, name: &str, journal: Journal) -> Result<(), ArtefactIoError>;

    /// Removes what an earlier process has not finished.
    fn sweep(&self);

    /// Whether there is anything: where there is nothing, a disk may not be mounted.
    fn exist(&self) -> bool;

    /// What is installed, or left of it, by rising number.
    ///
    /// # Errors
    /// When it cannot be listed, or there is nothing where the versions are to be.
    fn list(&self, shelf: Shelf) -> Result<Vec<Installed>, ArtefactIoError>;

    /// The manifest of a version, with its digest; nothing else is read.
    ///
    /// # Errors
    /// When it cannot be read, or the version is named after another.
    fn manifest(&self, version: &Installed) -> Result<(Manifest, String), ArtefactIoError>;

    /// A file of a version, as its manifest digests it.
    ///
    /// # Errors
    /// When it cannot be read, or is another.
    fn file(&self, version: &Installed, manifest: &Manifest, name: &str) -> Result<Vec<u8>, ArtefactIoError>;

    /// A version with all its weights, after every check of it. A delta is applied to `held` where that is among the versions that
    /// it stands on, and else to those that are there.
    ///
    /// # Errors
    /// When it cannot be read, or is not what it says.
    fn whole(&self, name: &str, held: Option<&Verified>) -> Result<Verified, ArtefactIoError>;

    /// Bytes of a version's files.
    fn bytes(&self, version: &Installed) -> u64;

    /// When a version was last written to, if that can be told.
    fn modified(&self, version: &Installed) -> Option<SystemTime>;

    /// Removes the journal that is left of a version, or says why not.
    fn remove_journal(&self, journal: &Installed);

    /// Where a version is, for people.
    fn place(&self, version: &Installed) -> PathBuf;

    /// Where all of them are, for people.
    fn root(&self) -> &Path;
}

/// Where the versions of a model lie, by the settings.
pub fn of_model(settings: &operation::Versions, model: &str) -> Arc<dyn Artefacts> {
    Arc::new(Directory::new(settings.of(model), settings.readers))
}

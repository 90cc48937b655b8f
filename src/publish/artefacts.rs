//! Artefact directories. A version is first *staged*: every file written and synced under a temporary name. It is
//! *installed* by one rename after the checkpoint that knows of it was committed, so that a crash in between leaves
//! something to install and never something half written.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use super::files::{self, Length, ReadError};
use crate::config::operation::Readers;
use crate::durable::{self, DurableError, StagedDirectory, failed};
use deepfm_core::version::artefact::{self, Artefact, ArtefactError, MANIFEST, Verified};
use deepfm_core::version::journal::JOURNAL;
use deepfm_core::version::manifest::{MANIFEST_BYTES_MAX, Manifest, sha256};
use deepfm_core::version::names;

/// Where the journals of removed versions are, below the versions.
const JOURNALS: &str = "journals";

/// A version on disk, by its directory's name: its number and the beginning of its digest.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Installed {
    /// Its number. A worker that was fenced off may have left another version of the same number.
    pub version: u64,
    /// The name of its directory.
    pub directory: String,
    /// Where that is.
    pub path: PathBuf,
}

/// An artefact cannot be written or read.
#[derive(Debug, thiserror::Error)]
pub enum ArtefactIoError {
    /// A file operation failed.
    #[error(transparent)]
    Io(#[from] DurableError),
    /// The artefact is not what it says.
    #[error("artefact {path}")]
    Artefact {
        /// Its directory.
        path: PathBuf,
        /// What is wrong.
        source: ArtefactError,
    },
    /// A directory was asked for that no version has.
    #[error("{0:?} is no directory of a version")]
    NotAVersion(String),
    /// The directory is named after another version or content.
    #[error("directory {path} holds version {version} with digest {digest}")]
    Name {
        /// The directory.
        path: PathBuf,
        /// The version in it.
        version: u64,
        /// Its digest.
        digest: String,
    },
}

/// Writes and syncs every file of a version under a temporary name, for these readers.
///
/// # Errors
/// When the disk does not take it; what was written is removed then.
pub fn stage(root: &Path, artefact: &Artefact, readers: Readers) -> Result<(), ArtefactIoError> {
    let directory = artefact.directory();
    places(root, &directory)?;
    let staged = StagedDirectory::begin(root, &directory, readers)?;
    for (name, content) in &artefact.files {
        staged.write(name, content)?;
    }
    Ok(staged.keep()?)
}

/// Where a version of this name is, installed and staged. Whatever else a name leads to is not ours to rename or remove.
fn places(root: &Path, directory: &str) -> Result<[PathBuf; 2], ArtefactIoError> {
    if names::number_of_directory(directory).is_none() {
        return Err(ArtefactIoError::NotAVersion(directory.chars().take(100).collect()));
    }
    Ok([root.join(directory), durable::staged_path(root, directory)])
}

/// Whether a version is there, staged or installed: with this very manifest, since a name has only the first digits of its
/// digest.
pub fn is_present(root: &Path, directory: &str, manifest_digest: &str) -> bool {
    let is_it = |place: &PathBuf| read_manifest(place).is_ok_and(|bytes| sha256(&bytes) == manifest_digest);
    places(root, directory).is_ok_and(|places| places.iter().any(is_it))
}

/// Gives a staged version its name. Does nothing when it has it already.
///
/// # Errors
/// When the version is neither staged nor installed, or cannot be renamed.
pub fn install(root: &Path, directory: &str) -> Result<(), ArtefactIoError> {
    places(root, directory)?;
    Ok(durable::install(root, directory)?)
}

/// Removes a version that will not be announced, staged or installed.
///
/// # Errors
/// When it cannot be removed.
pub fn remove(root: &Path, directory: &str) -> Result<(), ArtefactIoError> {
    for path in places(root, directory)? {
        if path.exists() {
            fs::remove_dir_all(&path).map_err(failed("remove", &path))?;
        }
    }
    Ok(())
}

/// Reads and checks an installed version: its manifest first, then the files that this names, each a regular file of the length
/// that it states.
///
/// # Errors
/// When a file cannot be read, or the version is not what it says.
pub fn verify(path: &Path) -> Result<Verified, ArtefactIoError> {
    let bytes = read_manifest(path)?;
    let named = artefact::read_manifest(&bytes).map_err(artefact_error(path))?;
    let mut contents = BTreeMap::from([(MANIFEST.to_owned(), bytes)]);
    for name in named.files.keys() {
        contents.insert(name.clone(), read_named(path, &named, name)?);
    }
    let verified = artefact::verify(&contents).map_err(artefact_error(path))?;
    check_name(path, &verified.manifest, &verified.digest)?;
    Ok(verified)
}

/// The manifest of an installed version, with its digest; nothing else is read.
///
/// # Errors
/// When it cannot be read, or the directory is named after another.
pub fn manifest(path: &Path) -> Result<(Manifest, String), ArtefactIoError> {
    let bytes = read_manifest(path)?;
    let manifest = artefact::read_manifest(&bytes).map_err(artefact_error(path))?;
    let digest = sha256(&bytes);
    check_name(path, &manifest, &digest)?;
    Ok((manifest, digest))
}

/// A file of an installed version, as its manifest digests it.
///
/// # Errors
/// When it cannot be read, or is another.
pub fn file(path: &Path, manifest: &Manifest, name: &str) -> Result<Vec<u8>, ArtefactIoError> {
    let content = read_named(path, manifest, name)?;
    artefact::check_file(manifest, name, &content).map_err(artefact_error(path))?;
    Ok(content)
}

fn read_manifest(path: &Path) -> Result<Vec<u8>, ArtefactIoError> {
    let file = path.join(MANIFEST);
    files::read(&file, Length::AtMost(MANIFEST_BYTES_MAX)).map_err(|error| match error {
        ReadError::Length(found) => artefact_error(path)(ArtefactError::Long(found)),
        error => unread(path, MANIFEST, error),
    })
}

/// A file that a manifest names, of the length that it states.
fn read_named(path: &Path, manifest: &Manifest, name: &str) -> Result<Vec<u8>, ArtefactIoError> {
    let missing = || artefact_error(path)(ArtefactError::Missing(name.to_owned()));
    let expected = manifest.files.get(name).ok_or_else(missing)?.bytes;
    files::read(&path.join(name), Length::Exactly(expected)).map_err(|error| match error {
        ReadError::Length(found) => {
            artefact_error(path)(ArtefactError::Length { file: name.to_owned(), found, expected })
        }
        error => unread(path, name, error),
    })
}

fn unread(path: &Path, name: &str, error: ReadError) -> ArtefactIoError {
    let name = name.to_owned();
    match error {
        ReadError::Missing => artefact_error(path)(ArtefactError::Missing(name)),
        ReadError::NotRegular | ReadError::Length(_) => artefact_error(path)(ArtefactError::NotRegular(name)),
        ReadError::Io(source) => failed("read", &path.join(name))(source).into(),
    }
}

fn artefact_error(path: &Path) -> impl FnOnce(ArtefactError) -> ArtefactIoError {
    let path = path.to_owned();
    move |source| ArtefactIoError::Artefact { path, source }
}

fn check_name(path: &Path, manifest: &Manifest, digest: &str) -> Result<(), ArtefactIoError> {
    let name = path.canonicalize().ok().and_then(|path| Some(path.file_name()?.to_string_lossy().into_owned()));
    if name.is_some_and(|name| name != names::directory(manifest.version, digest)) {
        let (version, digest) = (manifest.version, digest.to_owned());
        return Err(ArtefactIoError::Name { path: path.to_owned(), version, digest });
    }
    Ok(())
}

/// Takes a version away from servers, as one step, and removes it; its manifest and its segment of the journal are kept aside
/// if they are still needed.
///
/// # Errors
/// When it cannot be removed, or its journal not be kept; it is as it was then, or away.
pub fn retire(root: &Path, directory: &str, journal: Journal) -> Result<(), ArtefactIoError> {
    let [path, _] = places(root, directory)?;
    if !path.exists() {
        return Ok(());
    }
    if journal == Journal::Keep {
        let aside = root.join(JOURNALS);
        let staged = StagedDirectory::begin(&aside, directory, Readers::Owner)?;
        for name in [MANIFEST, JOURNAL] {
            let from = path.join(name);
            staged.write(name, &fs::read(&from).map_err(failed("read", &from))?)?;
        }
        staged.install()?;
        durable::sync(root)?;
    }
    Ok(durable::take_away(root, directory)?)
}

/// What happens to the journal of a version that is removed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Journal {
    /// It is kept, with the manifest: replays need it.
    Keep,
    /// It goes with the version.
    Remove,
}

/// Bytes of a version's files.
pub fn size(path: &Path) -> u64 {
    let files = fs::read_dir(path).into_iter().flatten().flatten();
    files.filter_map(|file| file.metadata().ok()).map(|metadata| metadata.len()).sum()
}

/// The journals of versions that were removed, by rising number.
///
/// # Errors
/// When their directory cannot be read; where there is none, there are no journals.
pub fn list_journals(root: &Path) -> Result<Vec<Installed>, ArtefactIoError> {
    let journals = root.join(JOURNALS);
    if journals.exists() { list(&journals) } else { Ok(Vec::new()) }
}

/// The installed versions of a directory, by rising number.
///
/// # Errors
/// When the directory cannot be read.
pub fn list(root: &Path) -> Result<Vec<Installed>, ArtefactIoError> {
    let mut versions = Vec::new();
    for entry in fs::read_dir(root).map_err(failed("read", root))? {
        let path = entry.map_err(failed("read", root))?.path();
        let directory = path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
        if let Some(version) = names::number_of_directory(&directory) {
            versions.push(Installed { version, directory, path });
        }
    }
    versions.sort_unstable();
    Ok(versions)
}

//! Artefact directories. A version is first *staged*: every file written and synced under a temporary name. It is
//! *installed* by one rename after the checkpoint that knows of it was committed, so that a crash in between leaves
//! something to install and never something half written.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use super::files::{self, Length, ReadError};
use crate::config::operation::Readers;
use deepfm_core::version::artefact::{self, Artefact, ArtefactError, MANIFEST, Verified};
use deepfm_core::version::journal::JOURNAL;
use deepfm_core::version::manifest::{MANIFEST_BYTES_MAX, Manifest, sha256};
use deepfm_core::version::names;

/// Prefix of directories that are not versions yet.
const STAGED: &str = ".staged-";

/// Prefix of directories that are versions no more.
const REMOVED: &str = ".removed-";

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
    #[error("cannot {doing} {path}")]
    Io {
        /// What was being done.
        doing: &'static str,
        /// To which file.
        path: PathBuf,
        /// Why it failed.
        source: io::Error,
    },
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

fn io_error(doing: &'static str, path: &Path) -> impl FnOnce(io::Error) -> ArtefactIoError {
    let path = path.to_owned();
    move |source| ArtefactIoError::Io { doing, path, source }
}

/// Writes and syncs every file of a version under a temporary name, for these readers.
///
/// # Errors
/// When the disk does not take it; what was written is removed then: on a full disk it would be in the way of the next try.
pub fn stage(root: &Path, artefact: &Artefact, readers: Readers) -> Result<(), ArtefactIoError> {
    let [_, path] = places(root, &artefact.directory())?;
    let written = write(root, &path, artefact, readers);
    if written.is_err() && path.exists() {
        remove_or_say(&path);
    }
    written
}

fn write(root: &Path, path: &Path, artefact: &Artefact, readers: Readers) -> Result<(), ArtefactIoError> {
    if !root.exists() {
        files::make_directories(readers, root).map_err(io_error("make", root))?;
        sync(root.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new(".")))?;
    }
    if path.exists() {
        fs::remove_dir_all(path).map_err(io_error("remove", path))?;
    }
    files::make_directory(readers, path).map_err(io_error("make", path))?;
    for (name, content) in &artefact.files {
        let file_path = path.join(name);
        let mut file = files::make_file(readers, &file_path).map_err(io_error("make", &file_path))?;
        file.write_all(content).and_then(|()| file.sync_all()).map_err(io_error("write", &file_path))?;
    }
    sync(path)?;
    sync(root)
}

/// Where a version of this name is, installed and staged. Whatever else a name leads to is not ours to rename or remove.
fn places(root: &Path, directory: &str) -> Result<[PathBuf; 2], ArtefactIoError> {
    if names::number_of_directory(directory).is_none() {
        return Err(ArtefactIoError::NotAVersion(directory.chars().take(100).collect()));
    }
    Ok([root.join(directory), root.join(format!("{STAGED}{directory}"))])
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
    let [path, staged] = places(root, directory)?;
    if !path.exists() {
        fs::rename(&staged, &path).map_err(io_error("rename", &staged))?;
    }
    // Also when the name is there: the sync after the rename may have failed.
    sync(root)
}

/// Removes a version that will not be announced, staged or installed.
///
/// # Errors
/// When it cannot be removed.
pub fn remove(root: &Path, directory: &str) -> Result<(), ArtefactIoError> {
    for path in places(root, directory)? {
        if path.exists() {
            fs::remove_dir_all(&path).map_err(io_error("remove", &path))?;
        }
    }
    Ok(())
}

/// Removes staged versions that no checkpoint knows of: a crash came before their commit. And what is left of versions whose
/// removal was cut short. One that cannot be removed takes
/// room, and does no other harm.
pub fn remove_stray(root: &Path, known: &[&str]) {
    for entry in fs::read_dir(root).into_iter().flatten().flatten() {
        let name = entry.file_name();
        let name = name.to_str().unwrap_or_default();
        let is_stray = name.strip_prefix(STAGED).is_some_and(|directory| !known.contains(&directory));
        if is_stray || name.starts_with(REMOVED) {
            remove_or_say(&entry.path());
        }
    }
}

/// Removes a directory, or a file, that nobody needs; says so if that is not possible.
pub(super) fn remove_or_say(path: &Path) {
    let is_directory = path.symlink_metadata().is_ok_and(|metadata| metadata.is_dir());
    let removed = if is_directory { fs::remove_dir_all(path) } else { fs::remove_file(path) };
    if let Err(error) = removed {
        tracing::warn!("{} is of no use, and cannot be removed: {error}", path.display());
    }
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
        ReadError::Io(source) => ArtefactIoError::Io { doing: "read", path: path.join(name), source },
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
        let (aside, staged) = (root.join(JOURNALS), root.join(JOURNALS).join(format!("{STAGED}{directory}")));
        fs::create_dir_all(&staged).map_err(io_error("make", &staged))?;
        for name in [MANIFEST, JOURNAL] {
            let to = staged.join(name);
            fs::copy(path.join(name), &to).map_err(io_error("write", &to))?;
            sync(&to)?;
        }
        sync(&staged)?;
        let to = aside.join(directory);
        if to.exists() {
            fs::remove_dir_all(&staged).map_err(io_error("remove", &staged))?;
        } else {
            fs::rename(&staged, &to).map_err(io_error("rename", &staged))?;
        }
        sync(&aside)?;
        sync(root)?;
    }
    let removed = root.join(format!("{REMOVED}{directory}"));
    fs::rename(&path, &removed).map_err(io_error("rename", &path))?;
    sync(root)?;
    fs::remove_dir_all(&removed).map_err(io_error("remove", &removed))
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
    for entry in fs::read_dir(root).map_err(io_error("read", root))? {
        let path = entry.map_err(io_error("read", root))?.path();
        let directory = path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
        if let Some(version) = names::number_of_directory(&directory) {
            versions.push(Installed { version, directory, path });
        }
    }
    versions.sort_unstable();
    Ok(versions)
}

fn sync(path: &Path) -> Result<(), ArtefactIoError> {
    File::open(path).and_then(|directory| directory.sync_all()).map_err(io_error("sync", path))
}

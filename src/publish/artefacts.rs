//! Artefact directories. A version is first *staged*: every file written and synced under a temporary name. It is
//! *installed* by one rename after the checkpoint that knows of it was committed, so that a crash in between leaves
//! something to install and never something half written.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use crate::snapshot::artefact::{self, Artefact, ArtefactError, MANIFEST, Verified};
use crate::snapshot::manifest::{Manifest, sha256};

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

/// Writes and syncs every file of a version under a temporary name.
///
/// # Errors
/// When the disk does not take it; what was written is removed then: on a full disk it would be in the way of the next try.
pub fn stage(root: &Path, artefact: &Artefact) -> Result<(), ArtefactIoError> {
    let path = root.join(format!("{STAGED}{}", artefact.directory()));
    let written = write(root, &path, artefact);
    if written.is_err() && path.exists() {
        remove_or_say(&path);
    }
    written
}

fn write(root: &Path, path: &Path, artefact: &Artefact) -> Result<(), ArtefactIoError> {
    if !root.exists() {
        fs::create_dir_all(root).map_err(io_error("make", root))?;
        sync(root.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new(".")))?;
    }
    if path.exists() {
        fs::remove_dir_all(path).map_err(io_error("remove", path))?;
    }
    fs::create_dir(path).map_err(io_error("make", path))?;
    for (name, content) in &artefact.files {
        let file_path = path.join(name);
        let mut file = File::create(&file_path).map_err(io_error("make", &file_path))?;
        file.write_all(content).and_then(|()| file.sync_all()).map_err(io_error("write", &file_path))?;
    }
    sync(path)?;
    sync(root)
}

/// Whether a version is there, staged or installed.
pub fn is_present(root: &Path, directory: &str) -> bool {
    root.join(directory).exists() || root.join(format!("{STAGED}{directory}")).exists()
}

/// Gives a staged version its name. Does nothing when it has it already.
///
/// # Errors
/// When the version is neither staged nor installed, or cannot be renamed.
pub fn install(root: &Path, directory: &str) -> Result<(), ArtefactIoError> {
    let path = root.join(directory);
    if !path.exists() {
        let staged = root.join(format!("{STAGED}{directory}"));
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
    for path in [root.join(directory), root.join(format!("{STAGED}{directory}"))] {
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

/// Reads and checks an installed version.
///
/// # Errors
/// When a file cannot be read, or the version is not what it says.
pub fn verify(path: &Path) -> Result<Verified, ArtefactIoError> {
    let mut files = BTreeMap::new();
    for entry in fs::read_dir(path).map_err(io_error("read", path))? {
        let entry = entry.map_err(io_error("read", path))?;
        let content = fs::read(entry.path()).map_err(io_error("read", &entry.path()))?;
        files.insert(entry.file_name().to_string_lossy().into_owned(), content);
    }
    let verified =
        artefact::verify(&files).map_err(|source| ArtefactIoError::Artefact { path: path.to_owned(), source })?;
    let name = path.canonicalize().ok().and_then(|path| Some(path.file_name()?.to_string_lossy().into_owned()));
    let expected = artefact::directory_name(verified.manifest.version, &verified.digest);
    if name.is_some_and(|name| name != expected) {
        let (version, digest) = (verified.manifest.version, verified.digest);
        return Err(ArtefactIoError::Name { path: path.to_owned(), version, digest });
    }
    Ok(verified)
}

/// The manifest of an installed version, with its digest; nothing else is read.
///
/// # Errors
/// When it cannot be read.
pub fn manifest(path: &Path) -> Result<(Manifest, String), ArtefactIoError> {
    let file = path.join(MANIFEST);
    let bytes = fs::read(&file).map_err(io_error("read", &file))?;
    let manifest = artefact::read_manifest(&bytes)
        .map_err(|source| ArtefactIoError::Artefact { path: path.to_owned(), source })?;
    Ok((manifest, sha256(&bytes)))
}

/// Takes a version away from servers, as one step, and removes it; its manifest and its segment of the journal are kept aside
/// if they are still needed.
///
/// # Errors
/// When it cannot be removed, or its journal not be kept; it is as it was then, or away.
pub fn retire(root: &Path, directory: &str, journal: Journal) -> Result<(), ArtefactIoError> {
    let path = root.join(directory);
    if !path.exists() {
        return Ok(());
    }
    if journal == Journal::Keep {
        let (aside, staged) = (root.join(JOURNALS), root.join(JOURNALS).join(format!("{STAGED}{directory}")));
        fs::create_dir_all(&staged).map_err(io_error("make", &staged))?;
        for name in [MANIFEST, artefact::JOURNAL] {
            let to = staged.join(name);
            fs::copy(path.join(name), &to).map_err(io_error("write", &to))?;
            sync(&to)?;
        }
        sync(&staged)?;
        let to = aside.join(directory);
        if !to.exists() {
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
        if let Some(version) = directory.split_once('-').and_then(|(number, _)| number.parse().ok()) {
            versions.push(Installed { version, directory, path });
        }
    }
    versions.sort_unstable();
    Ok(versions)
}

fn sync(path: &Path) -> Result<(), ArtefactIoError> {
    File::open(path).and_then(|directory| directory.sync_all()).map_err(io_error("sync", path))
}

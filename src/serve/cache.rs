//! What was fetched from object storage: a directory of versions that one follower has for itself. Before a version is loaded, it
//! and all that it stands on are here, or on this machine already, or in memory.
//!
//! * Where a version lies is decided by the operator's settings; an announcement that says otherwise is refused. What it says never
//!   becomes an address or a path.
//! * Kept are the version that is served, the one before, to which it may be rolled back, and the one that is wanted, each with what
//!   it stands on. The others go before the next is fetched, and after each swap; while none is served, nothing goes but for room.
//! * The directory is ours, and nobody else may write to it.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io;
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use deepfm_core::version::artefact;
use deepfm_core::version::manifest::{CHAIN_MAX, FileDigest, Kind, Manifest, ParentVersion};
use deepfm_core::version::names;
use rustix::fs::{FlockOperation, OFlags, flock};
use rustix::process::geteuid;

use super::follower::{LoadFailure, Offer};
use super::load::{self, LoadError};
use super::model::ServedModel;
use super::places::Places;
use super::state::LoadStage;
use super::target::FollowOptions;
use crate::bounded::{self, Length, ReadError};
use crate::remote::fetch::{FETCHING, Fetcher};
use crate::remote::{Remote, RemoteError};

/// The file that says that somebody uses the cache.
const LOCK: &str = "lock";

/// The file with the directories of the versions that were served last, the newest first.
const SERVED: &str = "served";

/// How many those are: the one that is served, and the one before.
const SERVED_MAX: usize = 2;

/// The longest such file, in bytes.
const SERVED_BYTES_MAX: u64 = 1024;

/// Versions cannot be fetched so.
#[derive(Debug, thiserror::Error)]
pub enum CacheError {
    /// Nothing says where from.
    #[error("versions are to be fetched, and neither storage.uri nor storage.fetch_uri says where from")]
    NoStorage,
    /// The storage cannot be reached so.
    #[error(transparent)]
    Remote(#[from] RemoteError),
    /// The directory cannot be used.
    #[error("the cache {path} cannot be used")]
    Directory { path: PathBuf, source: io::Error },
    /// Another follower uses it.
    #[error("the cache {0} is used by another server: give each its own")]
    Used(PathBuf),
}

/// A cache, and what fills it.
#[derive(Debug)]
pub(super) struct Cache {
    root: PathBuf,
    model: String,
    fetcher: Fetcher,
    bytes_max: u64,
    /// The versions that were served last, the newest first, by this process or one before.
    served: Vec<String>,
    /// Locked for as long as it is open.
    _lock: File,
}

/// A version that is to be here.
struct Wanted {
    directory: String,
    manifest: Manifest,
    /// What it takes in the cache.
    bytes: u64,
    is_here: bool,
}

impl Cache {
    /// The cache of a follower, if its options have one: each target has a directory of its own in it. `stop` ends what is waited for.
    pub(super) fn open(options: &FollowOptions, stop: &Arc<AtomicBool>) -> Result<Option<Self>, CacheError> {
        let Some(remote) = &options.remote else { return Ok(None) };
        let uri = remote.storage.fetched_from().ok_or(CacheError::NoStorage)?;
        let root = remote.cache.join(&options.model).join(options.target.to_string());
        let unusable = |source| CacheError::Directory { path: root.clone(), source };
        DirBuilder::new().recursive(true).mode(0o700).create(&root).map_err(unusable)?;
        check(&root).map_err(unusable)?;
        let flags = OFlags::NOFOLLOW.bits().cast_signed();
        let lock =
            OpenOptions::new().create(true).truncate(false).write(true).custom_flags(flags).open(root.join(LOCK));
        let lock = lock.map_err(unusable)?;
        flock(&lock, FlockOperation::NonBlockingLockExclusive).map_err(|_| CacheError::Used(root.clone()))?;
        let fetcher = Fetcher::new(Remote::open(&remote.storage, uri, Arc::clone(stop))?, &options.model, &root);
        let (model, bytes_max) = (options.model.clone(), remote.fetch_bytes_max);
        let served = read_served(&root);
        Ok(Some(Self { root, model, fetcher, bytes_max, served, _lock: lock }))
    }

    /// Where it is.
    pub(super) fn root(&self) -> &Path {
        &self.root
    }

    /// Fetches a version and what it stands on, the oldest first, as far as they are neither here nor served. One whose
    /// announcement names no place is left to whoever loads it.
    pub(super) fn fetch(
        &mut self,
        offer: &Offer,
        places: &Places,
        held: Option<&ServedModel>,
    ) -> Result<(), LoadFailure> {
        let Some(announced) = &offer.announced else { return Ok(()) };
        let Some(uri) = &announced.uri else { return Ok(()) };
        let expected = self.fetcher.remote().uri().of_version(&self.model, &offer.directory);
        if places.found(&offer.directory).is_none() && *uri != expected {
            return Err(LoadError::Elsewhere { found: uri.clone(), expected }.at(LoadStage::Announced));
        }
        let version = ParentVersion { version: offer.version, manifest_digest: announced.manifest_digest.clone() };
        self.complete(version, places, held).map_err(LoadError::found)
    }

    fn complete(
        &mut self,
        version: ParentVersion,
        places: &Places,
        held: Option<&ServedModel>,
    ) -> Result<(), LoadError> {
        self.fetcher.begin();
        let (asked, mut bytes) = (version.version, 0_u64);
        let mut wanted: Vec<Wanted> = Vec::new();
        let mut next = Some(version);
        // A manifest whose parent is not older is refused when it is read: this comes to an end.
        while let Some(version) = next.filter(|version| held.is_none_or(|held| *held.digest != version.manifest_digest))
        {
            let number = version.version;
            let one = self.wanted(&version, places).map_err(|error| of(asked, number, error))?;
            next = one.manifest.parent.clone().filter(|_| one.manifest.kind == Kind::Delta);
            bytes = bytes.saturating_add(one.bytes);
            wanted.push(one);
            if bytes > self.bytes_max {
                return Err(LoadError::Large { bytes, bytes_max: self.bytes_max });
            }
            if wanted.len() as u64 > CHAIN_MAX + 1 {
                break;
            }
        }
        // What the wanted one stands on is known by now, and stays.
        if held.is_some() {
            let kept = self.served.iter().chain(wanted.first().map(|one| &one.directory));
            self.keep(&kept.map(String::as_str).collect::<Vec<_>>());
        }
        for one in wanted.iter().rev().filter(|one| !one.is_here) {
            let fetched = self.fetcher.files(&one.directory, &one.manifest);
            if held.is_none() && fetched.as_ref().is_err_and(RemoteError::is_full) {
                // It may be full of what was kept since nothing is served.
                self.keep(&[&wanted[0].directory]);
            }
            fetched.map_err(|error| of(asked, one.manifest.version, error.into()))?;
            tracing::info!("version {} was fetched from {}", one.manifest.version, self.fetcher.remote().uri());
        }
        Ok(())
    }

    /// This version is served from now on.
    pub(super) fn swapped(&mut self, directory: String) {
        self.served.retain(|served| *served != directory);
        self.served.insert(0, directory);
        self.served.truncate(SERVED_MAX);
        // Who cannot write it down keeps one version fewer after a restart.
        let (file, aside) = (self.root.join(SERVED), self.root.join(format!("{SERVED}.new")));
        if let Err(error) = fs::write(&aside, self.served.join("\n")).and_then(|()| fs::rename(&aside, &file)) {
            tracing::warn!("{} cannot be written: {error}", file.display());
        }
        self.keep(&self.served.iter().map(String::as_str).collect::<Vec<_>>());
    }

    fn wanted(&mut self, version: &ParentVersion, places: &Places) -> Result<Wanted, LoadError> {
        let directory = names::directory(version.version, &version.manifest_digest);
        let Some(place) = places.found(&directory) else {
            let manifest = self.fetcher.manifest(&directory, &version.manifest_digest)?;
            let bytes =
                self.fetcher.manifest_bytes(&directory).saturating_add(FileDigest::total(manifest.files.values()));
            return Ok(Wanted { directory, manifest, bytes, is_here: false });
        };
        // What has rotted here does not decode, or says something else: it is fetched anew.
        let manifest = load::manifest_of(&place, &version.manifest_digest)?;
        let is_ours = place.starts_with(&self.root);
        let (own, manifest) = (manifest.len() as u64, artefact::read_manifest(&manifest)?);
        let bytes = if is_ours { own.saturating_add(FileDigest::total(manifest.files.values())) } else { 0 };
        Ok(Wanted { directory, manifest, bytes, is_here: true })
    }

    /// Removes everything but these versions with what they stand on, as far as that is known here. Where a manifest cannot be read
    /// now, everything older than its version may be what that stands on, and stays.
    fn keep(&self, directories: &[&str]) {
        let (mut kept, mut first) = (Vec::<String>::new(), 0);
        for directory in directories {
            let mut next = Some((*directory).to_owned());
            while let Some(name) = next.filter(|name| !kept.contains(name)) {
                next = self.parent(&name).unwrap_or_else(|error| {
                    tracing::warn!("{}: {error}; what is older stays", self.root.join(&name).display());
                    first = first.max(names::number_of_directory(&name).unwrap_or_default());
                    None
                });
                kept.push(name);
            }
        }
        for entry in fs::read_dir(&self.root).into_iter().flatten().flatten() {
            let name = entry.file_name().to_string_lossy().into_owned();
            let version = name.strip_prefix(FETCHING).unwrap_or(&name);
            // What has not the name of a version is not ours.
            let is_old = names::number_of_directory(version).is_some_and(|number| number >= first);
            if is_old && !kept.iter().any(|kept| kept == version) {
                self.remove(&name);
            }
        }
    }

    /// Removes a version with what it stands on: something of it is not what it was when it was fetched.
    pub(super) fn forget(&self, directory: &str) {
        let mut next = Some(directory.to_owned());
        let mut gone = 0;
        while let Some(name) = next.filter(|_| gone <= CHAIN_MAX) {
            // What it stands on is found by itself, if it is not what it was either.
            next = self.parent(&name).ok().flatten();
            gone += 1;
            if self.root.join(&name).exists() {
                self.remove(&name);
            }
        }
    }

    /// The directory of what a version of the cache stands on; nothing where it stands alone, or is not here. That a manifest cannot be
    /// read, for want of descriptors say, tells nothing of it.
    fn parent(&self, directory: &str) -> Result<Option<String>, ReadError> {
        for name in [directory.to_owned(), format!("{FETCHING}{directory}")] {
            let bytes = match load::read_bytes(&self.root.join(name)) {
                Ok((bytes, _)) => bytes,
                Err(error @ ReadError::Io(_)) => return Err(error),
                Err(_) => continue,
            };
            let manifest = artefact::read_manifest(&bytes).ok().filter(|manifest| manifest.kind == Kind::Delta);
            let parent = manifest.and_then(|manifest| manifest.parent);
            return Ok(parent.map(|parent| names::directory(parent.version, &parent.manifest_digest)));
        }
        Ok(None)
    }

    fn remove(&self, name: &str) {
        let path = self.root.join(name);
        if let Err(error) = fs::remove_dir_all(&path) {
            tracing::warn!("{} is of no use, and cannot be removed: {error}", path.display());
        }
    }
}

/// A directory in which nobody else may put anything in place of what was checked.
fn check(root: &Path) -> io::Result<()> {
    let found = fs::symlink_metadata(root)?;
    let refused = |why| Err(io::Error::new(io::ErrorKind::PermissionDenied, why));
    match found {
        found if !found.is_dir() => refused("it is not a directory"),
        found if found.uid() != geteuid().as_raw() => refused("it is another user's"),
        found if found.mode() & 0o022 != 0 => refused("others may write to it: take that right from them"),
        _ => Ok(()),
    }
}

/// The versions that were served last, as a process before has written it.
fn read_served(root: &Path) -> Vec<String> {
    let bytes = bounded::read(&root.join(SERVED), Length::AtMost(SERVED_BYTES_MAX)).unwrap_or_default();
    let text = String::from_utf8(bytes).unwrap_or_default();
    let names = text.lines().filter(|name| names::number_of_directory(name).is_some());
    names.take(SERVED_MAX).map(str::to_owned).collect()
}

/// What could not be had: the version itself, or one below it.
fn of(asked: u64, version: u64, error: LoadError) -> LoadError {
    if asked == version { error } else { LoadError::below(version)(error) }
}

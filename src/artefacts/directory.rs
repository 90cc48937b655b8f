//! Versions in directories of their own, below one directory: staged under a temporary name, installed by one rename.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use super::{ArtefactIoError, Artefacts, Installed, Journal, Shelf};
use crate::bounded::{self, Length, ReadError};
use crate::config::operation::Readers;
use crate::durable::{self, StagedDirectory, failed};
use deepfm_core::version::artefact::{self, Artefact, ArtefactError, MANIFEST, Verified};
use deepfm_core::version::bytes::Bytes;
use deepfm_core::version::journal::JOURNAL;
use deepfm_core::version::link::{self, ChainLink};
use deepfm_core::version::manifest::{Kind, MANIFEST_BYTES_MAX, Manifest, sha256};
use deepfm_core::version::names;

/// Where the journals of removed versions are, below the versions.
const JOURNALS: &str = "journals";

/// A directory of versions.
#[derive(Clone, Debug)]
pub struct Directory {
    root: PathBuf,
    readers: Readers,
}

impl Directory {
    /// A directory, which is made with the first version; `readers` may read what is written to it.
    pub fn new(root: PathBuf, readers: Readers) -> Self {
        Self { root, readers }
    }

    /// Where a version of this name is, installed and staged.
    fn places(&self, name: &str) -> Result<[PathBuf; 2], ArtefactIoError> {
        if names::number_of_directory(name).is_none() {
            return Err(ArtefactIoError::NotAVersion(name.chars().take(100).collect()));
        }
        Ok([self.root.join(name), durable::staged_path(&self.root, name)])
    }
}

impl Artefacts for Directory {
    fn stage(&self, artefact: &Artefact) -> Result<(), ArtefactIoError> {
        let name = artefact.directory();
        self.places(&name)?;
        let staged = StagedDirectory::begin(&self.root, &name, self.readers)?;
        for (name, content) in &artefact.files {
            staged.write(name, content)?;
        }
        Ok(staged.keep()?)
    }

    fn is_present(&self, name: &str, manifest_digest: &str) -> bool {
        let is_it = |place: &PathBuf| read_manifest(place).is_ok_and(|bytes| sha256(&bytes) == manifest_digest);
        self.places(name).is_ok_and(|places| places.iter().any(is_it))
    }

    fn install(&self, name: &str) -> Result<(), ArtefactIoError> {
        self.places(name)?;
        Ok(durable::install(&self.root, name)?)
    }

    fn remove(&self, name: &str) -> Result<(), ArtefactIoError> {
        for path in self.places(name)? {
            if path.exists() {
                fs::remove_dir_all(&path).map_err(failed("remove", &path))?;
            }
        }
        Ok(())
    }

    fn retire(&self, name: &str, journal: Journal) -> Result<(), ArtefactIoError> {
        let [path, _] = self.places(name)?;
        if !path.exists() {
            return Ok(());
        }
        if journal == Journal::Keep {
            let staged = StagedDirectory::begin(&self.root.join(JOURNALS), name, Readers::Owner)?;
            for file in [MANIFEST, JOURNAL] {
                let from = path.join(file);
                staged.write(file, &fs::read(&from).map_err(failed("read", &from))?)?;
            }
            staged.install()?;
            durable::sync(&self.root)?;
        }
        Ok(durable::take_away(&self.root, name)?)
    }

    fn sweep(&self) {
        durable::sweep(&self.root, &[]);
    }

    fn exist(&self) -> bool {
        self.root.exists()
    }

    fn list(&self, shelf: Shelf) -> Result<Vec<Installed>, ArtefactIoError> {
        let root = match shelf {
            Shelf::Versions => self.root.clone(),
            Shelf::Journals => self.root.join(JOURNALS),
        };
        let mut versions = Vec::new();
        if shelf == Shelf::Journals && !root.exists() {
            return Ok(versions);
        }
        for entry in fs::read_dir(&root).map_err(failed("read", &root))? {
            let name = entry.map_err(failed("read", &root))?.file_name();
            let directory = name.to_string_lossy().into_owned();
            if let Some(version) = names::number_of_directory(&directory) {
                versions.push(Installed { version, directory, shelf });
            }
        }
        versions.sort_unstable();
        Ok(versions)
    }

    fn manifest(&self, version: &Installed) -> Result<(Manifest, String), ArtefactIoError> {
        let path = self.place(version);
        let bytes = read_manifest(&path)?;
        let manifest = artefact::read_manifest(&bytes).map_err(artefact_error(&path))?;
        let digest = sha256(&bytes);
        check_name(&path, &manifest, &digest)?;
        Ok((manifest, digest))
    }

    fn file(&self, version: &Installed, manifest: &Manifest, name: &str) -> Result<Vec<u8>, ArtefactIoError> {
        let path = self.place(version);
        let content = read_named(&path, manifest, name)?;
        artefact::check_file(manifest, name, &content).map_err(artefact_error(&path))?;
        Ok(content)
    }

    fn whole(&self, name: &str, held: Option<&Verified>) -> Result<Verified, ArtefactIoError> {
        let [installed, _] = self.places(name)?;
        materialize_on(&installed, held)
    }

    fn bytes(&self, version: &Installed) -> u64 {
        let files = fs::read_dir(self.place(version)).into_iter().flatten().flatten();
        files.filter_map(|file| file.metadata().ok()).map(|metadata| metadata.len()).sum()
    }

    fn modified(&self, version: &Installed) -> Option<SystemTime> {
        self.place(version).metadata().and_then(|metadata| metadata.modified()).ok()
    }

    fn remove_journal(&self, journal: &Installed) {
        durable::remove_or_say(&self.place(journal));
    }

    fn place(&self, version: &Installed) -> PathBuf {
        match version.shelf {
            Shelf::Versions => self.root.join(&version.directory),
            Shelf::Journals => self.root.join(JOURNALS).join(&version.directory),
        }
    }

    fn root(&self) -> &Path {
        &self.root
    }
}

/// An installed version that is whole.
#[derive(Debug)]
pub enum Whole {
    /// A full version.
    Full(Box<Verified>),
    /// A delta, as far as it can be checked alone.
    Delta(Box<ChainLink>),
}

/// Reads and checks a full version: its manifest first, then the files that this names, each a regular file of the length
/// that it states.
///
/// # Errors
/// When a file cannot be read, or the version is not what it says, or a delta.
pub fn verify(path: &Path) -> Result<Verified, ArtefactIoError> {
    let (contents, _) = read_files(path)?;
    let verified = artefact::verify(&contents).map_err(artefact_error(path))?;
    check_name(path, &verified.manifest, &verified.digest)?;
    Ok(verified)
}

/// Reads and checks a version of either kind, as [`verify`] does.
///
/// # Errors
/// As [`verify`].
pub fn verify_either(path: &Path) -> Result<Whole, ArtefactIoError> {
    let (contents, kind) = read_files(path)?;
    let (whole, digest) = match kind {
        Kind::Full => {
            let verified = artefact::verify(&contents).map_err(artefact_error(path))?;
            let digest = verified.digest.clone();
            (Whole::Full(Box::new(verified)), digest)
        }
        Kind::Delta => {
            let link = link::verify(&contents).map_err(artefact_error(path))?;
            let digest = link.digest.clone();
            (Whole::Delta(Box::new(link)), digest)
        }
    };
    check_name(path, whole.manifest(), &digest)?;
    Ok(whole)
}

/// The version in a directory with all its weights: a delta is applied to the versions that it stands on, which lie beside it,
/// each of them checked.
///
/// # Errors
/// When one of them is missing, or not what it says.
pub fn materialize(path: &Path) -> Result<Verified, ArtefactIoError> {
    materialize_on(path, None)
}

/// The same, from the version that is held where that is one of those that it stands on.
///
/// # Errors
/// As [`materialize`].
pub fn materialize_on(path: &Path, held: Option<&Verified>) -> Result<Verified, ArtefactIoError> {
    let mut at = path.canonicalize().map_err(failed("find", path))?;
    let mut links = Vec::new();
    let mut version = loop {
        let link = match verify_either(&at)? {
            Whole::Full(verified) => break *verified,
            Whole::Delta(link) => link,
        };
        if let Some(held) = held.filter(|held| link.manifest.parent.as_ref() == Some(&held.version())) {
            break link.apply(held).map_err(artefact_error(&at))?;
        }
        let parent = parent_of(&at, &link.manifest)?;
        links.push((at, link));
        at = parent;
    };
    while let Some((at, link)) = links.pop() {
        version = link.apply(&version).map_err(artefact_error(&at))?;
    }
    Ok(version)
}

/// Where the parent of a delta is: beside it.
fn parent_of(path: &Path, manifest: &Manifest) -> Result<PathBuf, ArtefactIoError> {
    let name = manifest.parent.as_ref().map(|parent| names::directory(parent.version, &parent.manifest_digest));
    let parent = path.with_file_name(name.unwrap_or_default());
    if parent.is_dir() { Ok(parent) } else { Err(ArtefactIoError::Parent { path: path.to_owned(), parent }) }
}

impl Whole {
    /// What the version says of itself.
    pub fn manifest(&self) -> &Manifest {
        match self {
            Self::Full(verified) => &verified.manifest,
            Self::Delta(link) => &link.manifest,
        }
    }
}

/// The files of a version, the manifest first, and of which kind it is.
fn read_files(path: &Path) -> Result<(BTreeMap<String, Bytes>, Kind), ArtefactIoError> {
    let bytes = read_manifest(path)?;
    let named = artefact::read_manifest(&bytes).map_err(artefact_error(path))?;
    let mut contents = BTreeMap::from([(MANIFEST.to_owned(), Bytes::from(bytes))]);
    for name in named.files.keys() {
        contents.insert(name.clone(), read_named(path, &named, name)?.into());
    }
    Ok((contents, named.kind))
}

fn read_manifest(path: &Path) -> Result<Vec<u8>, ArtefactIoError> {
    let file = path.join(MANIFEST);
    bounded::read(&file, Length::AtMost(MANIFEST_BYTES_MAX)).map_err(|error| match error {
        ReadError::Length(found) => artefact_error(path)(ArtefactError::Long(found)),
        error => unread(path, MANIFEST, error),
    })
}

/// A file that a manifest names, of the length that it states.
fn read_named(path: &Path, manifest: &Manifest, name: &str) -> Result<Vec<u8>, ArtefactIoError> {
    let missing = || artefact_error(path)(ArtefactError::Missing(name.to_owned()));
    let expected = manifest.files.get(name).ok_or_else(missing)?.bytes;
    bounded::read(&path.join(name), Length::Exactly(expected)).map_err(|error| match error {
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

//! A version of object storage becomes a directory of the local cache: under a temporary name first, file by file, each continued
//! where an earlier try ended, by this process or one before; under its own name once every file has the digest that the manifest
//! states, and the manifest the digest that was announced.
//!
//! What a manifest states bounds what is written: no file becomes longer than its length.

use std::collections::BTreeMap;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read as _, Seek as _, Write as _};
use std::ops::Range;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path as FilePath, PathBuf};
use std::time::{Duration, Instant};

use deepfm_core::version::artefact::{self, MANIFEST};
use deepfm_core::version::manifest::{FileDigest, MANIFEST_BYTES_MAX, Manifest, sha256};
use futures_util::StreamExt as _;
use object_store::path::Path;
use object_store::{GetOptions, GetRange, ObjectMeta, ObjectStore as _};
use rustix::fs::OFlags;
use sha2::{Digest as _, Sha256};

use super::{PART_BYTES, Remote, RemoteError, said};
use crate::bounded::{self, Length};
use crate::durable;

/// Prefix of directories that are not whole yet.
pub const FETCHING: &str = ".fetching-";

/// The least that a request must have brought for the next to follow it at once: what trickles in is left for a later try.
const PROGRESS_MIN: u64 = 64 << 10;

/// The most objects that are remembered as not what they should be.
const REFUSED_MAX: usize = 256;

/// How long an object is remembered so: it may have been mended in a way that does not show.
const REFUSED_FOR: Duration = Duration::from_mins(5);

/// How long one load may fetch before who asked looks around: what has come by then is kept, and the next try goes on there.
const LOAD: Duration = Duration::from_mins(1);

/// What tells an object from one that replaces it.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Stamp {
    size: u64,
    tag: Option<String>,
    modified: i64,
}

impl Stamp {
    fn of(meta: &ObjectMeta) -> Self {
        Self { size: meta.size, tag: meta.e_tag.clone(), modified: meta.last_modified.timestamp_millis() }
    }
}

/// Fetches versions of a model.
#[derive(Debug)]
pub struct Fetcher {
    remote: Remote,
    model: String,
    cache: PathBuf,
    /// Objects that were not what they should be, and since when that is known: they are not fetched again before they are others.
    refused: BTreeMap<Path, (Stamp, Instant)>,
    /// How long one load may take.
    load: Duration,
    /// Bytes that this load has brought.
    brought: u64,
}

impl Fetcher {
    /// Fetches into a directory that is there.
    pub fn new(remote: Remote, model: &str, cache: &FilePath) -> Self {
        let (model, cache) = (model.to_owned(), cache.to_owned());
        Self { remote, model, cache, refused: BTreeMap::new(), load: LOAD, brought: 0 }
    }

    /// The same, with another time for one load.
    #[must_use]
    pub fn within(self, load: Duration) -> Self {
        Self { load, ..self }
    }

    /// A load begins: from here on its time counts, until the next begins.
    pub fn begin(&mut self) {
        (self.remote.deadline, self.brought) = (Instant::now().checked_add(self.load), 0);
    }

    /// Where it fetches from.
    pub fn remote(&self) -> &Remote {
        &self.remote
    }

    /// The directory that a version has until it is whole.
    fn aside(&self, directory: &str) -> PathBuf {
        self.cache.join(format!("{FETCHING}{directory}"))
    }

    /// The manifest of this digest, fetched or as it was fetched before.
    ///
    /// # Errors
    /// When it cannot be had, is another, or is none.
    pub fn manifest(&mut self, directory: &str, digest: &str) -> Result<Manifest, RemoteError> {
        let aside = self.aside(directory);
        let file = aside.join(MANIFEST);
        let object = self.remote.object(&self.model, directory, MANIFEST);
        let kept = bounded::read(&file, Length::AtMost(MANIFEST_BYTES_MAX)).ok();
        let bytes = if let Some(bytes) = kept.filter(|bytes| sha256(bytes) == digest) {
            bytes
        } else {
            let bytes = self.remote.content(&object, MANIFEST_BYTES_MAX).map_err(|error| self.late(error))?;
            let found = sha256(&bytes);
            if found != digest {
                let (place, expected) = (self.remote.named(&object), digest.to_owned());
                return Err(RemoteError::Digest { place, found, expected });
            }
            self.brought += bytes.len() as u64;
            fs::create_dir_all(&aside).map_err(durable::failed("make", &aside))?;
            write(&file, &bytes).map_err(durable::failed("write", &file))?;
            bytes
        };
        let none =
            |error: artefact::ArtefactError| RemoteError::Local { path: file.clone(), reason: error.to_string() };
        artefact::read_manifest(&bytes).map_err(none)
    }

    /// How long the [manifest](Self::manifest) is that was fetched.
    pub fn manifest_bytes(&self, directory: &str) -> u64 {
        fs::symlink_metadata(self.aside(directory).join(MANIFEST)).map_or(0, |found| found.len())
    }

    /// Fetches what is not here yet of a version whose [manifest](Self::manifest) is, and gives it its name.
    ///
    /// # Errors
    /// When a file cannot be had, or is another; what came is kept for the next try unless it is wrong.
    pub fn files(&mut self, directory: &str, manifest: &Manifest) -> Result<(), RemoteError> {
        let aside = self.aside(directory);
        for (name, expected) in &manifest.files {
            let object = self.remote.object(&self.model, directory, name);
            self.file(&object, &aside.join(name), expected)?;
        }
        let place = self.cache.join(directory);
        durable::sync(&aside)?;
        fs::rename(&aside, &place).map_err(durable::failed("rename", &aside))?;
        Ok(durable::sync(&self.cache)?)
    }

    fn file(&mut self, object: &Path, path: &FilePath, expected: &FileDigest) -> Result<(), RemoteError> {
        let mut file = open(path).map_err(durable::failed("open", path))?;
        let mut length = file.metadata().map_err(durable::failed("look at", path))?.len();
        if length > expected.bytes {
            file.set_len(0).map_err(durable::failed("shorten", path))?;
            length = 0;
        }
        let is_continued = length > 0;
        let mut stamp = None;
        while length < expected.bytes {
            let range = length..expected.bytes.min(length + PART_BYTES);
            let before = length;
            let outcome = self.range(object, range, expected.bytes, &mut stamp, &mut |part| {
                length += part.len() as u64;
                file.write_all(part)
            });
            self.brought += length - before;
            match outcome {
                // What has changed meanwhile is begun anew.
                Err(RemoteError::Length { .. } | RemoteError::Unchanged(_)) => {
                    discard(path)?;
                    return outcome;
                }
                Err(error @ RemoteError::Storage { .. }) if self.remote.is_late() => return Err(self.late(error)),
                Err(RemoteError::Storage { .. }) if length >= before + PROGRESS_MIN => {}
                outcome => outcome?,
            }
        }
        file.sync_all().map_err(durable::failed("write", path))?;
        let found = digest_of(&mut file).map_err(durable::failed("read", path))?;
        if found == expected.sha256 {
            return Ok(());
        }
        discard(path)?;
        // What an earlier try has left may be what is wrong, and the object right: only one that came whole is refused.
        if let Some(stamp) = stamp.filter(|_| !is_continued) {
            if self.refused.len() >= REFUSED_MAX {
                self.refused.clear();
            }
            self.refused.insert(object.clone(), (stamp, Instant::now()));
        }
        Err(RemoteError::Digest { place: self.remote.named(object), found, expected: expected.sha256.clone() })
    }

    /// What a failure is when the time of the load is over: none, if something has come in it.
    fn late(&self, error: RemoteError) -> RemoteError {
        let is_unfinished = self.remote.is_late() && self.brought >= PROGRESS_MIN;
        match error {
            RemoteError::Storage { place, .. } if is_unfinished => {
                RemoteError::Unfinished { place, brought: self.brought }
            }
            error => error,
        }
    }

    fn is_refused(&self, object: &Path, found: &Stamp) -> bool {
        self.refused.get(object).is_some_and(|(stamp, since)| stamp == found && since.elapsed() < REFUSED_FOR)
    }

    /// Hands on a part of an object of this size as it comes.
    fn range(
        &self,
        object: &Path,
        range: Range<u64>,
        size: u64,
        stamp: &mut Option<Stamp>,
        take: &mut dyn FnMut(&[u8]) -> io::Result<()>,
    ) -> Result<(), RemoteError> {
        let remote = &self.remote;
        let failed = |reason: String| RemoteError::Storage { doing: "fetch", place: remote.named(object), reason };
        let end = range.end;
        let mut at = range.start;
        let options = GetOptions { range: Some(GetRange::Bounded(range)), ..GetOptions::default() };
        let fetching = async {
            let got = remote.store.get_opts(object, options).await;
            let got = got.map_err(|error| remote.failure("fetch", object, &error))?;
            let found = Stamp::of(&got.meta);
            if found.size != size {
                return Err(RemoteError::Length { place: remote.named(object), found: found.size, expected: size });
            }
            if self.is_refused(object, &found) {
                return Err(RemoteError::Unchanged(remote.named(object)));
            }
            if stamp.replace(found.clone()).is_some_and(|before| before != found) {
                let place = format!("{}, which has changed meanwhile,", remote.named(object));
                return Err(RemoteError::Length { place, found: found.size, expected: size });
            }
            let mut parts = got.into_stream();
            while let Some(part) = parts.next().await {
                let part = part.map_err(|error| failed(said(&error)))?;
                let part = &part[..part.len().min(usize::try_from(end - at).unwrap_or(usize::MAX))];
                take(part).map_err(durable::failed("write", &self.cache))?;
                at += part.len() as u64;
            }
            if at < end { Err(failed(format!("the answer ends {} bytes early", end - at))) } else { Ok(()) }
        };
        remote.within("fetch", object, fetching)
    }
}

impl Remote {
    /// A whole object that is not longer than `length_max`.
    pub(super) fn content(&self, object: &Path, length_max: u64) -> Result<Vec<u8>, RemoteError> {
        // The time is that of everything: of a hostile answer no more is kept than was asked for.
        let place = || self.named(object);
        let content = self.wait("fetch", object, async {
            let got = self.store.get_opts(object, GetOptions::default()).await?;
            let found = got.meta.size;
            if found > length_max {
                return Ok(Err(found));
            }
            let (mut content, mut parts) = (Vec::new(), got.into_stream());
            while let Some(part) = parts.next().await {
                content.extend_from_slice(&part?);
                if content.len() as u64 > length_max {
                    return Ok(Err(content.len() as u64));
                }
            }
            Ok(Ok(content))
        })?;
        content.map_err(|found| RemoteError::Length { place: place(), found, expected: length_max })
    }
}

fn discard(path: &FilePath) -> Result<(), RemoteError> {
    Ok(fs::remove_file(path).map_err(durable::failed("remove", path))?)
}

/// Opens what is to be continued: a regular file itself, since a link could lead anywhere.
fn open(path: &FilePath) -> io::Result<File> {
    let flags = (OFlags::NOFOLLOW | OFlags::NONBLOCK).bits().cast_signed();
    let file = OpenOptions::new().create(true).read(true).append(true).custom_flags(flags).open(path)?;
    if file.metadata()?.is_file() { Ok(file) } else { Err(io::Error::other("it is not a regular file")) }
}

/// Writes a file in place of what is there, so that it outlasts a power cut.
fn write(path: &FilePath, content: &[u8]) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let mut file = OpenOptions::new().create_new(true).write(true).open(path)?;
    file.write_all(content)?;
    file.sync_all()
}

fn digest_of(file: &mut File) -> io::Result<String> {
    file.rewind()?;
    let (mut digest, mut part) = (Sha256::new(), vec![0; 256 << 10]);
    loop {
        let length = file.read(&mut part)?;
        if length == 0 {
            return Ok(hex::encode(digest.finalize()));
        }
        digest.update(&part[..length]);
    }
}

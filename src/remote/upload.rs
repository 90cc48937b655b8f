//! A version of the local disk becomes one in object storage: its files, each checked against the digest that the manifest states
//! while it is read, and the manifest last. What a try has brought over is not sent again by the next.

use std::collections::BTreeSet;
use std::fs::File;
use std::io::Read as _;
use std::path::{Path as FilePath, PathBuf};

use deepfm_core::version::artefact::{self, MANIFEST};
use deepfm_core::version::manifest::{FileDigest, MANIFEST_BYTES_MAX, Manifest, sha256};
use object_store::path::Path;
use object_store::{ObjectStoreExt as _, PutPayload};
use sha2::{Digest as _, Sha256};

use super::{PART_BYTES, Remote, RemoteError};
use crate::bounded::{self, Length, ReadError};
use crate::durable::failed;

/// One version on its way.
#[derive(Debug)]
pub struct Upload {
    local: PathBuf,
    model: String,
    directory: String,
    manifest: Manifest,
    bytes: Vec<u8>,
    /// Files that are there, with the lengths that they should have.
    sent: BTreeSet<String>,
}

impl Upload {
    /// The version of a directory, as its manifest has it.
    ///
    /// # Errors
    /// When that cannot be read, or has another digest.
    pub fn of(local: &FilePath, model: &str, directory: &str, digest: &str) -> Result<Self, RemoteError> {
        let refused = |reason: String| RemoteError::Local { path: local.to_owned(), reason };
        let file = local.join(MANIFEST);
        let bytes = bounded::read(&file, Length::AtMost(MANIFEST_BYTES_MAX)).map_err(unread(&file))?;
        let found = sha256(&bytes);
        if found != digest {
            return Err(refused(format!("its manifest has digest {found}, {digest} is announced")));
        }
        let manifest = artefact::read_manifest(&bytes).map_err(|error| refused(error.to_string()))?;
        let (model, directory) = (model.to_owned(), directory.to_owned());
        Ok(Self { local: local.to_owned(), model, directory, manifest, bytes, sent: BTreeSet::new() })
    }

    /// The name of its directory.
    pub fn directory(&self) -> &str {
        &self.directory
    }

    /// What the version says of itself.
    pub fn manifest(&self) -> &Manifest {
        &self.manifest
    }

    /// Whether all of it is there: its manifest comes last.
    ///
    /// # Errors
    /// When that cannot be told.
    pub fn is_there(&self, remote: &Remote) -> Result<bool, RemoteError> {
        let object = remote.object(&self.model, &self.directory, MANIFEST);
        match remote.content(&object, MANIFEST_BYTES_MAX) {
            Ok(found) => Ok(found == self.bytes),
            Err(RemoteError::Missing(_) | RemoteError::Length { .. }) => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// Sends what is not there yet, and says how many bytes that were.
    ///
    /// # Errors
    /// When the storage does not take it, or the local files are not those of the manifest. It can be called again.
    pub fn send(&mut self, remote: &Remote) -> Result<u64, RemoteError> {
        let mut bytes = 0;
        for (name, expected) in &self.manifest.files {
            if self.sent.contains(name) {
                continue;
            }
            let object = remote.object(&self.model, &self.directory, name);
            send_file(remote, &self.local.join(name), &object, expected)?;
            remote.check_length(&object, expected.bytes)?;
            bytes += expected.bytes;
            self.sent.insert(name.clone());
        }
        let object = remote.object(&self.model, &self.directory, MANIFEST);
        remote.put(&object, self.bytes.clone())?;
        remote.check_length(&object, self.bytes.len() as u64)?;
        Ok(bytes + self.bytes.len() as u64)
    }
}

impl Remote {
    fn put(&self, object: &Path, content: Vec<u8>) -> Result<(), RemoteError> {
        self.wait("write", object, self.store.put(object, PutPayload::from(content))).map(|_| ())
    }

    /// What is there has the length that was sent. That its bytes are those is what the signature of each request says.
    fn check_length(&self, object: &Path, expected: u64) -> Result<(), RemoteError> {
        let found = self.wait("look at", object, self.store.head(object))?.size;
        if found == expected {
            return Ok(());
        }
        Err(RemoteError::Length { place: self.named(object), found, expected })
    }
}

/// Sends a file in parts, of which none is in memory longer than its request takes.
fn send_file(remote: &Remote, local: &FilePath, object: &Path, expected: &FileDigest) -> Result<(), RemoteError> {
    let refused = |reason: String| RemoteError::Local { path: local.to_owned(), reason };
    let (mut file, length) = bounded::open(local, Length::Exactly(expected.bytes)).map_err(unread(local))?;
    let check = |digest: Sha256| {
        let found = hex::encode(digest.finalize());
        if found == expected.sha256 { Ok(()) } else { Err(refused(format!("its digest is {found}"))) }
    };
    let mut digest = Sha256::new();
    if length <= PART_BYTES {
        let part = read_part(&mut file, local)?;
        digest.update(&part);
        check(digest)?;
        return remote.put(object, part);
    }
    let mut upload = remote.wait("begin", object, remote.store.put_multipart(object))?;
    let mut send = || {
        loop {
            let part = read_part(&mut file, local)?;
            if part.is_empty() {
                break;
            }
            digest.update(&part);
            remote.wait("write", object, upload.put_part(PutPayload::from(part)))?;
        }
        check(std::mem::take(&mut digest))
    };
    if let Err(error) = send() {
        // What is left of it takes room that is paid for; if this fails too, the service's own rules remove it.
        remote.briefly(upload.abort());
        return Err(error);
    }
    remote.wait("finish", object, upload.complete()).map(|_| ())
}

/// That a file cannot be read now says nothing of what is in it.
fn unread(path: &FilePath) -> impl Fn(ReadError) -> RemoteError {
    let path = path.to_owned();
    move |error| match error {
        ReadError::Io(source) => failed("read", &path)(source).into(),
        error => RemoteError::Local { path: path.clone(), reason: error.to_string() },
    }
}

fn read_part(file: &mut File, path: &FilePath) -> Result<Vec<u8>, RemoteError> {
    let mut part = Vec::new();
    file.take(PART_BYTES).read_to_end(&mut part).map_err(failed("read", path))?;
    Ok(part)
}

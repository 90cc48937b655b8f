//! Training exports as directories, named after the time at which they were made: `20261124T101500Z`. One is written under a
//! temporary name, synced and renamed, so that what looks like an export is whole.

use std::fs;
use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use sha2::{Digest as _, Sha256};

use crate::bounded::{self, Length, ReadError};
use crate::config::operation::Readers;
use crate::durable::{self, DurableError, StagedDirectory, failed};
use crate::store::{ReadMerged, StoreError};
use deepfm_core::checkpoint::Layer;
use deepfm_core::checkpoint::export::{self, BLOCKS, ExportError, ExportManifest, Inspection};
use deepfm_core::version::artefact::MANIFEST;
use deepfm_core::version::manifest::{FileDigest, MANIFEST_BYTES_MAX};

/// An export has the whole state: nobody else's to read.
const READERS: Readers = Readers::Owner;

/// The form of an export's name, in UTC.
const NAME: &str = "%Y%m%dT%H%M%SZ";

/// An export cannot be written or read.
#[derive(Debug, thiserror::Error)]
#[expect(missing_docs, reason = "fields of errors say it by name and type")]
pub enum ExportIoError {
    /// A file operation failed.
    #[error(transparent)]
    Io(#[from] DurableError),
    /// The checkpoint cannot be read.
    #[error("the checkpoint to be exported cannot be read")]
    Store(#[from] StoreError),
    /// There is not one that can be used.
    #[error("training export {path}")]
    Export { path: PathBuf, source: ExportError },
    /// The writer was told to give up.
    #[error("the export was given up, since the worker ends")]
    GivenUp,
}

/// Writes a checkpoint as an export under `root`, and says where it is. Gives up when `stop` is set.
///
/// # Errors
/// When the checkpoint cannot be read or the disk does not take it; nothing that looks like an export is left behind.
pub fn write(
    root: &Path,
    model: &str,
    read: ReadMerged,
    stop: &AtomicBool,
) -> Result<(PathBuf, ExportManifest), ExportIoError> {
    durable::sweep(root, &[]);
    let now = jiff::Timestamp::now();
    let name = now.strftime(NAME).to_string();
    let path = root.join(&name);
    if path.exists() {
        return Err(failed("make", &path)(io::ErrorKind::AlreadyExists.into()).into());
    }
    let staged = StagedDirectory::begin(root, &name, READERS)?;
    let manifest = write_files(&staged, &path, model, now.to_string(), read, stop)?;
    Ok((staged.install()?, manifest))
}

fn write_files(
    staged: &StagedDirectory,
    path: &Path,
    model: &str,
    created_at: String,
    read: ReadMerged,
    stop: &AtomicBool,
) -> Result<ExportManifest, ExportIoError> {
    let mut file = BufWriter::with_capacity(1 << 20, staged.file(BLOCKS)?);
    let (mut hasher, mut bytes, mut inspection) = (Sha256::new(), 0, Inspection::default());
    let mut fault = None;
    let outcome = read(&mut |block| {
        inspection.see(&block);
        let frame = export::frame(&block);
        hasher.update(frame);
        hasher.update(&block.bytes);
        bytes += (frame.len() + block.bytes.len()) as u64;
        let given_up = stop.load(Ordering::Acquire).then_some(ExportIoError::GivenUp);
        let written = file.write_all(&frame).and_then(|()| file.write_all(&block.bytes));
        fault = given_up.or(written.map_err(|source| failed("write", path)(source).into()).err());
        if fault.is_some() { Err(StoreError::GivenUp) } else { Ok(()) }
    });
    if let Some(error) = fault {
        return Err(error);
    }
    outcome?;
    let file = file.into_inner().map_err(|error| failed("write", path)(error.into_error()))?;
    file.sync_all().map_err(failed("sync", path))?;
    let blocks = FileDigest { bytes, sha256: hex::encode(hasher.finalize()) };
    let manifest = inspection
        .manifest(model, created_at, blocks)
        .map_err(|source| ExportIoError::Export { path: path.to_owned(), source })?;
    let mut text = serde_json::to_vec_pretty(&manifest).expect("a manifest always encodes");
    text.push(b'\n');
    staged.write(MANIFEST, &text)?;
    Ok(manifest)
}

/// Reads an export: its manifest first, then its blocks, of which this states the length; every byte is checked.
///
/// # Errors
/// When a file cannot be read, or is not what the manifest says.
pub fn read(path: &Path) -> Result<(ExportManifest, Layer), ExportIoError> {
    let bad = |source| ExportIoError::Export { path: path.to_owned(), source };
    let manifest = manifest(path)?;
    let blocks = read_file(path, BLOCKS, Length::Exactly(manifest.blocks.bytes))?;
    let layer = export::read(&manifest, &blocks).map_err(bad)?;
    Ok((manifest, layer))
}

fn read_file(path: &Path, name: &'static str, length: Length) -> Result<Vec<u8>, ExportIoError> {
    let file = path.join(name);
    bounded::read(&file, length).map_err(|error| {
        let source = match (error, length) {
            (ReadError::Io(source), _) => return failed("read", &file)(source).into(),
            (ReadError::Missing, _) => ExportError::Missing(name),
            (ReadError::NotRegular, _) => ExportError::NotRegular(name),
            (ReadError::Length(found), Length::AtMost(_)) => ExportError::Long(found),
            (ReadError::Length(found), Length::Exactly(expected)) => ExportError::Length { found, expected },
        };
        ExportIoError::Export { path: path.to_owned(), source }
    })
}

/// The manifest of an export; nothing else is read.
///
/// # Errors
/// When it cannot be read, or is not that of an export.
pub fn manifest(path: &Path) -> Result<ExportManifest, ExportIoError> {
    let bytes = read_file(path, MANIFEST, Length::AtMost(MANIFEST_BYTES_MAX))?;
    export::read_manifest(&bytes).map_err(|source| ExportIoError::Export { path: path.to_owned(), source })
}

/// Whether a directory is an export, by its files.
pub fn is_export(path: &Path) -> bool {
    path.join(BLOCKS).symlink_metadata().is_ok()
}

/// The exports of a directory, the oldest first.
pub fn list(root: &Path) -> Vec<PathBuf> {
    let Ok(entries) = fs::read_dir(root) else { return Vec::new() };
    let mut exports: Vec<PathBuf> =
        entries.flatten().map(|entry| entry.path()).filter(|path| made_at(path).is_some() && is_export(path)).collect();
    exports.sort_unstable();
    exports
}

/// Removes all exports but the newest `keep`, and the one of a name that somebody waits for.
///
/// # Errors
/// When one cannot be removed.
pub fn prune(root: &Path, keep: usize, spared: Option<&str>) -> Result<(), ExportIoError> {
    let exports = list(root);
    let is_spared = |path: &&PathBuf| spared.is_some_and(|name| path.ends_with(name));
    for path in exports[..exports.len().saturating_sub(keep)].iter().filter(|path| !is_spared(path)) {
        fs::remove_dir_all(path).map_err(failed("remove", path))?;
    }
    Ok(())
}

/// How long ago the newest export was made.
pub fn age(root: &Path) -> Option<Duration> {
    let newest = made_at(list(root).last()?)?;
    Some(jiff::Timestamp::now().duration_since(newest).unsigned_abs())
}

fn made_at(path: &Path) -> Option<jiff::Timestamp> {
    let name = path.file_name()?.to_str()?.strip_suffix('Z')?;
    let time = jiff::civil::DateTime::strptime("%Y%m%dT%H%M%S", name).ok()?;
    time.to_zoned(jiff::tz::TimeZone::UTC).ok().map(|zoned| zoned.timestamp())
}

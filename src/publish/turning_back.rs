//! Taking training back to where a version was: a request that lies beside the state until the next start of the worker heeds
//! it. So a worker that runs is neither fenced nor touched, and whatever supervises it restarts it when that suits.
//!
//! Invariant: a request is gone only after the state that it asks for is durable; a crash before that heeds it again.

use std::fs;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::exports::{self, ExportIoError};
use crate::bounded::{self, Length, ReadError};
use crate::config::operation::Readers;
use crate::durable::{self, DurableError, failed};
use deepfm_core::version::alias::Act;
use deepfm_core::version::announcement::Announcement;
use deepfm_core::version::known::KnownVersions;
use deepfm_core::version::manifest::ParentVersion;

/// The directory of a request, below that of the state.
const NAME: &str = "turn-back";

/// The file in it.
const FILE: &str = "request.json";

/// The longest request, in bytes.
const BYTES_MAX: u64 = 1 << 16;

/// Training cannot be taken back.
#[derive(Debug, thiserror::Error)]
#[expect(missing_docs, reason = "fields of errors say it by name and type")]
pub enum TurnBackError {
    /// There is no export that is old enough.
    #[error(
        "no training export in {root} is from version {version} or before; the oldest has {oldest} of its {records} records"
    )]
    NoExport { root: PathBuf, version: u64, records: u64, oldest: String },
    /// The export is not there any more.
    #[error(
        "training export {export} is gone, which {request} asks for: ask again with `versions rollback --state`, or remove {request}"
    )]
    Gone { export: PathBuf, request: PathBuf },
    /// There is no state here that could be taken back.
    #[error("there is no state directory {0} here: training is taken back where the worker runs")]
    NoState(PathBuf),
    /// An export cannot be read.
    #[error(transparent)]
    Export(#[from] ExportIoError),
    /// The request cannot be written or removed.
    #[error(transparent)]
    Io(#[from] DurableError),
    /// The request cannot be read.
    #[error("the request to take training back, {path}: remove it if nobody wants that any more")]
    Unreadable { path: PathBuf, source: anyhow::Error },
}

/// Training is to go on from an export.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Request {
    /// The name of the export, in the directory of the model's exports: that may be mounted elsewhere where the worker runs.
    pub export: String,
    /// The version that it is the newest from before.
    pub version: u64,
    /// Who asks.
    pub by: String,
    /// Why, in words.
    pub why: String,
    /// When, RFC 3339.
    pub at: String,
}

/// The name of the newest export that has seen no more of the log than a version, and is of the same past: what it descends from
/// was not abandoned.
///
/// # Errors
/// When there is none, or one cannot be read.
pub fn export_of(root: &Path, version: &Announcement, known: &KnownVersions) -> Result<String, TurnBackError> {
    let is_of_its_past = |parent: &ParentVersion| {
        let announced = known.announced.get(&parent.version);
        let is_it = |one: &&Announcement| one.manifest_digest == parent.manifest_digest && one.abandoned.is_none();
        parent.version <= version.version && announced.as_ref().is_some_and(is_it)
    };
    let mut oldest = "none".to_owned();
    for path in exports::list(root).into_iter().rev() {
        let manifest = exports::manifest(&path)?;
        let is_before = manifest.model == version.model && manifest.records <= version.records;
        if is_before && manifest.parent.as_ref().is_none_or(is_of_its_past) {
            return Ok(path.file_name().unwrap_or_default().to_string_lossy().into_owned());
        }
        oldest = manifest.records.to_string();
    }
    let (root, records) = (root.to_owned(), version.records);
    Err(TurnBackError::NoExport { root, version: version.version, records, oldest })
}

/// Asks the next start of the worker of this state to go on from an export.
///
/// # Errors
/// When there is no such state, or the disk does not take the request.
pub fn ask(state: &Path, export: String, version: u64, act: Act) -> Result<(), TurnBackError> {
    if !state.is_dir() {
        return Err(TurnBackError::NoState(state.to_owned()));
    }
    let Act { by, why, at } = act;
    let request = Request { export, version, by, why, at };
    done(state)?;
    let staged = durable::StagedDirectory::begin(state, NAME, Readers::Owner)?;
    staged.write(FILE, &serde_json::to_vec_pretty(&request).expect("a request always encodes"))?;
    staged.install()?;
    Ok(())
}

/// Where the export of a request is.
///
/// # Errors
/// When it is gone.
pub fn find(request: &Request, root: &Path, state: &Path) -> Result<PathBuf, TurnBackError> {
    let is_a_name = Path::new(&request.export).file_name().is_some_and(|name| *name == *request.export);
    let export = root.join(&request.export);
    if is_a_name && exports::is_export(&export) {
        return Ok(export);
    }
    Err(TurnBackError::Gone { export, request: state.join(NAME) })
}

/// What was asked for, if anything was.
///
/// # Errors
/// When it cannot be read: nobody trains on past it.
pub fn pending(state: &Path) -> Result<Option<Request>, TurnBackError> {
    let path = state.join(NAME).join(FILE);
    let unreadable = |source| TurnBackError::Unreadable { path: path.clone(), source };
    match bounded::read(&path, Length::AtMost(BYTES_MAX)) {
        Ok(bytes) => serde_json::from_slice(&bytes).map(Some).map_err(|error| unreadable(error.into())),
        Err(ReadError::Missing) => Ok(None),
        Err(error) => Err(unreadable(error.into())),
    }
}

/// Forgets a request, which was heeded or is replaced. Does nothing where there is none.
///
/// # Errors
/// When it cannot be removed.
pub fn done(state: &Path) -> Result<(), DurableError> {
    let path = state.join(NAME);
    if !path.exists() {
        return Ok(());
    }
    fs::remove_dir_all(&path).map_err(failed("remove", &path))?;
    durable::sync(state)
}

/// Forgets a request if it is this one: another may have been made meanwhile.
///
/// # Errors
/// When it cannot be removed.
pub fn done_with(state: &Path, request: &Request) -> Result<(), DurableError> {
    match pending(state) {
        Ok(Some(found)) if found == *request => done(state),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_waits_until_it_was_heeded() {
        let state = tempfile::tempdir().expect("a directory of our own");
        assert_eq!(pending(state.path()).expect("nothing is wrong"), None);
        let act = |why: &str| Act::new("anna", why, "2026-01-01T00:00:00Z");
        ask(state.path(), "a".into(), 7, act("scores")).expect("there is room");
        ask(state.path(), "b".into(), 6, act("still")).expect("there is room");
        let found = pending(state.path()).expect("nothing is wrong").expect("there is one");
        assert_eq!((found.export.as_str(), found.version, found.why.as_str()), ("b", 6, "still"));
        let root = tempfile::tempdir().expect("a directory of our own");
        assert!(matches!(find(&found, root.path(), state.path()), Err(TurnBackError::Gone { .. })));
        fs::create_dir_all(root.path().join("b")).expect("there is room");
        fs::write(root.path().join("b/state.blocks"), "").expect("there is room");
        assert_eq!(find(&found, root.path(), state.path()).expect("it is there"), root.path().join("b"));
        let elsewhere = Request { export: "../b".to_owned(), ..found.clone() };
        assert!(matches!(find(&elsewhere, &root.path().join("b"), state.path()), Err(TurnBackError::Gone { .. })));
        done_with(state.path(), &Request { version: 7, ..found.clone() }).expect("it is another");
        assert_eq!(pending(state.path()).expect("nothing is wrong"), Some(found));
        done(state.path()).expect("it can be removed");
        assert_eq!(pending(state.path()).expect("nothing is wrong"), None);
        done(state.path()).expect("there is nothing to do");
    }

    #[test]
    fn a_request_that_cannot_be_read_is_an_error_and_not_nothing() {
        let state = tempfile::tempdir().expect("a directory of our own");
        let nowhere = state.path().join("nowhere");
        let act = Act::new("anna", "", "");
        assert!(matches!(ask(&nowhere, String::new(), 7, act), Err(TurnBackError::NoState(_))));
        fs::create_dir(state.path().join(NAME)).expect("there is room");
        for content in ["", "{", "{\"export\": 3}", "{}"] {
            fs::write(state.path().join(NAME).join(FILE), content).expect("there is room");
            assert!(matches!(pending(state.path()), Err(TurnBackError::Unreadable { .. })), "{content}");
        }
    }
}

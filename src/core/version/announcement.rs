//! The records that announce versions, as `schemas/announcement.schema.json` has them.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::artefact::Artefact;
use super::gate::Judgement;
use super::manifest::{FileDigest, Fingerprints, Kind, Manifest, ManifestError, ParentVersion, check_files};
use super::names::{self, NameError};
use super::storage_uri::{UriError, check_version_uri};

/// The form of the records.
pub const FORMAT: u32 = 1;

/// The most moves that an alias record carries.
pub(super) const MOVES_MAX: usize = 20;

/// The most characters of who moved an alias, or why.
pub const TEXT_CHARS_MAX: usize = 500;

/// A record that is not what its key says: whoever may write to the topic may have written anything.
#[derive(Debug, thiserror::Error)]
#[expect(missing_docs, reason = "fields of errors say it by name and type")]
pub enum RecordError {
    /// It does not decode.
    #[error("it does not decode")]
    Decode(#[from] serde_json::Error),
    /// It has another form.
    #[error("it has format {0}, this program reads {FORMAT}")]
    Format(u32),
    /// It stands under a key that is not its own.
    #[error("it belongs under the key {expected:?}, not under {found:?}")]
    Key { found: String, expected: String },
    /// A name, number or digest is not of its form.
    #[error(transparent)]
    Name(#[from] NameError),
    /// Its files are not those of an artefact.
    #[error(transparent)]
    Files(#[from] ManifestError),
    /// Where it lies is no place of its own.
    #[error(transparent)]
    Uri(#[from] UriError),
    /// It is a delta on nothing.
    #[error("a delta needs a parent of a smaller number")]
    Base,
    /// It has more moves than are kept.
    #[error("it has {0} moves, more than {MOVES_MAX}")]
    Moves(usize),
    /// A text of it is missing, or longer than anybody writes.
    #[error("a text of it is empty or has more than {TEXT_CHARS_MAX} characters")]
    Text,
    /// It is no time.
    #[error("{0:?} is no time as RFC 3339 has it")]
    Time(String),
    /// Nobody says so little, or so often.
    #[error("a beat of {0} s is none")]
    Beat(u64),
    /// No server has so many.
    #[error("it has {0} arms")]
    Arms(usize),
    /// There are more servers than are kept in mind.
    #[error("there are too many servers")]
    Servers,
    /// Nothing takes so long.
    #[error("nothing takes {0} s")]
    Seconds(f64),
}

/// A version exists. Key: `<model>/v/<version>`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Announcement {
    /// The form of the record.
    pub format: u32,
    /// Name of the model.
    pub model: String,
    /// Number of the version.
    pub version: u64,
    /// SHA-256 of its manifest.
    pub manifest_digest: String,
    /// Name of its directory.
    pub directory: String,
    /// The version that its state descends from.
    pub parent: Option<ParentVersion>,
    /// Whether the artefact stands alone, or on its parent.
    pub kind: Kind,
    /// When it was cut, RFC 3339.
    pub created_at: String,
    /// Records of the merged order that it has seen.
    pub records: u64,
    /// The next offset of each partition.
    pub positions: BTreeMap<String, i64>,
    /// Event-time watermark, in milliseconds.
    pub watermark: Option<i64>,
    /// Examples learned.
    pub learned: u64,
    /// Rows of the embedding table.
    pub rows: u64,
    /// Digest of the state that it was cut from.
    pub state_digest: String,
    /// Progressive metrics.
    pub metrics: BTreeMap<String, serde_json::Value>,
    /// What a server's own copies must agree with.
    pub fingerprints: Fingerprints,
    /// Size and SHA-256 of its files.
    pub files: BTreeMap<String, FileDigest>,
    /// The epoch of the worker that announced it: one that takes over has a greater one. Absent in records of before there
    /// were epochs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub epoch: Option<u64>,
    /// Present when the model no longer descends from this version: its worker fell back behind it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub abandoned: Option<Abandoned>,
    /// What the gate says of it; absent in records of before there was one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gate: Option<Judgement>,
    /// Present when it was rejected: what it did not pass, in words. Servers do not follow to it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub held: Option<String>,
    /// Present when it lies in object storage: where, for servers that don't see the worker's directory. It ends with the names
    /// of the model and of the version's directory.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub uri: Option<String>,
}

/// Why and when a version was abandoned. It can be served as before; no later version has its state behind it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Abandoned {
    /// When that was noticed, RFC 3339.
    pub at: String,
    /// The newest version that the model does descend from.
    pub parent: Option<ParentVersion>,
}

impl Announcement {
    /// The announcement of a version.
    pub fn of(artefact: &Artefact) -> Self {
        Self::of_manifest(artefact.manifest.clone(), artefact.digest.clone())
    }

    /// The announcement of the version that has this manifest, of this digest.
    pub fn of_manifest(manifest: Manifest, manifest_digest: String) -> Self {
        Self {
            format: FORMAT,
            directory: names::directory(manifest.version, &manifest_digest),
            manifest_digest,
            model: manifest.model,
            version: manifest.version,
            parent: manifest.parent,
            kind: manifest.kind,
            created_at: manifest.created_at,
            records: manifest.records,
            positions: manifest.positions,
            watermark: manifest.watermark,
            learned: manifest.learned,
            rows: manifest.rows,
            state_digest: manifest.state_digest,
            metrics: manifest.metrics,
            fingerprints: manifest.fingerprints,
            files: manifest.files,
            epoch: None,
            abandoned: None,
            gate: None,
            held: None,
            uri: None,
        }
    }

    /// Reads a record of the topic, which counts only under its own key, and only when its names stay inside the directory
    /// of versions.
    ///
    /// # Errors
    /// When it is not an announcement of a version under this key.
    pub fn read(key: &str, record: &[u8]) -> Result<Self, RecordError> {
        let announcement: Self = serde_json::from_slice(record)?;
        announcement.check()?;
        check_key(key, announcement.key())?;
        Ok(announcement)
    }

    /// Checks what directories are named, moved and removed by: the names in it stay inside the directory of versions.
    ///
    /// # Errors
    /// When a form, name, number or digest is not that of a version.
    pub fn check(&self) -> Result<(), RecordError> {
        check_form(self.format)?;
        names::check_model(&self.model)?;
        names::check_directory(&self.directory, self.version, &self.manifest_digest)?;
        let abandoned = self.abandoned.as_ref().and_then(|abandoned| abandoned.parent.as_ref());
        for parent in self.parent.iter().chain(abandoned) {
            names::check_version(parent.version)?;
            names::check_digest(&parent.manifest_digest)?;
        }
        let has_base = self.parent.as_ref().is_some_and(|parent| parent.version < self.version);
        if self.kind == Kind::Delta && !has_base {
            return Err(RecordError::Base);
        }
        names::check_digest(&self.state_digest)?;
        if let Some(uri) = &self.uri {
            check_version_uri(uri, &self.model, &self.directory)?;
        }
        Ok(check_files(&self.files)?)
    }

    /// The record's payload.
    pub fn to_json(&self) -> String {
        serde_json::to_string(self).expect("an announcement always encodes")
    }

    /// Its key.
    pub fn key(&self) -> String {
        format!("{}/v/{}", self.model, self.version)
    }
}

pub(super) fn check_form(format: u32) -> Result<(), RecordError> {
    if format == FORMAT { Ok(()) } else { Err(RecordError::Format(format)) }
}

pub(super) fn check_key(found: &str, expected: String) -> Result<(), RecordError> {
    if found == expected { Ok(()) } else { Err(RecordError::Key { found: found.to_owned(), expected }) }
}

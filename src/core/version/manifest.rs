//! What a version says of itself. `manifest.json` names and digests every other file of the artefact; its own SHA-256 is
//! the version's digest.

use std::collections::BTreeMap;
use std::fmt;

use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use super::names::{self, NameError};
use crate::feature::field::{Field, FieldError, FieldSet};
use crate::model::params::{MlpParams, ModelParams, Parts};
use crate::model::weights::{Precision, WeightsDigest};
use crate::train::ParamsError;

/// The form of artefacts.
pub const FORMAT: u32 = 3;

/// The oldest form that is read: it has full versions alone, and states no digest of their weights.
pub const FORMAT_OLDEST: u32 = 2;

/// The most deltas on one full version.
pub const CHAIN_MAX: u64 = 10_000;

/// The longest `manifest.json`, in bytes; it is read before anything that it names.
pub const MANIFEST_BYTES_MAX: u64 = 16 << 20;

/// The most files of an artefact beside its manifest.
pub const FILES_MAX: usize = 16;

/// A manifest that no version can have.
#[derive(Debug, thiserror::Error)]
#[expect(missing_docs, reason = "fields of errors say it by name and type")]
pub enum ManifestError {
    /// A name, number or digest is not of its form.
    #[error(transparent)]
    Name(#[from] NameError),
    /// The fields are not a model's.
    #[error(transparent)]
    Fields(#[from] FieldError),
    /// The shape is not a model's.
    #[error(transparent)]
    Params(#[from] ParamsError),
    /// There are too many files.
    #[error("it names {0} files, more than {FILES_MAX}")]
    Files(usize),
    /// A form states what only another has, or lacks what it has.
    #[error("format {format}: a {kind} version with {weights} cannot be")]
    Form {
        format: u32,
        kind: Kind,
        /// What it says of its weights.
        weights: &'static str,
    },
    /// A delta has no parent before it.
    #[error("a delta needs a parent of a smaller number")]
    Parent,
    /// It says of its place in a chain what cannot be.
    #[error("a {kind} version cannot be {chain} deltas from its full version")]
    Chain { kind: Kind, chain: u32 },
    /// What rounding does is not a number.
    #[error("the bound on rounding is {0}, it must be finite and not negative, and 0 in 32 bits")]
    Rounding(f64),
    /// The correction of the logit is not a number.
    #[error("the logit's offset is not finite")]
    Offset,
}

/// The manifest of a version.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Manifest {
    /// The form of the artefact.
    pub format: u32,
    /// Name of the model.
    pub model: String,
    /// Number of the version.
    pub version: u64,
    /// Whether everything that a server needs is here.
    pub kind: Kind,
    /// The version that this one's state descends from.
    pub parent: Option<ParentVersion>,
    /// When it was cut, RFC 3339.
    pub created_at: String,
    /// Records of the merged order that it has seen.
    pub records: u64,
    /// The next offset of each partition, as `impression/0`.
    pub positions: BTreeMap<String, i64>,
    /// Event-time watermark, in milliseconds.
    pub watermark: Option<i64>,
    /// Examples learned.
    pub learned: u64,
    /// Rows of the embedding table.
    pub rows: u64,
    /// What its weights are checked by; `None` before format 3.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub weights: Option<WeightsNote>,
    /// Present when the gate held it back: what it did not pass, in words. Who follows the newest of a directory passes over it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub held: Option<String>,
    /// Digest of the state that it was cut from.
    pub state_digest: String,
    /// Progressive metrics.
    pub metrics: BTreeMap<String, serde_json::Value>,
    /// What a server's own copies must agree with.
    pub fingerprints: Fingerprints,
    /// The fields, in the order in which the MLP sees them.
    pub fields: Vec<Field>,
    /// Shape of the model.
    pub architecture: Shape,
    /// Size and SHA-256 of every other file.
    pub files: BTreeMap<String, FileDigest>,
}

/// Whether an artefact stands alone.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    /// All weights.
    Full,
    /// What has changed since the parent.
    Delta,
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Full => "full",
            Self::Delta => "delta",
        })
    }
}

/// What a version's weights are checked by, and how much of them is here.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct WeightsNote {
    /// Digest of all weights of the version: of a delta, those that applying it gives.
    pub digest: WeightsDigest,
    /// Deltas since the last full version, this one among them: 0 for a full one.
    pub chain: u32,
    /// Rows that are here.
    pub rows: u64,
    /// Ids that are removed.
    pub removed: u64,
    /// In how many bits the weights of rows are.
    pub precision: Precision,
    /// The most by which rounding has moved the logit of a probe, relative to 1 plus its size: 0 in 32 bits.
    pub rounding: f64,
}

/// A version, by number and content.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Parent {
    /// Its number.
    pub version: u64,
    /// SHA-256 of its manifest, in hexadecimal.
    pub manifest_digest: String,
    /// Examples learned when it was cut.
    pub learned: u64,
}

/// A version's parent.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ParentVersion {
    /// Its number.
    pub version: u64,
    /// SHA-256 of its manifest.
    pub manifest_digest: String,
}

impl From<&Parent> for ParentVersion {
    fn from(parent: &Parent) -> Self {
        Self { version: parent.version, manifest_digest: parent.manifest_digest.clone() }
    }
}

/// Names of everything that training and serving must agree on.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Fingerprints {
    /// Fields, kinds, edges and their order.
    pub fields: String,
    /// The scheme of feature ids.
    pub hashing: String,
    /// Everything in the configuration that affects the state.
    pub configuration: String,
}

/// What a server needs to know of the model's shape.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Shape {
    /// Width of an embedding.
    pub embedding_dim: usize,
    /// Which parts the logit has.
    pub parts: Parts,
    /// The MLP.
    pub mlp: MlpParams,
    /// Added to the logit: the correction of down-sampled negatives.
    pub logit_offset: f64,
}

/// A file of the artefact.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FileDigest {
    /// Its length.
    pub bytes: u64,
    /// SHA-256 of its content.
    pub sha256: String,
}

impl Shape {
    /// The parameters of a model of this shape, as far as scoring needs them.
    pub fn params(&self, fields: usize) -> ModelParams {
        ModelParams {
            fields,
            embedding_dim: self.embedding_dim,
            parts: self.parts,
            mlp: self.mlp.clone(),
            ..ModelParams::default()
        }
    }
}

impl FileDigest {
    /// The digest of a content.
    pub fn of(content: &[u8]) -> Self {
        Self { bytes: content.len() as u64, sha256: sha256(content) }
    }

    /// Bytes of all these files; what is stated of them may be anything.
    pub fn total<'f>(files: impl IntoIterator<Item = &'f Self>) -> u64 {
        files.into_iter().fold(0, |sum, file| sum.saturating_add(file.bytes))
    }
}

impl Manifest {
    /// Whether a version can say this of itself: before anything is read or made by it.
    ///
    /// # Errors
    /// The first thing that is out of its bounds.
    pub fn check(&self) -> Result<(), ManifestError> {
        names::check_model(&self.model)?;
        names::check_version(self.version)?;
        names::check_digest(&self.state_digest)?;
        if let Some(parent) = &self.parent {
            names::check_version(parent.version)?;
            names::check_digest(&parent.manifest_digest)?;
        }
        self.check_kind()?;
        check_files(&self.files)?;
        let fields = FieldSet::new(self.fields.clone())?;
        self.architecture.params(fields.len()).check()?;
        if self.architecture.logit_offset.is_finite() { Ok(()) } else { Err(ManifestError::Offset) }
    }

    fn check_kind(&self) -> Result<(), ManifestError> {
        let Self { format, kind, .. } = *self;
        let chain = match (format, kind, &self.weights) {
            (FORMAT_OLDEST, Kind::Full, None) => return Ok(()),
            (FORMAT_OLDEST, _, _) => return Err(ManifestError::Form { format, kind, weights: "a digest" }),
            (_, _, None) => return Err(ManifestError::Form { format, kind, weights: "no digest" }),
            (_, _, Some(weights)) => {
                let WeightsNote { rounding, precision, chain, .. } = *weights;
                let is_bound = rounding.is_finite() && rounding >= 0.0;
                if !is_bound || (precision == Precision::F32 && rounding != 0.0) {
                    return Err(ManifestError::Rounding(rounding));
                }
                chain
            }
        };
        let is_place = match kind {
            Kind::Full => chain == 0,
            Kind::Delta => (1..=CHAIN_MAX).contains(&u64::from(chain)),
        };
        if !is_place {
            return Err(ManifestError::Chain { kind, chain });
        }
        let has_parent = self.parent.as_ref().is_some_and(|parent| parent.version < self.version);
        if kind == Kind::Full || has_parent { Ok(()) } else { Err(ManifestError::Parent) }
    }

    /// The bytes of `manifest.json`.
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut bytes = serde_json::to_vec_pretty(self).expect("a manifest always encodes");
        bytes.push(b'\n');
        bytes
    }
}

/// Whether these can be the files of an artefact.
///
/// # Errors
/// When there are too many, or a name is more than a name.
pub fn check_files(files: &BTreeMap<String, FileDigest>) -> Result<(), ManifestError> {
    if files.len() > FILES_MAX {
        return Err(ManifestError::Files(files.len()));
    }
    for (name, FileDigest { bytes: _, sha256 }) in files {
        names::check_file(name)?;
        names::check_digest(sha256)?;
    }
    Ok(())
}

/// SHA-256 in hexadecimal.
pub fn sha256(content: &[u8]) -> String {
    hex::encode(Sha256::digest(content))
}

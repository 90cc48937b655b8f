//! What a version says of itself. `manifest.json` names and digests every other file of the artefact; its own SHA-256 is
//! the version's digest.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use super::checkpoint::Parent;
use crate::feature::field::Field;
use crate::model::params::{MlpParams, Parts};

/// The form of artefacts.
pub const FORMAT: u32 = 1;

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
    /// `full`: everything that a server needs is here.
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

impl FileDigest {
    /// The digest of a content.
    pub fn of(content: &[u8]) -> Self {
        Self { bytes: content.len() as u64, sha256: sha256(content) }
    }
}

impl Manifest {
    /// The bytes of `manifest.json`.
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut bytes = serde_json::to_vec_pretty(self).expect("a manifest always encodes");
        bytes.push(b'\n');
        bytes
    }
}

/// SHA-256 in hexadecimal.
pub fn sha256(content: &[u8]) -> String {
    hex::encode(Sha256::digest(content))
}

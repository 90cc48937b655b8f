//! The files of a version read back, with every check: what they say of themselves before they are read, then whether they are
//! that. Bytes from elsewhere never panic here, and nothing is made room for that they do not have.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use super::bytes::Bytes;
use super::delta::{DELTA, DeltaError};
use super::journal::{JOURNAL, JournalError, read_journal};
use super::manifest::{
    FORMAT, FORMAT_OLDEST, FileDigest, Kind, MANIFEST_BYTES_MAX, Manifest, ManifestError, WeightsNote, sha256,
};
use super::servable::{Servable, ServableError};
use crate::feature::encoder::{Encoder, Encoding, EntryBounds, Misfit};
use crate::feature::field::{FieldError, FieldSet};
use crate::feature::id::HASHING;
use crate::model::batch::Architecture;
use crate::model::weights::Precision;

/// The weights.
pub const MODEL: &str = "model.safetensors";
/// What the version says of itself.
pub const MANIFEST: &str = "manifest.json";
/// Raw feature rows with expected logits.
pub const PROBES: &str = "probes.jsonl";

/// How far a server's logit may be from a probe's, relative to 1 plus its size: rounding between CPU types.
pub const PROBE_TOLERANCE: f64 = 1e-4;

/// What a probe may hold: more than any configuration lets in.
pub(super) const PROBE_BOUNDS: EntryBounds = EntryBounds { features_max: 1 << 20, weight_max: 1e12 };

/// Bytes that the names, shapes and padding of the weights take at most.
const HEADER_BYTES_MAX: u128 = 1 << 16;

/// A probe: raw features, and the logit that every copy of the version must give.
#[derive(Debug, Serialize, Deserialize)]
pub struct Probe {
    /// The features object of an impression.
    pub features: Box<RawValue>,
    /// The expected logit.
    pub logit: f64,
    /// The logit before the weights were rounded, where they were.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub exact: Option<f64>,
}

/// A version cannot be read, or is not what it says.
#[derive(Debug, thiserror::Error)]
#[expect(missing_docs, reason = "fields of errors say it by name and type")]
pub enum ArtefactError {
    /// A file is missing.
    #[error("{0} is missing")]
    Missing(String),
    /// A document does not decode.
    #[error("{file} does not decode")]
    Decode { file: &'static str, source: serde_json::Error },
    /// The form is another.
    #[error("the artefact has format {0}, this program reads {FORMAT_OLDEST} to {FORMAT}")]
    Format(u32),
    /// The manifest is too long.
    #[error("{MANIFEST} has {0} bytes, more than {MANIFEST_BYTES_MAX}")]
    Long(u64),
    /// No version can say this of itself.
    #[error("{MANIFEST} is not that of a version")]
    Manifest(#[from] ManifestError),
    /// A file is not a file: a link, a pipe, a device or a directory.
    #[error("{0} is not a regular file")]
    NotRegular(String),
    /// A file has not the length that the manifest states.
    #[error("{file} has {found} bytes, the manifest says {expected}")]
    Length { file: String, found: u64, expected: u64 },
    /// The manifest states more bytes of weights than its rows and shape can have.
    #[error("{file} cannot have {stated} bytes: {rows} rows of this shape take less than {most}")]
    Weights { file: &'static str, stated: u64, rows: u64, most: u64 },
    /// The weights have not the rows that the manifest states.
    #[error("the weights have {found} rows, the manifest says {expected}")]
    Rows { found: usize, expected: u64 },
    /// It does not remove as many ids as the manifest states.
    #[error("{DELTA} removes {found} ids, the manifest says {expected}")]
    Removed { found: usize, expected: u64 },
    /// The weights are not those that the manifest digests.
    #[error("the weights have digest {found}, the manifest says {expected}")]
    WeightsDigest { found: String, expected: String },
    /// A delta was given where a full version is needed.
    #[error("version {0} is a delta: it has weights on top of its parent's only")]
    IsDelta(u64),
    /// A full version was given where a delta is needed.
    #[error("version {0} is no delta")]
    IsFull(u64),
    /// It says of its place in a chain what its parent does not.
    #[error("it says that it is {found} deltas from its full version, by its parent it is {expected}")]
    Place { found: u32, expected: u32 },
    /// The delta cannot be read, or not be applied here.
    #[error(transparent)]
    Delta(#[from] DeltaError),
    /// There is no probe: nothing shows that the weights are scored as they were.
    #[error("{PROBES} is empty")]
    NoProbes,
    /// Its journal cannot be read.
    #[error(transparent)]
    Journal(#[from] JournalError),
    /// A file is not the one that the manifest digests.
    #[error("{file} has digest {found}, the manifest says {expected}")]
    Digest { file: String, found: String, expected: String },
    /// The weights cannot be used.
    #[error(transparent)]
    Servable(#[from] ServableError),
    /// The fields are not a model's.
    #[error(transparent)]
    Fields(#[from] FieldError),
    /// This program's encoder is not the version's.
    #[error("the version's {what} fingerprint is {found}, this program has {expected}")]
    Fingerprint { what: &'static str, found: String, expected: String },
    /// A probe does not encode.
    #[error("probe {number} does not encode")]
    ProbeFeatures { number: usize, source: Misfit },
    /// The weights have another precision than the manifest states.
    #[error("the weights are in {found:?}, the manifest says {expected:?}")]
    Precision { found: Precision, expected: Precision },
    /// Rounding has moved a probe's logit further than the manifest states.
    #[error("probe {number} gives logit {found}, {expected} before rounding: further than the bound of {bound}")]
    Rounding { number: usize, found: f64, expected: f64, bound: f64 },
    /// A probe's logit is not reproduced.
    #[error("probe {number} gives logit {found}, expected {expected}")]
    Probe { number: usize, found: f64, expected: f64 },
}

/// What a check of an artefact found.
#[derive(Debug)]
pub struct Verified {
    /// What the version says of itself.
    pub manifest: Manifest,
    /// SHA-256 of its manifest.
    pub digest: String,
    /// Its weights, ready to score.
    pub servable: Servable,
    /// Probes that were reproduced.
    pub probes: usize,
}

/// Reads a manifest, and checks that a version can say this of itself.
///
/// # Errors
/// When it is too long, does not decode, has another form, or something in it is out of its bounds.
pub fn read_manifest(bytes: &[u8]) -> Result<Manifest, ArtefactError> {
    if bytes.len() as u64 > MANIFEST_BYTES_MAX {
        return Err(ArtefactError::Long(bytes.len() as u64));
    }
    let decode = |source| ArtefactError::Decode { file: MANIFEST, source };
    // Another form may have other keys: it is refused by its number.
    let Form { format } = serde_json::from_slice(bytes).map_err(decode)?;
    if !(FORMAT_OLDEST..=FORMAT).contains(&format) {
        return Err(ArtefactError::Format(format));
    }
    let manifest: Manifest = serde_json::from_slice(bytes).map_err(decode)?;
    manifest.check()?;
    for name in [weights_file(manifest.kind), PROBES, JOURNAL] {
        if !manifest.files.contains_key(name) {
            return Err(ArtefactError::Missing(name.to_owned()));
        }
    }
    check_weights(&manifest)?;
    Ok(manifest)
}

#[derive(Deserialize)]
struct Form {
    format: u32,
}

/// The file that the weights of a kind of version are in.
pub fn weights_file(kind: Kind) -> &'static str {
    match kind {
        Kind::Full => MODEL,
        Kind::Delta => DELTA,
    }
}

/// Whether the weights can be as long as the manifest states: nobody makes room for more.
fn check_weights(manifest: &Manifest) -> Result<(), ArtefactError> {
    let file = weights_file(manifest.kind);
    let stated = manifest.files[file].bytes;
    let (rows, removed) = match &manifest.weights {
        Some(weights) => (weights.rows, weights.removed),
        None => (manifest.rows, 0),
    };
    let params = manifest.architecture.params(manifest.fields.len());
    let row = 8 + 4 * (1 + params.embedding_dim as u128);
    let removed = 8 * u128::from(removed);
    let most =
        u128::from(rows) * row + removed + 4 * (1 + Architecture::new(&params).mlp.len as u128) + HEADER_BYTES_MAX;
    let most = u64::try_from(most).unwrap_or(u64::MAX);
    if stated <= most { Ok(()) } else { Err(ArtefactError::Weights { file, stated, rows, most }) }
}

/// Checks a full version from its files: digests, tensors, fingerprints, probes, journal. Files that the manifest does not
/// name are not looked at. The rows of what is given stay in the bytes of its file.
///
/// # Errors
/// What is wrong first; a delta, which [`link::verify`](super::link::verify) checks.
pub fn verify<B>(files: &BTreeMap<String, B>) -> Result<Verified, ArtefactError>
where
    B: AsRef<[u8]> + Clone + Into<Bytes>,
{
    let Checked { manifest, digest, fields } = check_files(files)?;
    if manifest.kind == Kind::Delta {
        return Err(ArtefactError::IsDelta(manifest.version));
    }
    let servable = read_weights(&manifest, &files[MODEL].clone().into())?;
    let rounding = manifest.weights.as_ref().map_or(0.0, |weights| weights.rounding);
    let probes = check_probes(fields, files[PROBES].as_ref(), rounding, by(&servable))?;
    Ok(Verified { manifest, digest, servable, probes })
}

/// What a check of the files found, before the weights are looked at.
pub(super) struct Checked {
    pub(super) manifest: Manifest,
    pub(super) digest: String,
    pub(super) fields: FieldSet,
}

/// Checks all that does not depend on the kind of the version: that every file is there and the one that the manifest
/// digests, the fingerprints, the journal.
pub(super) fn check_files<B: AsRef<[u8]>>(files: &BTreeMap<String, B>) -> Result<Checked, ArtefactError> {
    let given = |name: &str| files.get(name).ok_or_else(|| ArtefactError::Missing(name.to_owned()));
    let file = |name: &str| given(name).map(AsRef::as_ref);
    let bytes = file(MANIFEST)?;
    let manifest = read_manifest(bytes)?;
    for name in manifest.files.keys() {
        check_file(&manifest, name, file(name)?)?;
    }
    let fields = check_fingerprints(&manifest)?;
    read_journal(file(JOURNAL)?)?;
    Ok(Checked { digest: sha256(bytes), manifest, fields })
}

/// The fields of a version, if it names its fields and the scheme of ids as this program does.
///
/// # Errors
/// When it does not, or they are no fields.
pub fn check_fingerprints(manifest: &Manifest) -> Result<FieldSet, ArtefactError> {
    let fields = FieldSet::new(manifest.fields.clone())?;
    let own = [("fields", &manifest.fingerprints.fields, fields.fingerprint())];
    let hashing = [("hashing", &manifest.fingerprints.hashing, HASHING.to_owned())];
    for (what, found, expected) in own.into_iter().chain(hashing) {
        if *found != expected {
            return Err(ArtefactError::Fingerprint { what, found: found.clone(), expected });
        }
    }
    Ok(fields)
}

/// The weights of a full version: of the shape, the rows, the precision and the digest that its manifest states.
///
/// # Errors
/// When they are not, or cannot be used.
pub fn read_weights(manifest: &Manifest, model: &Bytes) -> Result<Servable, ArtefactError> {
    let servable = Servable::from_bytes(model, manifest.fields.len(), &manifest.architecture)?;
    if servable.rows() as u64 != manifest.rows {
        return Err(ArtefactError::Rows { found: servable.rows(), expected: manifest.rows });
    }
    let stated = manifest.weights.as_ref();
    check_precision(servable.precision(), stated.map_or(Precision::F32, |weights| weights.precision))?;
    if let Some(WeightsNote { digest: expected, .. }) = stated {
        let found = servable.digest();
        if found != *expected {
            let (found, expected) = (found.to_string(), expected.to_string());
            return Err(ArtefactError::WeightsDigest { found, expected });
        }
    }
    Ok(servable)
}

pub(super) fn check_precision(found: Precision, expected: Precision) -> Result<(), ArtefactError> {
    if found == expected { Ok(()) } else { Err(ArtefactError::Precision { found, expected }) }
}

/// Whether a file is the one that the manifest digests.
///
/// # Errors
/// When it is not, or the manifest does not name it.
pub fn check_file(manifest: &Manifest, name: &str, content: &[u8]) -> Result<(), ArtefactError> {
    let expected = manifest.files.get(name).ok_or_else(|| ArtefactError::Missing(name.to_owned()))?;
    let found = FileDigest::of(content);
    if found == *expected {
        return Ok(());
    }
    let (found, expected) = (found.sha256, expected.sha256.clone());
    Err(ArtefactError::Digest { file: name.to_owned(), found, expected })
}

/// By how much rounding has moved a logit, relative to 1 plus its size.
pub(super) fn rounding(rounded: f64, exact: f64) -> f64 {
    (rounded - exact).abs() / (1.0 + exact.abs())
}

/// How weights score a probe, by the code of training.
pub(super) fn by(servable: &Servable) -> impl FnMut(&Encoder, &Encoding) -> f64 {
    |encoder, encoding| servable.logits(&[encoder.features(encoding)])[0]
}

/// Whether every probe's logit is reproduced by who scores, and rounding has moved none further than stated; how many there are.
///
/// # Errors
/// When there is none, one does not decode or encode, a logit is another, or was moved too far.
pub fn check_probes(
    fields: FieldSet,
    lines: &[u8],
    rounding_max: f64,
    mut score: impl FnMut(&Encoder, &Encoding) -> f64,
) -> Result<usize, ArtefactError> {
    let encoder = Encoder::new(fields, PROBE_BOUNDS);
    let mut encoding = Encoding::default();
    let mut number = 0;
    for line in lines.split(|byte| *byte == b'\n').filter(|line| !line.is_empty()) {
        let probe: Probe =
            serde_json::from_slice(line).map_err(|source| ArtefactError::Decode { file: PROBES, source })?;
        encoder
            .encode_into(probe.features.get().as_bytes(), &mut encoding)
            .map_err(|source| ArtefactError::ProbeFeatures { number, source })?;
        let found = score(&encoder, &encoding);
        let bound = PROBE_TOLERANCE * (1.0 + probe.logit.abs());
        if found.is_nan() || (found - probe.logit).abs() > bound {
            return Err(ArtefactError::Probe { number, found, expected: probe.logit });
        }
        let apart = probe.exact.map_or(0.0, |exact| rounding(probe.logit, exact));
        if apart.is_nan() || apart > rounding_max {
            let expected = probe.exact.unwrap_or(probe.logit);
            return Err(ArtefactError::Rounding { number, found, expected, bound: rounding_max });
        }
        number += 1;
    }
    if number == 0 { Err(ArtefactError::NoProbes) } else { Ok(number) }
}

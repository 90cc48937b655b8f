//! The files of a version, as bytes: made from a trainer, and read back with every check.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use super::bytes::Bytes;
use super::journal::{JOURNAL, JournalError, read_journal};
use super::manifest::{
    FORMAT, FileDigest, Fingerprints, Kind, MANIFEST_BYTES_MAX, Manifest, ManifestError, ParentVersion, Shape, sha256,
};
use super::names;
use super::safetensors;
use super::servable::{Servable, ServableError};
use crate::feature::encoder::{Encoder, EntryBounds, Misfit};
use crate::feature::field::{FieldError, FieldSet};
use crate::feature::id::HASHING;
use crate::model::batch::Architecture;
use crate::stream::JournalEntry;
use crate::train::{StateDigest, Trainer};

/// The weights.
pub const MODEL: &str = "model.safetensors";
/// What the version says of itself.
pub const MANIFEST: &str = "manifest.json";
/// Raw feature rows with expected logits.
pub const PROBES: &str = "probes.jsonl";

/// How far a server's logit may be from a probe's, relative to 1 plus its size: rounding between CPU types.
pub const PROBE_TOLERANCE: f64 = 1e-4;

/// What a probe may hold: more than any configuration lets in.
const PROBE_BOUNDS: EntryBounds = EntryBounds { features_max: 1 << 20, weight_max: 1e12 };

/// Bytes that the names, shapes and padding of the weights take at most.
const HEADER_BYTES_MAX: u128 = 1 << 16;

/// A probe: raw features, and the logit that every copy of the version must give.
#[derive(Debug, Serialize, Deserialize)]
pub struct Probe {
    /// The features object of an impression.
    pub features: Box<RawValue>,
    /// The expected logit.
    pub logit: f64,
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
    #[error("the artefact has format {0}, this program reads {FORMAT}")]
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
    #[error("{MODEL} cannot have {stated} bytes: {rows} rows of this shape take less than {most}")]
    Weights { stated: u64, rows: u64, most: u64 },
    /// The weights have not the rows that the manifest states.
    #[error("{MODEL} has {found} rows, the manifest says {expected}")]
    Rows { found: usize, expected: u64 },
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
    /// A probe's logit is not reproduced.
    #[error("probe {number} gives logit {found}, expected {expected}")]
    Probe { number: usize, found: f64, expected: f64 },
}

/// What a version is cut with, beside the trainer.
#[derive(Clone, Debug)]
pub struct Cut<'a> {
    /// Name of the model.
    pub model: &'a str,
    /// Its number.
    pub version: u64,
    /// What its state descends from.
    pub parent: Option<ParentVersion>,
    /// When, RFC 3339.
    pub created_at: String,
    /// The state.
    pub state_digest: StateDigest,
    /// The journal since the parent.
    pub journal: &'a [JournalEntry],
    /// Raw feature rows for probes, as JSON objects.
    pub probes: Vec<String>,
    /// The fields.
    pub fields: &'a FieldSet,
    /// Fingerprint of the configuration.
    pub configuration: String,
}

/// The files of a version, by name, and its manifest.
#[derive(Clone, Debug)]
pub struct Artefact {
    /// What the version says of itself.
    pub manifest: Manifest,
    /// SHA-256 of `manifest.json`.
    pub digest: String,
    /// Every file, `manifest.json` among them.
    pub files: BTreeMap<String, Vec<u8>>,
}

/// A version as it was cut between two records, as a copy: learning goes on while it is encoded.
#[derive(Debug)]
pub struct VersionCut {
    servable: Servable,
    /// Whole, but for its files.
    manifest: Manifest,
    fields: FieldSet,
    probes: Vec<String>,
    journal: Vec<JournalEntry>,
}

impl VersionCut {
    /// Cuts a version from a trainer as it stands.
    pub fn of(trainer: &Trainer, cut: Cut<'_>) -> Self {
        let params = trainer.params();
        let servable = Servable::unsorted(trainer.model(), params.logit_offset());
        let report = |report| serde_json::to_value(report).expect("a report always encodes");
        let manifest = Manifest {
            format: FORMAT,
            model: cut.model.to_owned(),
            version: cut.version,
            kind: Kind::Full,
            parent: cut.parent,
            created_at: cut.created_at,
            records: trainer.released(),
            positions: trainer.positions().iter().map(|(partition, next)| (partition.to_string(), *next)).collect(),
            watermark: trainer.join().watermark(),
            learned: trainer.learned(),
            rows: servable.rows() as u64,
            state_digest: cut.state_digest.to_string(),
            metrics: BTreeMap::from([
                ("lifetime".to_owned(), report(trainer.windows().lifetime().report())),
                ("window".to_owned(), report(trainer.windows().latest().report())),
            ]),
            fingerprints: Fingerprints {
                fields: cut.fields.fingerprint(),
                hashing: HASHING.to_owned(),
                configuration: cut.configuration,
            },
            fields: cut.fields.as_slice().to_vec(),
            architecture: Shape {
                embedding_dim: params.model.embedding_dim,
                parts: params.model.parts,
                mlp: params.model.mlp.clone(),
                logit_offset: params.logit_offset(),
            },
            files: BTreeMap::new(),
        };
        Self { servable, manifest, fields: cut.fields.clone(), probes: cut.probes, journal: cut.journal.to_vec() }
    }

    /// Examples learned when it was cut.
    pub fn learned(&self) -> u64 {
        self.manifest.learned
    }

    /// Whether every weight is finite.
    pub fn is_finite(&self) -> bool {
        self.servable.is_finite()
    }

    /// The journal since its parent.
    pub fn journal(&self) -> &[JournalEntry] {
        &self.journal
    }

    /// The files of the version.
    pub fn encode(self) -> Artefact {
        let Self { servable, manifest, fields, probes, journal } = self;
        let servable = servable.sorted();
        let mut files = BTreeMap::from([
            (MODEL.to_owned(), safetensors::write(&servable.tensors())),
            (PROBES.to_owned(), probe_lines(&servable, fields, &probes)),
            (JOURNAL.to_owned(), json_lines(&journal)),
        ]);
        drop(servable);
        let digests = files.iter().map(|(name, content)| (name.clone(), FileDigest::of(content))).collect();
        let manifest = Manifest { files: digests, ..manifest };
        let bytes = manifest.to_bytes();
        let digest = sha256(&bytes);
        files.insert(MANIFEST.to_owned(), bytes);
        Artefact { manifest, digest, files }
    }
}

impl Artefact {
    /// The name of its directory.
    pub fn directory(&self) -> String {
        names::directory(self.manifest.version, &self.digest)
    }
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
    if format != FORMAT {
        return Err(ArtefactError::Format(format));
    }
    let manifest: Manifest = serde_json::from_slice(bytes).map_err(decode)?;
    manifest.check()?;
    for name in [MODEL, PROBES, JOURNAL] {
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

/// Whether the weights can be as long as the manifest states: nobody makes room for more.
fn check_weights(manifest: &Manifest) -> Result<(), ArtefactError> {
    let (stated, rows) = (manifest.files[MODEL].bytes, manifest.rows);
    let params = manifest.architecture.params(manifest.fields.len());
    let row = 8 + 4 * (1 + params.embedding_dim as u128);
    let most = u128::from(rows) * row + 4 * (1 + Architecture::new(&params).mlp.len as u128) + HEADER_BYTES_MAX;
    let most = u64::try_from(most).unwrap_or(u64::MAX);
    if stated <= most { Ok(()) } else { Err(ArtefactError::Weights { stated, rows, most }) }
}

/// Checks an artefact from its files: digests, tensors, fingerprints, probes, journal. Files that the manifest does not
/// name are not looked at. The rows of what is given stay in the bytes of its file.
///
/// # Errors
/// What is wrong first.
pub fn verify<B>(files: &BTreeMap<String, B>) -> Result<Verified, ArtefactError>
where
    B: AsRef<[u8]> + Clone + Into<Bytes>,
{
    let given = |name: &str| files.get(name).ok_or_else(|| ArtefactError::Missing(name.to_owned()));
    let file = |name: &str| given(name).map(AsRef::as_ref);
    let bytes = file(MANIFEST)?;
    let manifest = read_manifest(bytes)?;
    for name in manifest.files.keys() {
        check_file(&manifest, name, file(name)?)?;
    }
    let fields = FieldSet::new(manifest.fields.clone())?;
    let own = [("fields", &manifest.fingerprints.fields, fields.fingerprint())];
    let hashing = [("hashing", &manifest.fingerprints.hashing, HASHING.to_owned())];
    for (what, found, expected) in own.into_iter().chain(hashing) {
        if *found != expected {
            return Err(ArtefactError::Fingerprint { what, found: found.clone(), expected });
        }
    }
    let servable = Servable::from_bytes(&given(MODEL)?.clone().into(), fields.len(), &manifest.architecture)?;
    if servable.rows() as u64 != manifest.rows {
        return Err(ArtefactError::Rows { found: servable.rows(), expected: manifest.rows });
    }
    let probes = check_probes(&servable, fields, file(PROBES)?)?;
    read_journal(file(JOURNAL)?)?;
    Ok(Verified { digest: sha256(bytes), manifest, servable, probes })
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

fn check_probes(servable: &Servable, fields: FieldSet, lines: &[u8]) -> Result<usize, ArtefactError> {
    let encoder = Encoder::new(fields, PROBE_BOUNDS);
    let mut number = 0;
    for line in lines.split(|byte| *byte == b'\n').filter(|line| !line.is_empty()) {
        let probe: Probe =
            serde_json::from_slice(line).map_err(|source| ArtefactError::Decode { file: PROBES, source })?;
        let features = encoder
            .encode_json(probe.features.get())
            .map_err(|source| ArtefactError::ProbeFeatures { number, source })?;
        let found = servable.logits(&[features])[0];
        let bound = PROBE_TOLERANCE * (1.0 + probe.logit.abs());
        if found.is_nan() || (found - probe.logit).abs() > bound {
            return Err(ArtefactError::Probe { number, found, expected: probe.logit });
        }
        number += 1;
    }
    if number == 0 { Err(ArtefactError::NoProbes) } else { Ok(number) }
}

/// The rows that encode, each with its logit. The empty row is always there: it shows the bias.
fn probe_lines(servable: &Servable, fields: FieldSet, rows: &[String]) -> Vec<u8> {
    let encoder = Encoder::new(fields, PROBE_BOUNDS);
    let rows = std::iter::once("{}").chain(rows.iter().map(String::as_str));
    let probe = |row: &str| {
        let features = encoder.encode_json(row).ok()?;
        let logit = servable.logits(&[features])[0];
        let features = RawValue::from_string(row.to_owned()).ok()?;
        logit.is_finite().then_some(Probe { features, logit })
    };
    json_lines(&rows.filter_map(probe).collect::<Vec<_>>())
}

fn json_lines<T: Serialize>(values: &[T]) -> Vec<u8> {
    let mut lines = Vec::new();
    for value in values {
        serde_json::to_writer(&mut lines, value).expect("plain values always encode");
        lines.push(b'\n');
    }
    lines
}

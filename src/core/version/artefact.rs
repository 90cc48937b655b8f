//! The files of a version, as bytes, made from a trainer; [`reading`](super::reading) is the way back.

use std::collections::BTreeMap;

use serde::Serialize;
use serde_json::value::RawValue;

use super::delta::{DELTA, Delta};
use super::journal::JOURNAL;
use super::manifest::{FORMAT, FileDigest, Fingerprints, Kind, Manifest, ParentVersion, Shape, WeightsNote, sha256};
use super::names;
use super::reading::{PROBE_BOUNDS, rounding};
use super::safetensors;
use super::servable::Servable;
use crate::feature::Features;
use crate::feature::encoder::Encoder;
use crate::feature::field::FieldSet;
use crate::feature::id::HASHING;
use crate::model::Executor;
use crate::model::table::Changes;
use crate::model::weights::{Precision, WeightsDigest};
use crate::stream::JournalEntry;
use crate::train::{StateDigest, Trainer};

pub use super::reading::{
    ArtefactError, MANIFEST, MODEL, PROBE_TOLERANCE, PROBES, Probe, Verified, check_file, check_fingerprints,
    check_probes, read_manifest, read_weights, verify, weights_file,
};

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
    /// What the next version can be a delta on.
    pub base: Base,
}

/// A version that the next one can be a delta on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Base {
    /// Which it is.
    pub version: ParentVersion,
    /// Deltas since the last full version.
    pub chain: u32,
    /// In how many bits the weights of its rows are.
    pub precision: Precision,
    /// Whether its weights are finite: servers refuse it otherwise, and what stands on it.
    pub is_finite: bool,
    /// Digest of its weights.
    digest: WeightsDigest,
    /// What bias and MLP add to that.
    dense: u128,
}

/// The weights of a version that is cut.
#[derive(Debug)]
enum CutWeights {
    /// As they were learned, and the precision in which they are served.
    Full(Box<Servable>, Precision),
    Delta(Box<CutDelta>),
}

#[derive(Debug)]
struct CutDelta {
    delta: Delta,
    /// What scores the probes.
    sample: Servable,
    /// What all rows add to the digest of the weights.
    rows_sum: u128,
    chain: u32,
}

/// A version as it was cut between two records, as a copy: learning goes on while it is encoded.
#[derive(Debug)]
pub struct VersionCut {
    weights: CutWeights,
    /// Whole, but for its weights and files.
    manifest: Manifest,
    fields: FieldSet,
    probes: Vec<String>,
    journal: Vec<JournalEntry>,
}

impl VersionCut {
    /// Cuts a full version from a trainer as it stands.
    pub fn of<E: Executor>(trainer: &Trainer<E>, cut: Cut<'_>) -> Self {
        let servable = Servable::unsorted(trainer.model(), trainer.params().logit_offset());
        Self::with(trainer, cut, Kind::Full, CutWeights::Full(Box::new(servable), Precision::F32))
    }

    /// A full version in another precision.
    #[must_use]
    pub fn in_precision(self, precision: Precision) -> Self {
        let weights = match self.weights {
            CutWeights::Full(servable, _) => CutWeights::Full(servable, precision),
            delta @ CutWeights::Delta(_) => delta,
        };
        Self { weights, ..self }
    }

    /// The same, held back from going live for this reason, if there is one.
    #[must_use]
    pub fn held(self, held: Option<String>) -> Self {
        Self { manifest: Manifest { held, ..self.manifest }, ..self }
    }

    /// Cuts a delta from a trainer as it stands, from what has changed since the version that is its base, and its parent.
    pub fn delta<E: Executor>(trainer: &Trainer<E>, cut: Cut<'_>, base: &Base, changes: Changes) -> Self {
        let (model, offset) = (trainer.model(), trainer.params().logit_offset());
        let before = base.digest.0.wrapping_sub(base.dense);
        let weights = CutWeights::Delta(Box::new(CutDelta {
            sample: Servable::sample(model, offset, &probed(cut.fields, &cut.probes)),
            rows_sum: before.wrapping_sub(changes.left).wrapping_add(changes.entered),
            chain: base.chain + 1,
            delta: Delta::of(model, offset, base.precision, changes),
        }));
        let cut = Cut { parent: Some(base.version.clone()), ..cut };
        Self::with(trainer, cut, Kind::Delta, weights)
    }

    fn with<E: Executor>(trainer: &Trainer<E>, cut: Cut<'_>, kind: Kind, weights: CutWeights) -> Self {
        let params = trainer.params();
        let report = |report| serde_json::to_value(report).expect("a report always encodes");
        let manifest = Manifest {
            format: FORMAT,
            model: cut.model.to_owned(),
            version: cut.version,
            kind,
            parent: cut.parent,
            created_at: cut.created_at,
            records: trainer.released(),
            positions: trainer.positions().iter().map(|(partition, next)| (partition.to_string(), *next)).collect(),
            watermark: trainer.join().watermark(),
            learned: trainer.learned(),
            rows: trainer.model().row_count() as u64,
            weights: None,
            held: None,
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
        Self { weights, manifest, fields: cut.fields.clone(), probes: cut.probes, journal: cut.journal.to_vec() }
    }

    /// Examples learned when it was cut.
    pub fn learned(&self) -> u64 {
        self.manifest.learned
    }

    /// Whether every weight that is in it is finite.
    pub fn is_finite(&self) -> bool {
        match &self.weights {
            CutWeights::Full(servable, _) => servable.is_finite(),
            CutWeights::Delta(cut) => cut.delta.is_finite(),
        }
    }

    /// The journal since its parent.
    pub fn journal(&self) -> &[JournalEntry] {
        &self.journal
    }

    /// The files of the version.
    pub fn encode(self) -> Artefact {
        let is_finite = self.is_finite();
        let Self { weights, manifest, fields, probes, journal } = self;
        let Encoded { file, bytes, probes, weights, dense } = weights.encode(fields, &probes);
        let WeightsNote { digest, chain, precision, .. } = weights;
        let mut files = BTreeMap::from([
            (file.to_owned(), bytes),
            (PROBES.to_owned(), probes),
            (JOURNAL.to_owned(), json_lines(&journal)),
        ]);
        let digests = files.iter().map(|(name, content)| (name.clone(), FileDigest::of(content))).collect();
        let manifest = Manifest { files: digests, weights: Some(weights), ..manifest };
        let bytes = manifest.to_bytes();
        let manifest_digest = sha256(&bytes);
        files.insert(MANIFEST.to_owned(), bytes);
        let version = ParentVersion { version: manifest.version, manifest_digest: manifest_digest.clone() };
        let base = Base { version, chain, precision, is_finite, digest, dense };
        Artefact { manifest, digest: manifest_digest, files, base }
    }
}

/// Weights as they are written.
struct Encoded {
    file: &'static str,
    bytes: Vec<u8>,
    probes: Vec<u8>,
    weights: WeightsNote,
    /// What bias and MLP add to the digest.
    dense: u128,
}

impl CutWeights {
    fn encode(self, fields: FieldSet, rows: &[String]) -> Encoded {
        let probes = |exact: &Servable, served: &Servable| probe_lines(exact, served, fields, rows);
        match self {
            Self::Full(servable, precision) => {
                let exact = (*servable).sorted();
                let (rows, removed, chain) = (exact.rows() as u64, 0, 0);
                let (probes, served, rounding) = if precision == Precision::F32 {
                    let (probes, rounding) = probes(&exact, &exact);
                    (probes, exact, rounding)
                } else {
                    let served = exact.rounded(precision);
                    let (probes, rounding) = probes(&exact, &served);
                    (probes, served, rounding)
                };
                let (digest, dense) = (served.digest(), served.dense_hash());
                let weights = WeightsNote { digest, chain, rows, removed, precision, rounding };
                Encoded { file: MODEL, bytes: safetensors::write(&served.tensors()), probes, weights, dense }
            }
            Self::Delta(cut) => {
                let CutDelta { delta, sample, rows_sum, chain } = *cut;
                let delta = delta.sorted();
                let precision = delta.precision();
                let served = sample.rounded(precision);
                let (probes, rounding) = probes(&sample, &served);
                let dense = sample.dense_hash();
                let digest = WeightsDigest(rows_sum.wrapping_add(dense));
                let (rows, removed) = (delta.changed() as u64, delta.removed() as u64);
                let weights = WeightsNote { digest, chain, rows, removed, precision, rounding };
                Encoded { file: DELTA, bytes: safetensors::write(&delta.tensors()), probes, weights, dense }
            }
        }
    }
}

impl Artefact {
    /// The name of its directory.
    pub fn directory(&self) -> String {
        names::directory(self.manifest.version, &self.digest)
    }
}

/// The rows that encode, each with its logit by the served weights, and where these are rounded by those of before; and the most
/// by which rounding has moved one. The empty row is always there: it shows the bias.
fn probe_lines(exact: &Servable, served: &Servable, fields: FieldSet, rows: &[String]) -> (Vec<u8>, f64) {
    let encoder = Encoder::new(fields, PROBE_BOUNDS);
    let rows = std::iter::once("{}").chain(rows.iter().map(String::as_str));
    let is_rounded = served.precision() != Precision::F32;
    let probe = |row: &str| {
        let features = [encoder.encode_json(row).ok()?];
        let logit = served.logits(&features)[0];
        let exact = is_rounded.then(|| exact.logits(&features)[0]);
        let features = RawValue::from_string(row.to_owned()).ok()?;
        let is_finite = logit.is_finite() && exact.is_none_or(f64::is_finite);
        is_finite.then_some(Probe { features, logit, exact })
    };
    let probes: Vec<Probe> = rows.filter_map(probe).collect();
    let moved = probes.iter().filter_map(|probe| Some(rounding(probe.logit, probe.exact?)));
    let largest = moved.fold(0.0, f64::max);
    (json_lines(&probes), largest)
}

/// The features of the rows that are probes.
fn probed(fields: &FieldSet, rows: &[String]) -> Vec<Features> {
    let encoder = Encoder::new(fields.clone(), PROBE_BOUNDS);
    rows.iter().filter_map(|row| encoder.encode_json(row).ok()).collect()
}

fn json_lines<T: Serialize>(values: &[T]) -> Vec<u8> {
    let mut lines = Vec::new();
    for value in values {
        serde_json::to_writer(&mut lines, value).expect("plain values always encode");
        lines.push(b'\n');
    }
    lines
}

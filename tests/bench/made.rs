//! A version of made-up weights: 20 fields, and as many values of each as there are rows for.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use deepfm_core::feature::encoder::Encoder;
use deepfm_core::feature::field::{Field, FieldKind, FieldSet};
use deepfm_core::feature::hash::uniform_weight;
use deepfm_core::feature::id::feature_id;
use deepfm_core::version::artefact::{MANIFEST, MODEL, PROBES};
use deepfm_core::version::bytes::Bytes;
use deepfm_core::version::journal::JOURNAL;
use deepfm_core::version::manifest::{FileDigest, Manifest, sha256};
use deepfm_core::version::names;
use deepfm_core::version::safetensors::{self, Tensor};
use deepfm_core::version::servable::Servable;
use deepfm_stream::serve::FollowOptions;

/// Fields of the model.
pub(crate) const FIELDS: usize = 20;

/// Width of an embedding.
pub(crate) const DIM: usize = 10;

const LAYERS: [usize; 2] = [64, 32];

pub(crate) fn name(field: usize) -> String {
    format!("f{field}")
}

pub(crate) fn value(number: u64) -> String {
    format!("v{number}")
}

/// The ids of so many rows, ascending.
pub(crate) fn ids(rows: usize) -> Vec<u64> {
    let id = |row: u64| feature_id(&name(row as usize % FIELDS), value(row / FIELDS as u64).as_bytes());
    let mut ids: Vec<u64> = (0..rows as u64).map(id).collect();
    ids.sort_unstable();
    ids
}

/// A version of so many rows of made-up weights, without its manifest, and that.
pub(crate) fn version(rows: usize) -> (BTreeMap<String, Vec<u8>>, Manifest) {
    let fields: Vec<Field> =
        (0..FIELDS).map(|field| Field { name: name(field), kind: FieldKind::Categorical }).collect();
    let set = FieldSet::new(fields.clone()).expect("they are valid");
    let ids = ids(rows);
    let weights = |key: u64, count: usize| -> Vec<f32> {
        (0..count as u64).map(|lane| uniform_weight(1, key, lane, 0.1)).collect()
    };
    let (linear, embeddings) = (weights(1, rows), weights(2, rows * DIM));
    let widths = [FIELDS * DIM, LAYERS[0], LAYERS[1]];
    let layers: Vec<(Vec<f32>, Vec<f32>)> = widths
        .windows(2)
        .zip(3..)
        .map(|(pair, key)| (weights(key, pair[0] * pair[1]), weights(key + 100, pair[1])))
        .collect();
    let output = weights(9, LAYERS[1]);
    let mut tensors = vec![
        ("feature_ids".to_owned(), vec![rows], Tensor::U64(&ids)),
        ("linear".to_owned(), vec![rows], Tensor::F32(&linear)),
        ("embeddings".to_owned(), vec![rows, DIM], Tensor::F32(&embeddings)),
        ("bias".to_owned(), vec![1], Tensor::F32(&[-2.0])),
    ];
    for (number, (weight, bias)) in layers.iter().enumerate() {
        let shape = vec![widths[number + 1], widths[number]];
        tensors.push((format!("mlp.{number}.weight"), shape, Tensor::F32(weight)));
        tensors.push((format!("mlp.{number}.bias"), vec![widths[number + 1]], Tensor::F32(bias)));
    }
    tensors.push(("mlp.output".to_owned(), vec![LAYERS[1]], Tensor::F32(&output)));
    let model = safetensors::write(&tensors);
    let fixture = include_bytes!("../fixtures/formats/artefact-3/manifest.json");
    let mut manifest: Manifest = serde_json::from_slice(fixture).expect("it is a manifest");
    "bench".clone_into(&mut manifest.model);
    manifest.rows = rows as u64;
    manifest.fingerprints.fields = set.fingerprint();
    manifest.fields = fields;
    manifest.architecture.embedding_dim = DIM;
    manifest.architecture.mlp.layers = LAYERS.to_vec();
    manifest.architecture.mlp.dropout = Vec::new();
    let servable =
        Servable::from_bytes(&Bytes::from(model.clone()), FIELDS, &manifest.architecture).expect("it is whole");
    let note = manifest.weights.as_mut().expect("it is of this format");
    (note.digest, note.rows) = (servable.digest(), rows as u64);
    let encoder = Encoder::new(set, FollowOptions::new("bench").bounds);
    let logit = servable.logits(&[encoder.encode_json("{}").expect("it is valid")])[0];
    let probes = format!("{{\"features\":{{}},\"logit\":{logit}}}\n");
    let files = [(MODEL, model), (PROBES, probes.into_bytes()), (JOURNAL, Vec::new())];
    (files.map(|(name, content)| (name.to_owned(), content)).into(), manifest)
}

/// Shows a version of this number; its weights are those of `of`, if there are some.
pub(crate) fn install(
    root: &Path,
    files: &BTreeMap<String, Vec<u8>>,
    manifest: &Manifest,
    of: Option<&Path>,
    number: u64,
) -> PathBuf {
    let digests = files.iter().map(|(name, content)| (name.clone(), FileDigest::of(content))).collect();
    let bytes = Manifest { version: number, files: digests, ..manifest.clone() }.to_bytes();
    let staged = root.join(".staged");
    fs::create_dir_all(&staged).expect("the disk takes it");
    for (name, content) in files {
        match of {
            Some(of) => fs::hard_link(of.join(name), staged.join(name)).expect("it is on the same disk"),
            None => fs::write(staged.join(name), content).expect("the disk takes it"),
        }
    }
    fs::write(staged.join(MANIFEST), &bytes).expect("the disk takes it");
    let place = root.join(names::directory(number, &sha256(&bytes)));
    fs::rename(&staged, &place).expect("it is ours");
    place
}

//! Serving in process: look-ups, rankings, and reloads of a version of a million rows while rankings go on. Needs no feature:
//! `cargo bench --bench serving --no-default-features`.
//!
//! A ranking has 10 fields of context, and 100 candidates of 10 fields: 16 KB of JSON. All of it runs on one core beside the thread
//! that follows versions.

use std::collections::BTreeMap;
use std::fs;
use std::hint::black_box;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use deepfm_core::feature::encoder::Encoder;
use deepfm_core::feature::field::{Field, FieldKind, FieldSet};
use deepfm_core::feature::hash::{mix64, uniform_weight};
use deepfm_core::feature::id::feature_id;
use deepfm_core::version::artefact::{MANIFEST, MODEL, PROBES};
use deepfm_core::version::bytes::Bytes;
use deepfm_core::version::journal::JOURNAL;
use deepfm_core::version::manifest::{FileDigest, Manifest, sha256};
use deepfm_core::version::names;
use deepfm_core::version::row_index::RowIndex;
use deepfm_core::version::safetensors::{self, Tensor};
use deepfm_core::version::servable::Servable;
use deepfm_stream::serve::{FollowOptions, Server, Target};

const FIELDS: usize = 20;
const CONTEXT_FIELDS: usize = 10;
const CANDIDATES: usize = 100;
const ROWS: usize = 1_000_000;
const VALUES: u64 = (ROWS / FIELDS) as u64;
const DIM: usize = 10;
const LAYERS: [usize; 2] = [64, 32];
const REQUESTS: usize = 20_000;
const RELOAD: Duration = Duration::from_millis(500);

fn name(field: usize) -> String {
    format!("f{field}")
}

fn value(number: u64) -> String {
    format!("v{number}")
}

/// A version of a million rows of made-up weights, without its manifest, and that.
fn version() -> (BTreeMap<String, Vec<u8>>, Manifest) {
    let fields: Vec<Field> =
        (0..FIELDS).map(|field| Field { name: name(field), kind: FieldKind::Categorical }).collect();
    let set = FieldSet::new(fields.clone()).expect("they are valid");
    let id = |row: u64| feature_id(&name(row as usize % FIELDS), value(row / FIELDS as u64).as_bytes());
    let mut ids: Vec<u64> = (0..ROWS as u64).map(id).collect();
    ids.sort_unstable();
    let weights = |key: u64, count: usize| -> Vec<f32> {
        (0..count as u64).map(|lane| uniform_weight(1, key, lane, 0.1)).collect()
    };
    let (linear, embeddings) = (weights(1, ROWS), weights(2, ROWS * DIM));
    let widths = [FIELDS * DIM, LAYERS[0], LAYERS[1]];
    let layers: Vec<(Vec<f32>, Vec<f32>)> = widths
        .windows(2)
        .zip(3..)
        .map(|(pair, key)| (weights(key, pair[0] * pair[1]), weights(key + 100, pair[1])))
        .collect();
    let output = weights(9, LAYERS[1]);
    let mut tensors = vec![
        ("feature_ids".to_owned(), vec![ROWS], Tensor::U64(&ids)),
        ("linear".to_owned(), vec![ROWS], Tensor::F32(&linear)),
        ("embeddings".to_owned(), vec![ROWS, DIM], Tensor::F32(&embeddings)),
        ("bias".to_owned(), vec![1], Tensor::F32(&[-2.0])),
    ];
    for (number, (weight, bias)) in layers.iter().enumerate() {
        let shape = vec![widths[number + 1], widths[number]];
        tensors.push((format!("mlp.{number}.weight"), shape, Tensor::F32(weight)));
        tensors.push((format!("mlp.{number}.bias"), vec![widths[number + 1]], Tensor::F32(bias)));
    }
    tensors.push(("mlp.output".to_owned(), vec![LAYERS[1]], Tensor::F32(&output)));
    let model = safetensors::write(&tensors);
    let fixture = include_bytes!("../fixtures/formats/artefact-2/manifest.json");
    let mut manifest: Manifest = serde_json::from_slice(fixture).expect("it is a manifest");
    "bench".clone_into(&mut manifest.model);
    manifest.rows = ROWS as u64;
    manifest.fingerprints.fields = set.fingerprint();
    manifest.fields = fields;
    manifest.architecture.embedding_dim = DIM;
    manifest.architecture.mlp.layers = LAYERS.to_vec();
    manifest.architecture.mlp.dropout = Vec::new();
    let servable =
        Servable::from_bytes(&Bytes::from(model.clone()), FIELDS, &manifest.architecture).expect("it is whole");
    let encoder = Encoder::new(set, FollowOptions::new("bench").bounds);
    let logit = servable.logits(&[encoder.encode_json("{}").expect("it is valid")])[0];
    let probes = format!("{{\"features\":{{}},\"logit\":{logit}}}\n");
    look_ups(&ids);
    let files = [(MODEL, model), (PROBES, probes.into_bytes()), (JOURNAL, Vec::new())];
    (files.map(|(name, content)| (name.to_owned(), content)).into(), manifest)
}

/// Look-ups of ids of which four in five have a row.
fn look_ups(ids: &[u64]) {
    let start = Instant::now();
    let index = RowIndex::new(ids).expect("they are few");
    let built = start.elapsed();
    let asked: Vec<u64> =
        (0..1_000_000_u64).map(|n| if n % 5 == 0 { mix64(n) } else { ids[mix64(n) as usize % ids.len()] }).collect();
    let time = |find: &dyn Fn(u64) -> Option<usize>| {
        let best = (0..5).map(|_| {
            let start = Instant::now();
            black_box(asked.iter().filter_map(|id| find(*id)).sum::<usize>());
            start.elapsed()
        });
        best.min().unwrap_or_default().as_nanos() as f64 / asked.len() as f64
    };
    let (directory, binary) = (time(&|id| index.find(ids, id)), time(&|id| ids.binary_search(&id).ok()));
    println!("look-up among {} rows: {directory:.0} ns, binary search {binary:.0} ns", ids.len());
    println!("directory: {:.1} bytes a row, built in {built:.1?}", index.weight() as f64 / ids.len() as f64);
}

/// Shows a version of this number; its weights are those of `of`, if there are some.
fn install(
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

fn rankings() -> Vec<String> {
    let object = |fields: std::ops::Range<usize>, seed: u64| {
        let pair = |field: usize| format!("\"{}\":\"{}\"", name(field), value(mix64(seed + field as u64) % VALUES));
        format!("{{{}}}", fields.map(pair).collect::<Vec<_>>().join(","))
    };
    let ranking = |number: u64| {
        let candidates: Vec<String> = (0..CANDIDATES as u64)
            .map(|candidate| object(CONTEXT_FIELDS..FIELDS, number << 32 | candidate << 16))
            .collect();
        let context = object(0..CONTEXT_FIELDS, number << 32 | 1 << 31);
        format!("{{\"context\":{context},\"candidates\":[{}]}}", candidates.join(","))
    };
    (0..500).map(ranking).collect()
}

/// Ranks on and on; how many a second, and the 50th and 99th percentile.
fn rank(server: &Server, bodies: &[String], label: &str) -> Duration {
    let mut scorer = server.scorer();
    let mut times = Vec::with_capacity(REQUESTS);
    let start = Instant::now();
    for number in 0..REQUESTS {
        let begun = Instant::now();
        let ranked = scorer.rank_body(bodies[number % bodies.len()].as_bytes()).expect("it is valid");
        black_box(ranked.probabilities().sum::<f64>());
        times.push(begun.elapsed());
    }
    let rate = REQUESTS as f64 / start.elapsed().as_secs_f64();
    times.sort_unstable();
    let (p50, p99) = (times[REQUESTS / 2], times[REQUESTS * 99 / 100]);
    println!("rankings {label}: {rate:.0} a second, p50 {p50:.1?}, p99 {p99:.1?}");
    p99
}

fn main() {
    let (files, manifest) = version();
    let root = tempfile::tempdir().expect("a directory of our own");
    let first = install(root.path(), &files, &manifest, None, 1);
    let options = FollowOptions { target: Target::Latest, ..FollowOptions::new("bench") };
    let server = Server::follow_directory(root.path(), options).expect("it can be followed so");
    while server.model().is_none() {
        std::thread::park_timeout(Duration::from_millis(1));
    }
    let bodies = rankings();
    println!("a ranking has {} bytes", bodies[0].len());
    rank(&server, &bodies, "at first");
    let quiet = rank(&server, &bodies, "without reloads");
    let is_over = std::sync::atomic::AtomicBool::new(false);
    let mut loads = Vec::new();
    let busy = std::thread::scope(|scope| {
        let reloading = scope.spawn(|| {
            let mut number = 1;
            while !is_over.load(std::sync::atomic::Ordering::Acquire) {
                number += 1;
                let shown = Instant::now();
                install(root.path(), &files, &manifest, Some(&first), number);
                while server.status().serving != Some(number) {
                    std::thread::park_timeout(Duration::from_millis(1));
                }
                loads.push(shown.elapsed());
                std::thread::park_timeout(RELOAD);
            }
        });
        let busy = rank(&server, &bodies, "with reloads");
        is_over.store(true, std::sync::atomic::Ordering::Release);
        reloading.join().expect("they are loaded");
        busy
    });
    loads.sort_unstable();
    let (half, most) = (loads[loads.len() / 2], loads[loads.len() - 1]);
    println!("{} reloads, shown to serving: half within {half:.0?}, all within {most:.0?}", loads.len());
    println!("p99 with reloads over without: {:.2}", busy.as_secs_f64() / quiet.as_secs_f64());
}

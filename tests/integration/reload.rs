//! Versions that are followed, loaded and swapped in while requests are scored: by the library, without a server.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use deepfm_core::event::DETAIL_CHARS_MAX;
use deepfm_core::event::options::EventOptions;
use deepfm_core::feature::encoder::Encoder;
use deepfm_core::feature::field::FieldSet;
use deepfm_core::model::weights::Precision;
use deepfm_core::version::alias::{Act, Alias, LIVE};
use deepfm_core::version::announcement::Announcement;
use deepfm_core::version::artefact::{self, Artefact, MANIFEST, MODEL, PROBES, Verified};
use deepfm_core::version::bytes::Bytes;
use deepfm_core::version::delta::DELTA;
use deepfm_core::version::journal::JOURNAL;
use deepfm_core::version::link;
use deepfm_core::version::manifest::sha256;
use deepfm_core::version::names;
use deepfm_core::version::servable::Servable;
use deepfm_stream::publish::topic::{Announcer, Record, TopicError};
use deepfm_stream::serve::{
    FollowError, FollowOptions, LoadStage, Required, RowPlace, ScoreError, Server, Target, VersionState,
};
use serde_json::{Value, json};

use super::deltas::chain;
use super::hostile::forged;
use super::versions::{artefact, learned};
use crate::support::broker;
use crate::support::counting::allocations;
use crate::support::{rounds, wait_for};

/// The files of a version.
pub(super) type VersionFiles = BTreeMap<String, Vec<u8>>;

/// How far a score may be from the oracle's, relative to 1 plus its size: sums run in another order. Versions are further apart.
pub(super) const ROUNDING: f64 = 1e-5;

/// Rows as requests have them.
pub(super) const ROWS: [&str; 6] = [
    r#"{"user":"u1","tags":["a1","b2"]}"#,
    r#"{"user":"u6","tags":{"a0":0.5,"b1":-2}}"#,
    r#"{"user":"unseen","tags":["b4"]}"#,
    r#"{"tags":["a2","a2","b0","nothing"]}"#,
    r#"{"user":"u3"}"#,
    "{}",
];

/// Another number for a version, and a bias by which its scores are told from those of every other.
pub(super) fn numbered(base: &VersionFiles, version: u64) -> VersionFiles {
    let mut files = base.clone();
    let model = files.get_mut(MODEL).expect("it is there");
    let header_len = usize::try_from(u64::from_le_bytes(model[..8].try_into().expect("eight bytes"))).expect("short");
    let header: Value = serde_json::from_slice(&model[8..8 + header_len]).expect("it is JSON");
    let start = header["bias"]["data_offsets"][0].as_u64().expect("a number") as usize + 8 + header_len;
    let before = f32::from_le_bytes(model[start..start + 4].try_into().expect("four bytes"));
    let bias = before + (version % 1000) as f32 * 0.01;
    model[start..start + 4].copy_from_slice(&bias.to_le_bytes());
    let moved = f64::from(bias) - f64::from(before);
    let probes: Vec<String> = String::from_utf8_lossy(&files[PROBES])
        .lines()
        .map(|line| {
            let mut probe: Value = serde_json::from_str(line).expect("it is JSON");
            probe["logit"] = json!(probe["logit"].as_f64().expect("a number") + moved);
            format!("{probe}\n")
        })
        .collect();
    files.insert(PROBES.to_owned(), probes.concat().into_bytes());
    reforged(files, |manifest| manifest["version"] = json!(version))
}

/// A version whose manifest is right again for its files, the digest of its weights included, and then altered.
fn reforged(files: VersionFiles, alter: impl FnOnce(&mut Value)) -> VersionFiles {
    let manifest = artefact::read_manifest(&files[MANIFEST]).expect("it is valid");
    let model = Bytes::from(files[MODEL].clone());
    let weights = Servable::from_bytes(&model, manifest.fields.len(), &manifest.architecture).expect("they are whole");
    let digest = weights.digest();
    forged(files, |manifest| {
        manifest["weights"]["digest"] = json!(digest);
        alter(manifest);
    })
}

/// Shows a version to servers in one step, in a directory of this name.
pub(super) fn install_as(root: &Path, name: &str, files: &VersionFiles) -> PathBuf {
    let staged = root.join(format!(".staged-{name}"));
    fs::create_dir_all(&staged).expect("the disk takes it");
    for (file, content) in files {
        fs::write(staged.join(file), content).expect("the disk takes it");
    }
    let place = root.join(name);
    fs::rename(&staged, &place).expect("it is ours");
    place
}

/// The name that a version's directory has.
pub(super) fn name_of(files: &VersionFiles) -> String {
    let manifest: Value = serde_json::from_slice(&files[MANIFEST]).expect("it is JSON");
    names::directory(manifest["version"].as_u64().expect("a number"), &sha256(&files[MANIFEST]))
}

pub(super) fn install(root: &Path, files: &VersionFiles) -> PathBuf {
    install_as(root, &name_of(files), files)
}

/// What a version must score, by the code of training.
pub(super) struct Oracle {
    verified: Verified,
    encoder: Encoder,
}

impl Oracle {
    pub(super) fn of(files: &VersionFiles) -> Self {
        let files: BTreeMap<String, Bytes> =
            files.iter().map(|(name, content)| (name.clone(), Bytes::from(content.clone()))).collect();
        let verified = deepfm_core::version::artefact::verify(&files).expect("it is whole");
        let fields = FieldSet::new(verified.manifest.fields.clone()).expect("they are valid");
        Self { verified, encoder: Encoder::new(fields, EventOptions::default().bounds()) }
    }

    pub(super) fn logit(&self, row: &str) -> f64 {
        self.verified.servable.logits(&[self.encoder.encode_json(row).expect("it is valid")])[0]
    }

    pub(super) fn logits(&self) -> Vec<f64> {
        ROWS.iter().map(|row| self.logit(row)).collect()
    }
}

#[track_caller]
fn assert_near(found: f64, expected: f64, what: &str) {
    assert!((found - expected).abs() <= ROUNDING * (1.0 + expected.abs()), "{what}: {found}, expected {expected}");
}

fn options(target: Target) -> FollowOptions {
    FollowOptions { target, poll: Duration::from_millis(5), ..FollowOptions::new("ctr") }
}

fn follow(root: &Path) -> Server {
    Server::follow_directory(root, options(Target::Latest)).expect("a directory can be followed so")
}

pub(super) fn wait_for_version(server: &Server, version: u64) {
    wait_for(&format!("version {version} served: {:?}", server.status()), || {
        (server.status().serving == Some(version)).then_some(())
    });
}

fn state(server: &Server, directory: &str) -> Option<VersionState> {
    let versions = server.status().versions;
    versions.into_iter().find(|version| version.directory == directory).map(|version| version.state)
}

pub(super) fn wait_for_failure(server: &Server, directory: &str) -> (LoadStage, String) {
    wait_for(&format!("{directory} refused"), || match state(server, directory)? {
        VersionState::Failed { stage, reason } => Some((stage, reason)),
        _ => None,
    })
}

#[test]
fn scores_and_rankings_of_a_loaded_version_are_the_oracles() {
    let shapes = [
        "[join]\nattribution_window_seconds = 1\n",
        "[join]\nattribution_window_seconds = 1\n[model]\nparts = \"linear\"\n",
        "[join]\nattribution_window_seconds = 1\n[model]\nparts = \"fm\"\nembedding_dim = 3\ninit_scale = 0.5\n",
        "[join]\nattribution_window_seconds = 1\n[model]\nembedding_dim = 3\ninit_scale = 0.5\n\
         [model.mlp]\nlayers = [7, 5, 3]\nactivation = \"tanh\"\n",
        "[join]\nattribution_window_seconds = 1\n[model]\ninit_scale = 0.5\n[model.mlp]\nlayers = [16]\n\
         activation = \"leaky_relu\"\n[training]\nnegative_sampling_rate = 0.5\n",
    ];
    for shape in shapes {
        let text = format!(
            "[[fields]]\nname = \"user\"\nkind = \"categorical\"\n[[fields]]\nname = \"tags\"\nkind = \"multi\"\n\
             [[fields]]\nname = \"price\"\nkind = \"numeric\"\n{shape}"
        );
        let config = deepfm_stream::config::Config::parse(&text, "test", []).expect("it is valid");
        let row = |n: u64| format!(r#"{{"user":"u{}","tags":["a{}","b{}"],"price":{}}}"#, n % 7, n % 3, n % 5, n % 11);
        let files = learned(&config, 1, row, &[]).files;
        let root = tempfile::tempdir().expect("a directory of our own");
        install(root.path(), &files);
        let (server, oracle) = (follow(root.path()), Oracle::of(&files));
        wait_for_version(&server, 1);
        let mut scorer = server.scorer();
        let scores = scorer.score(ROWS.map(str::as_bytes)).expect("they are valid");
        assert_eq!((scores.version(), scores.logits.len(), scores.unknown_fields), (1, ROWS.len(), 0));
        for ((found, expected), row) in scores.logits.iter().zip(oracle.logits()).zip(ROWS) {
            assert_near(*found, expected, &format!("{shape} {row}"));
        }
        // The context's fields once, in each of the ways in which fields can be shared out.
        let parts = [r#""user":"u1""#, r#""tags":["a1","b3"]"#, r#""price":7"#];
        for shared in 0..8_u32 {
            let choose = |wanted: u32| {
                let chosen = (0..3_usize).filter(|part| (shared >> part) & 1 == wanted).map(|part| parts[part]);
                format!("{{{}}}", chosen.collect::<Vec<_>>().join(","))
            };
            let (context, candidate) = (choose(1), choose(0));
            let both = [candidate.as_bytes(), b"{}"];
            let ranked = scorer.rank(context.as_bytes(), both).expect("they are valid");
            let whole = format!("{{{}}}", parts.join(","));
            assert_near(ranked.logits[0], oracle.logit(&whole), &format!("{shape} {context}"));
            assert_near(ranked.logits[1], oracle.logit(&context), &format!("{shape} {context}"));
            for body in [
                format!(r#"{{"context":{context},"candidates":[{candidate},{{}}]}}"#),
                format!(r#"{{"other":[1,{{}}],"candidates":[{candidate},{{}}],"context":{context}}}"#),
            ] {
                let read = scorer.rank_body(body.as_bytes()).expect("it is valid").logits.to_vec();
                let ranked = scorer.rank(context.as_bytes(), both).expect("they are valid");
                assert_eq!(read, ranked.logits, "{body}");
            }
        }
    }
}

#[test]
fn a_request_that_does_not_fit_has_its_error_and_the_next_one_its_scores() {
    let (root, files) = (tempfile::tempdir().expect("a directory of our own"), numbered(&artefact(1, 0).files, 1));
    let limits = FollowOptions { rows_max: 3, ..options(Target::Latest) };
    let server = Server::follow_directory(root.path(), limits).expect("it can be followed so");
    let mut scorer = server.scorer();
    assert_eq!(scorer.score([&b"{}"[..]]).err(), Some(ScoreError::NoVersion));
    install(root.path(), &files);
    wait_for_version(&server, 1);
    let said = |error: Option<ScoreError>| error.map(|error| error.to_string()).unwrap_or_default();
    for (row, reason) in [
        (&b"{"[..], "row 0: EOF"),
        (b"[]", "row 0: invalid type"),
        (b"{} x", "row 0: trailing"),
        (b"\xff\xfe", "row 0: expected value"),
        (br#"{"user":["a"]}"#, "row 0: features.user: expected one string"),
        (br#"{"user":"a","user":"b"}"#, "row 0: features.user is there twice"),
        (br#"{"tags":{"a":1e300}}"#, "a weight of 1e300"),
        (br#"{"tags":{"a":NaN}}"#, "row 0: expected value"),
    ] {
        let error = said(scorer.score([row]).err());
        assert!(error.contains(reason), "{error}, not {reason}");
    }
    for (body, reason) in [
        ("", "EOF"),
        ("[]", "invalid type: sequence"),
        (r#"{"context":{}}"#, "there are no candidates"),
        (r#"{"candidates":[]}"#, "there is no context"),
        (r#"{"context":{},"context":{},"candidates":[]}"#, "context is there twice"),
        (r#"{"context":{},"candidates":[],"candidates":[]}"#, "candidates are there twice"),
        (r#"{"context":{},"candidates":[{},{"user":{}}]}"#, "candidate 1: features.user: expected"),
        (r#"{"context":{"user":[]},"candidates":[]}"#, "context: features.user: expected"),
        (r#"{"context":{},"candidates":[{},{},{},{}]}"#, "more than 3 rows"),
        (r#"{"candidates":[{},{},{},{}],"context":{}}"#, "more than 3 rows"),
        (
            r#"{"context":{"user":"a"},"candidates":[{},{"user":"b"}]}"#,
            "field \"user\" is in the context and in candidate 1",
        ),
        (r#"{"context":{},"candidates":[{}]} "#, ""),
        (r#"{"context":{},"candidates":[{},{},{}]}"#, ""),
        (r#"{"context":{},"candidates":[]}"#, ""),
    ] {
        let error = said(scorer.rank_body(body.as_bytes()).err());
        assert!(error.contains(reason) && error.is_empty() == reason.is_empty(), "{body}: {error}, not {reason}");
    }
    assert_eq!(scorer.score([&b"{}"[..]; 4]).err(), Some(ScoreError::TooManyRows(3)));
    let unknown = scorer.score([&br#"{"colour":"red","size":{"x":[1]}}"#[..]]).expect("it is a row").unknown_fields;
    assert_eq!(unknown, 2);
    let logits = scorer.score([ROWS[0].as_bytes()]).expect("it is valid").logits.to_vec();
    assert_near(logits[0], Oracle::of(&files).logit(ROWS[0]), "after all that");
    assert_eq!(RowPlace::Candidate(2).to_string(), "candidate 2");
}

#[test]
fn scoring_allocates_nothing_after_the_first_request_of_its_size() {
    let (root, files) = (tempfile::tempdir().expect("a directory of our own"), artefact(1, 0).files);
    install(root.path(), &files);
    let server = follow(root.path());
    wait_for_version(&server, 1);
    let mut scorer = server.scorer();
    let body =
        format!(r#"{{"context":{{"user":"u1"}},"candidates":[{}]}}"#, [r#"{"tags":["a1","b2"]}"#; 100].join(","));
    let once = |scorer: &mut deepfm_stream::serve::Scorer| {
        let sum: f64 = scorer.score(ROWS.map(str::as_bytes)).expect("they are valid").logits.iter().sum();
        let ranked = scorer.rank_body(body.as_bytes()).expect("it is valid");
        sum + ranked.probabilities().sum::<f64>()
    };
    let (warm_up, first) = allocations(|| once(&mut scorer));
    let (after, second) = allocations(|| (0..10).map(|_| once(&mut scorer)).fold(f64::MIN, f64::max));
    assert!(warm_up > 0, "what is allocated is counted");
    assert_eq!((after, second), (0, first));
}

/// Ways in which a version can be broken, each with where it must be refused, and a piece of why.
const BROKEN: [(&str, LoadStage, &str); 13] = [
    ("truncated", LoadStage::Verifying, "model.safetensors: it has"),
    ("bit-flipped", LoadStage::Verifying, "model.safetensors has digest"),
    ("swapped files", LoadStage::Verifying, "model.safetensors has digest"),
    ("wrong shape", LoadStage::Verifying, "tensor"),
    ("wrong fields", LoadStage::Verifying, "fields fingerprint"),
    ("future format", LoadStage::Verifying, "has format 99"),
    ("wrong digest", LoadStage::Verifying, "was announced"),
    ("other scores", LoadStage::Probing, "probe 0 gives logit"),
    ("other weights", LoadStage::Verifying, "the weights have digest"),
    ("not finite", LoadStage::Verifying, "not finite"),
    ("missing file", LoadStage::Fetching, "probes.jsonl: it is missing"),
    ("other model", LoadStage::Verifying, "a version of model \"other\""),
    ("not a manifest", LoadStage::Verifying, "manifest.json does not decode"),
];

/// A version broken in one of these ways, and the name of its directory.
pub(super) fn broken(base: &VersionFiles, version: u64, way: &str) -> (String, VersionFiles) {
    let mut files = numbered(base, version);
    let model = files[MODEL].clone();
    let with_model = |files: &mut VersionFiles, model: Vec<u8>| files.insert(MODEL.to_owned(), model);
    match way {
        "truncated" => {
            with_model(&mut files, model[..model.len() - 4].to_vec());
        }
        "bit-flipped" => {
            let mut model = model;
            let at = model.len() / 2;
            model[at] ^= 1;
            with_model(&mut files, model);
        }
        "swapped files" => {
            with_model(&mut files, numbered(base, version + 1)[MODEL].clone());
        }
        "wrong shape" => files = forged(files, |manifest| manifest["architecture"]["embedding_dim"] = json!(9)),
        "wrong fields" => files = forged(files, |manifest| manifest["fields"][0]["name"] = json!("visitor")),
        "future format" => files = forged(files, |manifest| manifest["format"] = json!(99)),
        "wrong digest" => return (names::directory(version, &"0".repeat(64)), files),
        "other scores" => {
            with_model(&mut files, numbered(base, version + 1)[MODEL].clone());
            files = reforged(files, |_| ());
        }
        "other weights" => {
            with_model(&mut files, numbered(base, version + 1)[MODEL].clone());
            files = forged(files, |_| ());
        }
        "not finite" => {
            let mut model = model;
            let at = model.len() - 4;
            model[at..].copy_from_slice(&f32::NAN.to_le_bytes());
            with_model(&mut files, model);
            files = forged(files, |_| ());
        }
        "missing file" => {
            files.remove(PROBES);
        }
        "other model" => files = forged(files, |manifest| manifest["model"] = json!("other")),
        "not a manifest" => {
            files.insert(MANIFEST.to_owned(), b"{\"format\":".to_vec());
            return (names::directory(version, &sha256(&files[MANIFEST])), files);
        }
        other => panic!("{other}"),
    }
    (name_of(&files), files)
}

/// One of the ways, by turns.
pub(super) fn way(number: u64) -> &'static str {
    BROKEN[number as usize % BROKEN.len()].0
}

#[test]
fn reload_refuses_every_kind_of_broken_version_with_stage_and_reason_and_serves_the_one_before() {
    let (root, base) = (tempfile::tempdir().expect("a directory of our own"), artefact(1, 0).files);
    install(root.path(), &numbered(&base, 1));
    let server = follow(root.path());
    wait_for_version(&server, 1);
    let mut scorer = server.scorer();
    for (number, (way, stage, reason)) in (2..).step_by(2).zip(BROKEN) {
        let (name, files) = broken(&base, number, way);
        install_as(root.path(), &name, &files);
        let (failed_at, why) = wait_for_failure(&server, &name);
        assert!(failed_at == stage && why.contains(reason), "{way}: {failed_at}: {why}");
        assert_eq!(scorer.score([ROWS[0].as_bytes()]).expect("it is served").version(), number - 1, "{way}");
        // The next good one is served all the same.
        install(root.path(), &numbered(&base, number + 1));
        wait_for_version(&server, number + 1);
        assert_eq!(scorer.score([ROWS[0].as_bytes()]).expect("it is served").version(), number + 1);
    }
    let failures: u64 = server.status().failures.values().sum();
    assert!(failures >= BROKEN.len() as u64, "{:?}", server.status().failures);
    // Mended in place it is served: its files have changed.
    let (name, files) = broken(&base, 100, "bit-flipped");
    let place = install_as(root.path(), &name, &files);
    wait_for_failure(&server, &name);
    fs::write(place.join(MODEL), &numbered(&base, 100)[MODEL]).expect("the disk takes it");
    wait_for_version(&server, 100);
    // And one that comes in file by file, when its last file is there.
    let whole = numbered(&base, 101);
    let place = root.path().join(name_of(&whole));
    fs::create_dir(&place).expect("the disk takes it");
    for (file, content) in &whole {
        fs::write(place.join(file), content).expect("the disk takes it");
        wait_for("a look at it", || state(&server, &name_of(&whole)));
    }
    wait_for_version(&server, 101);
}

#[test]
fn reload_comes_to_an_end_with_a_hundred_broken_versions_and_hears_of_a_good_one() {
    let (root, base) = (tempfile::tempdir().expect("a directory of our own"), artefact(1, 0).files);
    for version in 1..=100 {
        let (name, files) = broken(&base, version, "not a manifest");
        install_as(root.path(), &name, &files);
    }
    let server = follow(root.path());
    wait_for("most of them to be refused", || (server.status().failures.values().sum::<u64>() >= 32).then_some(()));
    install(root.path(), &numbered(&base, 101));
    wait_for_version(&server, 101);
    let failures: u64 = server.status().failures.values().sum();
    assert!(failures <= 100, "none is tried again: {failures}");
}

/// A version that says something else of itself.
fn restated(files: &VersionFiles, alter: impl FnOnce(&mut Value)) -> VersionFiles {
    let mut manifest: Value = serde_json::from_slice(&files[MANIFEST]).expect("it is JSON");
    alter(&mut manifest);
    let mut files = files.clone();
    files.insert(MANIFEST.to_owned(), serde_json::to_vec(&manifest).expect("plain data"));
    files
}

#[test]
fn reload_passes_over_what_the_gate_held_back_unless_it_is_pinned() {
    let (root, base) = (tempfile::tempdir().expect("a directory of our own"), artefact(1, 0).files);
    install(root.path(), &numbered(&base, 1));
    // Its words may be anybody's.
    let words = format!("\u{1b}[31mcalibration is 3.2{}", "!".repeat(10_000));
    let held = restated(&numbered(&base, 2), |manifest| manifest["held"] = json!(words));
    install(root.path(), &held);
    let server = follow(root.path());
    let (stage, reason) = wait_for_failure(&server, &name_of(&held));
    assert!(stage == LoadStage::Verifying && reason.contains("held back by the gate"), "{stage}: {reason}");
    // An ellipsis says that it was cut.
    assert!(reason.chars().count() <= DETAIL_CHARS_MAX + 1 && !reason.contains('\u{1b}'), "{reason}");
    wait_for_version(&server, 1);
    let pinned = Server::follow_directory(root.path(), options(Target::Pinned(2))).expect("it can be followed so");
    wait_for_version(&pinned, 2);
}

#[test]
fn reload_reads_what_it_uses_and_no_more_than_a_bound() {
    let (root, base) = (tempfile::tempdir().expect("a directory of our own"), artefact(1, 0).files);
    let mut lean = restated(&numbered(&base, 1), |manifest| {
        manifest["files"]["notes.txt"] = json!({"bytes": 1_u64 << 50, "sha256": "0".repeat(64)});
    });
    lean.remove(JOURNAL);
    install(root.path(), &lean);
    let server = follow(root.path());
    wait_for_version(&server, 1);
    let long = restated(&numbered(&base, 2), |manifest| manifest["files"][PROBES]["bytes"] = json!(1_u64 << 30));
    install(root.path(), &long);
    let (stage, reason) = wait_for_failure(&server, &name_of(&long));
    assert!(stage == LoadStage::Verifying && reason.contains("beside the weights have 1073741824 bytes"), "{reason}");
}

#[test]
fn reload_tries_a_delta_again_when_what_it_stands_on_is_mended() {
    let [base, first, second] = chain(Precision::F32);
    let root = tempfile::tempdir().expect("a directory of our own");
    install(root.path(), &base.files);
    let mut damaged = first.files.clone();
    let last = damaged.get_mut(DELTA).and_then(|delta| delta.last_mut()).expect("it has bytes");
    *last ^= 1;
    let place = install_as(root.path(), &first.directory(), &damaged);
    install(root.path(), &second.files);
    let server = follow(root.path());
    let (stage, reason) = wait_for_failure(&server, &second.directory());
    let on = format!("version {}, on which it stands: delta.safetensors has digest", first.manifest.version);
    assert!(stage == LoadStage::Verifying && reason.contains(&on), "{stage}: {reason}");
    wait_for_version(&server, base.manifest.version);
    fs::write(place.join(DELTA), &first.files[DELTA]).expect("the disk takes it");
    wait_for_version(&server, second.manifest.version);
    // One that counts its place in the chain otherwise than its parent does.
    let apart = tempfile::tempdir().expect("a directory of our own");
    install(apart.path(), &base.files);
    let miscounted = restated(&first.files, |manifest| manifest["weights"]["chain"] = json!(7));
    install(apart.path(), &miscounted);
    let (_, reason) = wait_for_failure(&follow(apart.path()), &name_of(&miscounted));
    assert!(reason.contains("it is 7 deltas from its full version, by its parent it is 1"), "{reason}");
}

#[test]
fn reload_serves_what_is_required_and_nothing_else_and_a_directory_has_no_aliases() {
    let (root, base) = (tempfile::tempdir().expect("a directory of our own"), artefact(1, 0).files);
    let name = name_of(&numbered(&base, 1));
    install(root.path(), &numbered(&base, 1));
    let manifest: Value = serde_json::from_slice(&base[MANIFEST]).expect("it is JSON");
    let fingerprint = |what: &str| manifest["fingerprints"][what].as_str().map(str::to_owned);
    let (fields, configuration) = (fingerprint("fields"), fingerprint("configuration"));
    let other = Some("0123456789abcdef".to_owned());
    for (required, what) in [
        (Required { fields: fields.clone(), configuration: configuration.clone() }, None),
        (Required { fields: other.clone(), configuration }, Some("fields")),
        (Required { fields, configuration: other }, Some("configuration")),
    ] {
        let options = FollowOptions { required, ..options(Target::Pinned(1)) };
        let server = Server::follow_directory(root.path(), options).expect("it can be followed so");
        let Some(what) = what else {
            wait_for_version(&server, 1);
            continue;
        };
        let (stage, reason) = wait_for_failure(&server, &name);
        assert!(stage == LoadStage::Verifying && reason.contains(&format!("{what} fingerprint")), "{reason}");
    }
    let refused = Server::follow_directory(root.path(), FollowOptions::new("ctr"));
    assert!(matches!(refused.err(), Some(FollowError::NoAliases(alias)) if alias == "live"));
}

#[test]
fn reload_refuses_a_second_directory_of_a_number_and_survives_that_all_of_them_vanish() {
    let (root, base) = (tempfile::tempdir().expect("a directory of our own"), artefact(1, 0).files);
    let versions = root.path().join("versions");
    let server = Server::follow_directory(&versions, options(Target::Latest)).expect("it can be followed so");
    wait_for("a word about the directory", || server.status().trouble);
    fs::create_dir(&versions).expect("the disk takes it");
    install(&versions, &numbered(&base, 1));
    wait_for_version(&server, 1);
    let zombie = forged(numbered(&base, 1), |manifest| manifest["created_at"] = json!("2020-01-01T00:00:00Z"));
    let zombie_name = name_of(&zombie);
    install(&versions, &zombie);
    let (stage, reason) = wait_for_failure(&server, &zombie_name);
    assert!(stage == LoadStage::Announced && reason.contains("2 directories"), "{reason}");
    fs::remove_dir_all(&versions).expect("it is ours");
    wait_for("a word about the directory", || server.status().trouble);
    let mut scorer = server.scorer();
    let logits = scorer.score(ROWS.map(str::as_bytes)).expect("it is served on").logits.to_vec();
    for (found, expected) in logits.iter().zip(Oracle::of(&numbered(&base, 1)).logits()) {
        assert_near(*found, expected, "what is mapped stays");
    }
    fs::create_dir(&versions).expect("the disk takes it");
    install(&versions, &numbered(&base, 2));
    wait_for_version(&server, 2);
}

#[test]
fn reload_frees_the_version_before_when_its_last_reader_has_let_go() {
    let (root, base) = (tempfile::tempdir().expect("a directory of our own"), artefact(1, 0).files);
    let first = numbered(&base, 1);
    install(root.path(), &first);
    let server = follow(root.path());
    wait_for_version(&server, 1);
    let mut idle = server.scorer();
    let held = std::sync::Arc::downgrade(idle.refresh().expect("it is served"));
    install(root.path(), &numbered(&base, 2));
    wait_for_version(&server, 2);
    wait_for("the first draining", || (state(&server, &name_of(&first)) == Some(VersionState::Draining)).then_some(()));
    assert!(held.upgrade().is_some(), "a scorer has it still");
    assert_eq!(idle.refresh().map(|model| model.version()), Some(2));
    wait_for("the first retired", || (state(&server, &name_of(&first)) == Some(VersionState::Retired)).then_some(()));
    assert!(held.upgrade().is_none());
}

#[test]
fn reload_while_threads_score_gives_every_request_one_version_and_never_goes_back() {
    let (root, base) = (tempfile::tempdir().expect("a directory of our own"), artefact(1, 0).files);
    let versions = rounds(40, 400) as u64;
    install(root.path(), &numbered(&base, 1));
    let server = follow(root.path());
    wait_for_version(&server, 1);
    let oracle = Oracle::of(&base).logits();
    let (is_over, start) = (AtomicBool::new(false), Instant::now());
    let read = || {
        let mut scorer = server.scorer();
        let (mut newest, mut seen, mut requests) = (0, 0_u64, 0_u64);
        while !is_over.load(Ordering::Acquire) {
            let scores = scorer.score(ROWS.map(str::as_bytes)).expect("one is served");
            let version = scores.version();
            assert!(version >= newest, "from {newest} back to {version}");
            seen += u64::from(version > newest);
            newest = version;
            for (found, base) in scores.logits.iter().zip(&oracle) {
                assert_near(*found, base + (version % 1000) as f64 * 0.01, &format!("version {version}"));
            }
            requests += 1;
        }
        (seen, requests)
    };
    std::thread::scope(|scope| {
        let readers = [scope.spawn(read), scope.spawn(read), scope.spawn(read)];
        let mut good = 1;
        for number in 2..=versions {
            if number % 10 == 0 {
                let (name, files) = broken(&base, number, way(number / 10));
                install_as(root.path(), &name, &files);
            } else {
                install(root.path(), &numbered(&base, number));
                good += 1;
                wait_for_version(&server, number);
            }
        }
        is_over.store(true, Ordering::Release);
        for reader in readers {
            let (seen, requests) = reader.join().expect("every score was right");
            println!("{seen} versions seen in {requests} requests in {:?}", start.elapsed());
            assert!(seen > 1 && requests > 1);
        }
        assert_eq!(server.status().loads, good);
    });
}

/// The record that announces a version, as a worker writes it, and the record that moves an alias to it.
pub(super) fn records(files: &VersionFiles, alter: impl FnOnce(&mut Value)) -> [Record; 2] {
    let manifest = artefact::read_manifest(&files[MANIFEST]).expect("it is valid");
    let whole = Artefact { manifest, digest: sha256(&files[MANIFEST]), files: files.clone(), ..artefact(1, 0) };
    let announcement = Announcement::of(&whole);
    let alias =
        Alias::moved(None, LIVE, &announcement, Act::new("worker", "it passed the gate", "2026-01-01T00:00:00Z"));
    let mut document = serde_json::to_value(&announcement).expect("plain data");
    alter(&mut document);
    let alias_record = Record::new(Alias::key("ctr", LIVE), serde_json::to_string(&alias).expect("plain data"));
    [Record::new(announcement.key(), document.to_string()), alias_record]
}

#[test]
fn reload_follows_the_topics_alias_forward_and_back_and_refuses_workers_that_were_fenced_off() {
    let name = "reload_follows_the_topics_alias_forward_and_back_and_refuses_workers_that_were_fenced_off";
    let Some(broker) = broker::real(name) else { return };
    let kafka = broker.kafka_with_topics("followed", 1);
    let (root, base) = (tempfile::tempdir().expect("a directory of our own"), artefact(1, 0).files);
    let epoch = |epoch: u64| move |document: &mut Value| document["epoch"] = json!(epoch);
    let first = Announcer::fence(&kafka, "ctr").expect("the broker is there");
    let write = |writer: &Announcer, records: &[Record]| writer.write(records).expect("the broker takes them");
    for version in [1, 2] {
        install(root.path(), &numbered(&base, version));
        write(&first, &records(&numbered(&base, version), epoch(1)));
    }
    let server = Server::follow_topic(&kafka, root.path(), options(Target::default())).expect("it can be followed so");
    let latest = Server::follow_topic(&kafka, root.path(), options(Target::Latest)).expect("it can be followed so");
    wait_for_version(&server, 2);
    wait_for_version(&latest, 2);
    assert_eq!((server.status().loads, latest.status().loads), (1, 1), "the one before was never loaded");

    // Another worker takes over. The first can say nothing more; what somebody else makes of its words is not believed.
    let second = Announcer::fence(&kafka, "ctr").expect("the broker is there");
    install(root.path(), &numbered(&base, 3));
    write(&second, &records(&numbered(&base, 3), epoch(2)));
    wait_for_version(&server, 3);
    let fenced = first.write(&records(&numbered(&base, 4), epoch(1)));
    assert!(matches!(fenced, Err(TopicError::Fenced { .. })), "{fenced:?}");
    let redated =
        |version| forged(numbered(&base, version), |manifest| manifest["created_at"] = json!("2020-01-01T00:00:00Z"));
    let (same_number, old_epoch) = (redated(3), numbered(&base, 5));
    let stranger = |document: &mut Value| {
        document["epoch"] = json!(2);
        document["parent"] = json!({"version": 3, "manifest_digest": "0".repeat(64)});
    };
    let wrong_parent = numbered(&base, 6);
    for (files, [record, alias]) in [
        (&same_number, records(&same_number, epoch(1))),
        (&old_epoch, records(&old_epoch, epoch(1))),
        (&wrong_parent, records(&wrong_parent, stranger)),
    ] {
        install(root.path(), files);
        write(&second, &[record, alias]);
        let (stage, reason) = wait_for_failure(&server, &name_of(files));
        assert_eq!(stage, LoadStage::Announced, "{reason}");
        assert_eq!(server.status().serving, Some(3));
    }
    assert_eq!(latest.status().serving, Some(3));

    // Back, and on; junk and removed versions are passed over.
    write(&second, &records(&numbered(&base, 1), epoch(1)));
    wait_for_version(&server, 1);
    assert_eq!(latest.status().serving, Some(3), "the newest goes forward only");
    write(&second, &[Record::new("ctr/v/9".to_owned(), "junk".to_owned())]);
    second.bury(&["ctr/v/2".to_owned(), "ctr/v/5".to_owned()]).expect("the broker takes them");
    // Announced before its files can be seen, as on a mount that lags.
    let late = numbered(&base, 8);
    write(&second, &records(&late, epoch(2)));
    let (stage, reason) = wait_for_failure(&server, &name_of(&late));
    assert!(stage == LoadStage::Fetching && reason.contains("missing"), "{stage}: {reason}");
    install(root.path(), &late);
    wait_for_version(&server, 8);
    wait_for_version(&latest, 8);
}

#[test]
fn reload_waits_for_a_versions_topic_that_is_not_there_yet() {
    let name = "reload_waits_for_a_versions_topic_that_is_not_there_yet";
    let Some(broker) = broker::real(name) else { return };
    let (kafka, base) = (broker.kafka("followed-later"), artefact(1, 0).files);
    let root = tempfile::tempdir().expect("a directory of our own");
    let server = Server::follow_topic(&kafka, root.path(), options(Target::default())).expect("it can be followed so");
    let trouble = wait_for("a word about the topic", || server.status().trouble);
    assert!(trouble.to_lowercase().contains("unknown"), "{trouble}");
    deepfm_stream::kafka::administration::apply(&kafka, 1, 1).expect("the broker makes topics");
    install(root.path(), &numbered(&base, 1));
    let writer = Announcer::fence(&kafka, "ctr").expect("the broker is there");
    writer.write(&records(&numbered(&base, 1), |_| ())).expect("the broker takes them");
    wait_for_version(&server, 1);
    assert_eq!(server.status().trouble, None);
}

#[test]
fn reload_applies_deltas_to_the_version_served_and_loads_what_they_stand_on_where_it_must() {
    for precision in [Precision::F32, Precision::F16] {
        let [base, first, second] = chain(precision);
        let (root, apart) = (tempfile::tempdir().expect("our own"), tempfile::tempdir().expect("our own"));
        install(root.path(), &base.files);
        let server = follow(root.path());
        wait_for_version(&server, base.manifest.version);
        // Without the one between it cannot be made: what is served is served on.
        install(root.path(), &second.files);
        let (stage, reason) = wait_for_failure(&server, &second.directory());
        assert!(stage == LoadStage::Fetching && reason.contains("manifest.json: it is missing"), "{stage}: {reason}");
        assert_eq!(server.status().serving, Some(base.manifest.version));
        install(root.path(), &first.files);
        wait_for_version(&server, second.manifest.version);
        // Step by step, and from nothing.
        for artefact in [&base, &first, &second] {
            install(apart.path(), &artefact.files);
        }
        let other = follow(apart.path());
        wait_for_version(&other, second.manifest.version);
        let stepwise = tempfile::tempdir().expect("our own");
        install(stepwise.path(), &base.files);
        let third = follow(stepwise.path());
        for artefact in [&base, &first, &second] {
            if !stepwise.path().join(artefact.directory()).exists() {
                install(stepwise.path(), &artefact.files);
            }
            wait_for_version(&third, artefact.manifest.version);
        }
        // The base is gone: the delta stands on what is served.
        assert_eq!(third.status().loads, 3);
        let whole = link_of(&second).apply(&link_of(&first).apply(&verified(&base)).expect("it stands on it"));
        let expected = whole.expect("it stands on it");
        for server in [&server, &other, &third] {
            let model = server.model().expect("it is served");
            assert_eq!(model.scoring().servable().digest(), expected.servable.digest());
            assert_eq!(model.scoring().servable().ids(), expected.servable.ids());
        }
    }
}

fn verified(artefact: &Artefact) -> Verified {
    artefact::verify(&artefact.files).expect("it is whole")
}

fn link_of(artefact: &Artefact) -> link::ChainLink {
    link::verify(&artefact.files).expect("it is a delta")
}

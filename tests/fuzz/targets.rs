//! What is fuzzed: each takes any bytes, says whether they were taken for what they should be, and panics if something of ours does,
//! or if what was taken is not what it says. The fuzzer calls them (`./dev fuzz`, with coverage to guide it), and tests call them with
//! the corpus that it found (`fuzzing`).

use std::sync::LazyLock;

use deepfm_core::version::alias::{Alias, Hold};
use deepfm_core::version::artefact::{check_fingerprints, read_manifest};
use deepfm_core::version::bytes::Bytes;
use deepfm_core::version::delta::{Delta, DeltaError, Digested};
use deepfm_core::version::journal::read_journal;
use deepfm_core::version::known::KnownVersions;
use deepfm_core::version::manifest::{Manifest, sha256};
use deepfm_core::version::names;
use deepfm_core::version::safetensors;
use deepfm_core::version::servable::Servable;
use deepfm_stream::serve::http::infer_body;
use deepfm_stream::serve::{FollowOptions, Scorer, Server, Target};
use serde_json::Value;

/// A target, by its name.
pub(crate) type FuzzTarget = (&'static str, fn(&[u8]) -> bool);

/// All of them.
pub(crate) const TARGETS: [FuzzTarget; 6] = [
    ("manifest", manifest),
    ("record", record),
    ("weights", weights),
    ("delta", delta),
    ("rank", rank),
    ("infer", infer),
];

/// `manifest.json`, or a journal. A manifest that is read is written as one that says the same.
pub(crate) fn manifest(data: &[u8]) -> bool {
    let _ = read_journal(data);
    let Ok(manifest) = read_manifest(data) else { return false };
    let again = read_manifest(&manifest.to_bytes()).expect("what is read can be written");
    assert_eq!(again.to_bytes(), manifest.to_bytes());
    let _ = check_fingerprints(&manifest);
    true
}

/// A record of the versions topic: a line with its key, then its payload. It counts under no other key.
pub(crate) fn record(data: &[u8]) -> bool {
    let end = data.iter().position(|byte| *byte == b'\n').unwrap_or(data.len());
    let (key, payload) = (&data[..end], data.get(end + 1..));
    let mut known = KnownVersions::default();
    if let Err(error) = known.take("clicks", key, payload) {
        assert!(!error.to_string().is_empty());
        assert!(known.announced.is_empty() && known.aliases.is_empty() && known.holds.is_empty());
        return false;
    }
    let key = String::from_utf8_lossy(key);
    for announcement in known.announced.values() {
        assert_eq!(announcement.key(), key);
        let again = known.clone().take("clicks", key.as_bytes(), Some(announcement.to_json().as_bytes()));
        again.expect("what is read can be written");
    }
    known.aliases.keys().for_each(|name| assert_eq!(Alias::key("clicks", name), key));
    known.holds.keys().for_each(|name| assert_eq!(Hold::key("clicks", name), key));
    let _ = (known.newest_good(), known.live_due(known.newest()), known.next_epoch());
    !(known.announced.is_empty() && known.aliases.is_empty() && known.holds.is_empty())
}

fn fixture(manifest: &[u8]) -> Manifest {
    read_manifest(manifest).expect("the fixture is whole")
}

/// `model.safetensors`, of the shape of the fixture. What is read is finite, and written as what has the same weights.
pub(crate) fn weights(data: &[u8]) -> bool {
    static VERSION: LazyLock<Manifest> =
        LazyLock::new(|| fixture(include_bytes!("../fixtures/formats/artefact-3/manifest.json")));
    let (fields, shape) = (VERSION.fields.len(), &VERSION.architecture);
    let Ok(servable) = Servable::from_bytes(&data.to_vec().into(), fields, shape) else { return false };
    assert!(servable.is_finite());
    let written = safetensors::write(&servable.tensors());
    let again = Servable::from_bytes(&written.into(), fields, shape).expect("what is read can be written");
    assert_eq!(again.digest(), servable.digest());
    true
}

/// `delta.safetensors`, of the shape of the fixture, applied to rows that it changes, removes, and leaves.
pub(crate) fn delta(data: &[u8]) -> bool {
    static VERSION: LazyLock<Manifest> =
        LazyLock::new(|| fixture(include_bytes!("../fixtures/formats/delta-3/manifest.json")));
    static PARENT: LazyLock<Servable> = LazyLock::new(|| {
        let rows: Bytes = include_bytes!("../fixtures/formats/delta-3/delta.safetensors").to_vec().into();
        Servable::from_bytes(&rows, VERSION.fields.len(), &VERSION.architecture).expect("the fixture is whole")
    });
    let bytes: Bytes = data.to_vec().into();
    let Ok(delta) = Delta::from_bytes(&bytes, VERSION.fields.len(), &VERSION.architecture) else { return false };
    let parent = Digested { weights: &PARENT, digest: PARENT.digest() };
    let found = match delta.apply(parent, parent.digest) {
        Ok(same) => same.digest().to_string(),
        Err(DeltaError::Digest { found, .. }) => found,
        Err(DeltaError::Shape) => return false,
        Err(other) => panic!("{other}"),
    };
    let stated = serde_json::from_value(Value::String(found)).expect("it is a digest");
    let applied = delta.apply(parent, stated).expect("it has the digest that was found");
    // The digest that is kept from what changed is that of all rows.
    assert_eq!(applied.digest(), stated);
    assert!(applied.ids().is_sorted() && applied.is_finite());
    assert!(applied.rows() <= PARENT.rows() + delta.changed());
    true
}

/// A scorer of the fixture's version.
fn scorer() -> Scorer {
    static SERVER: LazyLock<Server> = LazyLock::new(|| {
        let root = std::env::temp_dir().join(format!("deepfm-fuzz-{}", std::process::id()));
        let manifest = include_bytes!("../fixtures/formats/artefact-3/manifest.json");
        let version = root.join(names::directory(fixture(manifest).version, &sha256(manifest)));
        std::fs::create_dir_all(&version).expect("the disk takes it");
        let files: [(&str, &[u8]); 4] = [
            ("manifest.json", manifest),
            ("model.safetensors", include_bytes!("../fixtures/formats/artefact-3/model.safetensors")),
            ("probes.jsonl", include_bytes!("../fixtures/formats/artefact-3/probes.jsonl")),
            ("journal.jsonl", include_bytes!("../fixtures/formats/artefact-3/journal.jsonl")),
        ];
        for (name, content) in files {
            std::fs::write(version.join(name), content).expect("the disk takes it");
        }
        let options =
            FollowOptions { target: Target::Latest, rows_max: 100, ..FollowOptions::new(&fixture(manifest).model) };
        let server = Server::follow_directory(&root, options).expect("it can be followed so");
        for _ in 0..10_000 {
            if server.model().is_some() {
                break;
            }
            std::thread::park_timeout(std::time::Duration::from_millis(1));
        }
        assert!(server.model().is_some(), "{:?}", server.status());
        // It is mapped: nobody looks for its files again.
        std::fs::remove_dir_all(&root).expect("it is ours");
        server
    });
    SERVER.scorer()
}

thread_local! {
    static SCORER: std::cell::RefCell<Scorer> = std::cell::RefCell::new(scorer());
}

/// The body of a ranking: what has scores has one for each candidate, between 0 and 1.
pub(crate) fn rank(data: &[u8]) -> bool {
    SCORER.with_borrow_mut(|scorer| match scorer.rank_body(data) {
        Ok(ranked) => {
            // Texts that nobody asked for are passed over, whatever their letters; a whole reader refuses some of them.
            if let Ok(body) = serde_json::from_slice::<Value>(data) {
                assert_eq!(body["candidates"].as_array().map(Vec::len), Some(ranked.logits.len()));
            }
            assert!(ranked.probabilities().all(|score| (0.0..=1.0).contains(&score)));
            true
        }
        Err(error) => {
            assert!(!error.to_string().is_empty());
            false
        }
    })
}

/// The body of an inference: two bytes say how many bytes of it are JSON (all, where they are 0xffff), binary tensors follow.
pub(crate) fn infer(data: &[u8]) -> bool {
    let Some((length, body)) = data.split_first_chunk::<2>() else { return false };
    let length = Some(usize::from(u16::from_le_bytes(*length))).filter(|length| *length != 0xffff);
    SCORER.with_borrow_mut(|scorer| match infer_body(scorer, body, length) {
        Ok((json, binary)) => {
            let outputs = json["outputs"].as_array().expect("an answer has them");
            let stated = |output: &Value| output["parameters"]["binary_data_size"].as_u64().unwrap_or(0);
            assert_eq!(outputs.iter().map(stated).sum::<u64>(), binary.map_or(0, |binary| binary.len() as u64));
            for output in outputs {
                let count = output["shape"][0].as_u64();
                let data = output["data"].as_array();
                assert!(data.is_none_or(|data| Some(data.len() as u64) == count && data.iter().all(Value::is_number)));
            }
            true
        }
        Err(error) => {
            assert!(!error.to_string().is_empty());
            false
        }
    })
}

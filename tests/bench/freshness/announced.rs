//! From an announcement on the topic to a server answering with the version: full versions of a million rows, and deltas of 1 % of
//! them.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use deepfm_core::feature::hash::uniform_weight;
use deepfm_core::model::weights::WeightsDigest;
use deepfm_core::version::alias::{Act, Alias, LIVE};
use deepfm_core::version::announcement::Announcement;
use deepfm_core::version::artefact::{MANIFEST, MODEL};
use deepfm_core::version::bytes::Bytes;
use deepfm_core::version::delta::{DELTA, Delta, DeltaError, Digested};
use deepfm_core::version::manifest::{Kind, Manifest, ParentVersion, WeightsNote, sha256};
use deepfm_core::version::safetensors::{self, Tensor};
use deepfm_core::version::servable::Servable;
use deepfm_stream::config::kafka::Kafka;
use deepfm_stream::publish::topic::{self, Record};

use super::watch::{Announced, Answered, Log, answers, tail};
use crate::brokers::{configure, deepfm};
use crate::made::{self, DIM};
use crate::process::Process;

const ROWS: usize = 1_000_000;

/// How many of either kind are announced.
const VERSIONS: u64 = 30;

/// One row in so many changes.
const CHANGED: usize = 100;

/// Announces versions, and prints how long they took to be answered with.
pub(crate) fn measure(brokers: &str, place: &Path) {
    let versions = place.join("announced");
    let text = format!(
        "[kafka]\nbrokers = {brokers:?}\nimpressions_topic = \"bench-impressions\"\nclicks_topic = \"bench-clicks\"\n\
         versions_topic = \"bench-versions\"\ndead_letter_topic = \"bench-letters\"\n[model]\nname = \"bench\"\n\
         [versions]\ndir = \"{}\"\n[[fields]]\nname = \"f0\"\nkind = \"categorical\"\n",
        versions.display()
    );
    let (file, config) = configure(place, "announced", &text, 1);
    let (_server, address) = Process::serve(deepfm("serve", &file).args(["--listen", "127.0.0.1:0"]));
    let (fulls, deltas) = announce_all(&config.kafka, &versions.join("bench"), address);
    println!();
    crate::line(&format!("{ROWS} rows: announced to answered"), fulls.into_iter());
    crate::line(&format!("  a delta of {} of them: announced to answered", ROWS / CHANGED), deltas.into_iter());
}

/// The times of full versions, and of deltas.
fn announce_all(kafka: &Kafka, root: &Path, address: SocketAddr) -> (Vec<f64>, Vec<f64>) {
    std::fs::create_dir_all(root).expect("the disk takes it");
    let (files, manifest) = made::version(ROWS);
    let mut servable =
        Servable::from_bytes(&Bytes::from(files[MODEL].clone()), manifest.fields.len(), &manifest.architecture)
            .expect("it is whole");
    let (announced, answered, is_over) = (Log::default(), Log::default(), AtomicBool::new(false));
    std::thread::scope(|scope| {
        scope.spawn(|| tail(kafka, &announced, &is_over));
        scope.spawn(|| answers(address, &answered, &is_over));
        let took = |place: &Path| took(kafka, place, (&announced, &answered));
        let first = made::install(root, &files, &manifest, None, 1);
        took(&first);
        let mut newest = first.clone();
        let mut full = |number| {
            newest = made::install(root, &files, &manifest, Some(&first), number);
            took(&newest)
        };
        let fulls = (2..2 + VERSIONS).map(&mut full).collect();
        let deltas = (2 + VERSIONS..2 + 2 * VERSIONS).map(|number| {
            let (change, note) = delta(&mut servable, &manifest, number);
            let (parent, digest) = read(&newest);
            let mut files: BTreeMap<String, Vec<u8>> = files.clone();
            files.remove(MODEL);
            files.insert(DELTA.to_owned(), change);
            let chain = parent.weights.map_or(0, |weights| weights.chain) + 1;
            let manifest = Manifest {
                kind: Kind::Delta,
                parent: Some(ParentVersion { version: parent.version, manifest_digest: digest }),
                weights: Some(WeightsNote { chain, ..note }),
                ..manifest.clone()
            };
            newest = made::install(root, &files, &manifest, None, number);
            took(&newest)
        });
        let times = (fulls, deltas.collect());
        is_over.store(true, Ordering::Release);
        times
    })
}

fn read(place: &Path) -> (Manifest, String) {
    let bytes = std::fs::read(place.join(MANIFEST)).expect("it is there");
    (serde_json::from_slice(&bytes).expect("it is a manifest"), sha256(&bytes))
}

/// A change of 1 % of the rows, as a delta's file, and what its manifest says of it; the weights become the version's.
fn delta(servable: &mut Servable, manifest: &Manifest, number: u64) -> (Vec<u8>, WeightsNote) {
    let ids: Vec<u64> = servable.ids().iter().skip(number as usize).step_by(CHANGED).copied().collect();
    let weights = |key: u64, count: usize| -> Vec<f32> {
        (0..count as u64).map(|n| uniform_weight(number, key, n, 0.1)).collect()
    };
    let (linear, embeddings) = (weights(1, ids.len()), weights(2, ids.len() * DIM));
    let mut tensors = servable.tensors();
    tensors[0] = ("feature_ids".to_owned(), vec![ids.len()], Tensor::U64(&ids));
    for (name, shape, tensor) in &mut tensors {
        match name.as_str() {
            "linear" => (*shape, *tensor) = (vec![ids.len()], Tensor::F32(&linear)),
            "embeddings" => (*shape, *tensor) = (vec![ids.len(), DIM], Tensor::F32(&embeddings)),
            _ => {}
        }
    }
    tensors.insert(1, ("removed_ids".to_owned(), vec![0], Tensor::U64(&[])));
    let bytes = safetensors::write(&tensors);
    let delta = Delta::from_bytes(&bytes.clone().into(), manifest.fields.len(), &manifest.architecture);
    let delta = delta.expect("it is whole");
    let parent = Digested { weights: servable, digest: servable.digest() };
    let Err(DeltaError::Digest { found, .. }) = delta.apply(parent, WeightsDigest(0)) else {
        panic!("no weights have this digest");
    };
    let digest = found.parse().expect("it is a digest");
    let note = manifest.weights.clone().expect("it is of this format");
    let note = WeightsNote { digest, rows: ids.len() as u64, ..note };
    *servable = delta.apply(parent, digest).expect("it is the one that was found");
    (bytes, note)
}

/// Announces what is installed as `live`, and waits until it is answered with; how long that took from when it could be read.
fn took(kafka: &Kafka, place: &Path, (announced, answered): (&Log<Announced>, &Log<Answered>)) -> f64 {
    let (manifest, manifest_digest) = read(place);
    let number = manifest.version;
    let announcement = Announcement::of_manifest(manifest, manifest_digest);
    let alias = Alias::moved(None, LIVE, &announcement, Act::new("bench", "it is measured", "2026-01-01T00:00:00Z"));
    topic::write(kafka, &[Record::version(&announcement), Record::alias(&alias)]).expect("the broker takes them");
    for _ in 0..10_000 {
        let seen = announced.find(|version| version.number == number);
        let answer = answered.find(|answer| answer.version == number);
        if let (Some(seen), Some(answer)) = (seen, answer) {
            return answer.at - seen.at;
        }
        std::thread::park_timeout(Duration::from_millis(5));
    }
    panic!("version {number} was not served: see /status");
}

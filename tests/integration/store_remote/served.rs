//! A server that sees no directory of a worker's: it follows the topic, and fetches what is announced.

use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

use deepfm_core::model::weights::Precision;
use deepfm_core::version::artefact::{Artefact, MANIFEST, MODEL};
use deepfm_core::version::delta::DELTA;
use deepfm_stream::config::kafka::Kafka;
use deepfm_stream::publish::topic;
use deepfm_stream::serve::{FollowError, FollowOptions, LoadStage, RemoteOptions, Server, Target};
use serde_json::{Value, json};

use super::super::deltas::chain;
use super::super::reload::{ROWS, VersionFiles, name_of, numbered, records, wait_for_failure, wait_for_version};
use super::super::versions::artefact;
use super::{remote, upload};
use crate::support::broker;
use crate::support::s3::{self, Harm, S3};
use crate::support::wait_for;

/// A topic, storage, and a machine with nothing but a cache.
pub(super) struct Scene {
    pub(super) kafka: Kafka,
    pub(super) storage: S3,
    pub(super) root: tempfile::TempDir,
    machine: tempfile::TempDir,
}

impl Scene {
    pub(super) fn new(test: &str, topics: &str) -> Option<Self> {
        let kafka = broker::real(test)?.kafka_with_topics(topics, 1);
        let directory = || tempfile::tempdir().expect("a directory of our own");
        Some(Self { kafka, storage: S3::start(), root: directory(), machine: directory() })
    }

    pub(super) fn cache(&self) -> std::path::PathBuf {
        self.machine.path().join("cache")
    }

    pub(super) fn options(&self) -> FollowOptions {
        let remote = RemoteOptions::new(self.storage.storage(self.root.path()), self.cache());
        FollowOptions { target: Target::Latest, remote: Some(remote), ..FollowOptions::new("ctr") }
    }

    pub(super) fn try_follow(&self, options: FollowOptions) -> Result<Server, FollowError> {
        Server::follow_topic(&self.kafka, &self.machine.path().join("versions"), options)
    }

    pub(super) fn follow(&self) -> Server {
        self.try_follow(self.options()).expect("it can be followed so")
    }

    /// Uploads a version and announces it at a place.
    pub(super) fn publish(&self, files: &VersionFiles, alter: impl FnOnce(&mut Value)) {
        upload(&remote(&self.storage.storage(self.root.path())), self.root.path(), files).expect("it is taken");
        self.announce(files, alter);
    }

    pub(super) fn announce(&self, files: &VersionFiles, alter: impl FnOnce(&mut Value)) {
        let uri = format!("s3://bucket/models/ctr/{}", name_of(files));
        let records = records(files, |document| {
            document["uri"] = json!(uri);
            alter(document);
        });
        // As nobody's writer: other tests of the same model would fence it off.
        topic::write(&self.kafka, &records[..1]).expect("the broker takes it");
    }

    pub(super) fn cached(&self) -> Vec<String> {
        versions_in(&self.cache().join("ctr/latest"))
    }
}

/// What of versions is in a follower's part of a cache.
pub(super) fn versions_in(directory: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(directory).expect("it is there").flatten();
    let names = entries.map(|entry| entry.file_name().to_string_lossy().into_owned());
    let mut names: Vec<String> = names.filter(|name| name != "lock" && name != "served").collect();
    names.sort_unstable();
    names
}

pub(super) fn scores(server: &Server) -> Vec<f64> {
    server.scorer().score(ROWS.map(str::as_bytes)).expect("one is served").logits.to_vec()
}

#[test]
fn a_server_with_an_empty_cache_fetches_a_chain_then_deltas_alone_and_after_a_restart_nothing() {
    let name = "a_server_with_an_empty_cache_fetches_a_chain_then_deltas_alone_and_after_a_restart_nothing";
    let Some(scene) = Scene::new(name, "remote-chain") else { return };
    let [full, one, two] = chain(Precision::F32).map(|artefact: Artefact| artefact.files);
    scene.publish(&full, |_| ());
    scene.publish(&one, |_| ());
    let server = scene.follow();
    wait_for_version(&server, 2);
    assert_eq!(scene.cached(), [name_of(&full), name_of(&one)]);
    scene.storage.requests();
    scene.publish(&two, |_| ());
    wait_for_version(&server, 3);
    let requests = scene.storage.requests();
    let weights =
        |requests: &[String], file| requests.iter().filter(|it| it.starts_with("GET") && it.contains(file)).count();
    assert_eq!((weights(&requests, DELTA), weights(&requests, MODEL)), (1, 0), "{requests:?}");
    let served = scores(&server);
    let local = Server::follow_directory(
        scene.root.path(),
        FollowOptions { target: Target::Latest, ..FollowOptions::new("ctr") },
    );
    let local = local.expect("a directory can be followed so");
    wait_for_version(&local, 3);
    assert_eq!(served, scores(&local), "the scores are those of the worker's own directory");

    // The cache is one server's.
    assert!(matches!(scene.try_follow(scene.options()), Err(FollowError::Cache(_))));
    drop(server);
    scene.storage.requests();
    let server = scene.follow();
    wait_for_version(&server, 3);
    assert_eq!(scene.storage.requests(), Vec::<String>::new(), "everything is in the cache");
    assert_eq!(served, scores(&server));
    drop(server);

    // What has rotted in the cache is fetched anew.
    for file in [MODEL, MANIFEST] {
        let path = scene.cache().join("ctr/latest").join(name_of(&full)).join(file);
        let mut damaged = std::fs::read(&path).expect("it is there");
        damaged[0] ^= 1;
        std::fs::write(&path, damaged).expect("it is ours");
        let server = scene.follow();
        wait_for_version(&server, 3);
        assert_eq!(served, scores(&server), "{file}");
    }
}

#[test]
fn a_server_keeps_the_last_good_version_whatever_storage_does_says_why_and_goes_on_when_it_is_mended() {
    let name = "a_server_keeps_the_last_good_version_whatever_storage_does_says_why_and_goes_on_when_it_is_mended";
    let Some(scene) = Scene::new(name, "remote-faults") else { return };
    let base = artefact(1, 0).files;
    scene.publish(&base, |_| ());
    let server = scene.follow();
    wait_for_version(&server, 1);
    let before = scores(&server);
    let mut number = 1;
    let mut next = || {
        number += 1;
        (numbered(&base, number), number)
    };
    let refused = |files: &VersionFiles, stage, words: &str| {
        let failure = wait_for(&format!("a failure: {words}"), || {
            let (found, reason) = wait_for_failure(&server, &name_of(files));
            reason.contains(words).then_some((found, reason))
        });
        assert_eq!(failure.0, stage, "{}", failure.1);
        assert_eq!((server.status().serving, scores(&server)), (Some(1), before.clone()), "{}", failure.1);
    };
    let key = |files: &VersionFiles, file: &str| format!("ctr/{}/{file}", name_of(files));

    // Away, full of errors and slow: one and the same version, until storage is well again.
    let (files, last) = next();
    scene.storage.fail("GET", "", 100_000, Harm::Status(503));
    scene.announce(&files, |_| ());
    refused(&files, LoadStage::Fetching, "503");
    scene.storage.mend();
    refused(&files, LoadStage::Fetching, "is missing");
    scene.storage.fail("GET", "", 100_000, Harm::Hang);
    refused(&files, LoadStage::Fetching, "cannot fetch");
    scene.storage.mend();
    // Changed and swapped under an announcement that was right.
    let mut model = files[MODEL].clone();
    model[300] ^= 1;
    for (file, content) in &files {
        scene.storage.put(&key(&files, file), content);
    }
    scene.storage.put(&key(&files, MANIFEST), &base[MANIFEST]);
    refused(&files, LoadStage::Verifying, "has digest");
    scene.storage.put(&key(&files, MODEL), &model);
    scene.storage.put(&key(&files, MANIFEST), &files[MANIFEST]);
    refused(&files, LoadStage::Verifying, MODEL);
    scene.storage.put(&key(&files, MODEL), &files[MODEL]);
    wait_for_version(&server, last);
    assert_ne!(scores(&server), before);
    assert_eq!(scene.cached(), [name_of(&base), name_of(&files)], "what it may be rolled back to is kept");
    let (third, last) = next();
    scene.publish(&third, |_| ());
    wait_for_version(&server, last);
    assert_eq!(scene.cached(), [name_of(&files), name_of(&third)], "and no more");
    drop(server);
    // After a restart nothing goes before something is served, and what was served before stays.
    let server = scene.follow();
    wait_for_version(&server, last);
    assert_eq!(scene.cached(), [name_of(&files), name_of(&third)]);
    drop(server);
    // Where others may write, nothing is trusted.
    let directory = scene.cache().join("ctr/latest");
    std::fs::set_permissions(&directory, std::fs::Permissions::from_mode(0o777)).expect("it is ours");
    assert!(matches!(scene.try_follow(scene.options()), Err(FollowError::Cache(_))));
}

#[test]
fn a_server_fetches_from_nowhere_but_the_place_that_its_operator_names() {
    let name = "a_server_fetches_from_nowhere_but_the_place_that_its_operator_names";
    let Some(scene) = Scene::new(name, "remote-hostile") else { return };
    let base = artefact(1, 0).files;
    scene.publish(&base, |_| ());
    let server = scene.follow();
    wait_for_version(&server, 1);
    // A whole version where nothing is to be read from: on this machine, and on another host.
    let trap = S3::start();
    let secret = tempfile::tempdir().expect("a directory of our own");
    for (number, place) in [
        (2, format!("file://{}", secret.path().display())),
        (3, trap.http()),
        (4, "s3://other/models".to_owned()),
        (5, "s3://bucket/models2".to_owned()),
        (6, "s3://bucket".to_owned()),
    ] {
        let files = numbered(&base, number);
        super::super::reload::install(&secret.path().join("ctr"), &files);
        scene.storage.requests();
        scene.announce(&files, |document| document["uri"] = json!(format!("{place}/ctr/{}", name_of(&files))));
        let (stage, reason) = wait_for_failure(&server, &name_of(&files));
        assert_eq!(stage, LoadStage::Announced, "{reason}");
        assert!(reason.contains("nowhere else"), "{reason}");
        assert_eq!(server.status().serving, Some(1));
        assert_eq!(scene.storage.requests(), Vec::<String>::new(), "{place}");
    }
    assert_eq!(trap.requests(), Vec::<String>::new());
    // What is no place at all does not count as an announcement.
    for place in ["s3://bucket/models/ctr/../../x", "../../etc/passwd", "s3://user:word@bucket/models"] {
        let files = numbered(&base, 7);
        scene.announce(&files, |document| document["uri"] = json!(format!("{place}/ctr/{}", name_of(&files))));
    }
    let good = numbered(&base, 8);
    scene.publish(&good, |_| ());
    wait_for_version(&server, 8);
    assert!(server.status().versions.iter().all(|version| version.version != 7), "{:?}", server.status().versions);
}

#[test]
fn a_version_that_is_larger_than_may_be_fetched_is_refused_before_anything_of_it_is() {
    let name = "a_version_that_is_larger_than_may_be_fetched_is_refused_before_anything_of_it_is";
    let Some(scene) = Scene::new(name, "remote-large") else { return };
    let base = artefact(1, 0).files;
    scene.publish(&base, |_| ());
    let mut options = scene.options();
    options.remote.as_mut().expect("it is there").fetch_bytes_max = 1000;
    let server = scene.try_follow(options).expect("it can be followed so");
    let (_, reason) = wait_for_failure(&server, &name_of(&base));
    assert!(reason.contains("more than 1000"), "{reason}");
    drop(server);
    // The manifest counts, and what is here already.
    let bytes: u64 = base.values().map(|content| content.len() as u64).sum();
    let follow = |bytes_max| {
        let mut options = scene.options();
        options.remote.as_mut().expect("it is there").fetch_bytes_max = bytes_max;
        scene.try_follow(options).expect("it can be followed so")
    };
    let server = follow(bytes - 1);
    let (_, reason) = wait_for_failure(&server, &name_of(&base));
    assert!(reason.contains(&format!("more than {}", bytes - 1)), "{reason}");
    drop(server);
    assert!(!scene.storage.requests().iter().any(|request| request.starts_with("GET") && request.contains(MODEL)));
    let server = follow(bytes);
    wait_for_version(&server, 1);
}

#[test]
fn versions_are_fetched_by_plain_http_where_that_is_the_operators_place() {
    let name = "versions_are_fetched_by_plain_http_where_that_is_the_operators_place";
    let Some(scene) = Scene::new(name, "remote-http") else { return };
    let base = artefact(1, 0).files;
    let http = scene.storage.http();
    scene.publish(&base, |document| document["uri"] = json!(format!("{http}/ctr/{}", name_of(&base))));
    let storage = s3::storage(&format!("[storage]\nfetch_uri = \"{http}\"\n"));
    let remote = Some(RemoteOptions::new(storage, scene.cache()));
    let server = scene.try_follow(FollowOptions { remote, ..scene.options() }).expect("it can be followed so");
    wait_for_version(&server, 1);
    assert!(Path::new(&scene.cache()).join("ctr/latest").join(name_of(&base)).is_dir());
}

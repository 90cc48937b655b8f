//! The cache of a server on a disk that is full or does not give what is on it, and with two arms: what is served stays, what fails is
//! said and tried again, and nothing that is only unread is taken for damage.

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use deepfm_core::model::weights::Precision;
use deepfm_core::version::announcement::Announcement;
use deepfm_core::version::artefact::{Artefact, MANIFEST, MODEL};
use deepfm_core::version::journal::JOURNAL;
use deepfm_core::version::outbox::OutboxEntry;
use deepfm_stream::publish::topic::{self, Record};
use deepfm_stream::serve::{FollowOptions, LoadStage, RemoteOptions, Server, Target};
use deepfm_stream::worker::status::StatusBoard;
use deepfm_stream::worker::uploader::Uploader;
use serde_json::Value;

use super::super::deltas::chain;
use super::super::reload::{VersionFiles, install, name_of, numbered, wait_for_failure, wait_for_version};
use super::super::versions::artefact;
use super::served::{Scene, scores, versions_in};
use super::{large, uploading};
use crate::support::command::Running;
use crate::support::disk::{SmallDisk, unprivileged};
use crate::support::http::{Client, address_in};
use crate::support::s3::{Harm, S3};
use crate::support::wait_for;

fn mode(path: &Path, mode: u32) {
    fs::set_permissions(path, Permissions::from_mode(mode)).expect("it is ours");
}

/// Waits until a version is refused with these words.
#[track_caller]
fn refused(server: &Server, files: &VersionFiles, stage: LoadStage, words: &str) {
    wait_for(&format!("a failure: {words}"), || {
        let (found, reason) = wait_for_failure(server, &name_of(files));
        (found == stage && reason.contains(words)).then_some(())
    });
}

#[test]
fn a_cache_on_a_full_disk_serves_on_says_so_and_goes_on_where_it_was_when_there_is_room() {
    let name = "a_cache_on_a_full_disk_serves_on_says_so_and_goes_on_where_it_was_when_there_is_room";
    let Some(scene) = Scene::new(name, "remote-disk") else { return };
    let Some(small) = SmallDisk::mount("size=24m,mode=700") else {
        println!("skipped: {name}: mounting a small disk is not allowed here");
        return;
    };
    let remote = || RemoteOptions::new(scene.storage.storage(scene.root.path()), small.path().join("cache"));
    let follow = || {
        let options = FollowOptions { remote: Some(remote()), ..scene.options() };
        scene.try_follow(options).expect("it can be followed so")
    };
    let cached = || versions_in(&small.path().join("cache/ctr/latest"));
    let (base, large) = (artefact(1, 0).files, numbered(&large(), 2));
    scene.publish(&base, |_| ());
    let server = follow();
    wait_for_version(&server, 1);
    let before = scores(&server);

    // Of the next version some has room, and not all of it.
    let filler = small.path().join("filler");
    fs::write(&filler, vec![1; 12 << 20]).expect("there is room");
    scene.publish(&large, |_| ());
    refused(&server, &large, LoadStage::Fetching, "No space left on device");
    assert_eq!((server.status().serving, scores(&server)), (Some(1), before.clone()));
    let partial = small.path().join(format!("cache/ctr/latest/.fetching-{}", name_of(&large))).join(JOURNAL);
    let length = fs::metadata(&partial).expect("it is kept").len();
    assert!(length > 8 << 20, "{length}");
    scene.storage.requests();
    fs::remove_file(&filler).expect("it is ours");
    wait_for_version(&server, 2);
    let requests = scene.storage.requests();
    let ranges: Vec<&String> = requests.iter().filter(|request| request.contains(JOURNAL)).collect();
    assert!(!ranges.is_empty() && ranges.iter().all(|range| !range.contains("bytes=0-")), "{ranges:?}");
    assert_eq!(cached(), [name_of(&base), name_of(&large)]);
    drop(server);

    // Where nothing is served and what was has been withdrawn, the cache makes room of what it kept.
    let gone = [1, 2].map(|version| Record::tombstone(&format!("ctr/v/{version}")));
    topic::write(&scene.kafka, &gone).expect("the broker takes it");
    let third = numbered(&large, 3);
    scene.publish(&third, |_| ());
    let server = follow();
    wait_for_version(&server, 3);
    assert_eq!(cached(), [name_of(&third)]);
}

#[test]
fn a_file_of_the_cache_that_cannot_be_read_is_tried_again_and_costs_nothing_that_is_there() {
    let name = "a_file_of_the_cache_that_cannot_be_read_is_tried_again_and_costs_nothing_that_is_there";
    let Some(scene) = Scene::new(name, "remote-unread") else { return };
    let chain = chain(Precision::F32).map(|artefact: Artefact| artefact.files);
    let names = chain.each_ref().map(name_of);
    for files in &chain {
        scene.publish(files, |_| ());
    }
    let server = unprivileged(|| scene.follow());
    wait_for_version(&server, 3);
    let place = |name: &str, file: &str| scene.cache().join("ctr/latest").join(name).join(file);

    // Another is fetched, and what the one before stands on is not known at that moment: it stays.
    mode(&place(&names[2], MANIFEST), 0);
    let next = numbered(&chain[0], 4);
    scene.publish(&next, |_| ());
    wait_for_version(&server, 4);
    assert_eq!(scene.cached(), [&names[..], &[name_of(&next)]].concat());
    mode(&place(&names[2], MANIFEST), 0o600);
    drop(server);

    // What it begins with cannot be read: weights, and a manifest. Nothing is fetched anew, and nothing goes.
    for file in [MODEL, MANIFEST] {
        mode(&place(&name_of(&next), file), 0);
        scene.storage.requests();
        let server = unprivileged(|| scene.follow());
        refused(&server, &next, LoadStage::Fetching, "Permission denied");
        assert_eq!(scene.storage.requests(), Vec::<String>::new(), "{file}");
        // Meanwhile an older one is better than none.
        wait_for_version(&server, 3);
        let cached = scene.cached();
        assert!(cached.contains(&name_of(&next)) && names.iter().all(|name| cached.contains(name)), "{cached:?}");
        mode(&place(&name_of(&next), file), 0o600);
        wait_for_version(&server, 4);
        assert_eq!(scene.storage.requests(), Vec::<String>::new(), "{file}");
    }
}

#[test]
fn a_directory_of_versions_that_cannot_be_read_is_looked_into_again() {
    let (root, base) = (tempfile::tempdir().expect("a directory of our own"), artefact(1, 0).files);
    install(root.path(), &base);
    let options = FollowOptions { target: Target::Latest, ..FollowOptions::new("ctr") };
    let server = unprivileged(|| Server::follow_directory(root.path(), options).expect("it can be followed so"));
    wait_for_version(&server, 1);
    for (version, file) in (2..).zip([MODEL, MANIFEST]) {
        // Under its final name only when its rights are what they are to be.
        let (files, aside) = (numbered(&base, version), tempfile::tempdir_in(root.path()).expect("it is ours"));
        let made = install(aside.path(), &files);
        mode(&made.join(file), 0);
        let place = root.path().join(name_of(&files));
        fs::rename(made, &place).expect("it is ours");
        refused(&server, &files, LoadStage::Fetching, "Permission denied");
        assert_eq!(server.status().serving, Some(version - 1));
        mode(&place.join(file), 0o600);
        wait_for_version(&server, version);
    }
}

#[test]
fn a_version_that_the_local_disk_does_not_give_now_is_uploaded_when_it_does() {
    let (storage, root) = (S3::start(), tempfile::tempdir().expect("a directory of our own"));
    let config = uploading(&storage, root.path());
    for (version, file) in (1..).zip([MANIFEST, MODEL]) {
        let artefact = artefact(version, 0);
        let file = install(&root.path().join("ctr"), &artefact.files).join(file);
        let entry = OutboxEntry { announcement: Announcement::of(&artefact), goes_live: true, journal: Vec::new() };
        let (board, stop) = (StatusBoard::default(), Arc::<AtomicBool>::default());
        let upload = || {
            let uploader = Uploader::of(&config, &board, &stop).expect("the settings make a client");
            uploader.expect("there is storage").upload(&entry)
        };
        mode(&file, 0);
        let uploaded = std::thread::scope(|scope| {
            let uploaded = scope.spawn(|| unprivileged(upload));
            wait_for("a word about the disk", || {
                let away = board.read().storage_away?;
                (away.reason.contains("cannot read") && away.reason.contains("Permission denied")).then_some(())
            });
            mode(&file, 0o600);
            uploaded.join().expect("it does not panic")
        });
        assert_eq!(uploaded, Ok(Some(format!("s3://bucket/models/ctr/{}", artefact.directory()))));
        assert_eq!(board.read().storage_away, None);
    }
}

#[test]
fn two_arms_with_one_cache_keep_what_either_serves_and_begin_again_without_storage() {
    let name = "two_arms_with_one_cache_keep_what_either_serves_and_begin_again_without_storage";
    let Some(scene) = Scene::new(name, "remote-arms") else { return };
    let base = artefact(1, 0).files;
    let versions: Vec<VersionFiles> = (1..=4).map(|version| numbered(&base, version)).collect();
    scene.publish(&versions[0], |_| ());
    let file = scene.root.path().join("deepfm.toml");
    let config = format!(
        "[[fields]]\nname = \"user\"\nkind = \"categorical\"\n[model]\nname = \"ctr\"\n[versions]\ndir = \"{}\"\n\
         [kafka]\nbrokers = \"{}\"\nversions_topic = \"{}\"\n{}",
        scene.root.path().join("nothing").display(),
        scene.kafka.brokers,
        scene.kafka.versions_topic,
        scene.storage.section(scene.root.path())
    );
    fs::write(&file, config).expect("the disk takes it");
    let (file, cache) = (file.display().to_string(), scene.cache().display().to_string());
    let arms = ["--arm", "old=1:0.5", "--arm", "new=latest:0.5", "--acknowledge-seconds", "0"];
    let arguments = ["serve", "--config", &file, "--cache", &cache, "--listen", "127.0.0.1:0"];
    let serve = |log: &str| {
        let log = scene.root.path().join(log);
        let server = Running::start_logged(&[&arguments[..], &arms].concat(), &log);
        (server, Client::connect(address_in(&log)))
    };
    let serving = |client: &mut Client, expected: [u64; 2]| {
        wait_for("what the arms are to serve", || {
            let status = client.get("/status").json();
            let arms = status["arms"].as_array()?.iter().map(|arm| arm["serving"].as_u64());
            (arms.collect::<Vec<_>>() == expected.map(Some)).then_some(())
        });
    };
    let (server, mut client) = serve("first.log");
    for (files, version) in versions.iter().zip(1..) {
        if version > 1 {
            scene.publish(files, |_| ());
        }
        serving(&mut client, [1, version]);
    }
    let cached = |arm: &str| versions_in(&scene.cache().join(arm));
    assert_eq!(cached("arm-old/ctr/1"), [name_of(&versions[0])]);
    assert_eq!(cached("arm-new/ctr/latest"), [name_of(&versions[2]), name_of(&versions[3])]);
    // Ended by force, and storage is away: each arm has what it served.
    server.kill();
    scene.storage.fail("GET", "", 100_000, Harm::Status(503));
    let (server, mut client) = serve("second.log");
    serving(&mut client, [1, 4]);
    let ranked = |client: &mut Client, key: usize| -> Value {
        client
            .post("/v1/rank", &format!(r#"{{"request_id":"{key}","context":{{}},"candidates":[{{"user":"u1"}}]}}"#))
            .json()
    };
    let mut answers: Vec<(String, u64)> = (0..40)
        .map(|key| {
            let answer = ranked(&mut client, key);
            (answer["arm"].as_str().expect("a name").to_owned(), answer["version"].as_u64().expect("a number"))
        })
        .collect();
    answers.sort_unstable();
    answers.dedup();
    assert_eq!(answers, [("new".to_owned(), 4), ("old".to_owned(), 1)]);
    assert_eq!(server.terminate().code, Some(0));
}

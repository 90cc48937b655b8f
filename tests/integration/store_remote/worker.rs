//! A worker with storage, and a server with nothing but the topic and a cache, as processes.

use std::fs;
use std::io::{BufRead as _, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use deepfm_core::model::weights::Precision;
use deepfm_core::version::announcement::Announcement;
use deepfm_core::version::artefact::Artefact;
use deepfm_core::version::outbox::OutboxEntry;
use deepfm_stream::serve::{FollowOptions, Server, Target};
use deepfm_stream::worker::status::StatusBoard;
use deepfm_stream::worker::uploader::{GivenUp, Uploader};
use serde_json::Value;

use super::super::deltas::chain;
use super::super::keeping::change;
use super::super::live::Live;
use super::super::reload::{install, wait_for_version};
use super::uploading;
use crate::support::command::{Running, run};
use crate::support::s3::{Harm, S3};
use crate::support::{broker, http, python, wait_for};

/// Moto's server with one bucket, which prints its address and ends with its input.
const MOTO: &str = "import sys, boto3
from moto.server import ThreadedMotoServer
server = ThreadedMotoServer(ip_address='127.0.0.1', port=0, verbose=False)
server.start()
host, port = server.get_host_and_port()
url = f'http://{host}:{port}'
boto3.client('s3', endpoint_url=url, region_name='us-east-1', aws_access_key_id='a', aws_secret_access_key='b').create_bucket(Bucket='bucket')
print(url, flush=True)
sys.stdin.read()
";

struct Moto {
    process: Child,
    url: String,
}

impl Drop for Moto {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

impl Moto {
    fn start(test: &str) -> Option<Self> {
        let python = python::with(test, "moto", &["moto[server]>=5"], "import moto.server, boto3")?;
        let mut command = Command::new(python);
        command.args(["-c", MOTO]).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null());
        let mut process = command.spawn().expect("Python starts");
        let mut url = String::new();
        BufReader::new(process.stdout.take().expect("it is ours")).read_line(&mut url).expect("it says where it is");
        Some(Self { process, url: url.trim().to_owned() })
    }
}

/// A document of a port that a process has said in its log.
fn get(log: &Path, path: &str, body: Option<&str>) -> Option<Value> {
    serde_json::from_str(&http::ask(http::said_address(log)?, path, body)?.1).ok()
}

fn listed(config: &str) -> Vec<Value> {
    let document = run(&["versions", "list", "--config", config, "--json"]).json();
    document["versions"].as_array().expect("a list").clone()
}

#[test]
fn a_delta_is_uploaded_after_all_that_it_stands_on_and_what_the_disk_does_not_give_is_announced_without_a_place() {
    let (storage, root) = (S3::start(), tempfile::tempdir().expect("a directory of our own"));
    let config = uploading(&storage, root.path());
    let artefacts = chain(Precision::F32);
    for artefact in &artefacts {
        install(&root.path().join("ctr"), &artefact.files);
    }
    let entry = |artefact: &Artefact| OutboxEntry {
        announcement: Announcement::of(artefact),
        goes_live: true,
        journal: Vec::new(),
    };
    let (board, stop) = (StatusBoard::default(), Arc::<AtomicBool>::default());
    let uploader =
        || Uploader::of(&config, &board, &stop).expect("the settings make a client").expect("there is storage");
    let newest = &artefacts[2];
    let uri = format!("s3://bucket/models/ctr/{}", newest.directory());
    assert_eq!(uploader().upload(&entry(newest)), Ok(Some(uri.clone())));
    let manifests: Vec<String> = storage
        .requests()
        .into_iter()
        .filter_map(|request| {
            Some(request.strip_prefix("PUT bucket/models/ctr/")?.strip_suffix("/manifest.json")?.to_owned())
        })
        .collect();
    assert_eq!(manifests, artefacts.each_ref().map(Artefact::directory), "the oldest first");
    // Another process finds everything there.
    assert_eq!(uploader().upload(&entry(newest)), Ok(Some(uri)));
    assert!(storage.requests().iter().all(|request| !request.starts_with("PUT")));

    // The full version is gone here and there: nobody could apply the delta.
    fs::remove_dir_all(root.path().join("ctr").join(artefacts[0].directory())).expect("it is ours");
    for artefact in &artefacts {
        storage.remove(&format!("ctr/{}/manifest.json", artefact.directory()));
    }
    assert_eq!(uploader().upload(&entry(newest)), Ok(None));
    assert_eq!(storage.requests().iter().filter(|request| request.starts_with("PUT")).count(), 0);
    assert_eq!(board.read().storage_away, None);
    storage.fail("GET", "", 1000, Harm::Status(503));
    stop.store(true, Ordering::Release);
    assert_eq!(uploader().upload(&entry(&artefacts[1])), Err(GivenUp));
}

#[test]
fn a_server_on_another_machine_follows_full_versions_and_deltas_through_a_foreign_s3() {
    let name = "a_server_on_another_machine_follows_full_versions_and_deltas_through_a_foreign_s3";
    let Some(broker) = broker::real(name) else { return };
    let Some(moto) = Moto::start(name) else { return };
    let keys = tempfile::tempdir().expect("a directory of our own");
    let file = keys.path().join("keys");
    fs::write(&file, "aws_access_key_id = a\naws_secret_access_key = b\n").expect("the disk takes it");
    let storage = format!(
        "[storage]\nuri = \"s3://bucket/models\"\nendpoint = \"{}\"\ncredentials_file = \"{}\"\n",
        moto.url,
        file.display()
    );
    let mut live = Live::new(broker, "remote-moto", 1, &storage);
    change(&live.config, "keep = 0", "keep = 0\ndelta_ratio_max = 1.0");
    live.send(1);
    let mut worker = live.worker();
    live.wait_for_announced(&mut worker, 2);

    // The other machine has the configuration with a directory of its own, which nobody writes to.
    let there = live.place.path("there.toml");
    fs::copy(&live.config, &there).expect("the disk takes it");
    let there = there.display().to_string();
    change(&there, "remote-moto-artefacts", "remote-moto-nothing");
    let (log, cache) = (live.place.path("serve.log"), live.place.path("cache"));
    let cache = cache.display().to_string();
    let arguments = ["serve", "--config", &there, "--cache", &cache, "--target", "latest", "--listen", "127.0.0.1:0"];
    let server = Running::start_logged(&arguments, &log);
    let status = || get(&log, "/status", None);
    wait_for("a version that is served", || status().filter(|it| it.to_string().contains("\"state\":\"serving\"")));
    live.wait_for_announced(&mut worker, 6);
    assert_eq!(worker.terminate().code, Some(0));
    live.end_traffic();

    let versions = listed(&live.config);
    let is = |kind: &str| versions.iter().filter(|one| one["kind"] == kind).count();
    assert!(is("full") >= 1 && is("delta") >= 1, "{versions:?}");
    for one in &versions {
        let uri = format!("s3://bucket/models/remote-moto/{}", one["directory"].as_str().expect("a name"));
        assert_eq!(one["uri"], uri.as_str());
    }
    // The same version by the worker's own directory, and by what came through S3.
    let (row, context) = (r#"{"item": "i1"}"#, r#"{"user": "u1"}"#);
    let body = format!(r#"{{"context": {context}, "candidates": [{row}]}}"#);
    let newest = versions.iter().filter(|one| one["held"].is_null()).filter_map(|one| one["version"].as_u64()).max();
    let newest = newest.expect("there is one");
    let ranked = wait_for("the newest version", || {
        get(&log, "/v1/rank", Some(&body)).filter(|answer| answer["version"] == newest)
    });
    let options = FollowOptions { target: Target::Latest, ..FollowOptions::new("remote-moto") };
    let local = Server::follow_directory(&live.artefacts().join("remote-moto"), options);
    let local = local.expect("a directory can be followed so");
    wait_for_version(&local, newest);
    let mut scorer = local.scorer();
    let expected = scorer.rank(context.as_bytes(), [row.as_bytes()]).expect("it is served");
    let expected: Vec<f64> = expected.probabilities().collect();
    assert_eq!(ranked["scores"], serde_json::json!(expected), "{ranked}");
    assert!(!live.place.path("remote-moto-nothing").exists());
    assert_eq!(server.terminate().code, Some(0));
}

#[test]
fn a_worker_learns_on_while_storage_is_full_says_so_and_announces_when_it_is_not() {
    let name = "a_worker_learns_on_while_storage_is_full_says_so_and_announces_when_it_is_not";
    let Some(broker) = broker::real(name) else { return };
    let (storage, keys) = (S3::start(), tempfile::tempdir().expect("a directory of our own"));
    let mut live = Live::new(broker, "remote-full", 1, &storage.section(keys.path()));
    change(&live.config, "listen = \"\"", "listen = \"127.0.0.1:0\"");
    change(&live.config, "keep = 0", "keep = 2");
    storage.fail("PUT", "", 1_000_000, Harm::Status(507));
    live.send(1);
    let worker = live.worker();
    let log = live.log();
    let away = |status: &Value| status["storage_away"]["reason"].as_str().is_some_and(|reason| reason.contains("507"));
    let status = || get(&log, "/status", None);
    let before = wait_for("a word about storage", || status().filter(away));
    let learned = |status: &Value| status["counters"]["learned"].as_u64().expect("a number");
    wait_for("learning that goes on", || status().filter(|now| away(now) && learned(now) > learned(&before) + 50));
    assert!(live.said().contains("no version goes to s3://bucket/models: cannot write"), "{}", live.said());
    assert_eq!(live.announced(), 0);
    // Asked to end meanwhile it ends; the next run uploads what is owed.
    assert_eq!(worker.terminate().code, Some(0));
    assert!(listed(&live.config).is_empty());
    storage.mend();
    let mut worker = live.worker();
    live.wait_for_announced(&mut worker, 5);
    assert!(status().is_some_and(|status| status["storage_away"].is_null()));
    assert_eq!(worker.terminate().code, Some(0));
    live.end_traffic();

    // What is announced is there, and what was removed is not.
    let announced = |config: &str| {
        let versions = listed(config);
        let names = versions.iter().map(|one| one["directory"].as_str().expect("a name").to_owned());
        names.collect::<Vec<_>>()
    };
    let directories = || {
        let keys = storage.keys();
        let names = keys.iter().filter_map(|key| key.split('/').nth(1)).map(str::to_owned);
        names.collect::<std::collections::BTreeSet<_>>()
    };
    let kept = announced(&live.config);
    assert!(kept.iter().all(|name| directories().contains(name)), "{kept:?} {:?}", directories());
    // An orphan of before: the plan has it, and then it is gone.
    let orphan = "1-0123456789ab";
    storage.put(&format!("remote-full/{orphan}/model.safetensors"), b"left of an upload");
    storage.put("remote-full/notes.txt", b"somebody's own");
    let plan = run(&["versions", "gc", "--dry-run", "--config", &live.config, "--json"]).json();
    let planned =
        |plan: &Value| plan["remote"].as_array().expect("a list").iter().any(|one| one["directory"] == orphan);
    assert!(planned(&plan), "{plan}");
    assert!(directories().contains(orphan), "only said");
    assert_eq!(run(&["versions", "gc", "--config", &live.config]).code, Some(0));
    let left = directories();
    assert!(!left.contains(orphan) && storage.get("remote-full/notes.txt").is_some(), "{left:?}");
    let kept = announced(&live.config);
    let left: Vec<String> = left.into_iter().filter(|name| name != "notes.txt").collect();
    assert_eq!(left.len(), kept.len(), "{left:?} {kept:?}");
    storage.fail("GET", "bucket", 1000, Harm::Status(503));
    assert_eq!(run(&["versions", "gc", "--dry-run", "--config", &live.config]).code, Some(69));
}

//! What becomes of versions: which go live, which are removed, whose they are; and that one which cannot be written harms
//! nothing else.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File};
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant, SystemTime};

use deepfm_core::version::alias::{Act, Alias};
use deepfm_core::version::announcement::{Abandoned, Announcement};
use deepfm_core::version::known::KnownVersions;
use deepfm_core::version::manifest::{Kind, ParentVersion};
use deepfm_stream::artefacts::{Artefacts as _, Shelf};
use deepfm_stream::config::operation;
use deepfm_stream::publish::retention;
use deepfm_stream::remote::listing::Listed;
use serde_json::{Value, json};

use super::commands::{Place, digest, simulated_fields};
use super::live::{Live, announcements};
use super::versions::below;
use crate::support::broker::{self, Broker, Outgoing};
use crate::support::command::{Running, installed, run};
use crate::support::wait_for;

const START_MS: u64 = 1_700_000_000_000;

/// Sends impressions 100 ms apart, from a second of the log to another; a click follows every fifth, if wanted.
pub(super) fn send(broker: &Broker, place: &Place, seconds: std::ops::Range<u64>, clicks: bool) {
    let time = |n: u64| START_MS + 100 * n;
    let numbers = || 10 * seconds.start..10 * seconds.end;
    let impression =
        |n: u64| format!(r#"{{"impression_id":"i{n}","event_time":{},"features":{{"user":"u{}"}}}}"#, time(n), n % 40);
    let click = |n: u64| format!(r#"{{"impression_id":"i{n}","event_time":{}}}"#, time(n) + 70);
    let impressions: Vec<String> = numbers().map(impression).collect();
    let clicks: Vec<String> = numbers().step_by(5).filter(|_| clicks).map(click).collect();
    for (topic, lines) in [(&place.kafka.impressions_topic, impressions), (&place.kafka.clicks_topic, clicks)] {
        let records: Vec<Outgoing<'_>> =
            lines.iter().map(|line| Outgoing { payload: Some(line.as_bytes()), ..Outgoing::default() }).collect();
        broker.produce(topic, 0, &records);
    }
}

/// Learns what there is, and says which version came of it.
pub(super) fn learn(config: &str) -> u64 {
    let summary = run(&["run", "--config", config, "--until-end", "--json"]).json();
    let versions = summary["versions"].as_array().expect("a list");
    assert_eq!(versions.len(), 1, "{summary}");
    versions[0].as_u64().expect("a number")
}

pub(super) fn change(config: &str, from: &str, to: &str) {
    let text = fs::read_to_string(config).expect("it was written");
    assert!(text.contains(from), "{from} is not in {text}");
    fs::write(config, text.replace(from, to)).expect("the disk takes it");
}

pub(super) fn listed(config: &str) -> (BTreeMap<u64, Value>, Option<u64>) {
    let document = run(&["versions", "list", "--config", config, "--json"]).json();
    let number = |one: &Value| one["version"].as_u64().expect("a number");
    let versions = document["versions"].as_array().expect("a list").iter().map(|one| (number(one), one.clone()));
    (versions.collect(), document["aliases"]["live"]["version"].as_u64())
}

#[test]
fn no_version_goes_live_while_impressions_come_and_clicks_do_not() {
    let name = "no_version_goes_live_while_impressions_come_and_clicks_do_not";
    let Some(broker) = broker::real(name) else { return };
    let place = Place::new(broker.kafka_with_topics("silence", 1), simulated_fields());
    let config = place.config("silence", "[training]\nmissing_clicks_max = 0\n[gate]\nimpressions_min = 500\n");
    send(broker, &place, 0..100, true);
    assert_eq!(learn(&config), 1);
    assert_eq!(listed(&config).1, Some(1));
    // A minute and more of the log without a click: each run is a start of its own, and none forgets the silence.
    send(broker, &place, 100..140, false);
    assert_eq!(learn(&config), 2);
    assert_eq!(listed(&config).1, Some(2), "forty seconds may be chance");
    send(broker, &place, 140..180, false);
    let outcome = run(&["run", "--config", &config, "--until-end"]);
    assert_eq!(outcome.code, Some(0), "{}", outcome.stderr);
    assert_eq!(outcome.stderr.matches("version 3 is rejected, and not served: no click was read for 80 s").count(), 1);
    let (versions, live) = listed(&config);
    assert_eq!((versions.len(), live), (3, Some(2)), "it is announced, and the alias holds");
    assert!(versions[&3]["held"].as_str().is_some_and(|held| held.contains("click_silence_max_seconds is 60")));
    assert!(versions[&2].get("held").is_none());
    let text = run(&["versions", "list", "--config", &config]).stdout;
    assert_eq!(text.matches(" rejected").count(), 1, "{text}");
    // A click, and nothing else: labels mature, so that there is something new, and clicks are there again.
    let click = format!(r#"{{"impression_id":"i1799","event_time":{}}}"#, START_MS + 190_000);
    broker.produce(
        &place.kafka.clicks_topic,
        0,
        &[Outgoing { payload: Some(click.as_bytes()), ..Outgoing::default() }],
    );
    let last = run(&["run", "--config", &config, "--until-end", "--json"]).json();
    assert_eq!((&last["versions"], listed(&config).1), (&json!([4]), Some(4)));
    // No impression was decoded in that run; the probes are those of the checkpoint.
    let newest = installed(&place.path("silence-artefacts")).into_iter().find(|path| name_of(path).starts_with("4-"));
    let newest = newest.expect("it is there").display().to_string();
    let verified = run(&["artifact", "verify", &newest, "--json"]).json();
    assert!(verified[0]["probes"].as_u64() > Some(8), "{verified}");
    assert_eq!(verified[0]["warnings"], json!([]));
}

fn name_of(path: &Path) -> String {
    path.file_name().expect("it has a name").to_string_lossy().into_owned()
}

#[test]
fn a_version_with_hardly_a_probe_is_said_to_be_one() {
    let name = "a_version_with_hardly_a_probe_is_said_to_be_one";
    let Some(broker) = broker::real(name) else { return };
    let place = Place::new(broker.kafka_with_topics("probes", 1), simulated_fields());
    let config = place.config("probes", "");
    change(&config, "keep = 0", "keep = 0\nprobes = 3");
    send(broker, &place, 0..30, true);
    let outcome = run(&["run", "--config", &config, "--until-end"]);
    assert!(outcome.stderr.contains("version 1 has 4 probes, fewer than 8"), "{}", outcome.stderr);
    let version = installed(&place.path("probes-artefacts"))[0].display().to_string();
    let verified = run(&["artifact", "verify", &version]);
    assert!(verified.stdout.contains("fewer than 8 probes (4)"), "{}", verified.stdout);
}

#[test]
fn versions_are_removed_with_their_announcements_and_replays_keep_their_journals() {
    let name = "versions_are_removed_with_their_announcements_and_replays_keep_their_journals";
    let Some(broker) = broker::real(name) else { return };
    let place = Place::new(broker.kafka_with_topics("removed", 1), simulated_fields());
    let config = place.config("removed", "");
    let artefacts = place.path("removed-artefacts");
    for turn in 0..4 {
        send(broker, &place, 30 * turn..30 * turn + 30, true);
        assert_eq!(learn(&config), turn + 1);
    }
    let there = || installed(&artefacts).iter().map(|path| name_of(path)[..1].to_owned()).collect::<String>();
    let gc = |more: &[&str]| run(&[&["versions", "gc", "--config", &config], more].concat());
    assert_eq!(there(), "1234", "nothing is removed where all are kept");
    change(&config, "keep = 0", "keep = 2");
    let dry = gc(&["--dry-run", "--json"]).json();
    let versions = dry["versions"].as_array().expect("a list");
    assert_eq!(versions.iter().map(|one| one["version"].as_u64()).collect::<Vec<_>>(), [Some(1), Some(2)]);
    assert!(versions.iter().all(|one| one["bytes"].as_u64() > Some(1000) && one["keeps_journal"] == true), "{dry}");
    assert_eq!((there(), listed(&config).0.len()), ("1234".to_owned(), 4), "it only says so");
    let done = gc(&[]);
    assert!(done.stdout.contains("2 versions and 0 journals removed"), "{} {}", done.stdout, done.stderr);
    assert_eq!(there(), "34");
    assert_eq!(listed(&config).0.into_keys().collect::<Vec<_>>(), [3, 4]);
    assert!(gc(&[]).stdout.contains("0 versions and 0 journals removed"));
    // The worker does it itself after it has announced one.
    send(broker, &place, 120..150, true);
    assert_eq!(learn(&config), 5);
    assert_eq!(there(), "45");
    assert_eq!(listed(&config).0.into_keys().collect::<Vec<_>>(), [4, 5]);
    let tombstones = broker.read_all(&place.kafka.versions_topic).iter().filter(|one| one.payload.is_empty()).count();
    assert_eq!(tombstones, 3);
    let checks =
        run(&["backtest", "--config", &config, "--journal", &artefacts.display().to_string(), "--json"]).json();
    let checks = checks.as_array().expect("a list");
    assert_eq!(checks.len(), 5, "the journals of removed versions are there");
    assert!(checks.iter().all(|check| check["expected"] == check["found"]), "{checks:#?}");
    // What no export needs goes.
    assert_eq!(run(&["artifact", "export", "--training", "--config", &config]).code, Some(0));
    assert!(gc(&[]).stdout.contains("0 versions and 3 journals removed"));
}

/// An installed directory that holds what a removal looks at.
fn made(root: &Path, version: u64, digest: &str) -> PathBuf {
    let path = root.join(format!("{version}-{digest}"));
    fs::create_dir_all(&path).expect("the disk takes it");
    for name in ["manifest.json", "journal.jsonl", "model.safetensors"] {
        fs::write(path.join(name), "{}").expect("the disk takes it");
    }
    path
}

fn announced(version: u64, digest: &str) -> Announcement {
    let zeros = "0".repeat(64);
    let document = json!({
        "format": 1, "model": "ctr", "version": version, "manifest_digest": zeros,
        "directory": format!("{version}-{digest}"), "parent": null, "kind": "full",
        "created_at": format!("2026-01-{:02}T00:00:00Z", version.min(28)), "records": 1, "positions": {}, "watermark": null,
        "learned": 1, "rows": 1, "state_digest": zeros, "metrics": {},
        "fingerprints": {"fields": "f", "hashing": "h", "configuration": "c"}, "files": {},
    });
    serde_json::from_value(document).expect("it is an announcement")
}

/// The same goes from object storage, where what was never announced goes by the age of its objects.
fn assert_goes_from_storage_alike(
    settings: &operation::Versions,
    known: &KnownVersions,
    found: &retention::Plan,
    now: jiff::Timestamp,
) {
    let listed = |version: u64, digits: &str, hours: i64| {
        let modified = now.as_second() - 3600 * hours;
        Listed { version, directory: format!("{version}-{digits}"), bytes: 1, modified }
    };
    let mut there: Vec<Listed> = (1..=10).map(|version| listed(version, "aaaaaaaaaaaa", 1)).collect();
    there.extend([listed(6, "bbbbbbbbbbbb", 1), listed(6, "cccccccccccc", 48)]);
    there.extend([listed(11, "dddddddddddd", 48), listed(12, "eeeeeeeeeeee", 48)]);
    let gone = retention::plan_remote(settings, known, found, &there, now).into_iter().map(|one| one.directory);
    let here = found.versions.iter().map(|one| one.directory.clone());
    assert_eq!(gone.collect::<BTreeSet<_>>(), here.collect::<BTreeSet<_>>());
    let nothing = retention::Plan::default();
    let unknown = retention::plan_remote(settings, &KnownVersions::default(), &nothing, &there, now);
    assert!(unknown.is_empty(), "nothing is known");
    // Where no directory of versions is, no plan is made: what is announced has no tombstone, and stays.
    let gone = retention::plan_remote(settings, known, &nothing, &there, now);
    assert_eq!(gone.iter().map(|one| &*one.directory).collect::<Vec<_>>(), ["6-cccccccccccc"]);
}

#[test]
fn what_is_served_or_built_on_is_never_removed_and_contents_of_one_number_are_told_apart() {
    let directory = tempfile::tempdir().expect("a directory of our own");
    let root = directory.path().join("ctr");
    let mut known = KnownVersions { newest: Some(11), ..KnownVersions::default() };
    for version in 1..=10 {
        made(&root, version, "aaaaaaaaaaaa");
        known.announced.insert(version, announced(version, "aaaaaaaaaaaa"));
    }
    for version in [9, 10] {
        let abandoned = Some(Abandoned { at: String::new(), parent: None });
        known.announced.get_mut(&version).expect("it is announced").abandoned = abandoned;
    }
    for (name, version) in [("live", 2), ("candidate", 4)] {
        let alias = Alias::moved(None, name, &known.announced[&version], Act::new("worker", "it passed the gate", ""));
        known.aliases.insert(name.to_owned(), alias);
    }
    // A fenced worker's of the same number, young and old; one that another program announced; one about to be announced.
    let (young, old) = (made(&root, 6, "bbbbbbbbbbbb"), made(&root, 6, "cccccccccccc"));
    let (foreign, next) = (made(&root, 11, "dddddddddddd"), made(&root, 12, "eeeeeeeeeeee"));
    known.unreadable.insert(11);
    let long_ago = SystemTime::now() - Duration::from_hours(48);
    for path in [&old, &foreign, &next] {
        File::open(path).and_then(|file| file.set_modified(long_ago)).expect("it is ours");
    }
    let mut settings = operation::Versions { keep: 1, ..operation::Versions::default() };
    let now: jiff::Timestamp = "2026-01-12T00:00:00Z".parse().expect("it is a time");
    let artefacts = below(&root);
    let plan = |settings: &operation::Versions| {
        retention::plan(settings, &known, &artefacts, &directory.path().join("none"), now).expect("it is readable")
    };
    let found = plan(&settings);
    let numbers: Vec<u64> = found.versions.iter().map(|one| one.version).collect();
    assert_eq!(
        numbers,
        [1, 3, 5, 6, 6, 7, 9],
        "8 is the newest that is not abandoned, 10 the newest that is announced"
    );
    let contents: Vec<&str> = found.versions.iter().filter(|one| one.version == 6).map(|one| &*one.directory).collect();
    assert_eq!(contents, ["6-aaaaaaaaaaaa", "6-cccccccccccc"]);
    assert!(found.versions.iter().all(|one| one.key.is_none() == (one.directory == "6-cccccccccccc")));
    assert!(found.versions.iter().all(|one| one.keeps_journal == (one.version != 9 && one.key.is_some())));
    assert_goes_from_storage_alike(&settings, &known, &found, now);
    settings.keep_days = 8;
    let numbers: Vec<u64> = plan(&settings).versions.iter().map(|one| one.version).collect();
    assert_eq!(numbers, [1, 3], "those of the last eight days are kept, and no other content of their numbers goes");
    let unmounted = below(&directory.path().join("unmounted"));
    let found_there = retention::plan(&settings, &known, &unmounted, &directory.path().join("none"), now);
    assert!(found_there.expect("nothing is wrong").is_empty(), "where no version is, none is given up");
    settings.keep = 0;
    assert!(plan(&settings).is_empty(), "0 removes none");
    assert!(retention::carry_out(&found, &artefacts).is_empty());
    let left: Vec<String> =
        artefacts.list(Shelf::Versions).expect("it is there").into_iter().map(|one| one.directory).collect();
    let kept = ["2-aaaaaaaaaaaa", "4-aaaaaaaaaaaa", "6-bbbbbbbbbbbb", "8-aaaaaaaaaaaa", "10-aaaaaaaaaaaa"];
    assert_eq!(left[..5], kept);
    assert_eq!(left[5..], [name_of(&foreign), name_of(&next)]);
    assert!(young.exists());
    let journals = artefacts.list(Shelf::Journals).expect("it is there");
    assert_eq!(journals.iter().map(|one| one.version).collect::<Vec<_>>(), [1, 3, 5, 6, 7]);
}

#[test]
fn what_a_kept_delta_stands_on_is_never_removed() {
    let directory = tempfile::tempdir().expect("a directory of our own");
    let root = directory.path().join("ctr");
    let mut known = KnownVersions { newest: Some(12), ..KnownVersions::default() };
    for version in 1..=12 {
        made(&root, version, "aaaaaaaaaaaa");
        let mut one = announced(version, "aaaaaaaaaaaa");
        // Full versions: 1, 5 and 9; three deltas on each.
        if version % 4 != 1 {
            one.kind = Kind::Delta;
            one.parent = Some(ParentVersion { version: version - 1, manifest_digest: one.manifest_digest.clone() });
        }
        known.announced.insert(version, one);
    }
    let alias = Alias::moved(None, "live", &known.announced[&3], Act::new("worker", "it passed the gate", ""));
    known.aliases.insert("live".to_owned(), alias);
    let artefacts = below(&root);
    let removed = |keep, keep_days, now: &str| {
        let settings = operation::Versions { keep, keep_days, ..operation::Versions::default() };
        let now = now.parse().expect("it is a time");
        let plan = retention::plan(&settings, &known, &artefacts, &directory.path().join("none"), now);
        plan.expect("it is readable").versions.iter().map(|one| one.version).collect::<Vec<_>>()
    };
    let late = "2026-03-01T00:00:00Z";
    // 12 is the newest, on 11, 10 and 9; `live` is 3, on 2 and 1.
    assert_eq!(removed(1, 0, late), [4, 5, 6, 7, 8]);
    assert_eq!(removed(5, 0, late), [4], "8 is kept, and with it 7, 6 and 5");
    assert_eq!(removed(4, 0, late), [4, 5, 6, 7, 8], "9 is full, and needs none before it");
    assert_eq!(removed(1, 5, "2026-01-12T12:00:00Z"), [4], "8 is young");
}

#[test]
fn what_a_lost_topic_says_nothing_of_is_not_removed_while_something_may_stand_on_it() {
    let directory = tempfile::tempdir().expect("a directory of our own");
    let root = directory.path().join("ctr");
    let artefacts = below(&root);
    let long_ago = SystemTime::now() - Duration::from_hours(48);
    for version in 1..=9 {
        let path = made(&root, version, "000000000000");
        File::open(path).and_then(|file| file.set_modified(long_ago)).expect("it is ours");
    }
    let settings = operation::Versions { keep: 1, ..operation::Versions::default() };
    let now: jiff::Timestamp = "2026-03-01T00:00:00Z".parse().expect("it is a time");
    let listed = |version: u64| Listed {
        version,
        directory: format!("{version}-000000000000"),
        bytes: 1,
        modified: now.as_second() - 48 * 3600,
    };
    let there: Vec<Listed> = (1..=9).map(listed).collect();
    // What goes here and there, of 8 and 9 alone announced.
    let removed = |alter: &dyn Fn(&mut KnownVersions)| {
        let mut known = KnownVersions { newest: Some(9), ..KnownVersions::default() };
        known.announced.extend([8, 9].map(|version| (version, announced(version, "000000000000"))));
        alter(&mut known);
        let plan = retention::plan(&settings, &known, &artefacts, &directory.path().join("none"), now);
        let plan = plan.expect("it is readable");
        let remote = retention::plan_remote(&settings, &known, &plan, &there, now);
        let here: Vec<u64> = plan.versions.iter().map(|one| one.version).collect();
        assert_eq!(here, remote.iter().map(|one| one.version).collect::<Vec<_>>());
        here
    };
    let delta = |known: &mut KnownVersions, version: u64| {
        let one = known.announced.get_mut(&version).expect("it is announced");
        one.kind = Kind::Delta;
        one.parent = Some(ParentVersion { version: version - 1, manifest_digest: one.manifest_digest.clone() });
    };
    assert_eq!(removed(&|_| ()), [1, 2, 3, 4, 5, 6, 7, 8], "9 is full, and needs nothing");
    assert_eq!(removed(&|known| delta(known, 9)), [1, 2, 3, 4, 5, 6, 7], "8 is full");
    let both = |known: &mut KnownVersions| [8, 9].into_iter().for_each(|version| delta(known, version));
    assert_eq!(removed(&both), Vec::<u64>::new(), "7 may be a delta");
    let point = |known: &mut KnownVersions, versions: [u64; 2]| {
        let act = || Act::new("a", "b", "");
        let [before, at] = versions.map(|version| announced(version, "000000000000"));
        let alias = Alias::moved(None, "candidate", &before, act());
        let alias = Alias::moved(Some(&alias), "candidate", &at, act());
        known.aliases.insert("candidate".to_owned(), alias);
    };
    assert_eq!(removed(&|known| point(known, [9, 4])), [5, 6, 7, 8], "4 is pointed at, on who knows what");
    assert_eq!(removed(&|known| point(known, [3, 9])), [4, 5, 6, 7, 8], "3 was before");
}

#[test]
fn a_state_is_one_models_and_each_model_has_its_directory_of_versions() {
    let name = "a_state_is_one_models_and_each_model_has_its_directory_of_versions";
    let Some(broker) = broker::real(name) else { return };
    let place = Place::new(broker.kafka_with_topics("whose", 1), simulated_fields());
    let (one, other) = (place.config("one", ""), place.config("other", ""));
    change(&other, "other-artefacts", "one-artefacts");
    send(broker, &place, 0..30, true);
    assert_eq!((learn(&one), learn(&other)), (1, 1), "each model counts its own");
    let versions = installed(&place.path("one-artefacts"));
    let of = |model: &str| versions.iter().filter(|path| path.parent().is_some_and(|at| at.ends_with(model))).count();
    assert_eq!((of("one"), of("other")), (1, 1), "{versions:?}");
    // Another name over a state would fork its versions in silence.
    change(&one, "name = \"one\"", "name = \"renamed\"");
    let refused = run(&["run", "--config", &one, "--until-end"]);
    assert_eq!(refused.code, Some(78), "{}", refused.stderr);
    assert!(refused.stderr.contains("holds the state of model one"), "{}", refused.stderr);
    change(&one, "name = \"renamed\"", "name = \"one\"");
    assert_eq!(run(&["run", "--config", &one, "--until-end"]).code, Some(0));
}

#[test]
fn a_version_that_cannot_be_written_costs_no_checkpoint_and_is_written_when_it_can_be() {
    let name = "a_version_that_cannot_be_written_costs_no_checkpoint_and_is_written_when_it_can_be";
    let Some(broker) = broker::real(name) else { return };
    let mut live = Live::new(broker, "unwritable", 1, "");
    change(&live.config, "interval_examples = 3000", "interval_examples = 1");
    // Where the model's directory was to be, there is a file.
    let blocked = live.artefacts().join("unwritable");
    fs::create_dir_all(live.artefacts()).expect("the disk takes it");
    fs::write(&blocked, "").expect("the disk takes it");
    live.send(1);
    let mut worker = live.worker();
    let failures = || live.said().matches("a version could not be written").count();
    wait_for("a version that fails", || (failures() >= 1).then_some(()));
    let (start, state) = (Instant::now(), live.place.path("unwritable-state"));
    let mut witnesses = std::collections::BTreeSet::new();
    wait_for("checkpoints all the same", || {
        assert!(worker.is_running(), "{}", live.said());
        witnesses.extend(["HEAD.a", "HEAD.b"].map(|name| fs::read(state.join(name)).unwrap_or_default()));
        (witnesses.len() >= 7).then_some(())
    });
    // At most at 0, 1, 3, 7, 15 … seconds.
    let tries_max = (start.elapsed().as_secs_f64() + 2.0).log2().ceil() as usize + 2;
    assert!(failures() <= tries_max, "{} tries in {:?}", failures(), start.elapsed());
    fs::remove_file(&blocked).expect("it is ours");
    // A stray of an earlier failure is no obstacle either, be it a file.
    fs::create_dir(&blocked).expect("the disk takes it");
    fs::write(blocked.join(".staged-99-000000000000"), "").expect("the disk takes it");
    live.wait_for_announced(&mut worker, 1);
    live.end_traffic();
    live.stop(worker);
    let last = run(&["run", "--config", &live.config, "--until-end", "--json"]).json();
    let undisturbed = run(&["backtest", "--config", &live.config, "--json"]).json();
    assert_eq!(last["records"], undisturbed["records"]);
    assert_eq!(digest(&last).len(), 64);
    assert!(!blocked.join(".staged-99-000000000000").exists(), "a start removes it");
    assert!(!announcements(broker, &live.place.kafka.versions_topic).is_empty());
}

#[test]
fn a_run_whose_last_version_cannot_be_written_fails_and_keeps_what_it_learned() {
    let name = "a_run_whose_last_version_cannot_be_written_fails_and_keeps_what_it_learned";
    let Some(broker) = broker::real(name) else { return };
    let place = Place::new(broker.kafka_with_topics("last-version", 1), simulated_fields());
    let config = place.config("last", "");
    let blocked = place.path("last-artefacts").join("last");
    fs::create_dir_all(place.path("last-artefacts")).expect("the disk takes it");
    fs::write(&blocked, "").expect("the disk takes it");
    send(broker, &place, 0..30, true);
    let failed = run(&["run", "--config", &config, "--until-end"]);
    assert_eq!(failed.code, Some(74), "{}", failed.stderr);
    assert!(failed.stderr.contains("cannot make"), "{}", failed.stderr);
    fs::remove_file(&blocked).expect("it is ours");
    let again = run(&["run", "--config", &config, "--until-end", "--json"]);
    assert!(again.stderr.contains("going on from checkpoint"), "what was learned is kept: {}", again.stderr);
    assert_eq!(again.json()["versions"], serde_json::json!([1]), "the number was not used");
}

#[test]
fn a_start_that_waits_for_its_broker_ends_at_once_when_it_is_asked_to() {
    // Something that listens and never answers.
    let silent = TcpListener::bind("127.0.0.1:0").expect("there is a free port");
    let mut kafka = deepfm_stream::config::Config::default().kafka;
    kafka.brokers = silent.local_addr().expect("it is bound").to_string();
    let place = Place::new(kafka, simulated_fields());
    let config = place.config("starting", "");
    change(&config, "retry_max_seconds = 30", "retry_max_seconds = 600");
    let log = place.path("worker.log");
    let worker = Running::start_logged(&["run", "--config", &config], &log);
    wait_for("the state directory", || place.path("starting-state").join("LOCK").exists().then_some(()));
    let start = Instant::now();
    let outcome = worker.terminate();
    let said = fs::read_to_string(&log).unwrap_or_default();
    assert_eq!(outcome.code, Some(0), "{said}");
    assert!(said.contains("asked to stop during the start"), "{said}");
    assert!(start.elapsed() < Duration::from_secs(20), "took {:?}", start.elapsed());
}

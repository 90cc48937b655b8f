//! Training exports: the state directory is lost, and the model comes back as if nothing had happened.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

use deepfm_core::stream::record_hash;
use deepfm_core::train::Tally;
use deepfm_stream::publish::exports;
use serde_json::Value;

use super::commands::{Place, digest, simulated_fields};
use crate::support::broker::{self, Broker};
use crate::support::command::{Running, run};
use crate::support::wait_for;

/// Simulates traffic and cuts it in two by event time: two directories of event files.
fn two_halves(directory: &Path, count: &str) -> [String; 2] {
    let whole = directory.join("whole").display().to_string();
    assert_eq!(run(&["events", "simulate", "--out", &whole, "--count", count, "--rate", "500"]).code, Some(0));
    let lines = |name: &str| -> Vec<String> {
        let text = fs::read_to_string(Path::new(&whole).join(name)).expect("it was written");
        text.lines().map(str::to_owned).collect()
    };
    let time = |line: &str| {
        let document: Value = serde_json::from_str(line).expect("an event is JSON");
        document["event_time"].as_i64().expect("a time")
    };
    let impressions = lines("impressions.jsonl");
    let middle = time(&impressions[impressions.len() / 2]);
    ["first", "second"].map(|half| {
        let out = directory.join(half);
        fs::create_dir(&out).expect("the disk takes it");
        for name in ["impressions.jsonl", "clicks.jsonl"] {
            let kept = lines(name).into_iter().filter(|line| (time(line) < middle) == (half == "first"));
            fs::write(out.join(name), kept.collect::<Vec<_>>().join("\n")).expect("the disk takes it");
        }
        out.display().to_string()
    })
}

/// The announcements of a model by number: its parent's number, and whether it was abandoned.
fn announced(broker: &Broker, topic: &str) -> BTreeMap<u64, (Option<u64>, bool)> {
    let mut versions = BTreeMap::new();
    for record in broker.read_all(topic) {
        if String::from_utf8_lossy(&record.key).contains("/v/") {
            let document: Value = serde_json::from_slice(&record.payload).expect("an announcement is JSON");
            let number = document["version"].as_u64().expect("a number");
            versions.insert(number, (document["parent"]["version"].as_u64(), document.get("abandoned").is_some()));
        }
    }
    versions
}

/// The sums of all records of a topic's only partition, over all fates, as a report has them.
fn entered(report: &Value, partition: &str) -> Tally {
    let fates = report["ledger"][partition].as_object().expect("fates by name");
    fates.values().fold(Tally::default(), |all, tally| {
        let tally: Tally = serde_json::from_value(tally.clone()).expect("a tally");
        Tally { count: all.count + tally.count, sum: all.sum.wrapping_add(tally.sum), xor: all.xor ^ tally.xor }
    })
}

fn sums_of(broker: &Broker, topic: &str) -> Tally {
    let mut tally = Tally::default();
    for (offset, record) in broker.read_all(topic).iter().enumerate() {
        tally.add(record_hash(offset as i64, Some(&record.payload)));
    }
    tally
}

#[test]
fn a_worker_restored_from_a_training_export_goes_on_to_the_same_digest() {
    let Some(broker) = broker::real("a_worker_restored_from_a_training_export_goes_on_to_the_same_digest") else {
        return;
    };
    let directory = tempfile::tempdir().expect("a directory of our own");
    let [first, second] = two_halves(directory.path(), "20000");
    let place = Place::new(broker.kafka_with_topics("restored", 1), simulated_fields());
    let config = place.config("restored", "");
    let send =
        |events: &str| assert_eq!(run(&["events", "send", "--config", &config, "--events", events]).code, Some(0));
    send(&first);
    run(&["run", "--config", &config, "--until-end", "--json"]).json();
    let export = run(&["artifact", "export", "--training", "--config", &config, "--json"]).json();
    let export = export["directory"].as_str().expect("a directory").to_owned();
    let verified = run(&["artifact", "verify", &export, "--json"]).json();
    send(&second);
    let undisturbed = run(&["run", "--config", &config, "--until-end", "--json"]).json();
    assert_ne!(verified[0]["state_digest"], undisturbed["state_digest"], "there is something to catch up with");
    for (partition, topic) in [("impression/0", &place.kafka.impressions_topic), ("click/0", &place.kafka.clicks_topic)]
    {
        assert_eq!(entered(&undisturbed, partition), sums_of(broker, topic), "every record is entered once");
    }

    // Nothing pushes aside a state that is whole.
    let refused = run(&["run", "--config", &config, "--until-end", "--restore", &export]);
    assert_eq!(refused.code, Some(74), "{}", refused.stderr);
    assert!(refused.stderr.contains("which is whole"), "{}", refused.stderr);

    fs::remove_dir_all(place.path("restored-state")).expect("it is there");
    let lost = run(&["run", "--config", &config, "--until-end"]);
    assert_eq!(lost.code, Some(74), "{}", lost.stderr);
    assert!(lost.stderr.contains("--restore") && lost.stderr.contains("--reset-state"), "{}", lost.stderr);

    let before = announced(broker, &place.kafka.versions_topic);
    // A version that was made and never announced has had its number as well.
    let made = before.keys().next_back().expect("there are versions") + 1;
    let never_announced = place.path("restored-artefacts/restored").join(format!("{made}-000000000000"));
    fs::create_dir(&never_announced).expect("the disk takes it");
    let restored = run(&["run", "--config", &config, "--until-end", "--restore", &export, "--json"]).json();
    assert_eq!(digest(&restored), digest(&undisturbed));
    assert_eq!(restored["ledger"], undisturbed["ledger"], "nothing was lost or entered twice");
    let after = announced(broker, &place.kafka.versions_topic);
    let newest =
        |versions: &BTreeMap<u64, (Option<u64>, bool)>| *versions.keys().next_back().expect("there are versions");
    fs::remove_dir(&never_announced).expect("it is ours");
    assert!(newest(&after) > made, "numbers rise, and none is used twice");
    let abandoned: BTreeSet<u64> =
        after.iter().filter(|(_, (_, abandoned))| *abandoned).map(|(number, _)| *number).collect();
    let parent = after[&(made + 1)].0.expect("a parent");
    assert_eq!(abandoned, (parent + 1..=newest(&before)).collect(), "what the export does not know is abandoned");
    assert!(!abandoned.is_empty());
    let listed = run(&["versions", "list", "--config", &config]).stdout;
    assert_eq!(listed.matches("abandoned").count(), abandoned.len(), "{listed}");

    let replayed = place.path("restored-artefacts").display().to_string();
    let replay = run(&["backtest", "--config", &config, "--journal", &replayed, "--json"]).json();
    let checks = replay.as_array().expect("a list");
    assert_eq!(checks.len(), after.len() - abandoned.len(), "{replay}");
    assert!(checks.iter().all(|check| check["expected"] == check["found"]), "{replay}");
    damaged_exports_are_refused(&place, &config, Path::new(&export));
}

fn damaged_exports_are_refused(place: &Place, config: &str, export: &Path) {
    let file = export.join("state.blocks");
    let whole = fs::read(&file).expect("it is there");
    let mut flipped = whole.clone();
    flipped[whole.len() / 2] ^= 1;
    for damaged in [&flipped[..], &whole[..whole.len() - 1], &[]] {
        fs::write(&file, damaged).expect("the disk takes it");
        let path = export.display().to_string();
        let outcome = run(&["run", "--config", config, "--until-end", "--restore", &path, "--reset-state"]);
        assert_eq!(outcome.code, Some(65), "{}", outcome.stderr);
        assert_eq!(run(&["artifact", "verify", &path]).code, Some(65));
    }
    assert!(place.path("restored-state").join("HEAD.a").exists(), "nothing was lost by it");
}

#[test]
fn a_running_worker_writes_its_own_exports_and_keeps_the_newest() {
    let Some(broker) = broker::real("a_running_worker_writes_its_own_exports_and_keeps_the_newest") else { return };
    let place = Place::new(broker.kafka_with_topics("exports", 1), simulated_fields());
    let config = place.config("exports", "");
    let text = fs::read_to_string(&config).expect("it was written");
    fs::write(&config, text.replace("interval_seconds = 3600", "interval_seconds = 1\nkeep = 2"))
        .expect("the disk takes it");
    let running = Running::start(&["run", "--config", &config]);
    let root = place.path("exports-exports").join("exports");
    let mut seen: BTreeSet<PathBuf> = BTreeSet::new();
    wait_for("four exports", || {
        let exports = exports::list(&root);
        assert!(exports.len() <= 3, "{exports:?}");
        seen.extend(exports);
        (seen.len() >= 4).then_some(())
    });
    let locked = run(&["artifact", "export", "--training", "--config", &config]);
    assert_eq!(locked.code, Some(75), "{}", locked.stderr);
    assert_eq!(running.terminate().code, Some(0));
    let newest = exports::list(&root).pop().expect("there are exports").display().to_string();
    assert_eq!(run(&["artifact", "verify", &newest]).code, Some(0));
}

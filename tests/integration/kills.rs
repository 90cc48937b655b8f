//! Workers that are killed at any moment: the state ends up as if nothing had happened, and the versions form one chain.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use deepfm_stream::feature::hash;
use serde_json::Value;

use super::commands::{Place, digest, simulated_fields};
use crate::support::broker::{self, Broker};
use crate::support::command::{Running, installed, run};
use crate::support::{rounds, wait_for};

/// Waits until the witness of a state directory was written `times` more often than now, or the process has ended.
fn wait_for_commits(state: &Path, running: &mut Running, times: usize) {
    let mut seen = BTreeSet::new();
    wait_for("commits", || {
        for name in ["HEAD.a", "HEAD.b"] {
            seen.extend(fs::read(state.join(name)).ok());
        }
        (seen.len() > times + 1 || !running.is_running()).then_some(())
    });
}

/// The announcements of the versions topic, in order.
fn announcements(broker: &Broker, topic: &str) -> Vec<Value> {
    let records = broker.read_all(topic);
    let versions = records.iter().filter(|record| String::from_utf8_lossy(&record.key).contains("/v/"));
    versions.map(|record| serde_json::from_slice(&record.payload).expect("an announcement is JSON")).collect()
}

#[test]
fn a_worker_that_is_killed_again_and_again_ends_where_an_undisturbed_one_does() {
    let name = "a_worker_that_is_killed_again_and_again_ends_where_an_undisturbed_one_does";
    let Some(broker) = broker::real(name) else { return };
    let directory = tempfile::tempdir().expect("a directory of our own");
    let out = directory.path().display().to_string();
    let kills = rounds(5, 100);
    let count = (10_000 + 4000 * kills).to_string();
    assert_eq!(run(&["events", "simulate", "--out", &out, "--count", &count, "--rate", "500"]).code, Some(0));
    let slow = "queue_records_max = 500\n[kafka.properties]\n\"fetch.message.max.bytes\" = \"20000\"\n";
    let place = Place::new(broker.kafka("killed"), simulated_fields());
    let config = place.config("killed", slow);
    assert_eq!(run(&["topics", "apply", "--config", &config, "--partitions", "3"]).code, Some(0));
    assert_eq!(run(&["events", "send", "--config", &config, "--events", &out]).code, Some(0));
    let undisturbed = run(&["backtest", "--config", &place.config("undisturbed", ""), "--json"]).json();

    let mut ended = 0;
    for round in 0..kills as u64 {
        let mut running = Running::start(&["run", "--config", &config, "--until-end"]);
        wait_for_commits(&place.path("killed-state"), &mut running, (hash::hash(3, round, 0) % 3) as usize);
        if running.is_running() {
            running.kill();
        } else {
            ended += 1;
        }
    }
    assert!(ended * 2 < kills, "{ended} of {kills} runs ended before they were killed");
    let last = run(&["run", "--config", &config, "--until-end", "--json"]).json();
    assert_eq!(digest(&last), digest(&undisturbed));

    let artefacts: Vec<String> =
        installed(&place.path("killed-artefacts")).iter().map(|path| path.display().to_string()).collect();
    let verify: Vec<&str> = ["artifact", "verify"].into_iter().chain(artefacts.iter().map(String::as_str)).collect();
    assert_eq!(run(&verify).code, Some(0));
    let announced = announcements(broker, &place.kafka.versions_topic);
    let distinct: BTreeSet<(u64, String)> = announced
        .iter()
        .map(|one| (one["version"].as_u64().expect("a number"), one["manifest_digest"].to_string()))
        .collect();
    let numbers: Vec<u64> = distinct.iter().map(|(number, _)| *number).collect();
    assert_eq!(numbers, (1..=numbers.len() as u64).collect::<Vec<_>>(), "one chain without a gap");
    assert_eq!(artefacts.len(), numbers.len(), "every announced version is there");
}

//! Workers that are killed at any moment: the state ends up as if nothing had happened, and the versions form one chain.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

use deepfm_core::feature::hash;

use super::commands::{Place, digest, simulated_fields};
use super::live::{Live, announcements, check_chain, patient};
use crate::support::command::{Running, installed, run};
use crate::support::{broker, cluster, rounds, wait_for};

/// Seeds the moments of the kills.
const SEED: u64 = 3;

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

/// A moment to be killed at: in every second round some commits from now, which a worker reaches whatever the machine; in
/// the others anywhere within the first two seconds, the start among them.
fn wait_for_a_moment(state: &Path, running: &mut Running, round: u64) {
    let chance = hash::hash(SEED, round, 0);
    if round.is_multiple_of(2) {
        wait_for_commits(state, running, (chance % 3) as usize);
    } else {
        let (start, moment) = (Instant::now(), Duration::from_micros(chance % 2_000_000));
        wait_for("the moment", || (start.elapsed() >= moment || !running.is_running()).then_some(()));
    }
}

#[test]
fn a_worker_that_is_killed_again_and_again_some_times_with_its_broker_ends_where_an_undisturbed_one_does() {
    let name = "a_worker_that_is_killed_again_and_again_some_times_with_its_broker_ends_where_an_undisturbed_one_does";
    let Some(cluster) = cluster::of_one(name) else { return };
    println!("seed {SEED}");
    let directory = tempfile::tempdir().expect("a directory of our own");
    let out = directory.path().display().to_string();
    let kills = rounds(6, 100);
    let count = (10_000 + 4000 * kills).to_string();
    assert_eq!(run(&["events", "simulate", "--out", &out, "--count", &count, "--rate", "500"]).code, Some(0));
    let slow = "queue_records_max = 500\n[kafka.properties]\n\"fetch.message.max.bytes\" = \"20000\"\n";
    let place = Place::new(cluster.kafka("killed"), simulated_fields());
    let config = place.config("killed", slow);
    patient(&config);
    assert_eq!(run(&["topics", "apply", "--config", &config, "--partitions", "3"]).code, Some(0));
    assert_eq!(run(&["events", "send", "--config", &config, "--events", &out]).code, Some(0));
    let undisturbed = run(&["backtest", "--config", &place.config("undisturbed", ""), "--json"]).json();

    let mut ended = 0;
    for round in 0..kills as u64 {
        let mut running = Running::start(&["run", "--config", &config, "--until-end"]);
        wait_for_a_moment(&place.path("killed-state"), &mut running, round);
        // Every fifth time the broker goes too: before the worker, or after.
        let (is_first, is_second) = (round % 5 == 4 && round % 2 == 0, round % 5 == 4 && round % 2 == 1);
        if is_first {
            cluster.kill(1);
        }
        if running.is_running() {
            running.kill();
        } else {
            ended += 1;
        }
        if is_second {
            cluster.kill(1);
        }
        if is_first || is_second {
            cluster.restart(1);
        }
    }
    assert!(ended * 2 < kills, "{ended} of {kills} runs ended before they were killed");
    let last = run(&["run", "--config", &config, "--until-end", "--json"]).json();
    assert_eq!(digest(&last), digest(&undisturbed));

    let artefacts: Vec<String> =
        installed(&place.path("killed-artefacts")).iter().map(|path| path.display().to_string()).collect();
    let verify: Vec<&str> = ["artifact", "verify"].into_iter().chain(artefacts.iter().map(String::as_str)).collect();
    assert_eq!(run(&verify).code, Some(0));
    check_chain(&announcements(&cluster, &place.kafka.versions_topic), artefacts.len());
}

#[test]
fn a_worker_that_is_killed_while_events_arrive_publishes_versions_that_a_replay_reproduces() {
    let name = "a_worker_that_is_killed_while_events_arrive_publishes_versions_that_a_replay_reproduces";
    let Some(broker) = broker::real(name) else { return };
    println!("seed {SEED}");
    let mut live = Live::new(broker, "killed-live", 1, "");
    live.send(SEED);
    let state = live.place.path("killed-live-state");
    let kills = rounds(2, 20);
    for round in 0..kills as u64 {
        let mut worker = live.worker();
        // In every third round there is a version at least, however often it was killed before.
        if round % 3 == 0 {
            live.wait_for_announced(&mut worker, 1);
        }
        wait_for_a_moment(&state, &mut worker, round);
        assert!(worker.is_running(), "{}", live.said());
        worker.kill();
    }
    let mut worker = live.worker();
    live.wait_for_announced(&mut worker, 1);
    live.end_traffic();
    live.stop(worker);
    live.check();
}

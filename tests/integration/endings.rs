//! How a worker ends: asked once, asked twice, or by a bug in any of its threads. Whatever the end, the next run goes on.

use std::process::Stdio;

use deepfm_core::version::safetensors;
use deepfm_stream::artefacts::directory;
use serde_json::Value;

use super::commands::{Place, digest, quick, simulated_fields};
use crate::support::broker::{self, Broker, Outgoing};
use crate::support::command::{Running, deepfm, installed, run};
use crate::support::wait_for;

/// A place whose topics hold simulated events, and a record that nobody can read.
fn filled(broker: &Broker, name: &str) -> Place {
    let place = Place::new(broker.kafka(name), simulated_fields());
    let config = place.config("filling", "");
    let out = place.path("events").display().to_string();
    assert_eq!(run(&["events", "simulate", "--out", &out, "--count", "15000", "--rate", "500"]).code, Some(0));
    assert_eq!(run(&["topics", "apply", "--config", &config, "--partitions", "2"]).code, Some(0));
    let poison = Outgoing { payload: Some(b"poison"), ..Outgoing::default() };
    broker.produce(&place.kafka.impressions_topic, 0, &[poison]);
    let sent = run(&["events", "send", "--config", &config, "--events", &out]);
    assert_eq!(sent.code, Some(0), "{}", sent.stderr);
    place
}

#[test]
fn a_panic_in_any_thread_ends_the_process_with_70_at_once_and_loses_nothing() {
    let name = "a_panic_in_any_thread_ends_the_process_with_70_at_once_and_loses_nothing";
    if !cfg!(debug_assertions) {
        println!("not run: {name}: released binaries cannot be made to panic");
        return;
    }
    let Some(broker) = broker::real(name) else { return };
    let place = filled(broker, "panics");
    let config = quick(&place.config("panics", ""));
    let poison = Outgoing { payload: Some(b"poison"), ..Outgoing::default() };
    for thread in
        ["learning", "writing", "impressions-reading", "clicks-reading", "announcing", "ends-asking", "letters"]
    {
        if ["ends-asking", "letters"].contains(&thread) {
            // All partitions may be idle by now, and are asked about no more; the first letter is sent.
            broker.produce(&place.kafka.impressions_topic, 1, std::slice::from_ref(&poison));
        }
        let mut command = deepfm(&["run", "--config", &config]);
        let mut worker = Running::spawn(command.env("DEEPFM_PANIC_IN", thread).stderr(Stdio::piped()));
        // A worker that hangs is one that does not end by itself within the deadline.
        wait_for(&format!("the end by a panic in {thread}"), || (!worker.is_running()).then_some(()));
        let outcome = worker.wait();
        assert_eq!(outcome.code, Some(70), "{thread}: {}", outcome.stderr);
        assert!(outcome.stderr.contains("a test asked for it"), "{thread}: {}", outcome.stderr);
        if thread != "learning" {
            assert!(outcome.stderr.contains(&format!("the {thread} thread panicked")), "{}", outcome.stderr);
        }
    }
    let undisturbed = run(&["backtest", "--config", &quick(&place.config("undisturbed", "")), "--json"]).json();
    let last = run(&["run", "--config", &config, "--until-end", "--json"]).json();
    assert_eq!(digest(&last), digest(&undisturbed));
    let letters = run(&["dead-letters", "list", "--config", &config, "--json"]).json();
    assert_eq!(letters.as_object().map(serde_json::Map::len), Some(3), "{letters}");
}

#[test]
fn a_second_signal_ends_the_worker_at_once_and_a_restart_goes_on_to_the_same_state() {
    let name = "a_second_signal_ends_the_worker_at_once_and_a_restart_goes_on_to_the_same_state";
    let Some(broker) = broker::real(name) else { return };
    let place = filled(broker, "signals");
    let undisturbed = run(&["backtest", "--config", &place.config("undisturbed", ""), "--json"]).json();
    let slow = "queue_records_max = 500\n[kafka.properties]\n\"fetch.message.max.bytes\" = \"20000\"\n";
    let config = place.config("signals", slow);
    let worker = Running::start(&["run", "--config", &config, "--until-end"]);
    let artefacts = place.path("signals-artefacts");
    wait_for("a version", || (!installed(&artefacts).is_empty()).then_some(()));
    // Both come while it does not look, so that the second is there before the last checkpoint is.
    worker.signal("-STOP");
    worker.signal("-TERM");
    worker.signal("-INT");
    worker.signal("-CONT");
    let outcome = worker.wait();
    assert_eq!(outcome.code, Some(130), "{}", outcome.stderr);
    assert!(outcome.stderr.contains("asked a second time"), "{}", outcome.stderr);
    // Asked once, it ends in order, and says how far it is.
    let worker = Running::start(&["run", "--config", &config, "--json"]);
    let before = installed(&artefacts).len();
    wait_for("another version", || (installed(&artefacts).len() > before).then_some(()));
    assert!(worker.terminate().json()["records"].as_u64() > Some(0));
    let last = run(&["run", "--config", &config, "--until-end", "--json"]).json();
    assert_eq!(digest(&last), digest(&undisturbed));
}

#[test]
fn events_that_a_producer_sends_twice_are_learned_once() {
    let name = "events_that_a_producer_sends_twice_are_learned_once";
    let Some(broker) = broker::real(name) else { return };
    let lines = events(1500, 0);
    let once = Place::new(broker.kafka_with_topics("once", 1), simulated_fields());
    let twice = Place::new(broker.kafka_with_topics("twice", 1), simulated_fields());
    send(broker, &once, &lines);
    // A retry repeats what was sent a moment ago, a batch at a time: the copies follow up to eleven events later.
    let doubled = |events: &[String]| events.chunks(11).flat_map(|batch| [batch, batch].concat()).collect();
    send(broker, &twice, &[doubled(&lines[0]), doubled(&lines[1])]);
    let learn = |place: &Place| {
        let config = place.config("copies", "");
        let summary = run(&["run", "--config", &config, "--until-end", "--json"]).json();
        let versions = installed(&place.path("copies-artefacts"));
        let newest = directory::materialize(versions.last().expect("a version")).expect("it is whole");
        let model = safetensors::write(&newest.servable.tensors());
        let backtest = run(&["backtest", "--config", &config, "--json"]).json();
        assert_eq!(digest(&backtest), digest(&summary));
        (summary, model, backtest)
    };
    let ((once, model, _), (twice, doubled_model, report)) = (learn(&once), learn(&twice));
    assert_eq!(twice["records"].as_u64(), once["records"].as_u64().map(|records| 2 * records));
    assert_eq!(report["join"]["duplicate"], once["records"], "each copy is known by its event id");
    assert_eq!((&twice["learned"], &twice["metrics"]), (&once["learned"], &once["metrics"]));
    assert!(model == doubled_model, "the weights are the same, bit for bit");
}

#[test]
fn events_out_of_order_within_the_lateness_give_the_labels_that_they_give_in_order() {
    let name = "events_out_of_order_within_the_lateness_give_the_labels_that_they_give_in_order";
    let Some(broker) = broker::real(name) else { return };
    // Events of one partition are up to two seconds out of order.
    let report = |jitter: u64, lateness: &str| {
        let place = Place::new(broker.kafka_with_topics("order", 1), simulated_fields());
        send(broker, &place, &events(1500, jitter));
        let config = place.config("order", "");
        let text = std::fs::read_to_string(&config).expect("it was written");
        let window = "attribution_window_seconds";
        let text = text.replace(&format!("{window} = 5"), &format!("{window} = 1\n{lateness}"));
        std::fs::write(&config, text).expect("the disk takes it");
        let live = run(&["run", "--config", &config, "--until-end", "--json"]).json();
        let backtest = run(&["backtest", "--config", &config, "--json"]).json();
        assert_eq!(digest(&live), digest(&backtest));
        backtest
    };
    let counts = |report: &Value| {
        let join =
            ["positives", "negatives", "too_late", "late_click", "orphan_expired"].map(|fate| &report["join"][fate]);
        format!("{} records, {} examples, {} clicks, {join:?}", report["records"], report["examples"], report["clicks"])
    };
    let in_order = report(0, "lateness_seconds = 2");
    let jittered = report(2000, "lateness_seconds = 2");
    assert_eq!(counts(&jittered), counts(&in_order));
    assert_ne!(digest(&jittered), digest(&in_order), "it is another log all the same");
    let impatient = report(2000, "lateness_seconds = 0");
    assert_ne!(counts(&impatient), counts(&in_order), "without lateness, order matters");
}

/// Impressions 100 ms apart and a click on every fifth of them, with event ids, as lines in the order in which they are
/// sent: each is late by up to `jitter` milliseconds.
fn events(count: u64, jitter: u64) -> [Vec<String>; 2] {
    let late = |n: u64, kind: u64| deepfm_core::feature::hash::hash(7, n, kind) % jitter.max(1);
    let time = |n: u64| 1_700_000_000_000 + 100 * n;
    let impression = |n: u64| {
        let line = format!(
            r#"{{"impression_id":"i{n}","event_id":"e{n}","event_time":{},"features":{{"user":"u{}"}}}}"#,
            time(n),
            n % 40
        );
        (time(n) + late(n, 0), line)
    };
    let click = |n: u64| {
        let line = format!(r#"{{"impression_id":"i{n}","event_id":"c{n}","event_time":{}}}"#, time(n) + 70);
        (time(n) + 70 + late(n, 1), line)
    };
    let sorted = |mut lines: Vec<(u64, String)>| {
        lines.sort();
        lines.into_iter().map(|(_, line)| line).collect()
    };
    [sorted((0..count).map(impression).collect()), sorted((0..count).step_by(5).map(click).collect())]
}

fn send(broker: &Broker, place: &Place, lines: &[Vec<String>; 2]) {
    for (topic, lines) in [&place.kafka.impressions_topic, &place.kafka.clicks_topic].into_iter().zip(lines) {
        let records: Vec<Outgoing<'_>> =
            lines.iter().map(|line| Outgoing { payload: Some(line.as_bytes()), ..Outgoing::default() }).collect();
        broker.produce(topic, 0, &records);
    }
}

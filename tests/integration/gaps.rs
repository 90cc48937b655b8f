//! Topics that are no longer what was read: records out of retention, topics that were truncated or made again.

use std::collections::BTreeMap;
use std::fs;

use deepfm_stream::config::kafka::Kafka;
use deepfm_stream::kafka::administration;
use deepfm_stream::kafka::client;
use deepfm_stream::source::SourceError;
use deepfm_stream::source::topics::KafkaLog;
use rdkafka::admin::{AdminClient, AdminOptions};
use rdkafka::client::DefaultClientContext;
use rdkafka::{Offset, TopicPartitionList};
use serde_json::Value;

use super::commands::{Place, digest, simulated_fields};
use crate::support::broker::{self, Broker, Outgoing};
use crate::support::command::{Running, installed, run};
use crate::support::{http, wait_for, wait_for_or};

fn admin(kafka: &Kafka) -> (AdminClient<DefaultClientContext>, tokio::runtime::Runtime) {
    let admin = client::base(kafka).create().expect("the settings are valid");
    (admin, tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime"))
}

/// Deletes the records of partition 0 before an offset.
fn delete_before(kafka: &Kafka, topic: &str, offset: i64) {
    let (admin, runtime) = admin(kafka);
    let mut offsets = TopicPartitionList::new();
    offsets.add_partition_offset(topic, 0, Offset::Offset(offset)).expect("the offset is valid");
    let deleted = runtime.block_on(admin.delete_records(&offsets, &AdminOptions::new())).expect("the broker answers");
    assert_eq!(deleted.elements()[0].error(), Ok(()));
}

/// Deletes a topic and makes it again, without its records.
pub(super) fn recreate(kafka: &Kafka, topic: &str) {
    let (admin, runtime) = admin(kafka);
    runtime.block_on(admin.delete_topics(&[topic], &AdminOptions::new())).expect("the broker answers");
    wait_for("the topic made again", || {
        administration::apply(kafka, 1, 1).ok()?;
        KafkaLog::connect(kafka).ok().map(|_| ())
    });
}

/// Impressions `first..last`, 100 ms apart, and a click on every tenth, to partition 0 of every one of the places.
fn produce(broker: &Broker, places: &[&Kafka], first: i64, last: i64) {
    let time = |n: i64| 1_700_000_000_000 + 100 * n;
    let impression =
        |n| format!(r#"{{"impression_id":"i{n}","event_time":{},"features":{{"user":"u{}"}}}}"#, time(n), n % 50);
    let click = |n| format!(r#"{{"impression_id":"i{n}","event_time":{}}}"#, time(n) + 50);
    let impressions: Vec<String> = (first..last).map(impression).collect();
    let clicks: Vec<String> = (first..last).filter(|n| n % 10 == 0).map(click).collect();
    for kafka in places {
        for (topic, records) in [(&kafka.impressions_topic, &impressions), (&kafka.clicks_topic, &clicks)] {
            let record = |r: &'_ String| r.as_bytes().to_vec();
            let payloads: Vec<Vec<u8>> = records.iter().map(record).collect();
            let outgoing: Vec<Outgoing<'_>> =
                payloads.iter().map(|r| Outgoing { payload: Some(r), ..Outgoing::default() }).collect();
            broker.produce(topic, 0, &outgoing);
        }
    }
}

#[test]
fn records_out_of_retention_are_refused_then_skipped_by_a_flag_and_a_replay_reproduces_it() {
    let name = "records_out_of_retention_are_refused_then_skipped_by_a_flag_and_a_replay_reproduces_it";
    let Some(broker) = broker::real(name) else { return };
    let place = Place::new(broker.kafka_with_topics("gap", 1), simulated_fields());
    // The mirror keeps everything, so that the log can be replayed from its beginning.
    let mirror = Place::new(broker.kafka_with_topics("gap-mirror", 1), simulated_fields());
    let both = [&place.kafka, &mirror.kafka];
    let config = place.config("gap", "");
    produce(broker, &both, 0, 1000);
    let first = run(&["run", "--config", &config, "--until-end", "--json"]).json();
    assert_eq!(first["records"], 1100);
    produce(broker, &both, 1000, 3000);
    delete_before(&place.kafka, &place.kafka.impressions_topic, 1500);
    delete_before(&place.kafka, &place.kafka.clicks_topic, 120);

    let go_on = ["run", "--config", &config, "--until-end", "--json"];
    for _ in 0..2 {
        let refused = run(&go_on);
        assert_eq!(refused.code, Some(69), "{}", refused.stderr);
        for part in [
            "impression/0 is due at offset 1000, the broker begins at 1500 (500 records lost)",
            "click/0 is due at offset 100, the broker begins at 120 (20 records lost)",
            "--skip-gaps",
            "--reset-state",
        ] {
            assert!(refused.stderr.contains(part), "no {part:?} in {}", refused.stderr);
        }
    }
    let skipped = run(&[&go_on[..], &["--skip-gaps"]].concat());
    assert!(skipped.stderr.contains("520 since the log began"), "{}", skipped.stderr);
    let skipped = skipped.json();
    assert_eq!(skipped["records"], 1100 + 1500 + 180);
    let again = run(&go_on).json();
    assert_eq!(digest(&again), digest(&skipped), "the gap is behind: no flag is needed any more");

    check_metrics(&place, &config);

    let artefacts = place.path("gap-artefacts");
    let versions = installed(&artefacts);
    let journal = fs::read_to_string(versions.last().expect("a version").join("journal.jsonl")).expect("it is there");
    assert_eq!(journal.matches("\"gap\"").count(), 2, "{journal}");
    let replay =
        ["backtest", "--config", &mirror.config("gap", ""), "--journal", &artefacts.display().to_string(), "--json"];
    let checks = run(&replay).json();
    let checks = checks.as_array().expect("a list");
    assert_eq!(checks.len(), versions.len());
    assert!(checks.iter().all(|check| check["expected"] == check["found"]), "{checks:#?}");
    assert_eq!(checks.last().map(|check| &check["found"]), Some(&Value::from(digest(&skipped))));
    let whole = run(&["backtest", "--config", &mirror.config("whole", ""), "--json"]).json();
    assert_ne!(digest(&whole), digest(&skipped), "what was skipped was not learned");
}

/// Operators see how much was skipped, also in later runs.
fn check_metrics(place: &Place, config: &str) {
    let text = fs::read_to_string(config).expect("it was written");
    let with_admin = place.path("admin.toml").display().to_string();
    fs::write(&with_admin, text.replace("listen = \"\"", "listen = \"127.0.0.1:0\"")).expect("the disk takes it");
    let log = place.path("admin.log");
    let worker = Running::start_logged(&["run", "--config", &with_admin], &log);
    let get = |path: &str| http::ask(http::said_address(&log)?, path, None).map(|(_, text)| text);
    wait_for("the metric", || get("/metrics")?.contains("deepfm_gap_records_total{model=\"gap\"} 520").then_some(()));
    for kind in ["impression", "click"] {
        let lag = format!("deepfm_partition_lag_records{{model=\"gap\",kind=\"{kind}\",partition=\"0\"}} 0\n");
        wait_for("no lag", || get("/metrics")?.contains(&lag).then_some(()));
    }
    let status = get("/status").expect("it answers");
    assert!(status.contains("\"gap_records\":520"), "{status}");
    assert_eq!(worker.terminate().code, Some(0));
}

#[test]
fn records_that_are_deleted_under_a_running_worker_end_it_with_69_and_the_same_advice() {
    let name = "records_that_are_deleted_under_a_running_worker_end_it_with_69_and_the_same_advice";
    let Some(broker) = broker::real(name) else { return };
    let place = Place::new(broker.kafka_with_topics("deleted", 1), simulated_fields());
    let config = place.config("deleted", "");
    produce(broker, &[&place.kafka], 0, 500);
    let log = place.path("deleted.log");
    let mut worker = Running::start_logged(&["run", "--config", &config], &log);
    wait_for("a version", || (!installed(&place.path("deleted-artefacts")).is_empty()).then_some(()));
    // While it does not look, records come and go. What it had asked for before is answered with the first that come: those it has.
    worker.signal("-STOP");
    for (from, to) in [(500, 800), (800, 1100), (1100, 2000)] {
        produce(broker, &[&place.kafka], from, to);
    }
    delete_before(&place.kafka, &place.kafka.impressions_topic, 1900);
    worker.signal("-CONT");
    let said = || fs::read_to_string(&log).expect("it was written");
    wait_for_or("the end of the worker", said, || (!worker.is_running()).then_some(()));
    assert_eq!(worker.wait().code, Some(69));
    let said = said();
    let (_, due) = said.split_once("impression/0 is due at offset ").unwrap_or_else(|| panic!("{said}"));
    let due: i64 = due.split(',').next().and_then(|offset| offset.parse().ok()).expect("an offset");
    let lost = format!("due at offset {due}, the broker begins at 1900 ({} records lost)", 1900 - due);
    for part in [&lost, "--skip-gaps"] {
        assert!((500..=1100).contains(&due) && said.contains(part), "no {part:?} in {said}");
    }
    let skipped = run(&["run", "--config", &config, "--until-end", "--json", "--skip-gaps"]).json();
    assert_eq!(skipped["records"], due + 50 + 100 + 150);
}

#[test]
fn a_topic_that_ends_before_what_was_read_is_refused_whatever_the_flags() {
    let name = "a_topic_that_ends_before_what_was_read_is_refused_whatever_the_flags";
    let Some(broker) = broker::real(name) else { return };
    let place = Place::new(broker.kafka_with_topics("truncated", 1), simulated_fields());
    let config = place.config("truncated", "");
    produce(broker, &[&place.kafka], 0, 500);
    let first = run(&["run", "--config", &config, "--until-end", "--json"]).json();
    recreate(&place.kafka, &place.kafka.impressions_topic);
    for flags in [&[][..], &["--skip-gaps"]] {
        let refused = run(&[&["run", "--config", &config, "--until-end"], flags].concat());
        assert_eq!(refused.code, Some(74), "{}", refused.stderr);
        assert!(refused.stderr.contains("recreated") && refused.stderr.contains("--reset-state"), "{}", refused.stderr);
    }
    produce(broker, &[&place.kafka], 500, 600);
    let reset = run(&["run", "--config", &config, "--until-end", "--json", "--reset-state"]).json();
    assert_eq!(reset["records"], 100 + 60, "what the topics have now");
    assert_ne!(digest(&reset), digest(&first));
}

#[test]
fn a_worker_refuses_a_topic_that_was_made_again_with_as_many_records() {
    let name = "a_worker_refuses_a_topic_that_was_made_again_with_as_many_records";
    let Some(broker) = broker::real(name) else { return };
    let place = Place::new(broker.kafka_with_topics("again", 1), simulated_fields());
    let config = place.config("again", "");
    produce(broker, &[&place.kafka], 0, 500);
    let go_on = ["run", "--config", &config, "--until-end", "--json"];
    let first = run(&go_on).json();
    recreate(&place.kafka, &place.kafka.impressions_topic);
    produce(broker, &[&place.kafka], 0, 800);
    for flags in [&[][..], &["--skip-gaps"]] {
        let refused = run(&[&go_on[..], flags].concat());
        assert_eq!(refused.code, Some(74), "{}", refused.stderr);
        let says = format!("topic {} was recreated: its id is", place.kafka.impressions_topic);
        assert!(refused.stderr.contains(&says) && refused.stderr.contains("--reset-state"), "{}", refused.stderr);
    }
    let reset = run(&[&go_on[..], &["--reset-state"]].concat()).json();
    assert_ne!(digest(&reset), digest(&first));
    assert_eq!(digest(&run(&go_on).json()), digest(&reset), "the new id is remembered");
}

#[test]
fn a_topic_that_was_made_again_is_known_by_its_id_at_start_and_while_it_is_read() {
    let name = "a_topic_that_was_made_again_is_known_by_its_id_at_start_and_while_it_is_read";
    let Some(broker) = broker::real(name) else { return };
    let kafka = Kafka { partition_refresh_seconds: 0, ..broker.kafka_with_topics("remade", 1) };
    produce(broker, &[&kafka], 0, 10);
    let log = KafkaLog::connect(&kafka).expect("the topics exist");
    let ids = log.topic_ids();
    assert_eq!(ids.keys().collect::<Vec<_>>(), [&kafka.clicks_topic, &kafka.impressions_topic]);
    assert!(ids.values().all(|id| id.len() >= 22), "as Kafka's tools write them: {ids:?}");
    log.check_ids(&ids).expect("they are the same");
    log.check_ids(&BTreeMap::new()).expect("nothing is remembered");
    let renamed = BTreeMap::from([("another".to_owned(), "id".to_owned())]);
    log.check_ids(&renamed).expect("a mirror is not compared");
    let mut source = super::kafka::read_from_start(log);
    recreate(&kafka, &kafka.impressions_topic);
    produce(broker, &[&kafka], 0, 30);
    let error = super::kafka::first_error(&mut source);
    assert!(matches!(&error, SourceError::Recreated { topic, .. } if *topic == kafka.impressions_topic), "{error}");
    let log = KafkaLog::connect(&kafka).expect("the topics exist");
    let found = log.check_ids(&ids);
    assert!(
        matches!(&found, Err(SourceError::Recreated { topic, was, is })
        if *topic == kafka.impressions_topic && *was == ids[topic] && was != is),
        "{found:?}"
    );
}

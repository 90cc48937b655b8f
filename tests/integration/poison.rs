//! Poison: one record in a hundred is broken, in more than twenty ways. It changes counters and the dead-letter topic, and
//! not a bit of the model.

use std::collections::BTreeSet;
use std::fs;

use serde_json::Value;

use super::commands::{Place, simulated_fields};
use crate::support::broker::{self, Broker, Outgoing};
use crate::support::command::{installed, run};

/// What is wrong with each, and how it is refused.
fn poison() -> Vec<(&'static str, Vec<u8>)> {
    let document = |features: &str| {
        format!(r#"{{"impression_id":"bad","event_time":1700000000000,"features":{features}}}"#).into_bytes()
    };
    let timed = |time: &str| format!(r#"{{"impression_id":"bad","event_time":{time},"features":{{}}}}"#).into_bytes();
    let text = |text: &str| text.as_bytes().to_vec();
    let list = |item: &str, count: usize| format!("[{}]", vec![item; count].join(","));
    vec![
        ("malformed", text(r#"{"impression_id":"bad","event_ti"#)),
        ("malformed", text("")),
        ("malformed", text("null garbage")),
        ("malformed", text(r#"{"impression_id":"bad",}"#)),
        ("malformed", document(r#"{"user":NaN}"#)),
        ("malformed", vec![0xff, 0xfe, 0x00, b'{', b'}']),
        ("unsupported_framing", vec![0, 0, 0, 0, 1, 0x06, 0x62, 0x61, 0x64]),
        ("malformed", [b"{\"impression_id\":\"".as_slice(), &[0xc3, 0x28], b"\"}"].concat()),
        ("malformed", document(&format!("{{\"user\":{}1{}}}", "[".repeat(5000), "]".repeat(5000)))),
        ("mistyped", text("[1,2,3]")),
        ("mistyped", text("\"a string\"")),
        ("mistyped", document(r#"["not","an","object"]"#)),
        ("mistyped", document(r#"{"user":{"nested":{"deep":1}}}"#)),
        ("mistyped", text(r#"{"impression_id":7.5e300,"event_time":[],"features":{}}"#)),
        ("mistyped", timed("\"yesterday\"")),
        ("missing_key", text(r#"{"event_time":1700000000000,"features":{}}"#)),
        ("missing_key", text(r#"{"impression_id":"bad","features":{}}"#)),
        ("duplicate_key", document(r#"{"user":"a","user":"b"}"#)),
        ("duplicate_key", text(r#"{"event_time":1700000000000,"event_time":1700000000000,"features":{}}"#)),
        ("too_many_features", document(&format!("{{\"tags\":{}}}", list("\"t\"", 5000)))),
        ("seconds_not_milliseconds", timed("1700000000")),
        ("microseconds_not_milliseconds", timed("1700000000000000")),
        ("time_out_of_range", timed("-5")),
        ("oversized", document(&format!("{{\"user\":\"{}\"}}", "x".repeat(700_000)))),
    ]
}

fn produce(broker: &Broker, place: &Place, impressions: &[Option<Vec<u8>>], clicks: &[Option<Vec<u8>>]) {
    for (topic, records) in [(&place.kafka.impressions_topic, impressions), (&place.kafka.clicks_topic, clicks)] {
        let outgoing: Vec<Outgoing<'_>> =
            records.iter().map(|payload| Outgoing { payload: payload.as_deref(), ..Outgoing::default() }).collect();
        broker.produce(topic, 0, &outgoing);
    }
}

/// The lines of a file, with broken ones in between, one to a hundred; and how many there are.
fn lines(path: &std::path::Path, broken: &[(&str, Vec<u8>)]) -> (Vec<Option<Vec<u8>>>, usize) {
    let text = fs::read_to_string(path).expect("it was written");
    let (mut records, mut count) = (Vec::new(), 0);
    for (at, line) in text.lines().enumerate() {
        if at % 100 == 50 && !broken.is_empty() {
            // The last kind is the tombstone, a record without a value.
            records.push(broken.get(count % (broken.len() + 1)).map(|(_, payload)| payload.clone()));
            count += 1;
        }
        records.push(Some(line.as_bytes().to_vec()));
    }
    (records, count)
}

#[test]
fn poison_changes_counters_and_dead_letters_and_not_a_bit_of_the_model() {
    let name = "poison_changes_counters_and_dead_letters_and_not_a_bit_of_the_model";
    let Some(broker) = broker::real(name) else { return };
    let directory = tempfile::tempdir().expect("a directory of our own");
    let out = directory.path().display().to_string();
    assert_eq!(run(&["events", "simulate", "--out", &out, "--count", "12000", "--rate", "500"]).code, Some(0));
    let broken = poison();
    let mut weights = BTreeSet::new();
    for (dose, broken) in [("healthy", &[] as &[_]), ("poisoned", &broken)] {
        let place = Place::new(broker.kafka_with_topics(dose, 1), simulated_fields());
        let (impressions, bad_impressions) = lines(&directory.path().join("impressions.jsonl"), broken);
        // A click may have any other key, so what is wrong with features alone is no poison to it.
        let (clicks, bad_clicks) = lines(&directory.path().join("clicks.jsonl"), &broken[..broken.len().min(8)]);
        produce(broker, &place, &impressions, &clicks);
        let config = place.config("poison", "[events]\nrecord_bytes_max = 500000\n");
        let summary = run(&["run", "--config", &config, "--until-end", "--json"]).json();
        assert_eq!(summary["records"], impressions.len() + clicks.len());
        let bad = bad_impressions + bad_clicks;
        let letters = run(&["dead-letters", "list", "--config", &config, "--json"]).json();
        let letters = letters.as_object().expect("letters by key");
        assert_eq!(letters.len(), bad);
        let reasons: BTreeSet<&str> = letters.values().filter_map(|letter| letter["reason"].as_str()).collect();
        let mut expected: BTreeSet<&str> = broken.iter().map(|(reason, _)| *reason).collect();
        expected.extend((bad > 0).then_some("tombstone"));
        assert_eq!(reasons, expected);
        let newest = installed(&place.path("poison-artefacts")).pop().expect("a version at the end");
        let manifest = fs::read(newest.join("manifest.json")).expect("a version has a manifest");
        let manifest: Value = serde_json::from_slice(&manifest).expect("it is JSON");
        weights.insert(manifest["files"]["model.safetensors"]["sha256"].to_string());
        assert!(summary["learned"].as_u64().expect("a number") > 11_000);
    }
    assert_eq!(weights.len(), 1, "the weights differ: {weights:?}");
}

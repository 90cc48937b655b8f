//! Poison: one record in a hundred is broken, in more than twenty ways. It changes counters and the dead-letter topic, and
//! not a bit of the model.

use std::collections::BTreeSet;
use std::fs;

use deepfm_stream::kafka::administration;
use proptest::prelude::*;
use proptest::strategy::ValueTree as _;
use proptest::test_runner::TestRunner;
use serde_json::Value;

use super::commands::{Place, simulated_fields};
use crate::support::broker::{self, Broker, Outgoing};
use crate::support::command::{installed, run};
use crate::support::raw::Raw;

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
        weights.insert(manifest["weights"]["digest"].as_str().expect("a digest").to_owned());
        assert!(summary["learned"].as_u64().expect("a number") > 11_000);
    }
    assert_eq!(weights.len(), 1, "the weights differ: {weights:?}");
}

/// Bytes of many kinds, for any part of a record.
fn any_bytes() -> impl Strategy<Value = Vec<u8>> {
    prop_oneof![
        proptest::collection::vec(any::<u8>(), 0..60),
        any::<String>().prop_map(String::into_bytes),
        Just(b"content-type".to_vec()),
        Just(b"avro".to_vec()),
        Just(b"ce_specversion".to_vec()),
        Just(b"ce_time".to_vec()),
        Just(vec![0xff, 0xfe]),
        Just(vec![1; 170_000]),
    ]
}

fn any_payload() -> impl Strategy<Value = Vec<u8>> {
    let document = |id: u16, time: i64| {
        format!(r#"{{"impression_id":"i{id}","event_time":{time},"features":{{"user":"u{}"}}}}"#, id % 9).into_bytes()
    };
    let sound = (any::<u16>(), 1_700_000_000_000..1_700_000_100_000_i64).prop_map(move |(id, time)| document(id, time));
    let altered = (sound.clone(), any::<prop::sample::Index>(), any::<u8>()).prop_map(|(mut bytes, at, byte)| {
        let at = at.index(bytes.len());
        bytes[at] = byte;
        bytes
    });
    let framed = (any::<u8>(), any_bytes()).prop_map(|(first, rest)| [&[first % 4], rest.as_slice()].concat());
    let timed = (any::<u16>(), any::<i64>()).prop_map(move |(id, time)| document(id, time));
    prop_oneof![3 => sound, 2 => altered, 1 => framed, 1 => timed, 2 => any_bytes()]
}

/// A record of which a producer chose every part. Timestamps before 1970 are refused by every client, but for -1.
fn any_record() -> impl Strategy<Value = Raw> {
    let header = || (any_bytes(), proptest::option::of(any_bytes()));
    let headers = prop_oneof![
        4 => Just(Vec::new()),
        4 => proptest::collection::vec(header(), 1..4),
        1 => Just(vec![(vec![0xc3], None); 900]),
    ];
    let timestamp =
        prop_oneof![Just(0), Just(1), 1_700_000_000_000..1_700_000_100_000_i64, Just(i64::MAX), 0..i64::MAX];
    let (key, payload) = (proptest::option::of(any_bytes()), proptest::option::of(any_payload()));
    (key, payload, timestamp, headers).prop_map(|(key, payload, timestamp, headers)| Raw {
        key,
        payload,
        timestamp,
        headers,
    })
}

#[test]
fn no_record_whatever_a_producer_writes_ends_the_worker() {
    let Some(broker) = broker::real("no_record_whatever_a_producer_writes_ends_the_worker") else { return };
    let kafka = broker.kafka("whatever");
    let topics = [&kafka.impressions_topic, &kafka.clicks_topic];
    for topic in topics {
        // Whatever its timestamp is, the broker takes a record and keeps it.
        broker.create(topic, 1, &[("message.timestamp.after.max.ms", "9223372036854775807"), ("retention.ms", "-1")]);
    }
    administration::apply(&kafka, 1, 1).expect("the broker makes the other topics");
    let mut runner = TestRunner::deterministic();
    let strategy = proptest::collection::vec(any_record(), 300);
    for topic in topics {
        let records = strategy.new_tree(&mut runner).expect("nothing is filtered").current();
        broker.produce_raw(topic, 0, &records);
    }
    let place = Place::new(kafka, "[[fields]]\nname = \"user\"\nkind = \"categorical\"\n".to_owned());
    let config = place.config("whatever", "");
    let first = run(&["run", "--config", &config, "--until-end", "--json"]);
    assert_eq!(first.code, Some(0), "{}", first.stderr);
    let summary = first.json();
    assert_eq!(summary["records"], 600);
    let refused = |ledger: &Value| -> u64 {
        ["impression/0", "click/0"].iter().filter_map(|partition| ledger[*partition]["refused"]["count"].as_u64()).sum()
    };
    let letters = run(&["dead-letters", "list", "--config", &config, "--json"]).json();
    let count = letters.as_object().expect("letters by key").len() as u64;
    assert_eq!(count, refused(&summary["ledger"]), "{}", summary["ledger"]);
    assert!((100..590).contains(&count), "of both kinds there are many: {count}");
    let again = run(&["run", "--config", &config, "--until-end", "--json"]);
    assert_eq!(again.json()["state_digest"], summary["state_digest"]);
    assert_eq!(run(&["dead-letters", "requeue", "--config", &config, "--dry-run"]).code, Some(0));
    let replayed = run(&["backtest", "--config", &config, "--refused-max", "1", "--json"]);
    assert_eq!(replayed.json()["state_digest"], summary["state_digest"]);
}

#[test]
fn an_impression_that_cannot_be_learned_is_named_in_the_summary_and_in_a_letter() {
    let Some(broker) = broker::real("an_impression_that_cannot_be_learned_is_named_in_the_summary_and_in_a_letter")
    else {
        return;
    };
    let fields = ["a", "b"].map(|name| format!("[[fields]]\nname = \"{name}\"\nkind = \"multi\"\nweights = \"raw\"\n"));
    let place = Place::new(broker.kafka_with_topics("unlearned", 1), fields.concat());
    // Each weight is one that is taken, but without a bound on gradients the square of their product is no number. Of two
    // such impressions one is clicked: whatever the model thinks of them, it is sure, and wrong about one.
    let is_huge = |n: i64| (20..22).contains(&n);
    let impression = |n: i64| {
        let (weight, time) = (if is_huge(n) { "1e12" } else { "1" }, 1_700_000_000_000 + n * 1000);
        let features = format!(r#"{{"a":{{"x":{weight},"y":1}},"b":{{"z":{weight}}}}}"#);
        format!(r#"{{"impression_id":"i{n}","event_time":{time},"weight":{weight},"features":{features}}}"#)
    };
    let impressions: Vec<Option<Vec<u8>>> = (0..40).map(|n| Some(impression(n).into_bytes())).collect();
    let click = br#"{"impression_id":"i20","event_time":1700000020500}"#.to_vec();
    produce(broker, &place, &impressions, &[Some(click)]);
    let config = place.config("unlearned", "[events]\nweight_max = 1e12\n[training]\ngradient_max = 0\n");
    let summary = run(&["run", "--config", &config, "--until-end", "--json"]).json();
    let losses = summary["losses"].as_array().expect("a list");
    let gradient = losses.iter().find(|loss| loss["reason"] == "gradient").unwrap_or_else(|| panic!("{summary}"));
    let letters = run(&["dead-letters", "list", "--config", &config, "--json"]).json();
    let letters = letters.as_object().expect("letters by key");
    assert_eq!(gradient["count"].as_u64(), Some(letters.len() as u64), "{gradient}");
    let first = gradient["first"]["offset"].as_i64().expect("a place");
    assert!(is_huge(first), "{gradient}");
    let letter = &letters[&format!("{}/0/{first}", place.kafka.impressions_topic)];
    assert_eq!(letter["reason"], "not_finite");
    let detail = letter["detail"].as_str().expect("a text");
    assert!(detail.contains(&format!("impression i{first}:")), "{detail}");
}

#[test]
fn a_letter_of_a_cloud_event_is_sent_again_with_the_headers_that_hold_its_parts() {
    let Some(broker) = broker::real("a_letter_of_a_cloud_event_is_sent_again_with_the_headers_that_hold_its_parts")
    else {
        return;
    };
    let field = |kind: &str| format!("[[fields]]\nname = \"price\"\nkind = \"{kind}\"\n");
    let place = Place::new(broker.kafka_with_topics("cloud", 1), field("numeric"));
    let record = Outgoing {
        payload: Some(br#"{"impression_id":"a","features":{"price":"cheap"}}"#),
        timestamp: Some(1_700_000_000_000),
        headers: &[
            ("ce_specversion", "1.0"),
            ("ce_source", "/web"),
            ("ce_id", "7"),
            ("ce_time", "2023-11-14T22:13:20Z"),
        ],
    };
    broker.produce(&place.kafka.impressions_topic, 0, &[record]);
    let config = place.config("numeric", "");
    let summary = run(&["run", "--config", &config, "--until-end", "--json"]).json();
    assert_eq!(summary["losses"][0]["reason"], "mistyped", "{summary}");
    // The price is a category after all.
    let mended = Place::new(place.kafka.clone(), field("categorical"));
    let config = mended.config("categorical", "");
    let sent = run(&["dead-letters", "requeue", "--config", &config, "--json"]).json();
    assert_eq!(sent["sent"], 1, "{sent}");
    let summary = run(&["run", "--config", &config, "--until-end", "--json"]).json();
    assert_eq!(summary["records"], 2);
    // Its time and its event id came with it: it is the event that was there before.
    assert_eq!(summary["losses"][0]["reason"], "duplicate", "{summary}");
    assert_eq!(summary["losses"].as_array().map(Vec::len), Some(1), "{summary}");
}

//! The commands as users run them, on a real broker: one log, one digest; live runs that a replay reproduces; bad records
//! and bad circumstances.

use std::fs;
use std::path::{Path, PathBuf};

use deepfm_core::event::EventKind;
use deepfm_stream::config::kafka::Kafka;
use deepfm_stream::simulate;
use serde_json::Value;

use super::live::announcements;
use crate::support::broker::{self, Broker, Outgoing};
use crate::support::command::{Running, installed, run};
use crate::support::{copy_directory, real_data, wait_for};

/// A workplace of one test: configuration files and directories.
pub(super) struct Place {
    directory: tempfile::TempDir,
    pub(super) kafka: Kafka,
    fields: String,
}

impl Place {
    pub(super) fn new(kafka: Kafka, fields: String) -> Self {
        Self { directory: tempfile::tempdir().expect("a directory of our own"), kafka, fields }
    }

    pub(super) fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    /// Writes a configuration whose state and artefacts are under `name`; `extra` comes last.
    pub(super) fn config(&self, name: &str, extra: &str) -> String {
        let Kafka { brokers, impressions_topic, clicks_topic, versions_topic, dead_letter_topic, .. } = &self.kafka;
        let acknowledgements_topic = &self.kafka.acknowledgements_topic;
        let text = format!(
            "{}\n[model]\nname = \"{name}\"\n[join]\nattribution_window_seconds = 5\n[admin]\nlisten = \"\"\n\
             [state]\ndir = \"{}\"\ncheckpoint_interval_seconds = 1\n\
             [versions]\ndir = \"{}\"\ninterval_seconds = 2\ninterval_examples = 3000\nkeep = 0\n\
             [exports]\ndir = \"{}\"\ninterval_seconds = 3600\n\
             [kafka]\nbrokers = \"{brokers}\"\nimpressions_topic = \"{impressions_topic}\"\n\
             clicks_topic = \"{clicks_topic}\"\nversions_topic = \"{versions_topic}\"\n\
             dead_letter_topic = \"{dead_letter_topic}\"\n\
             acknowledgements_topic = \"{acknowledgements_topic}\"\nidle_after_ms = 50\nretry_max_seconds = 30\n{extra}",
            self.fields,
            self.path(&format!("{name}-state")).display(),
            self.path(&format!("{name}-artefacts")).display(),
            self.path(&format!("{name}-exports")).display(),
        );
        let path = self.path(&format!("{name}.toml"));
        fs::write(&path, text).expect("the disk takes it");
        path.display().to_string()
    }
}

fn fields_toml(fields: &[(&str, &str)]) -> String {
    let table = |(name, kind): &(&str, &str)| format!("[[fields]]\nname = \"{name}\"\nkind = \"{kind}\"\n");
    fields.iter().map(table).collect::<Vec<_>>().concat()
}

pub(super) fn simulated_fields() -> String {
    let kind = |field: &deepfm_core::feature::field::Field| match field.name.as_str() {
        "tags" => "multi",
        "price" => "numeric",
        _ => "categorical",
    };
    let fields = simulate::fields();
    fields_toml(&fields.iter().map(|field| (field.name.as_str(), kind(field))).collect::<Vec<_>>())
}

pub(super) fn digest(document: &Value) -> String {
    document["state_digest"].as_str().expect("a digest").to_owned()
}

/// Runs until there is a version, asks it to end there, and goes on with a second run.
fn interrupted_run(config: &str, artefacts: &Path, all_records: u64) -> Value {
    let running = Running::start(&["run", "--config", config, "--until-end", "--json"]);
    wait_for("the first version", || installed(artefacts).first().cloned());
    let first = running.terminate().json();
    let records = first["records"].as_u64().expect("a number");
    assert!(records > 0 && records < all_records, "it was to be stopped half-way: {records} of {all_records}");
    run(&["run", "--config", config, "--until-end", "--json"]).json()
}

/// One log on the broker: whatever way it is run, the digest is the same.
fn check_one_digest(broker: &Broker, name: &str, events: &Path, fields: String) {
    let place = Place::new(broker.kafka(name), fields);
    let config = place.config("one", "");
    assert_eq!(run(&["topics", "apply", "--config", &config, "--partitions", "4"]).code, Some(0));
    let sent = run(&["events", "send", "--config", &config, "--events", &events.display().to_string()]);
    assert_eq!(sent.code, Some(0), "{}", sent.stderr);

    let plain = run(&["run", "--config", &config, "--until-end", "--json"]).json();
    let records = plain["records"].as_u64().expect("a number");
    assert!(records > 1000);

    let properties = "queue_records_max = 2000\n[kafka.properties]\n\"fetch.message.max.bytes\" = \"20000\"\n";
    let other = run(&["run", "--config", &place.config("other", properties), "--until-end", "--json"]).json();
    assert_eq!(digest(&other), digest(&plain), "another interleaving");

    let stopped = place.config("stopped", properties);
    let stopped = interrupted_run(&stopped, &place.path("stopped-artefacts"), records);
    assert_eq!(digest(&stopped), digest(&plain), "a SIGTERM and a restart half-way");

    let backtest = run(&["backtest", "--config", &config, "--json"]).json();
    assert_eq!(digest(&backtest), digest(&plain), "a backtest over the same topics");

    let last = br#"{"impression_id":"one-more","event_time":1800000000000,"features":{}}"#;
    broker.produce(&place.kafka.impressions_topic, 0, &[Outgoing { payload: Some(last), ..Outgoing::default() }]);
    let longer = run(&["backtest", "--config", &config, "--json"]).json();
    assert_ne!(digest(&longer), digest(&plain), "a record more is another log");

    let artefacts: Vec<String> =
        installed(&place.path("one-artefacts")).iter().map(|path| path.display().to_string()).collect();
    assert!(!artefacts.is_empty());
    let verify: Vec<&str> = ["artifact", "verify"].into_iter().chain(artefacts.iter().map(String::as_str)).collect();
    assert_eq!(run(&verify).code, Some(0));
}

#[test]
fn one_log_gives_one_digest_however_it_is_run() {
    let Some(broker) = broker::real("one_log_gives_one_digest_however_it_is_run") else {
        return;
    };
    let directory = tempfile::tempdir().expect("a directory of our own");
    let out = directory.path().display().to_string();
    let simulated = run(&["events", "simulate", "--out", &out, "--count", "30000", "--rate", "500"]);
    assert_eq!(simulated.code, Some(0), "{}", simulated.stderr);
    check_one_digest(broker, "simulated", directory.path(), simulated_fields());
}

#[test]
fn one_log_of_real_events_gives_one_digest_however_it_is_run() {
    let name = "one_log_of_real_events_gives_one_digest_however_it_is_run";
    let (Some(events), Some(broker)) = (real_data(name, "movielens"), broker::real(name)) else {
        return;
    };
    let fields = [("user_id", "categorical"), ("item_id", "categorical"), ("genres", "multi"), ("age", "categorical")];
    check_one_digest(broker, "movielens", &events, fields_toml(&fields));
}

#[test]
fn a_replay_with_the_journal_reproduces_every_version_of_a_live_run_with_sparse_clicks() {
    let name = "a_replay_with_the_journal_reproduces_every_version_of_a_live_run_with_sparse_clicks";
    let Some(broker) = broker::real(name) else { return };
    let fields = simulated_fields();
    let (fewer, _) = fields.split_at(fields.rfind("[[fields]]").expect("there are fields"));
    let place = Place::new(broker.kafka("live"), fewer.to_owned());
    let config = quick(&place.config("live", ""));
    assert_eq!(run(&["topics", "apply", "--config", &config, "--partitions", "4"]).code, Some(0));
    let traffic = ["events", "simulate", "--config", &config, "--rate", "80", "--seconds", "14"];
    let mut traffic = Running::start(&traffic);
    let artefacts = place.path("live-artefacts");
    let first = Running::start(&["run", "--config", &config]);
    wait_for("two versions", || (installed(&artefacts).len() >= 2).then_some(()));
    first.kill();
    // It goes on with another learning rate and one more field: the journal says so, and the replay follows.
    let text = fs::read_to_string(&config).expect("it was written").replacen(fewer, &fields, 1);
    fs::write(&config, format!("{text}\n[optimizer.linear]\nalpha = 0.02\n")).expect("the disk takes it");
    let second = Running::start(&["run", "--config", &config, "--json"]);
    wait_for("two more versions", || (installed(&artefacts).len() >= 4).then_some(()));
    assert!(traffic.is_running(), "events were to arrive the whole time");
    let second = second.terminate();
    assert!(second.stderr.contains("fields (added "), "{}", second.stderr);
    let summary = second.json();
    drop(traffic);
    assert!(summary["records"].as_u64().expect("a number") > 100);
    let idled = installed(&artefacts).iter().any(|path| {
        fs::read_to_string(path.join("journal.jsonl")).expect("a version has its journal").contains("\"idle\"")
    });
    assert!(idled, "sparse partitions were to fall idle");
    let replay = ["backtest", "--config", &config, "--journal", &artefacts.display().to_string(), "--json"];
    let checks = run(&replay).json();
    let checks = checks.as_array().expect("a list");
    assert!(checks.len() >= 4);
    assert!(checks.iter().all(|check| check["expected"] == check["found"]), "{checks:#?}");
    // A field that is taken away, or not added at the end, is another model.
    let text = fs::read_to_string(&config).expect("it was written");
    let (_, without_first) = text[1..].split_at(text[1..].find("[[fields]]").expect("there are fields"));
    fs::write(&config, without_first).expect("the disk takes it");
    let refused = run(&["run", "--config", &config]);
    assert_eq!(refused.code, Some(78), "{}", refused.stderr);
    assert!(refused.stderr.contains("fields (was "), "{}", refused.stderr);
}

#[test]
fn of_two_workers_on_one_model_the_older_is_fenced_off_and_publishes_nothing_more() {
    let name = "of_two_workers_on_one_model_the_older_is_fenced_off_and_publishes_nothing_more";
    let Some(broker) = broker::real(name) else { return };
    let place = Place::new(broker.kafka("fenced"), simulated_fields());
    let older = quick(&place.config("older", ""));
    assert_eq!(run(&["topics", "apply", "--config", &older, "--partitions", "2"]).code, Some(0));
    let traffic = Running::start(&["events", "simulate", "--config", &older, "--rate", "200", "--seconds", "60"]);
    let first = Running::start(&["run", "--config", &older]);
    wait_for("a version", || (!installed(&place.path("older-artefacts")).is_empty()).then_some(()));
    first.terminate();
    copy_directory(&place.path("older-state"), &place.path("newer-state"));
    let newer = quick(&place.config("newer", ""));
    let text = fs::read_to_string(&newer).expect("it was written").replace("name = \"newer\"", "name = \"older\"");
    fs::write(&newer, text).expect("the disk takes it");
    // An empty state is refused, and fences nobody: the older worker goes on.
    let empty = place.config("empty", "");
    let text = fs::read_to_string(&empty).expect("it was written").replace("name = \"empty\"", "name = \"older\"");
    fs::write(&empty, text).expect("the disk takes it");
    let log = place.path("first.log");
    let said = || fs::read_to_string(&log).unwrap_or_default();
    let first = Running::start_logged(&["run", "--config", &older], &log);
    wait_for("the worker at work", || said().contains("going on from checkpoint").then_some(()));
    // Whoever comes second to one state directory leaves at once, and fences nobody either.
    let second = run(&["run", "--config", &older]);
    assert_eq!(second.code, Some(75), "{}", second.stderr);
    assert!(second.stderr.contains("in use by another worker"), "{}", second.stderr);
    let published = installed(&place.path("older-artefacts")).len();
    assert_eq!(run(&["run", "--config", &empty]).code, Some(74));
    wait_for("another version", || (installed(&place.path("older-artefacts")).len() > published).then_some(()));
    // Nor does one that is refused for its configuration.
    let text = fs::read_to_string(&newer).expect("it was written");
    fs::write(&newer, text.replacen("[model]\n", "[model]\nembedding_dim = 7\n", 1)).expect("the disk takes it");
    let refused = run(&["run", "--config", &newer]);
    assert_eq!(refused.code, Some(78), "{}", refused.stderr);
    fs::write(&newer, text).expect("the disk takes it");
    let published = installed(&place.path("older-artefacts")).len();
    wait_for("one more version", || (installed(&place.path("older-artefacts")).len() > published).then_some(()));
    // Nor one whose state is from before versions that are announced, unless they are given up on purpose.
    let refused = run(&["run", "--config", &newer]);
    assert_eq!(refused.code, Some(74), "{}", refused.stderr);
    assert!(refused.stderr.contains("--abandon-versions"), "{}", refused.stderr);
    let published = installed(&place.path("older-artefacts")).len();
    wait_for("yet another version", || (installed(&place.path("older-artefacts")).len() > published).then_some(()));
    let second = Running::start(&["run", "--config", &newer, "--abandon-versions"]);
    assert_eq!(first.wait().code, Some(75), "{}", said());
    assert!(said().contains("fenced off"), "{}", said());
    wait_for("a version of the newer", || (!installed(&place.path("newer-artefacts")).is_empty()).then_some(()));
    assert_eq!(second.terminate().code, Some(0));
    drop(traffic);
    let announced = announcements(broker, &place.kafka.versions_topic);
    let numbers: Vec<u64> = announced.iter().map(|one| one["version"].as_u64().expect("a number")).collect();
    let ascending = numbers.windows(2).all(|pair| pair[0] < pair[1]);
    assert!(ascending, "numbers are used once and rise: {numbers:?}");
    let writers: Vec<bool> = announced
        .iter()
        .map(|one| {
            let directory = one["directory"].as_str().expect("a name");
            let is_there = |artefacts: &str| place.path(artefacts).join("older").join(directory).exists();
            assert!(is_there("older-artefacts") != is_there("newer-artefacts"), "{directory} is in one place");
            is_there("newer-artefacts")
        })
        .collect();
    assert!(writers.is_sorted() && writers.contains(&true), "the older announced nothing after the newer: {writers:?}");
}

/// Shortens the window of a configuration, so that versions come soon.
pub(super) fn quick(config: &str) -> String {
    let text = fs::read_to_string(config).expect("it was written").replace("window_seconds = 5", "window_seconds = 1");
    fs::write(config, text).expect("the disk takes it");
    config.to_owned()
}

#[test]
fn records_that_cannot_be_read_are_counted_and_sent_to_the_dead_letter_topic() {
    let name = "records_that_cannot_be_read_are_counted_and_sent_to_the_dead_letter_topic";
    let Some(broker) = broker::real(name) else { return };
    let kafka = broker.kafka_with_topics("poison", 1);
    let place = Place::new(kafka, fields_toml(&[("user", "categorical"), ("price", "numeric")]));
    let now = 1_700_000_000_000_i64;
    let good = format!(r#"{{"impression_id":"a","event_time":{now},"features":{{"user":"u"}},"extra":1}}"#);
    let long = format!(r#"{{"impression_id":"{}","event_time":{now},"features":{{}}}}"#, "x".repeat(900_000));
    let ahead = format!(r#"{{"impression_id":"b","event_time":{},"features":{{}}}}"#, now + 60_000);
    let bad: [(&str, &[u8]); 8] = [
        ("malformed", b"{\"impression_id\":"),
        ("malformed", &[0xff, 0xfe, b'{', b'}']),
        ("mistyped", br#"{"impression_id":"c","event_time":1700000000000,"features":{"price":"cheap"}}"#),
        ("missing_key", br#"{"event_time":1700000000000,"features":{}}"#),
        ("seconds_not_milliseconds", br#"{"impression_id":"d","event_time":1700000000,"features":{}}"#),
        ("duplicate_key", br#"{"impression_id":"e","impression_id":"f","event_time":1700000000000,"features":{}}"#),
        ("oversized", long.as_bytes()),
        ("future_dated", ahead.as_bytes()),
    ];
    let outgoing = |payload| Outgoing { payload: Some(payload), timestamp: Some(now), headers: &[("trace", "7")] };
    let records: Vec<Outgoing<'_>> =
        std::iter::once(good.as_bytes()).chain(bad.iter().map(|(_, payload)| *payload)).map(outgoing).collect();
    broker.produce(&place.kafka.impressions_topic, 0, &records);
    let config = place.config("poison", "[events]\nrecord_bytes_max = 500000\n");
    let summary = run(&["run", "--config", &config, "--until-end", "--json"]).json();
    assert_eq!(summary["records"], 9);
    let letters = broker.read_all(&place.kafka.dead_letter_topic);
    assert_eq!(letters.len(), bad.len());
    for (at, (letter, (reason, payload))) in letters.iter().zip(bad).enumerate() {
        let offset = at + 1;
        let key = format!("{}/0/{offset}", place.kafka.impressions_topic);
        assert_eq!(String::from_utf8_lossy(&letter.key), key);
        let document: Value = serde_json::from_slice(&letter.payload).expect("a letter is JSON");
        assert_eq!(document["reason"], reason, "{document}");
        assert_eq!(document["offset"], offset);
        assert_eq!(document["payload_bytes"], payload.len());
        assert_eq!(document["payload_sha256"].is_string(), payload.len() > 65_536);
        assert_eq!(document["headers"][0]["key"], "trace");
        assert!(letter.timestamp.is_some());
    }
    let again = run(&["run", "--config", &config, "--until-end", "--json"]).json();
    assert_eq!(digest(&again), digest(&summary));
    assert_eq!(broker.read_all(&place.kafka.dead_letter_topic).len(), bad.len(), "no letter is sent twice");
    let listed = run(&["dead-letters", "list", "--config", &config, "--json"]).json();
    assert_eq!(listed.as_object().expect("letters by key").len(), bad.len());
    let mistyped = run(&["dead-letters", "list", "--config", &config, "--json", "--reason", "mistyped"]).json();
    assert_eq!(mistyped.as_object().expect("letters by key").len(), 1);
    // The price is a category after all, and long records are welcome: these two can be read now.
    let text = fs::read_to_string(&config).expect("it was written");
    let mended = text
        .replace("name = \"price\"\nkind = \"numeric\"", "name = \"price\"\nkind = \"categorical\"")
        .replace("record_bytes_max = 500000", "record_bytes_max = 1000000")
        .replace("[model]\nname = \"poison\"", "[model]\nname = \"mended\"")
        .replace("poison-state", "mended-state");
    let mended_config = place.path("mended.toml").display().to_string();
    fs::write(&mended_config, mended).expect("the disk takes it");
    let requeue = ["dead-letters", "requeue", "--config", &mended_config, "--json"];
    let trial = run(&[&requeue[..], &["--dry-run"]].concat()).json();
    assert_eq!((&trial["sent"], &trial["letters"]), (&Value::from(0), &Value::from(bad.len())));
    let sent = run(&requeue).json();
    // The mistyped one, and the one that was ahead of its timestamp; the long id is refused for itself.
    assert_eq!((&sent["sent"], &sent["fates"]["in_time"]), (&Value::from(2), &Value::from(2)), "{sent}");
    let learned = run(&["run", "--config", &mended_config, "--until-end", "--json"]).json();
    assert_eq!(learned["records"], 11);
    let listed = run(&["dead-letters", "list", "--config", &config, "--json"]).json();
    assert_eq!(listed.as_object().expect("letters by key").len(), bad.len(), "each key once, though sent twice");
}

#[test]
fn a_missing_topic_ends_with_69_and_names_the_command_that_creates_it() {
    let Some(broker) = broker::real("a_missing_topic_ends_with_69_and_names_the_command_that_creates_it") else {
        return;
    };
    let place = Place::new(broker.kafka("missing"), simulated_fields());
    let outcome = run(&["run", "--config", &place.config("missing", ""), "--until-end"]);
    assert_eq!(outcome.code, Some(69), "{}", outcome.stderr);
    assert!(outcome.stderr.contains("deepfm topics apply"), "{}", outcome.stderr);
    assert!(!outcome.stderr.contains("WARN"), "it is missing, and nothing else is wrong: {}", outcome.stderr);
}

#[test]
fn a_broker_that_does_not_answer_is_tried_until_the_bound_and_ends_with_69() {
    let kafka = Kafka { brokers: "127.0.0.1:1".to_owned(), ..deepfm_stream::config::Config::default().kafka };
    let place = Place::new(kafka, simulated_fields());
    let config = place.config("nobody", "").clone();
    let text = fs::read_to_string(&config).expect("it was written").replace("max_seconds = 30", "max_seconds = 2");
    fs::write(&config, text).expect("the disk takes it");
    let outcome = run(&["run", "--config", &config, "--until-end"]);
    assert_eq!(outcome.code, Some(69), "{}", outcome.stderr);
    assert!(outcome.stderr.contains("kafka.retry_max_seconds"), "{}", outcome.stderr);
}

#[test]
fn a_lost_state_ends_with_74_and_a_reset_goes_on_with_the_next_number() {
    let name = "a_lost_state_ends_with_74_and_a_reset_goes_on_with_the_next_number";
    let Some(broker) = broker::real(name) else { return };
    let kafka = broker.kafka_with_topics("lost", 1);
    let place = Place::new(kafka, simulated_fields());
    for (kind, lines) in [(EventKind::Impression, 400_i64), (EventKind::Click, 40)] {
        let json = |n: i64| match kind {
            EventKind::Impression => {
                format!(
                    r#"{{"impression_id":"i{n}","event_time":{},"features":{{"user":"u{n}"}}}}"#,
                    1_700_000_000_000 + 100 * n
                )
            }
            EventKind::Click => {
                format!(r#"{{"impression_id":"i{}","event_time":{}}}"#, 10 * n, 1_700_000_000_050 + 1000 * n)
            }
        };
        let records: Vec<String> = (0..lines).map(json).collect();
        let outgoing: Vec<Outgoing<'_>> =
            records.iter().map(|r| Outgoing { payload: Some(r.as_bytes()), ..Outgoing::default() }).collect();
        let topic =
            if kind == EventKind::Impression { &place.kafka.impressions_topic } else { &place.kafka.clicks_topic };
        broker.produce(topic, 0, &outgoing);
    }
    let config = place.config("lost", "[gate]\nimpressions_min = 0\nclicks_min = 0\n");
    let first = run(&["run", "--config", &config, "--until-end", "--json"]).json();
    assert_eq!(first["versions"], serde_json::json!([1]));
    fs::remove_dir_all(place.path("lost-state")).expect("the state is there");
    let lost = run(&["run", "--config", &config, "--until-end"]);
    assert_eq!(lost.code, Some(74), "{}", lost.stderr);
    assert!(lost.stderr.contains("--reset-state"), "{}", lost.stderr);
    let reset = run(&["run", "--config", &config, "--until-end", "--reset-state", "--json"]).json();
    assert_eq!(reset["versions"], serde_json::json!([2]));
    assert_eq!(digest(&reset), digest(&first));
    let list = run(&["versions", "list", "--config", &config, "--json"]).json();
    assert_eq!(list["versions"].as_array().map(Vec::len), Some(2));
    let epochs = [&list["versions"][0]["epoch"], &list["versions"][1]["epoch"]];
    assert_eq!(epochs, [1, 2], "two workers");
    assert_eq!(list["aliases"]["live"]["version"], 2);
    assert_eq!(list["aliases"]["live"]["moves"].as_array().map(Vec::len), Some(2));

    let text = fs::read_to_string(&config).expect("it was written");
    let longer = text.replace("window_seconds = 5", "window_seconds = 6");
    fs::write(&config, &longer).expect("the disk takes it");
    let went_on = run(&["run", "--config", &config, "--until-end"]);
    assert_eq!(went_on.code, Some(0), "{}", went_on.stderr);
    assert!(went_on.stderr.contains("join.window_ms (was 5000, is 6000)"), "{}", went_on.stderr);
    fs::write(&config, longer.replace("[join]", "embedding_dim = 4\n[join]")).expect("the disk takes it");
    let refused = run(&["run", "--config", &config, "--until-end"]);
    assert_eq!(refused.code, Some(78), "{}", refused.stderr);
    assert!(refused.stderr.contains("model.embedding_dim (was 10, is 4)"), "{}", refused.stderr);
}

#[test]
fn a_configuration_with_errors_ends_with_78_and_shows_them_all() {
    let directory = tempfile::tempdir().expect("a directory of our own");
    let path = directory.path().join("bad.toml");
    fs::write(&path, "[model]\nembeding_dim = 4\nseed = \"x\"\n").expect("the disk takes it");
    let outcome = run(&["config", "check", "--config", &path.display().to_string()]);
    assert_eq!(outcome.code, Some(78));
    assert!(outcome.stderr.contains("embedding_dim") && outcome.stderr.contains("model.seed"), "{}", outcome.stderr);
}

/// What a stranger's first commands give on real data, with untouched defaults.
fn first_backtest(events: &Path, labels: &str) -> Value {
    let directory = tempfile::tempdir().expect("a directory of our own");
    let config = directory.path().join("c.toml").display().to_string();
    let events = events.display().to_string();
    let made = run(&["config", "init", "--events", &events, "--out", &config]);
    assert_eq!(made.code, Some(0), "{}", made.stderr);
    run(&["backtest", "--config", &config, "--events", &events, "--labels", labels, "--json"]).json()
}

#[test]
fn defaults_learn_movielens_at_least_as_well_as_a_plain_reference() {
    let name = "defaults_learn_movielens_at_least_as_well_as_a_plain_reference";
    let Some(events) = real_data(name, "movielens") else {
        return;
    };
    let report = first_backtest(&events, "immediate");
    let half = &report["second_half"];
    assert!(half["auc"].as_f64().expect("a number") >= 0.762, "{half}");
    assert!(half["log_loss"].as_f64().expect("a number") <= 0.578, "{half}");
    let windowed = first_backtest(&events, "windowed");
    assert!(windowed["second_half"]["normalized_entropy"].as_f64().expect("a number") < 0.9, "{windowed}");
}

#[test]
fn defaults_stay_calibrated_on_ebnerd_and_run_clean_on_openbandit() {
    let name = "defaults_stay_calibrated_on_ebnerd_and_run_clean_on_openbandit";
    let (Some(ebnerd), Some(openbandit)) = (real_data(name, "ebnerd"), real_data(name, "openbandit")) else {
        return;
    };
    let calibration = first_backtest(&ebnerd, "windowed")["second_half"]["calibration"].as_f64().expect("a number");
    assert!((0.8..1.25).contains(&calibration), "{calibration}");
    let report = first_backtest(&openbandit, "windowed");
    let count = |key: &str| report[key].as_u64().expect("a number");
    assert_eq!(count("examples") + count("unmatured"), 10_000);
    assert!((35..=38).contains(&count("clicks")) && count("unmatured") < 100, "{report}");
}

#[test]
fn the_demo_publishes_versions_that_verify_and_beats_the_base_rate() {
    let directory = tempfile::tempdir().expect("a directory of our own");
    let path = directory.path().display().to_string();
    let report = run(&["demo", "--seconds", "15", "--json", "--dir", &path]).json();
    let number = |key: &str| report[key].as_f64().unwrap_or_else(|| panic!("no {key} in {report}"));
    assert!(number("log_loss") < number("base_log_loss"), "{report}");
    assert!(number("bayes_log_loss") < number("log_loss"), "{report}");
    assert!(number("examples") >= 5000.0 && number("auc") > 0.6, "{report}");
    assert!((0.7..1.4).contains(&number("calibration")), "{report}");
    let versions = report["versions"].as_array().expect("a list");
    assert!(versions.len() >= 2, "{report}");
    assert!(number("reloads") >= 2.0, "a server follows: {report}");
    assert!(versions.iter().any(|version| version["version"] == report["served"]), "{report}");
    for version in versions {
        let directory = version["directory"].as_str().expect("a version is in its directory");
        assert_eq!(run(&["artifact", "verify", directory]).code, Some(0));
    }
}

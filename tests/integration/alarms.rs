//! What operators set alarms on, from a worker's first moment on.

use std::fs;
use std::net::TcpListener;

use super::commands::Place;
use crate::support::broker::{self, Outgoing};
use crate::support::command::{Running, run};
use crate::support::{http, wait_for};

#[test]
fn a_worker_that_starts_again_tells_how_old_its_newest_version_and_checkpoint_are() {
    let name = "a_worker_that_starts_again_tells_how_old_its_newest_version_and_checkpoint_are";
    let Some(broker) = broker::real(name) else { return };
    let fields = String::from("[[fields]]\nname = \"user\"\nkind = \"categorical\"\n");
    let place = Place::new(broker.kafka_with_topics("alarms", 1), fields);
    let line = |number: i64| {
        let time = 1_700_000_000_000 + 1000 * number;
        format!(r#"{{"impression_id":"{number}","event_time":{time},"features":{{"user":"u"}}}}"#)
    };
    let lines: Vec<String> = (0..30).map(line).collect();
    let outgoing = |line: &'_ String| Outgoing { payload: Some(line.clone().leak().as_bytes()), ..Outgoing::default() };
    let records: Vec<Outgoing<'_>> = lines.iter().map(outgoing).collect();
    broker.produce(&place.kafka.impressions_topic, 0, &records);
    let config = place.config("alarms", "");
    let summary = run(&["run", "--config", &config, "--until-end", "--json"]).json();
    assert_eq!(summary["versions"], serde_json::json!([1]), "{summary}");

    // It makes nothing of its own.
    let seldom =
        fs::read_to_string(&config).expect("it was written").replace("listen = \"\"", "listen = \"127.0.0.1:0\"");
    let seldom = seldom.replace("checkpoint_interval_seconds = 1", "checkpoint_interval_seconds = 3600");
    fs::write(&config, seldom.replace("interval_seconds = 2\n", "interval_seconds = 3600\n")).expect("it is ours");
    let log = place.path("alarms.log");
    let worker = Running::start_logged(&["run", "--config", &config], &log);
    let get = |path: &str| http::ask(http::said_address(&log)?, path, None).map(|(_, text)| text);
    let running = || get("/status").filter(|status| status.contains("\"phase\":\"running\""));
    let status: serde_json::Value = serde_json::from_str(&wait_for("the worker", running)).expect("a document");
    let announced = run(&["versions", "show", "1", "--config", &config]).json();
    assert_eq!((&status["version"], &status["version_at"]), (&1.into(), &announced["created_at"]), "{status}");
    assert!(status["checkpoint_at"].is_string(), "{status}");
    let metrics = get("/metrics").expect("it answers");
    for metric in
        ["deepfm_version", "deepfm_last_version_timestamp_seconds", "deepfm_last_checkpoint_timestamp_seconds"]
    {
        let line = metrics.lines().find(|line| line.starts_with(&format!("{metric}{{"))).expect("it is there");
        assert!(!line.ends_with("NaN"), "{line}");
    }
    assert_eq!(worker.terminate().code, Some(0));
}

#[test]
fn an_admin_port_that_is_taken_is_named_with_its_key() {
    let taken = TcpListener::bind("127.0.0.1:0").expect("there is a free port");
    let address = taken.local_addr().expect("it is bound");
    let directory = tempfile::tempdir().expect("a directory of our own");
    let config = directory.path().join("deepfm.toml");
    let text = format!(
        "[[fields]]\nname = \"user\"\nkind = \"categorical\"\n[admin]\nlisten = \"{address}\"\n[state]\ndir = \"{}\"\n",
        directory.path().join("state").display()
    );
    fs::write(&config, text).expect("the disk takes it");
    let outcome = run(&["run", "--config", &config.display().to_string()]);
    assert_eq!(outcome.code, Some(78), "{}", outcome.stderr);
    assert!(outcome.stderr.contains(&format!("{address} (admin.listen) cannot be opened")), "{}", outcome.stderr);
}

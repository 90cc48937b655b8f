//! Dead letters sent again with a configuration that the running state was not made with.

use std::fs;

use super::commands::Place;
use crate::support::broker::{self, Outgoing};
use crate::support::command::run;

#[test]
fn a_requeue_says_when_the_worker_reads_with_another_configuration_which_it_refuses_to_change() {
    let name = "a_requeue_says_when_the_worker_reads_with_another_configuration_which_it_refuses_to_change";
    let Some(broker) = broker::real(name) else { return };
    let fields = String::from("[[fields]]\nname = \"user\"\nkind = \"categorical\"\n");
    let place = Place::new(broker.kafka_with_topics("requeue", 1), fields);
    let time = |number: i64| 1_700_000_000_000 + 1000 * number;
    let good =
        |number| format!(r#"{{"impression_id":"{number}","event_time":{},"features":{{"user":"u"}}}}"#, time(number));
    // Their time is somewhere else.
    let odd = |number| format!(r#"{{"impression_id":"{number}","ts":{},"features":{{"user":"u"}}}}"#, time(number));
    let lines: Vec<String> = (0..30).map(good).chain([odd(30), odd(31)]).collect();
    let outgoing = |line: &'static str| Outgoing { payload: Some(line.as_bytes()), ..Outgoing::default() };
    let lines: Vec<Outgoing<'_>> = lines.into_iter().map(|line| outgoing(line.leak())).collect();
    broker.produce(&place.kafka.impressions_topic, 0, &lines);
    let config = place.config("requeue", "");
    let summary = run(&["run", "--config", &config, "--until-end", "--json"]).json();
    assert_eq!(summary["versions"], serde_json::json!([1]), "{summary}");

    let mended = place.path("mended.toml").display().to_string();
    let mapping = "[events.mapping.impression]\nevent_time = \"/ts\"\n";
    fs::write(&mended, fs::read_to_string(&config).expect("it was written") + mapping).expect("the disk takes it");
    let trial = run(&["dead-letters", "requeue", "--config", &mended, "--dry-run", "--json"]);
    assert!(trial.stderr.contains("version 1 of model requeue was made with another configuration"), "{trial:?}");
    let trial = trial.json();
    assert_eq!((&trial["same_configuration"], &trial["fates"]["in_time"]), (&false.into(), &2.into()), "{trial}");
    let text = run(&["dead-letters", "requeue", "--config", &mended, "--dry-run"]).stdout;
    assert!(text.contains("can be read with this configuration, and is inside window and retention: 2"), "{text}");

    let refused = run(&["run", "--config", &mended, "--until-end"]);
    assert_eq!(refused.code, Some(78), "{}", refused.stderr);
    assert!(refused.stderr.contains("events.mapping.impression.event_time"), "{}", refused.stderr);

    let same = run(&["dead-letters", "requeue", "--config", &config, "--dry-run", "--json"]);
    assert!(!same.stderr.contains("another configuration"), "{}", same.stderr);
    let same = same.json();
    assert_eq!((&same["same_configuration"], &same["fates"]["still_refused"]), (&true.into(), &2.into()), "{same}");
}

//! A worker on live traffic that something happens to, and what must hold in the end whatever that was.

use std::collections::BTreeSet;
use std::fs;
use std::path::PathBuf;

use deepfm_stream::source::topics::KafkaLog;
use serde_json::Value;

use super::commands::{Place, digest, quick, simulated_fields};
use crate::support::broker::{Broker, Outgoing};
use crate::support::command::{Running, installed, run};
use crate::support::wait_for_or;

/// Topics, a configuration, and traffic.
pub(super) struct Live<'b> {
    pub(super) broker: &'b Broker,
    pub(super) place: Place,
    pub(super) config: String,
    name: &'static str,
    traffic: Option<Running>,
}

impl<'b> Live<'b> {
    /// Makes the topics; `extra` comes last in the configuration.
    pub(super) fn new(broker: &'b Broker, name: &'static str, replication: usize, extra: &str) -> Self {
        let place = Place::new(broker.kafka(name), simulated_fields());
        let config = quick(&place.config(name, extra));
        let replication = replication.to_string();
        let apply = ["topics", "apply", "--config", &config, "--partitions", "2", "--replication", &replication];
        let applied = run(&apply);
        assert_eq!(applied.code, Some(0), "{}", applied.stderr);
        Self { broker, place, config, name, traffic: None }
    }

    /// Sends events in real time until the end, in place of those that were sent before.
    pub(super) fn send(&mut self, seed: u64) {
        let rate = ["--rate", "120", "--seed", &seed.to_string()].map(str::to_owned);
        let mut traffic = vec!["events", "simulate", "--config", &self.config];
        traffic.extend(rate.iter().map(String::as_str));
        self.traffic = Some(Running::start_logged(&traffic, &self.place.path("traffic.log")));
    }

    pub(super) fn log(&self) -> PathBuf {
        self.place.path("worker.log")
    }

    /// Lets everything be tried again for longer than any test lasts.
    pub(super) fn patient(&self) {
        patient(&self.config);
    }

    /// What the worker has said.
    pub(super) fn said(&self) -> String {
        fs::read_to_string(self.log()).unwrap_or_default()
    }

    /// What the worker and the traffic have said, for whoever reads why a test failed.
    fn all_said(&self) -> String {
        let traffic = fs::read_to_string(self.place.path("traffic.log")).unwrap_or_default();
        format!("the worker: {}\nthe traffic: {traffic}", self.said())
    }

    pub(super) fn worker(&self) -> Running {
        Running::start_logged(&["run", "--config", &self.config], &self.log())
    }

    pub(super) fn artefacts(&self) -> PathBuf {
        self.place.path(&format!("{}-artefacts", self.name))
    }

    /// Waits until the worker has announced as many versions since it was started.
    pub(super) fn wait_for_announced(&self, worker: &mut Running, versions: usize) {
        wait_for_or(
            "announcements",
            || self.all_said(),
            || {
                assert!(worker.is_running(), "the worker was to go on: {}", self.said());
                (self.said().matches("is announced").count() >= versions).then_some(())
            },
        );
    }

    pub(super) fn announced(&self) -> usize {
        self.said().matches("is announced").count()
    }

    /// Ends the traffic, and says how it was.
    pub(super) fn end_traffic(&mut self) {
        let mut traffic = self.traffic.take().expect("events were sent");
        let log = fs::read_to_string(self.place.path("traffic.log")).unwrap_or_default();
        assert!(traffic.is_running(), "events were to be sent the whole time: {log}");
        traffic.kill();
    }

    /// The worker's end on SIGTERM.
    pub(super) fn stop(&self, worker: Running) {
        let outcome = worker.terminate();
        assert_eq!(outcome.code, Some(0), "{}", self.said());
    }

    /// Reads the log to its end, and holds the state and the versions against it: every record counts once, a replay with
    /// the journal gives the state of each version and the last, and the versions are one chain.
    pub(super) fn check(self) {
        self.mature_what_is_open();
        let last = run(&["run", "--config", &self.config, "--until-end", "--json"]).json();
        let log = KafkaLog::connect(&self.place.kafka).expect("the topics exist");
        let total: i64 = log.extents().values().map(|extent| extent.high - extent.low).sum();
        assert_eq!(last["records"], total, "every record was consumed once");
        assert_ne!(last["versions"], Value::from(Vec::<u64>::new()), "the last state is a version");

        let artefacts = self.artefacts().display().to_string();
        let checks = run(&["backtest", "--config", &self.config, "--journal", &artefacts, "--json"]).json();
        let checks = checks.as_array().expect("a list");
        assert!(checks.iter().all(|check| check["expected"] == check["found"]), "{checks:#?}");
        assert_eq!(checks.last().map(|check| &check["found"]), Some(&Value::from(digest(&last))));
        let versions = installed(&self.artefacts());
        assert_eq!(checks.len(), versions.len());
        let paths: Vec<String> = versions.iter().map(|path| path.display().to_string()).collect();
        let verify: Vec<&str> = ["artifact", "verify"].into_iter().chain(paths.iter().map(String::as_str)).collect();
        assert_eq!(run(&verify).code, Some(0));
        check_chain(&announcements(self.broker, &self.place.kafka.versions_topic), versions.len());
    }
}

impl Live<'_> {
    /// Two impressions from later on: the first ends the windows of all that are open, the second ends their batch. So there
    /// is something to learn, and a version to cut, whatever the last one has seen.
    fn mature_what_is_open(&self) {
        let now = jiff::Timestamp::now().as_millisecond();
        for later in [20_000, 21_000] {
            let time = now + later;
            let json = format!(r#"{{"impression_id":"later-{later}","event_time":{time},"features":{{}}}}"#);
            let record = Outgoing { payload: Some(json.as_bytes()), timestamp: Some(time), headers: &[] };
            self.broker.produce(&self.place.kafka.impressions_topic, 0, &[record]);
        }
    }
}

/// Lets everything be tried again for longer than any test lasts: on a loaded machine a broker that was killed may take its time
/// to come back.
pub(super) fn patient(config: &str) {
    let text = fs::read_to_string(config).expect("it was written");
    assert!(text.contains("retry_max_seconds = 30\n"), "{text}");
    fs::write(config, text.replace("retry_max_seconds = 30\n", "retry_max_seconds = 300\n"))
        .expect("the disk takes it");
}

/// The announcements of the versions topic, in order; that a version is abandoned is not one.
pub(super) fn announcements(broker: &Broker, topic: &str) -> Vec<Value> {
    let records = broker.read_all(topic);
    let versions = records.iter().filter(|record| String::from_utf8_lossy(&record.key).contains("/v/"));
    let documents = versions.map(|record| serde_json::from_slice(&record.payload).expect("an announcement is JSON"));
    documents.filter(|document: &Value| document.get("abandoned").is_none()).collect()
}

/// One number has one content, numbers have no gap, and each version follows the one before by number and digest.
pub(super) fn check_chain(announced: &[Value], versions: usize) {
    let link = |one: &Value| (one["version"].as_u64().expect("a number"), one["manifest_digest"].to_string());
    let distinct: BTreeSet<(u64, String)> = announced.iter().map(link).collect();
    let numbers: Vec<u64> = distinct.iter().map(|(number, _)| *number).collect();
    assert_eq!(numbers, (1..=versions as u64).collect::<Vec<_>>(), "one chain without a gap");
    for one in announced.iter().filter(|one| one["version"] != 1) {
        assert!(distinct.contains(&link(&one["parent"])), "{} follows {}", one["version"], one["parent"]);
        assert_eq!(one["parent"]["version"].as_u64().map(|number| number + 1), one["version"].as_u64());
    }
}

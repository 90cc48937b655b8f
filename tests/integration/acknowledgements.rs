//! Who serves what, on a real broker: servers say so, one that dies falls silent, one that scores unlike the others is flagged,
//! and whoever else writes to the topic is not believed.

use std::path::PathBuf;
use std::time::Duration;

use deepfm_core::version::acknowledgement::{AcknowledgedArm, Acknowledgement, ServedVersion, written};
use deepfm_stream::config::kafka::Kafka;
use rdkafka::ClientConfig;
use rdkafka::producer::{BaseRecord, Producer as _, ThreadedProducer};
use serde_json::{Value, json};

use super::commands::{Place, simulated_fields};
use super::keeping::{learn, send};
use crate::support::broker::{self, Broker};
use crate::support::command::{Running, run};
use crate::support::http::{Client, address_in};
use crate::support::wait_for;

const PASSES: &str = "[gate]\nimpressions_min = 1\nclicks_min = 0\n";

/// Writes records of a key to the topic of acknowledgements.
fn produce(broker: &Broker, kafka: &Kafka, records: &[(&[u8], Option<&[u8]>)]) {
    let producer: ThreadedProducer<rdkafka::producer::DefaultProducerContext> =
        ClientConfig::new().set("bootstrap.servers", &broker.bootstrap).create().expect("the settings are valid");
    for (key, payload) in records {
        let record = BaseRecord::<[u8], [u8]>::to(&kafka.acknowledgements_topic).partition(0).key(*key);
        let record = payload.iter().fold(record, |record, payload| record.payload(payload));
        assert!(producer.send(record).is_ok(), "the producer's queue has room");
    }
    producer.flush(Duration::from_secs(30)).expect("the broker takes the records");
}

struct Fleet<'b> {
    broker: &'b Broker,
    place: Place,
    config: String,
}

impl<'b> Fleet<'b> {
    /// A first version that is live.
    fn new(broker: &'b Broker, name: &'static str) -> Self {
        let place = Place::new(broker.kafka_with_topics(name, 1), simulated_fields());
        let config = place.config(name, PASSES);
        let fleet = Self { broker, place, config };
        fleet.more(0);
        fleet
    }

    /// Another version.
    fn more(&self, turn: u64) {
        send(self.broker, &self.place, 30 * turn..30 * turn + 30, true);
        assert_eq!(learn(&self.config), turn + 1);
    }

    fn log(&self, name: &str) -> PathBuf {
        self.place.path(&format!("{name}.log"))
    }

    fn serve(&self, name: &str, more: &[&str]) -> Running {
        let beat = ["serve", "--config", &self.config, "--listen", "127.0.0.1:0", "--acknowledge-seconds", "1"];
        Running::start_logged(&[&beat, &["--name", name][..], more].concat(), &self.log(name))
    }

    fn client(&self, name: &str) -> Client {
        Client::connect(address_in(&self.log(name)))
    }

    fn status(&self) -> Value {
        run(&["status", "--config", &self.config, "--json"]).json()
    }

    /// The row of a server's first arm.
    fn row(&self, server: &str) -> Option<Value> {
        let status = self.status();
        let rows = status["servers"].as_array().expect("a list");
        rows.iter().find(|row| row["server"] == server).cloned()
    }

    /// Waits until a server says that it serves a version.
    fn wait_for(&self, server: &str, version: u64) -> Value {
        wait_for("the acknowledgement", || self.row(server).filter(|row| row["version"] == version))
    }
}

#[test]
fn servers_say_what_they_serve_and_one_that_is_killed_falls_silent() {
    let name = "servers_say_what_they_serve_and_one_that_is_killed_falls_silent";
    let Some(broker) = broker::real(name) else { return };
    let fleet = Fleet::new(broker, "fleet");
    let (a, b) = (fleet.serve("a:1", &[]), fleet.serve("b:2", &["--arm", "old=1:0.5", "--arm", "new=latest:0.5"]));
    let (first, _) = (fleet.wait_for("a:1", 1), fleet.wait_for("b:2", 1));
    assert_eq!((&first["arm"], &first["target"], &first["behind"]), (&json!("default"), &json!("live"), &json!(0)));
    assert!(first["age_ms"].as_i64() > Some(0) && first["load_seconds"].as_f64() >= Some(0.0), "{first}");
    // Another version: whoever follows says so by the swap, and the arm that is pinned stays behind nothing.
    fleet.more(1);
    fleet.wait_for("a:1", 2);
    let arms = wait_for("both arms", || {
        let status = fleet.status();
        let rows: Vec<Value> =
            status["servers"].as_array()?.iter().filter(|row| row["server"] == "b:2").cloned().collect();
        (rows.len() == 2 && rows[1]["version"] == 2).then_some(rows)
    });
    assert_eq!((&arms[0]["version"], &arms[0]["behind"], &arms[0]["arm"]), (&json!(1), &json!(0), &json!("old")));
    assert_eq!(fleet.row("a:1").expect("it is there")["probes_digest"], arms[1]["probes_digest"], "they score alike");
    // What the server says of it.
    let told = fleet.client("a:1").get("/status").json();
    assert_eq!(
        (&told["acknowledgements"]["server"], &told["acknowledgements"]["trouble"]),
        (&json!("a:1"), &Value::Null)
    );
    assert_eq!(told["arms"][0]["served"]["probes_digest"], arms[1]["probes_digest"]);
    let metrics = String::from_utf8(fleet.client("a:1").get("/metrics").body).expect("it is text");
    assert!(metrics.contains("deepfm_serve_acknowledgement_trouble{model=\"fleet\"} 0"), "{metrics}");
    // For people.
    let text = run(&["status", "--config", &fleet.config]);
    assert_eq!(text.code, Some(0), "{}", text.stderr);
    assert!(text.stdout.contains("worker   not asked") && text.stdout.contains("\na:1    default"), "{}", text.stdout);
    let list = run(&["versions", "list", "--config", &fleet.config]).stdout;
    assert!(list.contains("version 1 is served by b:2 old\n"), "{list}");
    assert!(list.contains("version 2 is served by a:1, b:2 new\n"), "{list}");
    let listed = run(&["versions", "list", "--config", &fleet.config, "--json"]).json();
    assert_eq!(listed["servers"].as_array().map(Vec::len), Some(3), "{listed}");

    a.kill();
    let silent = wait_for("silence", || fleet.row("a:1").filter(|row| row["flags"] == json!(["silent"])));
    assert!(silent["heard_ms"].as_i64() > Some(3000), "{silent}");
    let text = run(&["status", "--config", &fleet.config]).stdout;
    assert!(text.contains("a:1: not heard of for "), "{text}");
    assert_eq!(b.terminate().code, Some(0));
    assert_eq!(fleet.row("b:2"), None, "it has ended in order");
    let records = broker.read_all(&fleet.place.kafka.acknowledgements_topic);
    let last = records.iter().rfind(|record| record.key == b"fleet/s/b:2").expect("it wrote");
    assert!(last.payload.is_empty(), "the last of its records is a tombstone");
    assert_eq!(fleet.row("a:1").expect("it is still there")["version"], 2);
}

#[test]
fn a_server_that_scores_unlike_the_others_is_flagged_and_hostile_records_are_passed_over() {
    let name = "a_server_that_scores_unlike_the_others_is_flagged_and_hostile_records_are_passed_over";
    let Some(broker) = broker::real(name) else { return };
    let fleet = Fleet::new(broker, "odd");
    let servers = ["a:1", "b:2"].map(|name| (fleet.serve(name, &[]), fleet.wait_for(name, 1)));
    let records = broker.read_all(&fleet.place.kafka.acknowledgements_topic);
    let own = records.iter().rfind(|record| record.key == b"odd/s/a:1").expect("it wrote");
    let own = Acknowledgement::read("odd/s/a:1", &own.payload).expect("it is one");
    let other = |server: &str, alter: &dyn Fn(&mut ServedVersion)| {
        let mut arms = own.arms.clone();
        arms.iter_mut().filter_map(|arm: &mut AcknowledgedArm| arm.serving.as_mut()).for_each(alter);
        let beat_seconds = 3600;
        (
            Acknowledgement::key("odd", server),
            Acknowledgement { server: server.to_owned(), arms, beat_seconds, ..own.clone() },
        )
    };
    let zeros = || "0".repeat(64);
    let (key, odd) = other("c:3", &|served| served.probes_digest = zeros());
    let (foreign_key, foreign) = other("d:4", &|served| served.manifest_digest = zeros());
    let (fast_key, mut fast) = other("g:7", &|_| ());
    fast.written_at = written(jiff::Timestamp::now().as_millisecond() + 3_600_000);
    let hidden = own.to_json().replace("a:1", "\\u001b[2J");
    let junk: [(&[u8], &[u8]); 4] = [
        (b"odd/s/e:5", b"\xff\xfe junk"),
        (b"odd/s/f:6", own.to_json().leak().as_bytes()),
        (b"odd/s/\x1b[2J", hidden.as_bytes()),
        (b"odd/s/", b"{}"),
    ];
    let (odd, foreign, fast) = (odd.to_json(), foreign.to_json(), fast.to_json());
    produce(
        broker,
        &fleet.place.kafka,
        &[
            (key.as_bytes(), Some(odd.as_bytes())),
            (foreign_key.as_bytes(), Some(foreign.as_bytes())),
            (fast_key.as_bytes(), Some(fast.as_bytes())),
            (b"other/s/a:1", Some(b"another model's")),
            (b"\xff", None),
        ],
    );
    produce(broker, &fleet.place.kafka, &junk.map(|(key, payload)| (key, Some(payload))));

    let status = run(&["status", "--config", &fleet.config, "--json"]);
    let document = status.json();
    let flags: Vec<(&str, &Value)> = document["servers"]
        .as_array()
        .expect("a list")
        .iter()
        .map(|row| (row["server"].as_str().expect("a name"), &row["flags"]))
        .collect();
    let (none, differs, foreign, clock) = (json!([]), json!(["differs"]), json!(["foreign"]), json!(["clock"]));
    assert_eq!(flags, [("a:1", &none), ("b:2", &none), ("c:3", &differs), ("d:4", &foreign), ("g:7", &clock)]);
    assert_eq!(document["passed_over"], 4);
    assert!(status.stderr.contains("under \"odd/s/e:5\": it does not decode"), "{}", status.stderr);
    assert!(!status.stderr.contains('\u{1b}'), "{}", status.stderr);
    let text = run(&["status", "--config", &fleet.config]).stdout;
    assert!(text.contains("c:3: scores probes of version 1 unlike most servers"), "{text}");
    assert!(text.contains("g:7: its clock is ahead of this one by more than a minute"), "{text}");
    assert!(text.contains("4 records are not what servers say"), "{text}");
    let list = run(&["versions", "list", "--config", &fleet.config]).stdout;
    assert!(list.contains("version 1 is served by a:1, b:2, c:3 (differs), d:4 (foreign), g:7 (clock)\n"), "{list}");
    for (server, _) in servers {
        assert_eq!(server.terminate().code, Some(0));
    }
}

#[test]
fn a_server_serves_without_the_topic_and_says_once_what_is_missing() {
    let name = "a_server_serves_without_the_topic_and_says_once_what_is_missing";
    let Some(broker) = broker::real(name) else { return };
    let mut place = Place::new(broker.kafka_with_topics("untold", 1), simulated_fields());
    place.kafka.acknowledgements_topic = format!("{}-nowhere", place.kafka.acknowledgements_topic);
    let config = place.config("untold", PASSES);
    let fleet = Fleet { broker, place, config };
    // A worker needs it as little.
    fleet.more(0);
    let server = fleet.serve("a:1", &[]);
    let mut client = fleet.client("a:1");
    wait_for("readiness", || (client.get("/v2/health/ready").status == 200).then_some(()));
    let told = wait_for("several tries", || {
        let told = client.get("/status").json()["acknowledgements"].clone();
        (told["failures"].as_u64() > Some(1)).then_some(told)
    });
    assert!(told["trouble"].as_str().is_some_and(|why| why.contains("-nowhere does not exist")), "{told}");
    let status = run(&["status", "--config", &fleet.config]);
    assert_eq!(status.code, Some(0), "{}", status.stderr);
    assert!(status.stdout.contains("does not exist; `deepfm topics apply"), "{}", status.stdout);
    assert_eq!(run(&["versions", "list", "--config", &fleet.config, "--json"]).json()["servers"], json!([]));
    // Once it is there it is written to.
    assert_eq!(run(&["topics", "apply", "--config", &fleet.config]).code, Some(0));
    fleet.wait_for("a:1", 1);
    assert_eq!(server.terminate().code, Some(0));
    let log = std::fs::read_to_string(fleet.log("a:1")).expect("it was written");
    assert_eq!(log.matches("what is served cannot be told").count(), 1, "{log}");
    assert!(log.contains("what is served is told to "), "{log}");
}

#[test]
fn a_status_shows_the_worker_and_when_it_is_away_the_servers_all_the_same() {
    let name = "a_status_shows_the_worker_and_when_it_is_away_the_servers_all_the_same";
    let Some(broker) = broker::real(name) else { return };
    let fleet = Fleet::new(broker, "asked");
    let server = fleet.serve("a:1", &[]);
    fleet.wait_for("a:1", 1);
    let text = std::fs::read_to_string(&fleet.config).expect("it was written");
    std::fs::write(&fleet.config, text.replace("listen = \"\"", "listen = \"127.0.0.1:0\"")).expect("it is ours");
    let log = fleet.log("worker");
    let worker = Running::start_logged(&["run", "--config", &fleet.config], &log);
    let url = format!("http://{}", address_in(&log));
    let status = |more: &[&str]| run(&[&["status", "--config", &fleet.config, "--url", &url], more].concat());
    wait_for("the worker", || {
        let document: Value = serde_json::from_str(&status(&["--json"]).stdout).ok()?;
        (document["worker"]["phase"] == "running" && document["worker"]["version"] == 1).then_some(())
    });
    let shown = status(&[]);
    assert_eq!(shown.code, Some(0), "{}", shown.stderr);
    assert!(shown.stdout.starts_with(&format!("worker   model asked at {url}: running\n")), "{}", shown.stdout);
    assert!(shown.stdout.contains("version 1 of ") && shown.stdout.contains("\na:1    default"), "{}", shown.stdout);
    assert!(shown.stdout.lines().all(|line| line.chars().count() <= 80), "{}", shown.stdout);
    assert_eq!(worker.terminate().code, Some(0));
    let away = status(&[]);
    assert_eq!(away.code, Some(69), "{}", away.stderr);
    assert!(away.stdout.contains("does not answer") && away.stdout.contains("\na:1    default"), "{}", away.stdout);
    let document: Value = serde_json::from_str(&status(&["--json"]).stdout).expect("one document all the same");
    assert_eq!((&document["worker"], document["servers"].as_array().map(Vec::len)), (&Value::Null, Some(1)));
    assert!(document["worker_away"].as_str().is_some_and(|why| why.contains("does not answer")), "{document}");
    assert_eq!(run(&["status", "--config", &fleet.config, "--url", "https://a"]).code, Some(2));
    assert_eq!(server.terminate().code, Some(0));
}

#[test]
fn a_status_without_brokers_says_that_it_does_not_know_the_servers_and_why() {
    let kafka = Kafka { brokers: "127.0.0.1:1".to_owned(), ..deepfm_stream::config::Config::default().kafka };
    let place = Place::new(kafka, simulated_fields());
    let config = place.config("dark", "");
    let text = std::fs::read_to_string(&config).expect("it was written");
    std::fs::write(&config, text.replace("max_seconds = 30", "max_seconds = 1")).expect("the disk takes it");
    let status = run(&["status", "--config", &config, "--json"]);
    assert_eq!(status.code, Some(69), "{}", status.stderr);
    let document: Value = serde_json::from_str(&status.stdout).expect("one document all the same");
    let why = document["servers_unknown"].as_str().expect("the reason");
    assert!(why.contains("127.0.0.1:1") && document["servers"] == json!([]), "{document}");
    let shown = run(&["status", "--config", &config]);
    assert_eq!(shown.code, Some(69), "{}", shown.stderr);
    assert!(shown.stdout.contains("\nservers  ") && shown.stdout.contains("127.0.0.1:1"), "{}", shown.stdout);
    assert!(!shown.stdout.contains("none has said"), "nobody knows that: {}", shown.stdout);
}

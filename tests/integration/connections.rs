//! What a worker says when it cannot talk to its brokers, or they are away: the cause, in its first line and at once.

use std::net::{SocketAddr, TcpListener};
use std::time::{Duration, Instant};

use super::commands::{Place, simulated_fields};
use super::live::Live;
use crate::support::broker::{self, Secure};
use crate::support::command::{Outcome, run};
use crate::support::{cluster, http, wait_for};

/// A place at one port of a secured broker.
fn place(secure: &Secure, name: &str) -> Place {
    Place::new(secure.broker.kafka_with_topics(name, 1), simulated_fields())
}

/// A run whose settings are these; `retry_max_seconds` is longer than any run here may take.
fn attempt(place: &Place, brokers: &str, properties: &str) -> (Outcome, Duration) {
    let config = place.config("attempt", &format!("[kafka.properties]\n{properties}"));
    let text = std::fs::read_to_string(&config).expect("it was written");
    let text = text.replace(&format!("brokers = \"{}\"", place.kafka.brokers), &format!("brokers = \"{brokers}\""));
    std::fs::write(&config, text).expect("the disk takes it");
    let start = Instant::now();
    (run(&["run", "--config", &config, "--until-end"]), start.elapsed())
}

/// The settings of the user `worker`.
fn user(secure: &Secure, password: &str) -> String {
    format!(
        "\"security.protocol\" = \"sasl_ssl\"\n\"sasl.mechanism\" = \"SCRAM-SHA-512\"\n\"sasl.username\" = \"worker\"\n\
         \"sasl.password\" = \"{password}\"\n\"ssl.ca.location\" = \"{}\"\n",
        secure.authority().display()
    )
}

/// Its first line names the cause; nothing is the client library's own; it ends with 78 long before 30 s of retrying.
fn check(name: &str, (outcome, elapsed): &(Outcome, Duration), words: &[&str]) {
    let first = outcome.stderr.lines().next().unwrap_or_default();
    for word in words {
        assert!(first.contains(word), "{name}: {word:?} is not in the first line of {}", outcome.stderr);
    }
    assert_eq!(outcome.code, Some(78), "{name}: {}", outcome.stderr);
    assert!(*elapsed < Duration::from_secs(20), "{name} took {elapsed:?}");
    assert!(!outcome.stderr.contains("librdkafka") && !outcome.stderr.contains("[thrd:"), "{}", outcome.stderr);
}

#[test]
fn wrong_credentials_certificates_and_protocols_are_named_at_once_and_end_with_78() {
    let name = "wrong_credentials_certificates_and_protocols_are_named_at_once_and_end_with_78";
    let Some(secure) = broker::secure(name) else { return };
    let place = place(secure, "refused");
    let (plain, ssl, sasl_ssl) = (&secure.broker.bootstrap, secure.port("ssl"), secure.port("sasl_ssl"));
    let authority = format!("\"ssl.ca.location\" = \"{}\"\n", secure.authority().display());
    let tls = format!("\"security.protocol\" = \"ssl\"\n{authority}");
    let password = attempt(&place, &sasl_ssl, &user(secure, "wrong"));
    check("a wrong password", &password, &["refuses the credentials", &sasl_ssl, "sasl.password"]);
    let unknown = attempt(&place, &ssl, "\"security.protocol\" = \"ssl\"\n");
    check("an unknown certificate", &unknown, &["certificate", &ssl, "ssl.ca.location"]);
    check(
        "TLS to a plain port",
        &attempt(&place, plain, &tls),
        &["does not answer in TLS", plain, "security.protocol"],
    );
    check("plain to a port for TLS", &attempt(&place, &ssl, ""), &["may want TLS", &ssl, "security.protocol"]);
    let no_file = attempt(&place, &ssl, "\"security.protocol\" = \"ssl\"\n\"ssl.ca.location\" = \"/no/such/file\"\n");
    assert_eq!(no_file.0.code, Some(78), "{}", no_file.0.stderr);
    assert!(no_file.0.stderr.contains("ssl.ca.location"), "{}", no_file.0.stderr);
    let right = attempt(&place, &ssl, &tls);
    assert_eq!(right.0.code, Some(0), "{}", right.0.stderr);
}

#[test]
fn a_missing_right_is_named_with_topic_operation_and_user_before_anything_is_read() {
    let name = "a_missing_right_is_named_with_topic_operation_and_user_before_anything_is_read";
    let Some(secure) = broker::secure(name) else { return };
    let place = place(secure, "rights");
    let kafka = &place.kafka;
    let sasl_ssl = secure.port("sasl_ssl");
    let attempt = || attempt(&place, &sasl_ssl, &user(secure, "worker-secret"));
    let lacks = |operation: &str, what: &str| {
        let (outcome, _) = attempt();
        assert_eq!(outcome.code, Some(78), "{}", outcome.stderr);
        let words = format!("user worker may not {operation} {what}");
        assert!(outcome.stderr.contains(&words), "{words:?} is not in {}", outcome.stderr);
    };
    lacks("Describe", &format!("topic {}", kafka.impressions_topic));
    for topic in [&kafka.impressions_topic, &kafka.clicks_topic, &kafka.versions_topic, &kafka.dead_letter_topic] {
        secure.allow(&["--topic", topic], &["Describe"]);
    }
    lacks("Read", &format!("topic {}", kafka.impressions_topic));
    for topic in [&kafka.impressions_topic, &kafka.clicks_topic, &kafka.versions_topic] {
        secure.allow(&["--topic", topic], &["Read", "DescribeConfigs"]);
    }
    lacks("Write", &format!("topic {}", kafka.versions_topic));
    secure.allow(&["--topic", &kafka.versions_topic], &["Write"]);
    lacks("Write", &format!("topic {}", kafka.dead_letter_topic));
    secure.allow(&["--topic", &kafka.dead_letter_topic], &["Write"]);
    lacks("Write", "transactional id deepfm-stream/attempt");
    secure.allow(&["--transactional-id", "deepfm-stream/attempt"], &["Write", "Describe"]);
    let (allowed, _) = attempt();
    assert_eq!(allowed.code, Some(0), "{}", allowed.stderr);
}

#[test]
fn brokers_that_are_not_there_are_named_with_the_reason_and_given_up_after_the_bound_with_69() {
    let place = Place::new(
        deepfm_stream::config::kafka::Kafka {
            brokers: "127.0.0.1:1".to_owned(),
            ..deepfm_stream::config::Config::default().kafka
        },
        simulated_fields(),
    );
    let attempt = |brokers: &str| {
        let config = place.config("away", "");
        let text = std::fs::read_to_string(&config).expect("it was written");
        let text = text.replace("retry_max_seconds = 30", "retry_max_seconds = 2").replace("127.0.0.1:1", brokers);
        std::fs::write(&config, text).expect("the disk takes it");
        let outcome = run(&["run", "--config", &config]);
        assert_eq!(outcome.code, Some(69), "{}", outcome.stderr);
        assert_eq!(outcome.stderr.lines().count(), 2, "the first word and the last: {}", outcome.stderr);
        outcome.stderr.lines().next().unwrap_or_default().to_owned()
    };
    // A port that was free a moment ago.
    let free = TcpListener::bind("127.0.0.1:0").and_then(|listener| listener.local_addr()).expect("a port").to_string();
    let refused = attempt(&free);
    assert!(refused.contains(&format!("nothing listens at {free}")), "{refused}");
    let unknown = attempt("no-such-host.invalid:9092");
    assert!(unknown.contains("the host of no-such-host.invalid:9092 cannot be found"), "{unknown}");
}

/// What a path of the admin port answers: the code, and the text.
fn ask(address: SocketAddr, path: &str) -> (u16, String) {
    http::ask(address, path, None).expect("the worker listens")
}

#[test]
fn an_outage_is_two_lines_and_the_worker_is_not_ready_while_it_lasts() {
    let name = "an_outage_is_two_lines_and_the_worker_is_not_ready_while_it_lasts";
    let Some(cluster) = cluster::of_one(name) else { return };
    let mut live = Live::new(
        &cluster,
        "outage",
        1,
        "[gate]\nimpressions_min = 0\nclicks_min = 0\ncalibration_min = 0\ncalibration_max = 1000\nloss_margin = 10\n\
         click_coverage_min = 0\n",
    );
    live.patient();
    let text = std::fs::read_to_string(&live.config).expect("it was written");
    std::fs::write(&live.config, text.replace("listen = \"\"", "listen = \"127.0.0.1:0\"")).expect("the disk takes it");
    live.send(1);
    let mut worker = live.worker();
    live.wait_for_announced(&mut worker, 1);
    let address = http::address_in(&live.log());
    wait_for("a worker that has caught up", || (ask(address, "/readyz").0 == 200).then_some(()));
    cluster.kill(1);
    let reason = wait_for("a worker that is not ready", || {
        // A connection that ends comes first, then that nobody takes the next.
        let (code, reason) = ask(address, "/readyz");
        (code == 503 && reason.contains("nothing listens at")).then_some(reason)
    });
    assert!(reason.contains("the brokers are lost for"), "{reason}");
    assert!(ask(address, "/status").1.contains("\"brokers_away\""));
    wait_for("some seconds of outage", || {
        let status: serde_json::Value = serde_json::from_str(&ask(address, "/status").1).expect("a document");
        status["brokers_away"]["seconds"].as_f64().filter(|seconds| *seconds >= 5.0)
    });
    cluster.restart(1);
    wait_for("a worker that is ready again", || (ask(address, "/readyz").0 == 200).then_some(()));
    let announced = live.announced();
    live.wait_for_announced(&mut worker, announced + 1);
    live.end_traffic();
    live.stop(worker);
    let said = live.said();
    // A reader that no record reached after it, and is replaced, says so in a line of its own.
    let about: Vec<&str> = said.lines().filter(|line| line.contains(" the brokers ")).collect();
    // A broker that has just started may take seconds for an answer on a loaded machine: that is an outage with two lines of its own.
    // If it stands when the worker is stopped, it has one.
    for outage in about.chunks(2) {
        assert!(outage[0].contains(" are lost (") && !outage[0].contains("end of partition"), "{about:#?}");
        assert!(outage.get(1).is_none_or(|line| line.contains("answer again after")), "{about:#?}");
    }
    assert!(about.len() >= 2 && about[0].contains("nothing listens at"), "{about:#?}");
    let others = about.iter().skip(2).step_by(2);
    assert!(others.into_iter().all(|outage| outage.contains("(no answer)")), "{about:#?}");
}

#[test]
fn a_worker_refuses_the_versions_topic_that_a_plan_calls_an_error() {
    let name = "a_worker_refuses_the_versions_topic_that_a_plan_calls_an_error";
    let Some(broker) = broker::real(name) else { return };
    let made = |name: &str, partitions: i32, settings: &[(&str, &str)]| {
        let kafka = broker.kafka(name);
        let topics = [(&kafka.impressions_topic, 1), (&kafka.clicks_topic, 1), (&kafka.dead_letter_topic, 1)];
        for (topic, partitions) in topics {
            broker.create(topic, partitions, &[]);
        }
        broker.create(&kafka.versions_topic, partitions, settings);
        let config = Place::new(kafka, simulated_fields());
        let file = config.config("unfit", "");
        let plan = run(&["topics", "plan", "--config", &file]);
        let run = run(&["run", "--config", &file, "--until-end"]);
        assert_eq!((plan.code, run.code), (Some(78), Some(78)), "{} {}", plan.stderr, run.stderr);
        let reason = plan.stderr.lines().last().unwrap_or_default().to_owned();
        assert!(run.stderr.contains(&reason), "{reason:?} is not in {}", run.stderr);
        reason
    };
    assert!(made("three", 3, &[("cleanup.policy", "compact")]).contains("it has 3 partitions"));
    assert!(made("deleted", 1, &[]).contains("its cleanup.policy is delete"));
    assert!(made("both", 1, &[("cleanup.policy", "compact,delete")]).contains("its cleanup.policy is compact,delete"));
}

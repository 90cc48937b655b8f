//! The script that runs a local Kafka: what a broker of a directory has is never lost without a word.

use std::fs;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::Duration;

use rdkafka::ClientConfig;
use rdkafka::consumer::{BaseConsumer, Consumer as _};

use crate::support::broker::Broker;
use crate::support::skip;

/// A directory of brokers, which end with the test.
struct Local(PathBuf);

impl Drop for Local {
    fn drop(&mut self) {
        script("stop", &self.0, &[]);
    }
}

fn script(command: &str, directory: &Path, more: &[&str]) -> Output {
    let mut script = Command::new(Path::new(env!("CARGO_MANIFEST_DIR")).join("deploy/kafka/kafka"));
    script.args([command, "--dir"]).arg(directory).args(more).stdin(Stdio::null());
    script.output().expect("the script is there")
}

/// The address that a start printed, and what it said beside.
fn started(directory: &Path, more: &[&str]) -> (String, String) {
    let output = script("start", directory, more);
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(0), "{said}");
    (String::from_utf8_lossy(&output.stdout).trim().to_owned(), said)
}

fn refused(directory: &Path, more: &[&str], why: &str) {
    let output = script("start", directory, more);
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!((output.status.code(), output.stdout.len()), (Some(2), 0), "{said}");
    assert!(said.contains(why), "{said}");
}

fn topics(address: &str) -> Vec<String> {
    let client: BaseConsumer =
        ClientConfig::new().set("bootstrap.servers", address).create().expect("the settings are valid");
    let metadata = client.fetch_metadata(None, Duration::from_secs(20)).expect("the broker answers");
    metadata.topics().iter().map(|topic| topic.name().to_owned()).collect()
}

#[test]
fn a_start_of_the_local_kafka_goes_on_with_its_topics_and_harms_no_broker_that_runs() {
    let test = "a_start_of_the_local_kafka_goes_on_with_its_topics_and_harms_no_broker_that_runs";
    for tool in ["java", "mvn"] {
        if Command::new(tool).arg("-version").stdout(Stdio::null()).stderr(Stdio::null()).status().is_err() {
            skip(test, &format!("no {tool}: the local Kafka cannot be started"));
            return;
        }
    }
    let place = tempfile::tempdir().expect("a directory of our own");
    let local = Local(place.path().join("broker"));
    let directory = &local.0;
    let (first, _) = started(directory, &[]);
    Broker::at(first.clone()).create("kept", 1, &[]);

    let (again, said) = started(directory, &[]);
    assert!(again == first && said.contains("running already"), "{again}: {said}");
    refused(directory, &["--fresh"], "stop them before");
    refused(directory, &["--brokers", "3"], "has 1 brokers, not 3");
    assert_eq!(topics(&first), ["kept"]);

    assert!(script("stop", directory, &[]).status.success());
    let (again, said) = started(directory, &[]);
    assert!(again == first && said.contains("going on"), "{again}: {said}");
    assert_eq!(topics(&again), ["kept"]);

    assert!(script("stop", directory, &[]).status.success());
    let taken = TcpListener::bind(&first).expect("nobody has the port now");
    let (moved, said) = started(directory, &[]);
    assert!(moved != first && said.contains("ports were taken"), "{moved}: {said}");
    assert_eq!(topics(&moved), ["kept"]);
    drop(taken);

    // One that does not hear.
    let id = fs::read_to_string(directory.join("pid")).expect("the script wrote it");
    assert!(Command::new("kill").args(["-STOP", id.trim()]).status().is_ok_and(|status| status.success()));
    let stopped = script("stop", directory, &["--within", "1"]);
    let said = String::from_utf8_lossy(&stopped.stderr);
    assert!(stopped.status.success() && said.contains("do not end when they are asked to, and are killed"), "{said}");
    let (again, _) = started(directory, &[]);
    assert_eq!(topics(&again), ["kept"]);

    assert!(script("stop", directory, &[]).status.success());
    let (fresh, _) = started(directory, &["--fresh"]);
    assert!(topics(&fresh).is_empty());
}

#[test]
fn the_local_kafka_is_not_made_in_a_directory_that_holds_something_else() {
    if Command::new("java").arg("-version").output().is_err() || Command::new("mvn").arg("-version").output().is_err() {
        skip("the_local_kafka_is_not_made_in_a_directory_that_holds_something_else", "no java or mvn");
        return;
    }
    let place = tempfile::tempdir().expect("a directory of our own");
    fs::write(place.path().join("thesis.txt"), "x").expect("the disk takes it");
    refused(place.path(), &[], "is not empty, and has no brokers");
    fs::remove_file(place.path().join("thesis.txt")).expect("it is there");
    fs::create_dir_all(place.path().join("broker-1")).expect("the disk takes it");
    refused(place.path(), &[], "was never completely made");
}

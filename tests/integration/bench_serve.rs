//! The instruments of `./dev bench serve`: the application that we compare with scores as we do, and our server is asked as it is.

use std::process::{Command, Stdio};
use std::time::Duration;

use deepfm_stream::serve::{FollowOptions, Server, Target};

use crate::support::python::python;
use crate::support::wait_for;

#[path = "../bench/cpu.rs"]
mod cpu;
#[path = "../bench/made.rs"]
mod made;
#[path = "../bench/peer.rs"]
mod peer;
#[path = "../bench/process.rs"]
mod process;
#[path = "../bench/rankings.rs"]
mod rankings;
#[path = "../bench/served.rs"]
mod served;

/// Few enough to be made in no time.
const ROWS: usize = 2_000;

#[test]
fn the_application_in_python_scores_as_we_do_in_process_and_over_http() {
    let Some(python) = python("the_application_in_python_scores_as_we_do_in_process_and_over_http") else { return };
    let root = tempfile::tempdir().expect("a directory of our own");
    let (files, manifest) = made::version(ROWS);
    let version = made::install(root.path(), &files, &manifest, None, 1);
    let mut bodies = rankings::rankings(ROWS, 5);
    // Values without a row, and fields without a value.
    bodies
        .push(r#"{"context":{"f0":"new","f3":"v7"},"candidates":[{"f10":"v1"},{},{"f19":"v2","f11":"é"}]}"#.to_owned());

    let application = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/bench/application.py");
    let lines = root.path().join("bodies");
    std::fs::write(&lines, bodies.join("\n")).expect("the disk takes it");
    let mut command = Command::new(python);
    command.arg(application).arg(&version).arg(rankings::CONTEXT_FIELDS.to_string());
    let lines = std::fs::File::open(&lines).expect("it is there");
    let output = command.stdin(lines).stderr(Stdio::inherit()).output().expect("it starts");
    let answers = String::from_utf8(output.stdout).expect("it is text");
    assert_eq!(answers.lines().count(), bodies.len());

    let options = FollowOptions { target: Target::Latest, ..FollowOptions::new("bench") };
    let server = Server::follow_directory(root.path(), options).expect("it can be followed so");
    wait_for("the version", || server.model());
    let mut scorer = server.scorer();
    let peer = peer::Peer::deepfm(root.path(), &[]);
    for (body, answer) in bodies.iter().zip(answers.lines()) {
        let theirs = peer::scores(answer.as_bytes());
        let ours: Vec<f64> = scorer.rank_body(body.as_bytes()).expect("it is valid").probabilities().collect();
        assert!(peer::difference(&ours, &theirs) < 1e-6, "{ours:?} {theirs:?}");
        assert_eq!(peer.scores(body), ours);
        assert!(ours[0] > 0.0 && ours[0] < 1.0 && ours[0] != ours[1], "{ours:?}");
    }
    // At least one answer on each connection; it panics at one that is none.
    assert!(peer.ask(&bodies, Duration::ZERO).len() >= peer::CONNECTIONS);
    // It is counted in hundredths of a second, of which a fast machine needs none for a few answers.
    wait_for("CPU time that is counted", || {
        peer.ask(&bodies, Duration::ZERO);
        (peer.cpu() > 0.0).then_some(())
    });
}

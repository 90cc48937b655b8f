//! What `backtest --events` and `config init` say while they run: progress on a terminal, nothing when piped, and a word
//! about files that are in no order.

use std::fmt::Write as _;
use std::fs;
use std::path::Path;
use std::process::{Command, Output};

use deepfm_stream::config::Config;
use rdkafka::mocking::MockCluster;

use crate::support::skip;

const FIELDS: &str = "[[fields]]\nname = \"user\"\nkind = \"categorical\"\n[join]\nattribution_window_seconds = 5\n";

/// Impressions a second apart, every other one clicked after a second; `shuffle` puts them into no order.
fn write_events(directory: &Path, shuffle: bool) {
    let place = |n: i64| if shuffle { n * 7919 % 5000 } else { n };
    let (mut impressions, mut clicks) = (String::new(), String::new());
    for n in (0..5000).map(place) {
        let time = 1_700_000_000_000 + n * 1000;
        let user = n % 40;
        writeln!(impressions, r#"{{"impression_id":"i{n}","event_time":{time},"features":{{"user":"u{user}"}}}}"#)
            .expect("writing to a string cannot fail");
        if n % 2 == 0 {
            writeln!(clicks, r#"{{"impression_id":"i{n}","event_time":{}}}"#, time + 1000)
                .expect("writing to a string cannot fail");
        }
    }
    fs::write(directory.join("impressions.jsonl"), impressions).expect("the disk takes it");
    fs::write(directory.join("clicks.jsonl"), clicks).expect("the disk takes it");
    fs::write(directory.join("deepfm.toml"), FIELDS).expect("the disk takes it");
}

fn deepfm(directory: &Path, arguments: &[&str]) -> Output {
    let output = Command::new(env!("CARGO_BIN_EXE_deepfm")).current_dir(directory).args(arguments).output();
    output.expect("the binary runs")
}

fn backtest(directory: &Path, more: &[&str]) -> (serde_json::Value, String) {
    let arguments = [&["backtest", "--config", "deepfm.toml", "--events", ".", "--json"], more].concat();
    let output = deepfm(directory, &arguments);
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success(), "{said}");
    (serde_json::from_slice(&output.stdout).expect("one JSON document"), said)
}

#[test]
fn a_file_in_no_order_is_warned_of_and_sorting_makes_it_the_ordered_one() {
    let (ordered, shuffled) = (tempfile::tempdir().expect("a directory"), tempfile::tempdir().expect("a directory"));
    write_events(ordered.path(), false);
    write_events(shuffled.path(), true);
    let (as_it_is, silent) = backtest(ordered.path(), &[]);
    assert!(!silent.contains("go back in time"), "{silent}");
    let (_, warned) = backtest(shuffled.path(), &[]);
    for kind in ["impressions", "clicks"] {
        let warning = warned.lines().find(|line| line.contains(&format!("lines of the {kind} go back in time")));
        assert!(warning.is_some_and(|line| line.contains("--sort")), "{warned}");
    }
    let (sorted, silent) = backtest(shuffled.path(), &["--sort"]);
    assert!(!silent.contains("go back in time"), "{silent}");
    assert_eq!(sorted["state_digest"], as_it_is["state_digest"]);
    assert_eq!(sorted["log_loss"], as_it_is["log_loss"]);
}

#[test]
fn nothing_is_drawn_where_there_is_no_terminal() {
    let directory = tempfile::tempdir().expect("a directory");
    write_events(directory.path(), false);
    let init = deepfm(directory.path(), &["config", "init", "--events", ".", "--out", "made.toml"]);
    let (_, said) = backtest(directory.path(), &[]);
    for text in [said, String::from_utf8_lossy(&init.stderr).into_owned()] {
        assert!(!text.contains(['\r', '\u{1b}']) && !text.contains("/s, "), "{text:?}");
    }
}

/// Runs the program on a terminal of Python's making, which copies what is drawn on it to a pipe; `None` without Python.
fn on_a_terminal(test: &str, directory: &Path, arguments: &[&str]) -> Option<String> {
    let script = "import pty, sys; sys.exit(pty.spawn(sys.argv[1:]) >> 8)";
    if !Command::new("python3").args(["-c", "import pty"]).status().is_ok_and(|status| status.success()) {
        skip(test, "there is no python3 with pty");
        return None;
    }
    let output = Command::new("python3")
        .current_dir(directory)
        .args(["-c", script, env!("CARGO_BIN_EXE_deepfm")])
        .args(arguments)
        .env("TERM", "xterm")
        .output();
    let output = output.expect("python runs");
    let drawn = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success(), "{drawn}");
    Some(drawn)
}

fn assert_progress(drawn: &str) {
    for part in [" % of ", "/s, ", " left"] {
        assert!(drawn.contains(part), "{part:?} is not in {drawn:?}");
    }
}

#[test]
fn share_rate_and_time_left_are_drawn_on_a_terminal() {
    let directory = tempfile::tempdir().expect("a directory");
    write_events(directory.path(), false);
    for arguments in [
        &["backtest", "--config", "deepfm.toml", "--events", ".", "--json"][..],
        &["config", "init", "--events", ".", "--out", "made.toml"],
    ] {
        let test = "share_rate_and_time_left_are_drawn_on_a_terminal";
        let Some(drawn) = on_a_terminal(test, directory.path(), arguments) else { return };
        assert_progress(&drawn);
    }
}

#[test]
fn a_run_up_to_the_end_draws_its_progress_and_each_log_line_stands_alone() {
    let cluster = MockCluster::new(1).expect("the embedded broker starts");
    let directory = tempfile::tempdir().expect("a directory");
    write_events(directory.path(), false);
    let brokers = cluster.bootstrap_servers();
    fs::write(directory.path().join("deepfm.toml"), format!("{FIELDS}[kafka]\nbrokers = \"{brokers}\"\n"))
        .expect("the disk takes it");
    let kafka = Config::default().kafka;
    for topic in [&kafka.impressions_topic, &kafka.clicks_topic, &kafka.versions_topic, &kafka.dead_letter_topic] {
        cluster.create_topic(topic, 1, 1).expect("the embedded broker makes topics");
    }
    let sent = deepfm(directory.path(), &["events", "send", "--config", "deepfm.toml", "--events", "."]);
    assert!(sent.status.success(), "{}", String::from_utf8_lossy(&sent.stderr));
    let test = "a_run_up_to_the_end_draws_its_progress_and_each_log_line_stands_alone";
    let arguments = ["run", "--config", "deepfm.toml", "--until-end"];
    let Some(drawn) = on_a_terminal(test, directory.path(), &arguments) else { return };
    assert_progress(&drawn);
    // What stands before a log line on its own line of the terminal was emptied.
    for line in drawn.lines().filter(|line| line.contains(" INFO ")) {
        let before = line.split(" INFO ").next().unwrap_or_default();
        let seen = before.rsplit("\u{1b}[2K").next().unwrap_or_default();
        assert!(!seen.contains(" % of "), "{line:?}");
    }
}

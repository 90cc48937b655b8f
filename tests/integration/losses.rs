//! What a report says of what it could not learn from, and how a command ends for it.

use std::fs;
use std::path::PathBuf;

use deepfm_stream::config::Config;
use rdkafka::mocking::MockCluster;
use serde_json::Value;

use crate::support::command::run;

/// Event files of one test, and a configuration for them.
struct Files {
    directory: tempfile::TempDir,
}

impl Files {
    fn new(impressions: &[String], clicks: &[String]) -> Self {
        let files = Self { directory: tempfile::tempdir().expect("a directory of our own") };
        fs::write(files.path("impressions.jsonl"), impressions.join("\n")).expect("the disk takes it");
        fs::write(files.path("clicks.jsonl"), clicks.join("\n")).expect("the disk takes it");
        let config = "[[fields]]\nname = \"user\"\nkind = \"categorical\"\n[join]\nattribution_window_seconds = 5\n";
        fs::write(files.path("deepfm.toml"), config).expect("the disk takes it");
        files
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    fn backtest(&self, more: &[&str]) -> crate::support::command::Outcome {
        let (config, events) = (self.path("deepfm.toml"), self.directory.path());
        let (config, events) = (config.display().to_string(), events.display().to_string());
        let args = ["backtest", "--config", &config, "--events", &events];
        run(&args.into_iter().chain(more.iter().copied()).collect::<Vec<_>>())
    }
}

fn impression(number: u64) -> String {
    let time = 1_700_000_000_000 + 1000 * number;
    format!(r#"{{"impression_id":"i{number}","event_time":{time},"features":{{"user":"u{}"}}}}"#, number % 7)
}

fn click(number: u64) -> String {
    format!(r#"{{"impression_id":"i{number}","event_time":{}}}"#, 1_700_000_000_500 + 1000 * number)
}

/// A hundred impressions with a click on every fifth; one line is broken, one impression late, one click on nothing.
fn lossy() -> Files {
    let mut impressions: Vec<String> = (0..100).map(impression).collect();
    impressions[40] = String::from(r#"{"impression_id": 40"#);
    impressions.push(impression(1).replace("\"i1\"", "\"late\""));
    let mut clicks: Vec<String> = (0..100).step_by(5).filter(|number| *number != 40).map(click).collect();
    clicks.insert(0, click(0).replace("\"i0\"", "\"nobody\""));
    Files::new(&impressions, &clicks)
}

#[test]
fn a_backtest_names_each_loss_with_its_share_and_first_place_and_cuts_nothing_in_a_file() {
    let files = lossy();
    let outcome = files.backtest(&[]);
    assert_eq!(outcome.code, Some(0), "{}", outcome.stderr);
    let text = &outcome.stdout;
    assert!(!text.contains('…'), "{text}");
    for words in [
        "0.83 %  records (malformed): refused",
        "first at impression/0 offset 40: ",
        "records (too_late): came after their window and retention\n",
        "first at impression/0 offset 100\n",
        "clicks (orphan): on an impression that never came, or was closed before",
    ] {
        assert!(text.contains(words), "{words:?} is not in {text}");
    }
    let report = files.backtest(&["--json"]).json();
    let losses = report["losses"].as_array().expect("a list");
    let reasons: Vec<&str> = losses.iter().filter_map(|loss| loss["reason"].as_str()).collect();
    assert_eq!(reasons, ["malformed", "too_late", "orphan"]);
    assert_eq!(losses[0]["first"], serde_json::json!({"partition": "impression/0", "offset": 40}));
}

#[test]
fn a_backtest_of_which_too_much_was_refused_ends_with_65_after_its_report() {
    let files = lossy();
    let strict = files.backtest(&["--refused-max", "0.001"]);
    assert_eq!(strict.code, Some(65), "{}", strict.stderr);
    assert!(strict.stderr.contains("1 impressions were refused: 1.0 %"), "{}", strict.stderr);
    assert!(strict.stdout.contains("state_digest"), "{}", strict.stdout);
    let clicks: Vec<String> = (0..10).map(|number| click(number).replace("event_time", "time")).collect();
    let impressions: Vec<String> = (0..100).map(impression).collect();
    for labels in ["windowed", "immediate"] {
        let outcome = Files::new(&impressions, &clicks).backtest(&["--labels", labels]);
        assert_eq!(outcome.code, Some(65), "{labels}: {}", outcome.stderr);
        assert!(outcome.stderr.contains("10 clicks were refused: 100.0 %"), "{labels}: {}", outcome.stderr);
        assert!(outcome.stdout.contains("first at click/0 offset 0"), "{labels}: {}", outcome.stdout);
    }
    let nothing = Files::new(&[], &[]).backtest(&[]);
    assert_eq!(nothing.code, Some(65), "{}", nothing.stderr);
    assert!(nothing.stderr.contains("no impression could be read"), "{}", nothing.stderr);
}

#[test]
fn a_backtest_that_misses_a_threshold_ends_with_10() {
    let files = lossy();
    let outcome = files.backtest(&["--auc-min", "1"]);
    assert_eq!(outcome.code, Some(10), "{}", outcome.stderr);
    assert!(outcome.stderr.contains("the AUC of the second half is"), "{}", outcome.stderr);
    assert_eq!(files.backtest(&["--normalized-entropy-max", "0.0"]).code, Some(10));
    assert_eq!(files.backtest(&["--auc-min", "0", "--normalized-entropy-max", "100"]).code, Some(0));
}

#[test]
fn every_line_of_a_json_log_is_json_the_last_words_too() {
    let files = lossy();
    let config = files.path("deepfm.toml").display().to_string();
    let broken = files.path("broken.toml");
    fs::write(&broken, "[kafka]\nno_such_key = 1\nbrokers = 2\n").expect("the disk takes it");
    let broken = broken.display().to_string();
    let cases: [(&[&str], i32); 4] = [
        (&["config", "check", "--config", &broken], 78),
        (&["run", "--config", "/no/such/file.toml"], 78),
        (&["backtest", "--no-such-option"], 2),
        (&["backtest", "--config", &config, "--events", "/no/such/directory"], 65),
    ];
    for (args, code) in cases {
        let outcome = run(&[&["--log-json"], args].concat());
        assert_eq!(outcome.code, Some(code), "{args:?}: {}", outcome.stderr);
        let lines: Vec<Value> = outcome
            .stderr
            .lines()
            .map(|line| serde_json::from_str(line).unwrap_or_else(|error| panic!("{args:?}: {error} in {line}")))
            .collect();
        let last = lines.last().expect("it says why");
        assert_eq!(
            (&last["level"], last["fields"]["exit_code"].as_i64()),
            (&Value::from("ERROR"), Some(i64::from(code)))
        );
    }
}

#[test]
fn a_directory_without_clicks_is_warned_of_by_every_command_that_reads_it() {
    let files = Files::new(&(0..100).map(impression).collect::<Vec<_>>(), &[]);
    let empty = files.backtest(&[]);
    assert_eq!((empty.code, empty.stderr.contains("there is neither")), (Some(0), false), "{}", empty.stderr);
    assert!(empty.stdout.contains("no click: nothing can be learned from this"), "{}", empty.stdout);
    fs::remove_file(files.path("clicks.jsonl")).expect("it is there");
    let cluster = MockCluster::new(1).expect("the embedded broker starts");
    let kafka = Config::default().kafka;
    for topic in [&kafka.impressions_topic, &kafka.clicks_topic] {
        cluster.create_topic(topic, 1, 1).expect("the embedded broker makes topics");
    }
    let text = fs::read_to_string(files.path("deepfm.toml")).expect("it was written");
    let text = format!("{text}[kafka]\nbrokers = \"{}\"\n", cluster.bootstrap_servers());
    fs::write(files.path("deepfm.toml"), text).expect("the disk takes it");
    let (config, events) =
        (files.path("deepfm.toml").display().to_string(), files.directory.path().display().to_string());
    for args in [
        &["backtest", "--config", &config, "--events", &events][..],
        &["backtest", "--config", &config, "--events", &events, "--labels", "immediate"],
        &["events", "send", "--config", &config, "--events", &events],
        &["config", "init", "--events", &events],
    ] {
        let outcome = run(args);
        let warning = format!("WARN there is neither {0} nor {0}.zst", files.path("clicks.jsonl").display());
        assert_eq!(outcome.code, Some(0), "{args:?}: {}", outcome.stderr);
        assert_eq!(outcome.stderr.matches(&warning).count(), 1, "{args:?}: {}", outcome.stderr);
    }
}

#[test]
fn a_backtest_says_how_much_was_scored_before_anything_was_learned_and_doubts_a_short_log() {
    // Labels are known after 5 s: of 10 s of log the first half is scored before that.
    let few = |count: u64| {
        let clicks: Vec<String> = (0..count).step_by(3).map(click).collect();
        Files::new(&(0..count).map(impression).collect::<Vec<_>>(), &clicks)
    };
    let doubt = "was scored before the first example was learned";
    let short = few(13).backtest(&[]);
    assert!(short.stderr.contains(&format!("most of the second half {doubt}")), "{}\n{}", short.stdout, short.stderr);
    let shorter = few(12).backtest(&[]);
    assert!(shorter.stderr.contains("no label of the second half has matured"), "{}", shorter.stderr);
    let long = few(200);
    let text = long.backtest(&[]);
    assert!(!text.stderr.contains(doubt), "{}", text.stderr);
    let report = long.backtest(&["--json"]).json();
    let early = report["before_learning"].as_u64().expect("a number");
    assert!((5..30).contains(&early), "{report}");
    assert_eq!(report["second_half"]["before_learning"], 0);
    let line = format!("{early} of the {} scored impressions were scored before the first", report["examples"]);
    assert!(text.stdout.contains(&line), "{line:?} is not in {}", text.stdout);
    let none = few(4).backtest(&[]);
    assert!(none.stderr.contains("no label has matured: a label is learned 5 s after"), "{}", none.stderr);
}

#[test]
fn a_part_that_is_mapped_is_missed_at_its_place_and_foreign_samples_are_told_where_to_write_it() {
    let foreign = |number: u64| impression(number).replace("event_time", "when");
    let files = Files::new(&(0..10).map(foreign).collect::<Vec<_>>(), &[click(0)]);
    let init = run(&["config", "init", "--events", &files.directory.path().display().to_string()]);
    assert_eq!(init.code, Some(65), "{}", init.stderr);
    for part in ["deploy/deepfm.toml", "[events.mapping.impression]", "[[fields]]"] {
        assert!(init.stderr.contains(part), "{part:?} is not in {}", init.stderr);
    }
    let text = fs::read_to_string(files.path("deepfm.toml")).expect("it was written");
    let mapping = "[events.mapping.impression]\nevent_time = \"/ts\"\n";
    fs::write(files.path("deepfm.toml"), text + mapping).expect("the disk takes it");
    let missed = files.backtest(&[]);
    assert!(missed.stdout.contains("event_time (/ts) is missing"), "{}", missed.stdout);
}

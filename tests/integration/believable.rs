//! Numbers held against a known truth: coin flips cannot be predicted, nothing beats the simulator's own probabilities, and
//! neither the number of partitions nor the window nor the label policy shows in the figures.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs;
use std::path::Path;

use deepfm_core::event::options::EventOptions;
use deepfm_core::feature::encoder::Encoder;
use deepfm_core::feature::hash;
use deepfm_core::metric::Metrics;
use deepfm_stream::artefacts::directory;
use deepfm_stream::backtest::{self, BacktestReport, Files, LabelTiming};
use deepfm_stream::config::Config;
use deepfm_stream::progress::Progress;
use deepfm_stream::source::files::LineOrder;
use serde_json::{Value, json};

use super::commands::{Place, digest, simulated_fields};
use crate::support::broker;
use crate::support::command::{installed, run};
use crate::support::rounds;

const START: i64 = 1_700_000_000_000;

/// 2,000 s of impressions, two a second, of random features; a quarter is clicked, by a coin, within 5 s.
fn flip_coins(directory: &Path, seed: u64) {
    let (mut impressions, mut clicks) = (String::new(), Vec::new());
    for n in 0..4000_u64 {
        let dice = |lane| hash::hash(seed, n, lane);
        let time = START + 500 * n as i64 + (dice(0) % 400) as i64;
        let features = json!({"user": format!("u{}", dice(1) % 50), "item": format!("i{}", dice(2) % 100)});
        let impression = json!({"impression_id": format!("{n}"), "event_time": time, "features": features});
        writeln!(impressions, "{impression}").expect("memory takes it");
        if dice(3) % 4 == 0 {
            clicks.push((time + (dice(4) % 5000) as i64, n));
        }
    }
    clicks.sort_unstable();
    let click = |(time, n): &(i64, u64)| format!("{}\n", json!({"impression_id": format!("{n}"), "event_time": time}));
    fs::write(directory.join("impressions.jsonl"), impressions).expect("the disk takes it");
    fs::write(directory.join("clicks.jsonl"), clicks.iter().map(click).collect::<String>()).expect("the disk takes it");
}

fn coin_config(window: u64, lateness: u64, policy: &str) -> Config {
    let fields =
        "[[fields]]\nname = \"user\"\nkind = \"categorical\"\n[[fields]]\nname = \"item\"\nkind = \"categorical\"\n";
    let join = format!("[join]\nattribution_window_seconds = {window}\nlateness_seconds = {lateness}\n{policy}\n");
    Config::parse(&format!("{fields}{join}"), "test", []).expect("it is valid")
}

/// The standard error of the AUC of scores that say nothing (that of the Mann-Whitney U).
fn auc_error(report: &BacktestReport) -> f64 {
    let (clicks, all) = (report.quality.clicks as f64, report.quality.examples as f64);
    ((all + 1.0) / (12.0 * clicks * (all - clicks))).sqrt()
}

/// The mean AUC over seeds of one setting, its standard error, and the least normalized entropy; `None` where too little matured.
fn judge_coins(logs: &[tempfile::TempDir], config: &Config, labels: LabelTiming) -> Option<(f64, f64, f64)> {
    let reports: Vec<BacktestReport> = logs
        .iter()
        .map(|log| {
            let files = Files { directory: log.path(), labels, order: LineOrder::AsTheyStand };
            backtest::replay_files(config, files, &Progress::default()).expect("the log can be read")
        })
        .collect();
    for report in &reports {
        let unlabelled = report.join.as_ref().map_or(0, |join| join.closed_unlabelled);
        assert_eq!(report.quality.examples + report.unmatured as u64 + unlabelled, 4000, "every impression is counted");
    }
    let runs = reports.len() as f64;
    let auc = reports.iter().map(|report| report.quality.auc).sum::<Option<f64>>()? / runs;
    let error = reports.iter().map(|report| auc_error(report).powi(2)).sum::<f64>().sqrt() / runs;
    let least = reports.iter().filter_map(|report| report.quality.normalized_entropy).fold(f64::INFINITY, f64::min);
    (reports[0].quality.examples >= 500).then_some((auc, error, least))
}

#[test]
fn coin_flips_cannot_be_predicted_whatever_the_window_the_policy_and_the_lateness() {
    let seeds = rounds(2, 20);
    let logs: Vec<tempfile::TempDir> = (0..seeds as u64)
        .map(|seed| {
            let directory = tempfile::tempdir().expect("a directory of our own");
            flip_coins(directory.path(), 77 + seed);
            directory
        })
        .collect();
    let policies = ["emit = \"at_click\"", "emit = \"at_maturity\"", "labels = \"fake_negative\""];
    let mut judged = 0;
    for window in [5, 60, 300, 1000, 2500] {
        for lateness in [0, 300] {
            for policy in policies {
                let config = coin_config(window, lateness, policy);
                let Some((auc, error, entropy)) = judge_coins(&logs, &config, LabelTiming::Windowed) else {
                    assert!(window + lateness > 1700, "too little matured at {window} s");
                    println!("window {window:>5} s, lateness {lateness:>3} s, {policy:<24}  nothing to judge");
                    continue;
                };
                println!(
                    "window {window:>5} s, lateness {lateness:>3} s, {policy:<24}  AUC {auc:.4}, off by {:+.2} standard \
                     errors; normalized entropy at least {entropy:.4}",
                    (auc - 0.5) / error
                );
                assert!((auc - 0.5).abs() < 3.0 * error, "coin flips were predicted: {auc} ± {error}");
                assert!(entropy >= 0.999, "coin flips were predicted: normalized entropy {entropy}");
                judged += 1;
            }
        }
    }
    assert!(judged >= 24, "only {judged} settings were judged");
    let (auc, error, entropy) =
        judge_coins(&logs, &coin_config(60, 0, ""), LabelTiming::Immediate).expect("all matured");
    assert!((auc - 0.5).abs() < 3.0 * error && entropy >= 0.999, "immediate labels: {auc} ± {error}, {entropy}");
}

/// The first impressions of a directory of simulated events, with the clicks up to the last of them, in a directory of their own; and
/// the other impressions.
fn split(events: &Path, first: usize, into: &Path) -> Vec<Value> {
    let read = |name: &str| fs::read_to_string(events.join(name)).expect("it was written");
    let (impressions, clicks) = (read("impressions.jsonl"), read("clicks.jsonl"));
    let lines: Vec<&str> = impressions.lines().collect();
    let parse = |line: &str| -> Value { serde_json::from_str(line).expect("it is an event") };
    let end = parse(lines[first - 1])["event_time"].as_i64();
    let early = clicks.lines().filter(|line| parse(line)["event_time"].as_i64() <= end);
    fs::write(into.join("clicks.jsonl"), early.flat_map(|line| [line, "\n"]).collect::<String>()).expect("it fits");
    fs::write(into.join("impressions.jsonl"), lines[..first].join("\n") + "\n").expect("it fits");
    lines[first..].iter().map(|line| parse(line)).collect()
}

/// Log loss and base log loss of a version over impressions, by whether the simulator clicks them within the window.
fn frozen(version: &Path, impressions: &[Value], clicks: &Path, window_ms: i64) -> (f64, f64) {
    let text = fs::read_to_string(clicks).expect("it was written");
    let clicked: BTreeMap<String, i64> = text
        .lines()
        .map(|line| {
            let click: Value = serde_json::from_str(line).expect("it is an event");
            let id = click["impression_id"].as_str().expect("an id").to_owned();
            (id, click["event_time"].as_i64().expect("a time"))
        })
        .collect();
    let fields = Config::parse(&simulated_fields(), "test", []).expect("it is valid").field_set().expect("it is valid");
    let encoder = Encoder::new(fields, EventOptions::default().bounds());
    let servable = directory::materialize(version).expect("it is whole").servable;
    let mut metrics = Metrics::default();
    for impression in impressions {
        let features = encoder.encode_json(&impression["features"].to_string()).expect("it is valid");
        let logit = servable.logits(&[features])[0];
        let shown = impression["event_time"].as_i64().expect("a time");
        let id = impression["impression_id"].as_str().expect("an id");
        let label = clicked.get(id).is_some_and(|time| *time <= shown + window_ms);
        metrics.add(logit, label, 1.0);
    }
    let report = metrics.report();
    (report.log_loss.expect("there are some"), report.base_log_loss.expect("there are some"))
}

#[test]
fn one_log_on_more_partitions_gives_the_same_figures_and_its_frozen_version_keeps_them() {
    let name = "one_log_on_more_partitions_gives_the_same_figures_and_its_frozen_version_keeps_them";
    let Some(broker) = broker::real(name) else { return };
    let (learned, held_out) = (rounds(40_000, 300_000), 10_000);
    let (events, log) = (tempfile::tempdir().expect("a directory"), tempfile::tempdir().expect("a directory"));
    let (out, count) = (events.path().display().to_string(), (learned + held_out).to_string());
    let simulated = run(&["events", "simulate", "--out", &out, "--count", &count, "--rate", "500"]).json();
    let bound = simulated["bayes_log_loss"].as_f64().expect("a number");
    let next = split(events.path(), learned, log.path());
    let mut losses = Vec::new();
    for partitions in ["1", "4", "16", "64"] {
        let place = Place::new(broker.kafka(&format!("believable-{partitions}")), simulated_fields());
        let config = place.config("one", "[metrics]\nwindow_impressions = 10000\n");
        assert_eq!(run(&["topics", "apply", "--config", &config, "--partitions", partitions]).code, Some(0));
        let sent = run(&["events", "send", "--config", &config, "--events", &log.path().display().to_string()]);
        assert_eq!(sent.code, Some(0), "{}", sent.stderr);
        let summary = run(&["run", "--config", &config, "--until-end", "--json"]).json();
        let backtest = run(&["backtest", "--config", &config, "--json"]).json();
        assert_eq!(digest(&summary), digest(&backtest));
        let figure = |document: &Value, key: &str| document[key].as_f64().expect("a number");
        let loss = figure(&summary["metrics"], "log_loss");
        assert!((loss - figure(&backtest, "log_loss")).abs() < 1e-9, "run and backtest say the same");
        let version = installed(&place.path("one-artefacts")).pop().expect("there are versions");
        let manifest = fs::read(version.join("manifest.json")).expect("a version has a manifest");
        let manifest: Value = serde_json::from_slice(&manifest).expect("it is JSON");
        let claimed = &manifest["metrics"];
        let (frozen_loss, frozen_base) = frozen(&version, &next, &events.path().join("clicks.jsonl"), 5000);
        println!(
            "{partitions:>2} partitions: log loss {loss:.5}, base {:.5}, bound {bound:.5}, AUC {:.4}; claimed {claimed}; frozen, next \
             {held_out}: {frozen_loss:.5}, base {frozen_base:.5}",
            figure(&summary["metrics"], "base_log_loss"),
            figure(&summary["metrics"], "auc"),
        );
        assert!(loss > bound, "{loss} is below the best possible, {bound}");
        // Over the entropy of each set's own click rate: two samples of 10,000 differ in that by more than in what is learned.
        let (kept, promised) = (frozen_loss / frozen_base, figure(&claimed["window"], "normalized_entropy"));
        assert!((kept / promised - 1.0).abs() < 0.02, "claimed {promised}, kept {kept}");
        losses.push(loss);
    }
    let (least, most) = losses.iter().fold((f64::INFINITY, 0.0_f64), |(l, m), loss| (l.min(*loss), m.max(*loss)));
    assert!(most / least < 1.003, "{losses:?}");
}

//! The circuit breaker against logs whose clicks stop: what is learned after such an outage is as good as without it, and real
//! logs with long natural gaps are no outage.

use std::fmt::Write as _;
use std::fs;
use std::path::Path;

use deepfm_core::feature::hash;
use deepfm_stream::backtest::{self, BacktestReport, Files, LabelTiming};
use deepfm_stream::config::Config;
use deepfm_stream::progress::Progress;
use deepfm_stream::source::files::LineOrder;
use serde_json::json;

use crate::support::real_data;

const START: i64 = 1_700_000_000_000;

/// Impressions a second.
const RATE: i64 = 20;

/// Clicks of these seconds never arrive.
const OUTAGE: std::ops::Range<i64> = 800..1600;

/// Impressions of `seconds` of log, each clicked within 4 s by a probability of its user's, 5 to 30 %; and their clicks, but
/// for those of an outage.
fn write(directory: &Path, seconds: i64, outage: std::ops::Range<i64>) {
    let (mut impressions, mut clicks) = (String::new(), Vec::new());
    for n in 0..(seconds * RATE).cast_unsigned() {
        let time = START + 1000 * n.cast_signed() / RATE;
        let user = hash::hash(1, n, 0) % 40;
        let impression =
            json!({"impression_id": n.to_string(), "event_time": time, "features": {"user": format!("u{user}")}});
        writeln!(impressions, "{impression}").expect("memory takes it");
        let clicked_at = time + (hash::hash(1, n, 1) % 4000).cast_signed();
        let is_lost = outage.contains(&((clicked_at - START) / 1000));
        if hash::unit(2, n) < 0.05 + 0.25 * user as f64 / 40.0 && !is_lost {
            clicks.push((clicked_at, n));
        }
    }
    clicks.sort_unstable();
    let click = |(time, n): &(i64, u64)| format!("{}\n", json!({"impression_id": n.to_string(), "event_time": time}));
    fs::write(directory.join("impressions.jsonl"), impressions).expect("the disk takes it");
    fs::write(directory.join("clicks.jsonl"), clicks.iter().map(click).collect::<String>()).expect("the disk takes it");
}

fn config(policy: &str, missing_clicks_max: f64) -> Config {
    let text = format!(
        "[[fields]]\nname = \"user\"\nkind = \"categorical\"\n[join]\nattribution_window_seconds = 5\n{policy}\n\
         [training]\nmissing_clicks_max = {missing_clicks_max}\n"
    );
    Config::parse(&text, "test", []).expect("it is valid")
}

fn replay(config: &Config, directory: &Path) -> BacktestReport {
    let files = Files { directory, labels: LabelTiming::Windowed, order: LineOrder::AsTheyStand };
    backtest::replay_files(config, files, &Progress::default()).expect("the log can be read")
}

/// Calibration and log loss of what was shown and matured between two seconds of the log: what the longer run counts more
/// than the shorter one. Both are one run up to the end of the shorter.
fn between(config: &Config, seconds: std::ops::Range<i64>, outage: &std::ops::Range<i64>) -> (f64, f64, u64) {
    let [before, after] = [seconds.start, seconds.end].map(|end| {
        let directory = tempfile::tempdir().expect("a directory of our own");
        write(directory.path(), end, outage.clone());
        let report = replay(config, directory.path());
        let quality = report.quality;
        let (examples, clicks) = (quality.examples as f64, quality.clicks as f64);
        let sums = [quality.log_loss.expect("something matured") * examples, examples, clicks];
        let predicted = quality.calibration.expect("something was clicked") * clicks;
        (sums, predicted, report.counters.learner.skipped)
    });
    let ([loss, examples, clicks], predicted) = (std::array::from_fn(|n| after.0[n] - before.0[n]), after.1 - before.1);
    (predicted / clicks, loss / examples, after.2)
}

#[test]
fn after_an_outage_of_clicks_the_model_is_as_good_as_without_one_and_without_a_breaker_it_is_not() {
    let with = |missing_clicks_max| config("emit = \"at_maturity\"", missing_clicks_max);
    // The impressions of the first 30 s after it, which have matured 5 s later: the model has hardly learned of clicks again.
    let after = OUTAGE.end + 5..OUTAGE.end + 35;
    let (calm, loss, none) = between(&with(50.0), after.clone(), &(0..0));
    let (held, held_loss, skipped) = between(&with(50.0), after.clone(), &OUTAGE);
    let (harmed, harmed_loss, learned_all) = between(&with(0.0), after, &OUTAGE);
    println!(
        "calibration {calm:.3} without an outage, {held:.3} after one, {harmed:.3} without the breaker; log loss {loss:.4}, \
         {held_loss:.4}, {harmed_loss:.4}; {skipped} labels skipped"
    );
    assert_eq!((none, learned_all), (0, 0));
    // 600 impressions have some 105 clicks, whose number varies by 9 % between any two such logs; these have the same.
    assert!((held / calm - 1.0).abs() < 0.1, "calibration {held} after an outage, {calm} without");
    assert!((held_loss / loss - 1.0).abs() < 0.01, "log loss {held_loss} after an outage, {loss} without");
    assert!(harmed < 0.8 * calm && harmed_loss > 1.02 * loss, "{harmed} and {harmed_loss} without a breaker");
    // The outage and its window, but for what nobody can tell at both ends.
    let outage = (OUTAGE.end - OUTAGE.start) * RATE;
    assert!((outage - 100..outage + 300).contains(&skipped.cast_signed()), "{skipped} skipped of {outage}");
}

#[test]
fn where_positives_come_at_their_click_there_is_no_breaker() {
    let directory = tempfile::tempdir().expect("a directory of our own");
    write(directory.path(), OUTAGE.end + 35, OUTAGE);
    for policy in ["emit = \"at_click\"", "labels = \"fake_negative\""] {
        let report = replay(&config(policy, 50.0), directory.path());
        assert_eq!(report.counters.learner.skipped, 0, "{policy}");
        assert!(report.learned as usize >= report.quality.examples as usize, "{policy}: all is learned");
    }
}

#[test]
fn the_natural_gaps_of_real_logs_open_no_breaker() {
    for (name, window) in
        [("openbandit", 30), ("openbandit", 1800), ("ebnerd", 60), ("ebnerd", 1800), ("movielens", 1800)]
    {
        let Some(directory) = real_data("the_natural_gaps_of_real_logs_open_no_breaker", name) else { return };
        let text = format!(
            "[[fields]]\nname = \"user_id\"\nkind = \"categorical\"\n[model]\nparts = \"linear\"\n\
             [join]\nattribution_window_seconds = {window}\n"
        );
        let config = Config::parse(&text, "test", []).expect("it is valid");
        let report = replay(&config, &directory);
        assert!(report.quality.examples > 5000, "{name}");
        assert_eq!(report.counters.learner.skipped, 0, "{name}, window {window} s");
    }
}

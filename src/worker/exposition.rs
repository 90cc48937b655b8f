//! The status as metrics for machines, in Prometheus' text form.
//!
//! `METRICS` is the one list of what there is: a metric that is not in it is found by a test. Each has its help and, by
//! the rules of `promtool check metrics`, base units. Every series has the label `model`, and what can be counted is there
//! from the start, at 0.
//!
//! Counters count from the start of this process: what is counted since the log began goes back when a worker goes on from
//! a checkpoint, and Prometheus would take that for a reset and all of it for new. `/status` has the log's own counts.
//! A gauge that has no value yet is NaN.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use metrics::{counter, describe_counter, describe_gauge, gauge};

use super::status::{Status, StorageAway};
use crate::http::registry::MetricRegistry;

/// What a metric is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    /// A count since the process began, without further labels unless the status has them; 0 from the start.
    Counter,
    /// A count since the log began, which is there once the state is known.
    LogCounter,
    /// A value of now.
    Gauge,
}
use Kind::{Counter, Gauge, LogCounter};

/// Every metric: what it is, its name and its help.
const METRICS: &[(Kind, &str, &str)] = &[
    (Gauge, "deepfm_build_info", "Always 1; the label is the version of the program"),
    (Gauge, "deepfm_heartbeat_age_seconds", "How long ago the learner was last heard of"),
    // The log.
    (Counter, "deepfm_records_total", "Records consumed"),
    (LogCounter, "deepfm_gap_records_total", "Records since the log began that were gone before they were read"),
    (Counter, "deepfm_consumers_replaced_total", "Consumers replaced since records did not come"),
    (Counter, "deepfm_impressions_total", "Impressions that could be read"),
    (Counter, "deepfm_clicks_total", "Clicks that could be read"),
    (Counter, "deepfm_records_refused_total", "Records that could not be read, by reason"),
    (Counter, "deepfm_unknown_keys_total", "Keys of events that mean nothing"),
    (Counter, "deepfm_unknown_fields_total", "Features of no configured field"),
    (Gauge, "deepfm_partition_lag_records", "Records of a partition that wait, at the broker or in this process"),
    (Gauge, "deepfm_partition_lag_seconds", "How far a partition is behind, in event time; 0 where nothing waits"),
    (Gauge, "deepfm_partition_event_timestamp_seconds", "Largest event time consumed of a partition, since 1970"),
    (Gauge, "deepfm_field_share", "Share of the last window's impressions, as they are read, that have a field"),
    (Gauge, "deepfm_field_expected_share", "The share to expect: that of the configuration, or of the windows before"),
    (Gauge, "deepfm_fields_missing", "Fields of which the last window had less than half of what is expected"),
    // The join.
    (Counter, "deepfm_join_total", "What became of records in the join, by fate"),
    (Gauge, "deepfm_open_impressions", "Impressions that wait for their label"),
    (Gauge, "deepfm_open_impressions_max", "The most impressions that may wait (join.open_impressions_max)"),
    (Gauge, "deepfm_waiting_clicks", "Clicks that wait for their impression"),
    (Gauge, "deepfm_waiting_clicks_max", "The most clicks that may wait (join.waiting_clicks_max)"),
    (Gauge, "deepfm_watermark_timestamp_seconds", "Event time up to which the log is known, since 1970"),
    // The model.
    (Counter, "deepfm_examples_learned_total", "Examples learned"),
    (Counter, "deepfm_negatives_sampled_out_total", "Negatives that down-sampling left out"),
    (Counter, "deepfm_batches_refused_total", "Micro-batches of which not one example could be learned"),
    (Counter, "deepfm_examples_refused_total", "Examples not learned: a gradient or weight was not finite"),
    (
        Counter,
        "deepfm_corrections_ignored_total",
        "Clicks on impressions whose example was refused: nothing to correct",
    ),
    (Counter, "deepfm_refusals_forgotten_total", "Refused examples forgotten at their bound: corrections are learned"),
    (Counter, "deepfm_impressions_unscored_total", "Impressions that sampling left out of the metrics"),
    (Counter, "deepfm_scores_refused_total", "Shown scores that were not finite"),
    (Counter, "deepfm_scores_forgotten_total", "Shown scores forgotten at their bound, before their label was known"),
    (Gauge, "deepfm_rows", "Rows of the embedding table"),
    (Gauge, "deepfm_rows_max", "The most rows (model.rows_max)"),
    (Gauge, "deepfm_candidates", "Ids that are counted and have no row yet"),
    (Counter, "deepfm_rows_expired_total", "Rows removed since they were not learned for long"),
    (Counter, "deepfm_candidates_expired_total", "Ids that were counted, had no row yet and expired"),
    (Counter, "deepfm_rows_evicted_total", "Rows that made room for new ids: the table is full"),
    (Counter, "deepfm_candidates_evicted_total", "Ids without a row yet that made room for new ones"),
    (Counter, "deepfm_ids_refused_total", "Ids of batches that have more new ids than there can be rows"),
    // Its quality.
    (Gauge, "deepfm_window_log_loss", "Progressive log loss of the last window"),
    (Gauge, "deepfm_window_normalized_entropy", "Progressive normalized entropy of the last window"),
    (Gauge, "deepfm_window_auc", "Progressive AUC of the last window"),
    (Gauge, "deepfm_window_calibration", "Clicks predicted over clicks observed, last window"),
    (Gauge, "deepfm_window_mean_prediction", "Mean predicted click probability of the last window"),
    (Gauge, "deepfm_window_click_rate", "Share of the last window that was clicked"),
    // What is kept and published.
    (Gauge, "deepfm_checkpoint", "Number of the newest checkpoint"),
    (
        Gauge,
        "deepfm_last_checkpoint_timestamp_seconds",
        "When the newest checkpoint was made durable, since 1970; of before the start by its witness file",
    ),
    (Gauge, "deepfm_checkpoint_bytes", "Bytes written by the newest checkpoint"),
    (Gauge, "deepfm_checkpoint_seconds", "How long the newest checkpoint took to write"),
    (Gauge, "deepfm_checkpoint_pause_seconds", "How long learning stood still for the newest checkpoint"),
    (Counter, "deepfm_checkpoint_failures_total", "Checkpoints that could not be written"),
    (Counter, "deepfm_checkpoint_fallbacks_total", "Starts from an older checkpoint, since newer ones were damaged"),
    (Gauge, "deepfm_version", "The newest version that is announced"),
    (
        Gauge,
        "deepfm_last_version_timestamp_seconds",
        "When the newest version was announced, since 1970; of before the start when it was cut",
    ),
    (Gauge, "deepfm_outbox", "Versions that are durable but not announced yet"),
    (Counter, "deepfm_version_failures_total", "Versions that could not be written"),
    (Counter, "deepfm_versions_dropped_total", "Versions that were durable and will not be announced"),
    (Gauge, "deepfm_breaker_open", "1 while clicks have stalled: nothing is learned and nothing published"),
    (Gauge, "deepfm_missing_clicks", "Clicks that seem to be missing, by their usual rate"),
    (Gauge, "deepfm_labels_held", "Labels that wait until it is clear whether clicks have stalled"),
    (Counter, "deepfm_labels_skipped_total", "Labels of outages of clicks: neither learned nor in the metrics"),
    (Gauge, "deepfm_click_silence_seconds", "How far the log has gone on since its last click"),
    (Counter, "deepfm_versions_rejected_total", "Versions that did not pass the gate: servers do not follow to them"),
    (Counter, "deepfm_versions_removed_total", "Versions removed by versions.keep and keep_days"),
    (Counter, "deepfm_version_removal_failures_total", "Versions that could not be removed"),
    (Counter, "deepfm_storage_uploads_total", "Versions uploaded to object storage"),
    (Counter, "deepfm_storage_uploaded_bytes_total", "Bytes of versions uploaded to object storage"),
    (Counter, "deepfm_storage_removals_total", "Versions removed from object storage"),
    (Counter, "deepfm_storage_failures_total", "Requests to object storage that failed: they are made again"),
    (Gauge, "deepfm_storage_away_seconds", "For how long object storage has taken no version; 0 while it does"),
    (Counter, "deepfm_exports_total", "Training exports written"),
    (Counter, "deepfm_export_failures_total", "Training exports that could not be written"),
];

/// The counters that have a label, which the status fills in; without one they are not shown.
const LABELLED: [&str; 2] = ["deepfm_records_refused_total", "deepfm_join_total"];

/// The worker's metrics, as text.
#[derive(Clone, Debug)]
pub struct Registry(MetricRegistry);

impl Registry {
    /// Installs the registry of this process and of one model, as [`MetricRegistry::install`] does.
    pub fn install(model: &str) -> Self {
        Self(MetricRegistry::install(model, |registry| Self(registry.clone()).begin()))
    }

    #[cfg(test)]
    fn of(model: &str) -> (metrics_exporter_prometheus::PrometheusRecorder, Self) {
        let (recorder, registry) = MetricRegistry::of(model);
        (recorder, Self(registry))
    }

    /// Describes every metric, and shows every counter, at 0.
    fn begin(&self) {
        for (kind, name, help) in METRICS {
            match kind {
                Counter | LogCounter => describe_counter!(*name, *help),
                Gauge => describe_gauge!(*name, *help),
            }
            if *kind == Counter && !LABELLED.contains(name) {
                counter!(*name).increment(0);
            }
        }
        self.0.describe_process();
    }

    /// The text of all metrics, with those of the status, last written so long ago, brought up to date.
    pub fn render(&self, status: &Status, age: Duration) -> String {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        export(status, age, now);
        self.0.text()
    }
}

/// Sets the metrics to a status.
fn export(status: &Status, age: Duration, now: Duration) {
    for ((name, label), count) in status.counts() {
        let begun = status.begun.as_ref().and_then(|begun| begun.get(&(name, label.clone()))).copied();
        let labels: Vec<_> = label.into_iter().map(|(label, value)| metrics::Label::new(label, value)).collect();
        counter!(name, labels).absolute(begun.map_or(0, |begun| count.saturating_sub(begun)));
    }
    if status.begun.is_some() {
        counter!("deepfm_gap_records_total").absolute(status.gap_records);
    }
    gauge!("deepfm_build_info", "version" => env!("CARGO_PKG_VERSION")).set(1.0);
    for (name, value) in gauges(status, age) {
        gauge!(name).set(value.unwrap_or(f64::NAN));
    }
    for (partition, status) in &status.partitions {
        let (kind, number) = partition.split_once('/').unwrap_or((partition, ""));
        let values = [
            ("deepfm_partition_lag_records", status.lag_records.map(|records| records as f64)),
            ("deepfm_partition_lag_seconds", status.lag_seconds(now)),
            ("deepfm_partition_event_timestamp_seconds", status.event_time.map(|time| time as f64 / 1000.0)),
        ];
        for (name, value) in values {
            gauge!(name, "kind" => kind.to_owned(), "partition" => number.to_owned()).set(value.unwrap_or(f64::NAN));
        }
    }
    for (field, share) in &status.fields {
        for (name, value) in [("deepfm_field_share", share.share), ("deepfm_field_expected_share", share.expected)] {
            gauge!(name, "field" => field.clone()).set(value.unwrap_or(f64::NAN));
        }
    }
}

/// The gauges without further labels; `None` has no value now.
fn gauges(status: &Status, age: Duration) -> [(&'static str, Option<f64>); 29] {
    let number = |number: u64| Some(number as f64);
    let size = |size: usize| Some(size as f64);
    let seconds = |milliseconds: i64| milliseconds as f64 / 1000.0;
    let since_1970 = |at: jiff::Timestamp| seconds(at.as_millisecond());
    let window = &status.window;
    [
        ("deepfm_heartbeat_age_seconds", Some(age.as_secs_f64())),
        ("deepfm_open_impressions", size(status.open_impressions)),
        ("deepfm_open_impressions_max", status.open_impressions_max.and_then(size)),
        ("deepfm_waiting_clicks", size(status.waiting_clicks)),
        ("deepfm_waiting_clicks_max", status.waiting_clicks_max.and_then(size)),
        ("deepfm_watermark_timestamp_seconds", status.watermark.map(seconds)),
        ("deepfm_rows", size(status.rows)),
        ("deepfm_rows_max", status.rows_max.and_then(size)),
        ("deepfm_candidates", size(status.candidates)),
        ("deepfm_window_log_loss", window.log_loss),
        ("deepfm_window_normalized_entropy", window.normalized_entropy),
        ("deepfm_window_auc", window.auc),
        ("deepfm_window_calibration", window.calibration),
        ("deepfm_window_mean_prediction", status.window_mean_prediction),
        ("deepfm_window_click_rate", status.window_click_rate),
        ("deepfm_checkpoint", status.checkpoint.and_then(number)),
        ("deepfm_last_checkpoint_timestamp_seconds", status.checkpoint_at.map(since_1970)),
        ("deepfm_checkpoint_bytes", status.checkpoint_bytes.and_then(number)),
        ("deepfm_checkpoint_seconds", status.checkpoint_seconds),
        ("deepfm_checkpoint_pause_seconds", status.checkpoint_pause_seconds),
        ("deepfm_version", status.version.and_then(number)),
        ("deepfm_last_version_timestamp_seconds", status.version_at.map(since_1970)),
        ("deepfm_outbox", size(status.outbox)),
        ("deepfm_storage_away_seconds", Some(status.storage_away.as_ref().map_or(0.0, StorageAway::seconds))),
        ("deepfm_click_silence_seconds", status.click_silence_seconds),
        ("deepfm_breaker_open", number(u64::from(status.breaker.is_open))),
        ("deepfm_missing_clicks", Some(status.breaker.missing_clicks)),
        ("deepfm_labels_held", size(status.breaker.held)),
        ("deepfm_fields_missing", size(status.fields.values().filter(|share| share.is_missing).count())),
    ]
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::fs;
    use std::path::Path;

    use std::collections::BTreeMap;
    use std::sync::Arc;

    use deepfm_core::event::Reason;

    use super::super::status::{FieldShare, PartitionStatus};
    use super::*;

    /// The text that a status gives in a registry of its own.
    fn text(status: &Status) -> String {
        let (recorder, registry) = Registry::of("clicks \"a\"");
        metrics::with_local_recorder(&recorder, || {
            registry.begin();
            registry.render(status, Duration::from_millis(1500))
        })
    }

    /// A status with everything that it can have.
    fn full() -> Status {
        let mut status = Status { gap_records: 3, watermark: Some(1_700_000_000_500), ..Status::default() };
        status.partitions.insert(
            "click/3".to_owned(),
            PartitionStatus { next_offset: 5, end_offset: Some(9), lag_records: Some(4), event_time: Some(1_000) },
        );
        let share = FieldShare { share: Some(0.25), expected: Some(0.75), is_missing: true };
        status.fields.insert("user".to_owned(), share);
        status.begun = Some(Arc::new(status.counts()));
        status
    }

    fn value<'t>(text: &'t str, series: &str) -> Option<&'t str> {
        text.lines().find_map(|line| line.strip_prefix(series)?.strip_prefix(' '))
    }

    /// The rules of `promtool check metrics`, as they apply to counters and gauges.
    fn lint(text: &str) -> Vec<String> {
        let mut found = Vec::new();
        let mut types = BTreeMap::new();
        let mut helped = BTreeSet::new();
        for line in text.lines() {
            if let Some(rest) = line.strip_prefix("# HELP ") {
                let (name, help) = rest.split_once(' ').unwrap_or((rest, ""));
                if help.is_empty() || !helped.insert(name) {
                    found.push(format!("{name}: help is missing or twice there"));
                }
            } else if let Some((name, kind)) = line.strip_prefix("# TYPE ").and_then(|rest| rest.split_once(' ')) {
                types.insert(name, kind);
                found.extend(lint_name(name, kind).map(|problem| format!("{name}: {problem}")));
            } else if let Some((name, _)) = line.split_once('{') {
                if !helped.contains(name) || !types.contains_key(name) {
                    found.push(format!("{name}: it has no help or no type"));
                }
                if !line.contains("model=\"") {
                    found.push(format!("{line}: it names no model"));
                }
            } else if !line.is_empty() {
                found.push(format!("{line}: it has no labels"));
            }
        }
        found
    }

    fn lint_name(name: &str, kind: &str) -> impl Iterator<Item = &'static str> {
        const NOT_BASE: [&str; 16] = [
            "s",
            "ms",
            "us",
            "ns",
            "sec",
            "milliseconds",
            "microseconds",
            "minutes",
            "hours",
            "days",
            "kb",
            "mb",
            "gb",
            "kilobytes",
            "megabytes",
            "percent",
        ];
        let parts: Vec<&str> = name.split('_').collect();
        let ends = |suffix| parts.last() == Some(&suffix);
        [
            ((kind == "counter") != ends("total"), "counters end with _total, and nothing else does"),
            (["count", "sum", "bucket"].into_iter().any(ends), "the ending is that of a histogram"),
            (parts.iter().any(|part| NOT_BASE.contains(part)), "units are base units in full"),
            (parts.iter().any(|part| ["counter", "gauge", "histogram", "summary"].contains(part)), "the type is in it"),
            (name.chars().any(|c| !c.is_ascii_lowercase() && c != '_'), "lower case with _ only"),
        ]
        .into_iter()
        .filter_map(|(is_wrong, problem)| is_wrong.then_some(problem))
    }

    #[test]
    fn metrics_pass_the_lint_of_promtool_and_name_their_model() {
        for status in [Status::default(), full()] {
            let text = text(&status);
            assert_eq!(lint(&text), Vec::<String>::new());
            assert!(text.contains("process_resident_memory_bytes{model="), "{text}");
        }
        let bad = "# TYPE deepfm_watermark_ms gauge\ndeepfm_watermark_ms 1\n# HELP a_count x\n# TYPE a_count counter\n";
        assert_eq!(lint(bad).len(), 4, "{:?}", lint(bad));
    }

    #[test]
    fn every_metric_of_the_list_is_shown_and_every_counter_is_at_zero_from_the_start() {
        let (first, later) = (text(&Status::default()), text(&full()));
        for (kind, name, _) in METRICS {
            let prefix = format!("{name}{{");
            let lines: Vec<&str> = first.lines().filter(|line| line.starts_with(&prefix)).collect();
            match kind {
                Counter => assert!(!lines.is_empty() && lines.iter().all(|line| line.ends_with(" 0")), "{lines:?}"),
                // Once the state is known: 0 before it would look like a rise afterwards.
                LogCounter => assert!(lines.is_empty(), "{lines:?}"),
                // Partitions and fields have to be known.
                Gauge => assert!(!lines.is_empty() || name.contains("partition") || name.contains("field"), "{name}"),
            }
            assert!(later.lines().any(|line| line.starts_with(&prefix)), "{name} is not shown later");
        }
        for reason in Reason::ALL {
            assert!(first.contains(&format!("reason=\"{reason}\"")), "{reason}");
        }
        let shown = first.lines().filter_map(|line| line.strip_prefix("# TYPE ")?.split(' ').next());
        let known: BTreeSet<&str> = METRICS.iter().map(|(_, name, _)| *name).collect();
        let unknown: Vec<&str> = shown.filter(|name| !name.starts_with("process_") && !known.contains(name)).collect();
        assert!(unknown.is_empty(), "{unknown:?}");
    }

    #[test]
    fn what_was_counted_before_this_process_is_not_counted_again() {
        let mut status = full();
        status.records = 1000;
        status.counters.intake.refused.insert(Reason::Malformed, 7);
        status.join.duplicate = 5;
        status.begun = Some(Arc::new(status.counts()));
        status.records += 1;
        status.counters.intake.refused.insert(Reason::Malformed, 9);
        let text = text(&status);
        let model = "model=\"clicks \\\"a\\\"\"";
        assert_eq!(value(&text, &format!("deepfm_records_total{{{model}}}")), Some("1"), "{text}");
        let refused = format!("deepfm_records_refused_total{{{model},reason=\"malformed\"}}");
        assert_eq!(value(&text, &refused), Some("2"), "{text}");
        assert_eq!(value(&text, &format!("deepfm_join_total{{{model},fate=\"duplicate\"}}")), Some("0"));
        assert_eq!(value(&text, &format!("deepfm_gap_records_total{{{model}}}")), Some("3"), "of the log");
    }

    #[test]
    fn lag_is_told_by_partition_in_records_and_in_event_time_and_is_none_where_nothing_waits() {
        let mut status = full();
        let quiet = PartitionStatus { lag_records: Some(0), event_time: Some(1_000), ..PartitionStatus::default() };
        status.partitions.insert("click/0".to_owned(), quiet);
        status.partitions.insert("impression/0".to_owned(), PartitionStatus::default());
        let text = text(&status);
        let of = |name: &str, kind: &str, partition: u32| {
            let labels = format!("model=\"clicks \\\"a\\\"\",kind=\"{kind}\",partition=\"{partition}\"");
            value(&text, &format!("deepfm_partition_{name}{{{labels}}}")).expect("it is there").to_owned()
        };
        assert_eq!(of("lag_records", "click", 3), "4");
        assert!(of("lag_seconds", "click", 3).parse::<f64>().is_ok_and(|seconds| seconds > 1e9));
        assert_eq!(of("event_timestamp_seconds", "click", 3), "1");
        assert_eq!((of("lag_records", "click", 0).as_str(), of("lag_seconds", "click", 0).as_str()), ("0", "0"));
        assert_eq!(of("lag_records", "impression", 0), "NaN");
        assert_eq!(of("lag_seconds", "impression", 0), "NaN");
        let user = "{model=\"clicks \\\"a\\\"\",field=\"user\"}";
        assert_eq!(value(&text, &format!("deepfm_field_share{user}")), Some("0.25"));
        assert_eq!(value(&text, &format!("deepfm_field_expected_share{user}")), Some("0.75"));
        assert_eq!(value(&text, "deepfm_fields_missing{model=\"clicks \\\"a\\\"\"}"), Some("1"));
    }

    #[test]
    fn a_gauge_without_a_value_is_not_a_number_also_when_it_had_one() {
        let (recorder, registry) = Registry::of("clicks");
        metrics::with_local_recorder(&recorder, || {
            registry.begin();
            let mut status = full();
            status.window.auc = Some(0.75);
            let series = "deepfm_window_auc{model=\"clicks\"}";
            assert_eq!(value(&registry.render(&status, Duration::ZERO), series), Some("0.75"));
            status.window.auc = None;
            let text = registry.render(&status, Duration::ZERO);
            assert_eq!(value(&text, series), Some("NaN"));
            let watermark = "deepfm_watermark_timestamp_seconds{model=\"clicks\"}";
            assert_eq!(value(&text, watermark), Some("1700000000.5"));
        });
    }

    /// Every file below a directory.
    fn files(directory: &Path, found: &mut Vec<std::path::PathBuf>) {
        for entry in fs::read_dir(directory).expect("the sources are here").flatten() {
            if entry.path().is_dir() { files(&entry.path(), found) } else { found.push(entry.path()) }
        }
    }

    #[test]
    fn every_metric_that_the_program_sets_or_the_readme_names_is_in_the_list_and_the_readme_has_all() {
        let root = Path::new(env!("CARGO_MANIFEST_DIR"));
        let mut sources = vec![root.join("README.md")];
        files(&root.join("src"), &mut sources);
        let serving = crate::serve::http::metrics::METRICS.iter().map(|(_, name, _)| *name);
        let known: BTreeSet<&str> = METRICS.iter().map(|(_, name, _)| *name).chain(serving).collect();
        // The names that are set here are held to the list by what is shown.
        for source in sources.into_iter().filter(|source| !source.ends_with("exposition.rs")) {
            let text = fs::read_to_string(&source).unwrap_or_default();
            let is_readme = source.extension().is_some_and(|extension| extension == "md");
            let is_end = |c: char| !c.is_ascii_lowercase() && c != '_';
            let begins = if is_readme { "`deepfm_" } else { "!(\"deepfm_" };
            let named: BTreeSet<&str> = text
                .match_indices(begins)
                .map(|(at, begins)| &text[at + begins.len() - "deepfm_".len()..])
                .filter_map(|rest| rest.split(is_end).next())
                .filter(|name| *name != "deepfm_stream")
                .collect();
            let unknown: Vec<&&str> = named.difference(&known).collect();
            assert!(unknown.is_empty(), "{}: {unknown:?}", source.display());
            if is_readme {
                let missing: Vec<&&str> = known.difference(&named).collect();
                assert!(missing.is_empty(), "README lacks {missing:?}");
            } else {
                let labelled = text.lines().any(|line| line.contains("\"deepfm_") && line.contains("\"model\" =>"));
                assert!(!labelled, "{}: the registry gives every series its model", source.display());
            }
        }
    }
}

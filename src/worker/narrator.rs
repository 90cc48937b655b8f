//! What a worker says as it goes: at its start, once a minute, and of each version. As fields, so that a log in JSON has them
//! as numbers.

use std::time::{Duration, Instant};

use super::status::Status;
use super::toll::{self, Toll};
use crate::config::Config;
use crate::source::topics::KafkaLog;
use crate::thread::crew::Crew;
use deepfm_core::stream::Positions;
use deepfm_core::train::Trainer;
use deepfm_core::version::announcement::Announcement;
use deepfm_core::version::manifest::FileDigest;

/// How often a worker says how it goes.
const EVERY: Duration = Duration::from_mins(1);

/// Says what begins: which program, model and topics, where it reads on, and where everything is kept.
pub fn begin(config: &Config, log: &KafkaLog, positions: &Positions, checkpoint: Option<u64>) {
    let kafka = &config.kafka;
    let partitions = |kind| positions.keys().filter(|partition| partition.kind == kind).count();
    let impressions = partitions(deepfm_core::event::EventKind::Impression);
    let clicks = partitions(deepfm_core::event::EventKind::Click);
    tracing::info!(
        version = env!("CARGO_PKG_VERSION"),
        model = config.model.name,
        brokers = kafka.brokers,
        impressions = format!("{} ({impressions} partitions)", kafka.impressions_topic),
        clicks = format!("{} ({clicks} partitions)", kafka.clicks_topic),
        versions = kafka.versions_topic,
        dead_letters = kafka.dead_letter_topic,
        "deepfm begins"
    );
    let ends = log.ends();
    let waiting: i64 = positions.iter().map(|(partition, at)| (ends.get(partition).unwrap_or(at) - at).max(0)).sum();
    let from =
        checkpoint.map_or_else(|| format!("kafka.start = {}", kafka.start), |number| format!("checkpoint {number}"));
    tracing::info!(
        from,
        records_waiting = waiting,
        state = %config.state.dir.display(),
        versions = %config.versions.dir.display(),
        exports = %config.exports.dir.display(),
        "reading begins"
    );
}

/// Says of a version that it is announced; how long that took since it was cut.
pub fn announced(announcement: &Announcement, goes_live: bool) {
    let bytes = FileDigest::total(announcement.files.values());
    let log_loss = announcement.metrics.get("window").and_then(|window| window["log_loss"].as_f64());
    let cut_at = announcement.created_at.parse::<jiff::Timestamp>().ok();
    let seconds = cut_at.map(|cut_at| jiff::Timestamp::now().duration_since(cut_at).as_secs_f64());
    tracing::info!(
        rows = announcement.rows,
        examples = announcement.learned,
        bytes,
        log_loss = log_loss.map(rounded),
        seconds = seconds.map(rounded),
        "version {} is announced{}",
        announcement.version,
        if goes_live { " and live" } else { "" }
    );
}

/// Says once a minute how it goes.
#[derive(Debug)]
pub struct Minute {
    since: Instant,
    records: u64,
    /// Examples learned when it began, once that is known.
    learned: Option<u64>,
    toll: Toll,
    /// How often clicks had stalled since the log began, once that is known, and whether it was said that they have.
    stalls: Option<(u64, bool)>,
}

impl Minute {
    /// The first minute begins now, after so many records.
    pub fn new(records: u64) -> Self {
        Self { since: Instant::now(), records, learned: None, toll: Toll::default(), stalls: None }
    }

    /// Takes note of what is lost.
    pub fn toll(&mut self) -> &mut Toll {
        &mut self.toll
    }

    /// Says when clicks stall, and when they come again.
    pub fn note_breaker(&mut self, trainer: &Trainer<Crew>) {
        let breaker = trainer.intake().breaker();
        let (openings, is_open) = (breaker.openings(), breaker.is_open());
        let (openings_before, was_open) = self.stalls.replace((openings, is_open)).unwrap_or((openings, false));
        if openings > openings_before || is_open && !was_open {
            tracing::warn!(
                "clicks have stalled: some {:.0} are missing by their usual rate. Nothing is learned and no version is \
                 published until they come again; what is shown meanwhile is skipped",
                breaker.missing_clicks()
            );
        }
        if !is_open && (was_open || openings > openings_before) {
            let skipped = trainer.counters().learner.skipped;
            tracing::warn!("clicks come again: learning goes on; {skipped} labels were skipped since the log began");
        }
    }

    /// Takes note of the worker's state, and says it when the minute is over.
    pub fn note(&mut self, status: &Status) {
        let now = Instant::now();
        let before = *self.learned.get_or_insert_with(|| {
            // From here on what the join counts is this process's.
            self.toll.take(&status.join);
            status.counters.learner.learned
        });
        let elapsed = now.saturating_duration_since(self.since);
        if elapsed < EVERY {
            return;
        }
        let lost = self.toll.take(&status.join);
        let rate = status.records.saturating_sub(self.records) as f64 / elapsed.as_secs_f64();
        let behind = status.watermark.map(|time| (jiff::Timestamp::now().as_millisecond() - time) as f64 / 1000.0);
        let version_age = status.version_at.map(|at| jiff::Timestamp::now().duration_since(at).as_secs().max(0));
        let lags: Option<Vec<u64>> = status.partitions.values().map(|partition| partition.lag_records).collect();
        let lag = lags.map(|lags| lags.iter().sum::<u64>());
        tracing::info!(
            records_per_second = rounded(rate),
            lag_records = lag,
            watermark_lag_seconds = behind.map(rounded),
            records = status.records,
            examples_learned = status.counters.learner.learned.saturating_sub(before),
            losses = toll::summary(&lost),
            rows = status.rows,
            open_impressions = status.open_impressions,
            log_loss = status.window.log_loss.map(rounded),
            calibration = status.window.calibration.map(rounded),
            newest_version = status.version,
            version_age_seconds = version_age,
            "{}",
            status.not_ready().unwrap_or_else(|| "running".to_owned())
        );
        if let Some(warning) = toll::warning(&lost) {
            tracing::warn!("{warning}");
        }
        (self.since, self.records, self.learned) = (now, status.records, Some(status.counters.learner.learned));
    }
}

/// To four digits after the point, which people can read.
fn rounded(value: f64) -> f64 {
    (value * 1e4).round() / 1e4
}

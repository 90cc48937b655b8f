//! What the worker says of itself: one document for people (`/status`), from which the metrics for machines are made.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use jiff::Timestamp;
use serde::Serialize;

use super::counts::{self, Counts};
use crate::source::link::Link;
use crate::thread::crew::Crew;
use deepfm_core::join::JoinCounters;
use deepfm_core::metric::Report;
use deepfm_core::stream::{Partition, Positions};
use deepfm_core::train::{Counters, Trainer};

/// What the worker is doing.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Phase {
    /// Opening the store, asking the broker.
    #[default]
    Starting,
    /// Consuming what was there when it started.
    CatchingUp,
    /// Consuming what comes.
    Running,
    /// Finishing the step, taking the last checkpoint.
    Stopping,
}

/// How many impressions have a field.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub struct FieldShare {
    /// Of the last complete window, or of the current one before there is a complete one.
    pub share: Option<f64>,
    /// What is expected: `share` of the field in the configuration; without one, the mean of all windows before in which the
    /// field was not missing.
    pub expected: Option<f64>,
    /// Whether the last complete window had far fewer than expected.
    pub is_missing: bool,
}

/// How far a partition is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct PartitionStatus {
    /// The offset of the next record that is consumed.
    pub next_offset: i64,
    /// The offset after the last record that the broker is known to have.
    pub end_offset: Option<i64>,
    /// Records that wait at the broker or in this process: an upper bound on compacted or transactional topics.
    pub lag_records: Option<u64>,
    /// The largest event time that was consumed, in milliseconds.
    pub event_time: Option<i64>,
}

impl PartitionStatus {
    /// How far behind `now` the partition is, in seconds of event time: 0 where nothing waits.
    pub fn lag_seconds(&self, now: Duration) -> Option<f64> {
        match (self.lag_records?, self.event_time) {
            (0, _) => Some(0.0),
            (_, event_time) => Some((now.as_secs_f64() - event_time? as f64 / 1000.0).max(0.0)),
        }
    }
}

/// The brokers do not answer.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Away {
    /// For how long.
    pub seconds: f64,
    /// Why, as far as it is known.
    pub reason: String,
}

/// Object storage takes no versions.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct StorageAway {
    /// Since when.
    pub since: Timestamp,
    /// Why.
    pub reason: String,
}

impl StorageAway {
    /// For how long, in seconds.
    pub fn seconds(&self) -> f64 {
        Timestamp::now().duration_since(self.since).as_secs_f64().max(0.0)
    }
}

/// Whether clicks have stalled.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub struct BreakerStatus {
    /// Whether they have: nothing is learned, and nothing published.
    pub is_open: bool,
    /// Clicks that seem to be missing, by their usual rate.
    pub missing_clicks: f64,
    /// Labels that wait until that is clear.
    pub held: usize,
    /// How often they had since the log began.
    pub openings: u64,
}

/// A snapshot of the worker, taken about once a second.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Status {
    /// Name of the model.
    pub model: String,
    /// What the worker is doing.
    pub phase: Phase,
    /// Present while the brokers do not answer.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub brokers_away: Option<Away>,
    /// Present while object storage takes no versions: none is announced meanwhile.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub storage_away: Option<StorageAway>,
    /// Records consumed since the log began.
    pub records: u64,
    /// Records that were gone from the broker before they were read, and passed over by `--skip-gaps`, since the log began.
    pub gap_records: u64,
    /// Next offset of each partition.
    pub positions: BTreeMap<String, i64>,
    /// Event-time watermark, in milliseconds.
    pub watermark: Option<i64>,
    /// Impressions that wait for their label.
    pub open_impressions: usize,
    /// The most that may.
    pub open_impressions_max: Option<usize>,
    /// Clicks that wait for their impression.
    pub waiting_clicks: usize,
    /// The most that may.
    pub waiting_clicks_max: Option<usize>,
    /// Rows of the embedding table.
    pub rows: usize,
    /// The most that there may be.
    pub rows_max: Option<usize>,
    /// Ids that are counted and have no row yet.
    pub candidates: usize,
    /// The newest version that is announced.
    pub version: Option<u64>,
    /// When it was announced; of one from before this process, when it was cut.
    pub version_at: Option<Timestamp>,
    /// Number of the newest checkpoint.
    pub checkpoint: Option<u64>,
    /// When it was made durable.
    pub checkpoint_at: Option<Timestamp>,
    /// Bytes that the newest checkpoint of this process gave to the store.
    pub checkpoint_bytes: Option<u64>,
    /// How long it took to write, in seconds.
    pub checkpoint_seconds: Option<f64>,
    /// How long learning stood still for it, in seconds.
    pub checkpoint_pause_seconds: Option<f64>,
    /// Versions that are durable but not announced yet.
    pub outbox: usize,
    /// How far the log has gone on since its last click, in seconds.
    pub click_silence_seconds: Option<f64>,
    /// The circuit breaker.
    pub breaker: BreakerStatus,
    /// The trainer's counters.
    pub counters: Counters,
    /// The join's counters.
    pub join: JoinCounters,
    /// Progressive metrics since the log began.
    pub lifetime: Report,
    /// Progressive metrics of the last complete window, or of the current one before there is a complete one.
    pub window: Report,
    /// Mean predicted click probability of the same window.
    pub window_mean_prediction: Option<f64>,
    /// Share of the same window that was clicked.
    pub window_click_rate: Option<f64>,
    /// How many impressions have each field, as they are read.
    pub fields: BTreeMap<String, FieldShare>,
    /// How far each partition is.
    pub partitions: BTreeMap<String, PartitionStatus>,
    /// What was counted since the log began when this process began to learn.
    #[serde(skip)]
    pub begun: Option<Arc<Counts>>,
}

impl Status {
    /// Why the model is not kept fresh right now; nothing while it is.
    pub fn not_ready(&self) -> Option<String> {
        if let Some(Away { seconds, reason }) = &self.brokers_away {
            return Some(format!("the brokers are lost for {seconds:.0} s: {reason}"));
        }
        if let Some(away) = &self.storage_away {
            let (seconds, reason) = (away.seconds(), &away.reason);
            return Some(format!("object storage takes no version for {seconds:.0} s: {reason}"));
        }
        match self.phase {
            Phase::Starting => Some("starting".to_owned()),
            Phase::CatchingUp => {
                Some(format!("catching up with what was there at the start: {} records read", self.records))
            }
            Phase::Stopping => Some("stopping".to_owned()),
            Phase::Running => None,
        }
    }

    /// Takes over everything that the trainer knows. The first time is to be before it learns.
    pub fn observe(&mut self, trainer: &Trainer<Crew>, ends: &Positions) {
        let (join, admission) = (&trainer.params().join, trainer.params().model.admission);
        self.open_impressions_max = Some(join.open_impressions_max);
        self.waiting_clicks_max = Some(join.waiting_clicks_max);
        self.rows_max = Some(admission.rows_max);
        self.records = trainer.released();
        self.gap_records = trainer.sequencer().gap_records();
        self.positions = by_name(&trainer.positions());
        self.partitions = trainer.sequencer().consumed().map(|consumed| partition_status(consumed, ends)).collect();
        self.watermark = trainer.join().watermark();
        self.open_impressions = trainer.join().open();
        self.waiting_clicks = trainer.join().waiting();
        self.rows = trainer.model().row_count();
        self.candidates = trainer.model().candidates().len();
        let breaker = trainer.intake().breaker();
        self.breaker = BreakerStatus {
            is_open: breaker.is_open(),
            missing_clicks: breaker.missing_clicks(),
            held: breaker.held(),
            openings: breaker.openings(),
        };
        self.counters = trainer.counters();
        self.join = *trainer.join_counters();
        self.lifetime = trainer.windows().lifetime().report();
        let window = trainer.windows().latest();
        self.window = window.report();
        self.window_mean_prediction = window.mean_prediction();
        self.window_click_rate = window.click_rate();
        if self.begun.is_none() {
            self.begun = Some(Arc::new(self.counts()));
        }
    }

    /// Everything that is counted, since the log began.
    pub(super) fn counts(&self) -> Counts {
        counts::counts(self.records, &self.counters, &self.join)
    }

    /// What there was before this process made anything, with its times as far as they are known.
    pub fn found(&mut self, checkpoint: Option<(u64, Option<Timestamp>)>, version: Option<(u64, Option<Timestamp>)>) {
        (self.checkpoint, self.checkpoint_at) = (checkpoint.map(|found| found.0), checkpoint.and_then(|found| found.1));
        (self.version, self.version_at) = (version.map(|found| found.0), version.and_then(|found| found.1));
    }

    /// A checkpoint is durable now.
    pub fn committed(&mut self, number: u64, bytes: u64, elapsed: Duration) {
        self.checkpoint = Some(number);
        self.checkpoint_at = Some(Timestamp::now());
        self.checkpoint_bytes = Some(bytes);
        self.checkpoint_seconds = Some(elapsed.as_secs_f64());
    }

    /// A version is announced now.
    pub fn announced(&mut self, version: u64) {
        self.version = Some(version);
        self.version_at = Some(Timestamp::now());
    }
}

/// A partition's name, and how far it is.
fn partition_status(
    (partition, next_offset, event_time): (Partition, i64, Option<i64>),
    ends: &Positions,
) -> (String, PartitionStatus) {
    let end_offset = ends.get(&partition).copied();
    let lag_records = end_offset.map(|end| u64::try_from(end.saturating_sub(next_offset)).unwrap_or_default());
    (partition.to_string(), PartitionStatus { next_offset, end_offset, lag_records, event_time })
}

fn by_name(positions: &Positions) -> BTreeMap<String, i64> {
    positions.iter().map(|(partition, next_offset)| (partition.to_string(), *next_offset)).collect()
}

/// The newest snapshot, shared between the learner, the admin server and the terminal view.
#[derive(Clone, Debug)]
pub struct StatusBoard {
    written: Arc<Mutex<(Status, Instant)>>,
    link: Link,
}

impl Default for StatusBoard {
    fn default() -> Self {
        Self { written: Arc::new(Mutex::new((Status::default(), Instant::now()))), link: Link::default() }
    }
}

impl StatusBoard {
    /// The newest snapshot.
    pub fn read(&self) -> Status {
        let mut status = self.written.lock().unwrap_or_else(PoisonError::into_inner).0.clone();
        status.brokers_away = self.link.away().map(|(away, reason)| Away { seconds: away.as_secs_f64(), reason });
        status
    }

    /// Where the source tells whether the brokers answer.
    pub fn link(&self) -> &Link {
        &self.link
    }

    /// How long ago the learner last wrote to the board.
    pub fn age(&self) -> Duration {
        self.written.lock().unwrap_or_else(PoisonError::into_inner).1.elapsed()
    }

    /// Changes the snapshot on behalf of another than the learner.
    pub fn note(&self, change: impl FnOnce(&mut Status)) {
        change(&mut self.written.lock().unwrap_or_else(PoisonError::into_inner).0);
    }

    /// Changes the snapshot, which shows that the learner lives.
    pub fn update(&self, change: impl FnOnce(&mut Status)) {
        let mut board = self.written.lock().unwrap_or_else(PoisonError::into_inner);
        change(&mut board.0);
        board.1 = Instant::now();
    }
}

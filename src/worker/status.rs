//! What the worker says of itself: one document for people (`/status`), the same numbers as metrics for machines.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use metrics::{counter, describe_counter, describe_gauge, gauge};
use serde::Serialize;

use crate::join::JoinCounters;
use crate::metric::Report;
use crate::stream::Positions;
use crate::train::{Counters, Trainer};

/// What the worker is doing.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Phase {
    /// Opening the store, asking the broker.
    #[default]
    Starting,
    /// Consuming.
    Running,
    /// Finishing the step, taking the last checkpoint.
    Stopping,
}

/// A snapshot of the worker, taken about once a second.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Status {
    /// Name of the model.
    pub model: String,
    /// What the worker is doing.
    pub phase: Phase,
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
    /// Clicks that wait for their impression.
    pub waiting_clicks: usize,
    /// Rows of the embedding table.
    pub rows: usize,
    /// Ids that are counted and have no row yet.
    pub candidates: usize,
    /// The newest published version.
    pub version: Option<u64>,
    /// Number of the newest checkpoint.
    pub checkpoint: Option<u64>,
    /// Bytes that the newest checkpoint gave to the store.
    pub checkpoint_bytes: u64,
    /// How long it took to write, in seconds.
    pub checkpoint_seconds: f64,
    /// How long learning stood still for it, in seconds.
    pub checkpoint_pause_seconds: f64,
    /// Versions that are durable but not announced yet.
    pub outbox: usize,
    /// The trainer's counters.
    pub counters: Counters,
    /// The join's counters.
    pub join: JoinCounters,
    /// Progressive metrics since the log began.
    pub lifetime: Report,
    /// Progressive metrics of the last complete window, or of the current one before there is a complete one.
    pub window: Report,
}

impl Status {
    /// Takes over everything that the trainer knows.
    pub fn observe(&mut self, trainer: &Trainer) {
        self.records = trainer.released();
        self.gap_records = trainer.sequencer().gap_records();
        self.positions = by_name(&trainer.positions());
        self.watermark = trainer.join().watermark();
        self.open_impressions = trainer.join().open();
        self.waiting_clicks = trainer.join().waiting();
        self.rows = trainer.model().row_count();
        self.candidates = trainer.model().candidates().len();
        self.counters = trainer.counters().clone();
        self.join = *trainer.join_counters();
        self.lifetime = trainer.windows().lifetime().report();
        self.window = trainer.windows().latest().report();
    }

    /// Sets the metrics to this snapshot.
    pub fn export(&self) {
        let model = || self.model.clone();
        counter!("deepfm_records_total", "model" => model()).absolute(self.records);
        counter!("deepfm_gap_records_total", "model" => model()).absolute(self.gap_records);
        counter!("deepfm_impressions_total", "model" => model()).absolute(self.counters.impressions);
        counter!("deepfm_clicks_total", "model" => model()).absolute(self.counters.clicks);
        counter!("deepfm_examples_learned_total", "model" => model()).absolute(self.counters.learned);
        counter!("deepfm_batches_refused_total", "model" => model()).absolute(self.counters.batches_refused);
        for (reason, count) in &self.counters.refused {
            counter!("deepfm_records_refused_total", "model" => model(), "reason" => reason.as_str()).absolute(*count);
        }
        for (fate, count) in fates(&self.join) {
            counter!("deepfm_join_total", "model" => model(), "fate" => fate).absolute(count);
        }
        gauge!("deepfm_open_impressions", "model" => model()).set(self.open_impressions as f64);
        gauge!("deepfm_waiting_clicks", "model" => model()).set(self.waiting_clicks as f64);
        gauge!("deepfm_rows", "model" => model()).set(self.rows as f64);
        gauge!("deepfm_candidates", "model" => model()).set(self.candidates as f64);
        counter!("deepfm_rows_expired_total", "model" => model()).absolute(self.counters.rows_expired);
        counter!("deepfm_ids_refused_total", "model" => model()).absolute(self.counters.ids_refused);
        gauge!("deepfm_outbox", "model" => model()).set(self.outbox as f64);
        gauge!("deepfm_checkpoint_bytes", "model" => model()).set(self.checkpoint_bytes as f64);
        gauge!("deepfm_checkpoint_seconds", "model" => model()).set(self.checkpoint_seconds);
        gauge!("deepfm_checkpoint_pause_seconds", "model" => model()).set(self.checkpoint_pause_seconds);
        let optional = [
            ("deepfm_watermark_ms", self.watermark.map(|watermark| watermark as f64)),
            ("deepfm_version", self.version.map(|version| version as f64)),
            ("deepfm_checkpoint", self.checkpoint.map(|checkpoint| checkpoint as f64)),
            ("deepfm_window_log_loss", self.window.log_loss),
            ("deepfm_window_normalized_entropy", self.window.normalized_entropy),
            ("deepfm_window_auc", self.window.auc),
            ("deepfm_window_calibration", self.window.calibration),
        ];
        for (name, value) in optional {
            if let Some(value) = value {
                gauge!(name, "model" => model()).set(value);
            }
        }
    }
}

/// The join's counters by name.
fn fates(counters: &JoinCounters) -> BTreeMap<String, u64> {
    let document = serde_json::to_value(counters).expect("counters are plain numbers");
    serde_json::from_value(document).expect("counters are plain numbers")
}

fn by_name(positions: &Positions) -> BTreeMap<String, i64> {
    positions.iter().map(|(partition, next_offset)| (partition.to_string(), *next_offset)).collect()
}

/// Says what each metric means; once per process, after the recorder is installed.
pub fn describe_metrics() {
    describe_counter!("deepfm_records_total", "Records consumed since the log began");
    describe_counter!("deepfm_gap_records_total", "Records that were gone before they were read, and passed over");
    describe_counter!("deepfm_consumers_replaced_total", "Consumers replaced since records did not come");
    describe_counter!("deepfm_impressions_total", "Impressions that could be read");
    describe_counter!("deepfm_clicks_total", "Clicks that could be read");
    describe_counter!("deepfm_examples_learned_total", "Examples learned");
    describe_counter!("deepfm_batches_refused_total", "Micro-batches refused: a gradient or weight was not finite");
    describe_counter!("deepfm_records_refused_total", "Records that could not be read, by reason");
    describe_counter!("deepfm_join_total", "What became of records in the join, by fate");
    describe_gauge!("deepfm_open_impressions", "Impressions that wait for their label");
    describe_gauge!("deepfm_waiting_clicks", "Clicks that wait for their impression");
    describe_gauge!("deepfm_rows", "Rows of the embedding table");
    describe_gauge!("deepfm_candidates", "Ids that are counted and have no row yet");
    describe_counter!("deepfm_rows_expired_total", "Rows removed since they were not learned for long");
    describe_counter!("deepfm_ids_refused_total", "Ids refused a row for want of room, once a batch");
    describe_gauge!("deepfm_outbox", "Versions that are durable but not announced yet");
    describe_gauge!("deepfm_watermark_ms", "Event-time watermark, milliseconds since 1970");
    describe_gauge!("deepfm_version", "The newest published version");
    describe_gauge!("deepfm_checkpoint", "Number of the newest checkpoint");
    describe_gauge!("deepfm_checkpoint_bytes", "Bytes written by the newest checkpoint");
    describe_gauge!("deepfm_checkpoint_seconds", "How long the newest checkpoint took to write");
    describe_gauge!("deepfm_checkpoint_pause_seconds", "How long learning stood still for the newest checkpoint");
    describe_counter!("deepfm_version_failures_total", "Versions that could not be written");
    describe_counter!("deepfm_checkpoint_failures_total", "Checkpoints that could not be written");
    describe_counter!(
        "deepfm_checkpoint_fallbacks_total",
        "Starts from an older checkpoint, since newer ones were damaged"
    );
    describe_gauge!("deepfm_window_log_loss", "Progressive log loss of the last window");
    describe_gauge!("deepfm_window_normalized_entropy", "Progressive normalized entropy of the last window");
    describe_gauge!("deepfm_window_auc", "Progressive AUC of the last window");
    describe_gauge!("deepfm_window_calibration", "Clicks predicted over clicks observed, last window");
}

/// The newest snapshot, shared between the learner, the admin server and the terminal view.
#[derive(Clone, Debug)]
pub struct StatusBoard(Arc<Mutex<(Status, Instant)>>);

impl Default for StatusBoard {
    fn default() -> Self {
        Self(Arc::new(Mutex::new((Status::default(), Instant::now()))))
    }
}

impl StatusBoard {
    /// The newest snapshot.
    pub fn read(&self) -> Status {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).0.clone()
    }

    /// How long ago the learner last wrote to the board.
    pub fn age(&self) -> Duration {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).1.elapsed()
    }

    /// Changes the snapshot.
    pub fn update(&self, change: impl FnOnce(&mut Status)) {
        let mut board = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        change(&mut board.0);
        board.1 = Instant::now();
    }
}

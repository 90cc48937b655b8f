//! What is counted outside the join; part of the state, since it is a function of the log.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::event::Reason;

/// What was read, since the log began.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct IntakeCounters {
    /// Records consumed, refused ones included.
    pub records: u64,
    /// Impressions that could be read.
    pub impressions: u64,
    /// Clicks that could be read.
    pub clicks: u64,
    /// Records that could not be read, by reason.
    pub refused: BTreeMap<Reason, u64>,
    /// Unknown keys of events.
    pub unknown_keys: u64,
    /// Features of no configured field.
    pub unknown_fields: u64,
    /// Event time of the first impression, in milliseconds.
    pub first_impression_time: Option<i64>,
}

/// What was learned, since the log began.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct LearnerCounters {
    /// Negatives that down-sampling left out.
    pub sampled_out: u64,
    /// Labels of outages of clicks: neither learned nor in the metrics.
    pub skipped: u64,
    /// Impressions that `metrics_sampling_rate` left out of the metrics.
    pub unscored: u64,
    /// Impressions whose shown score was not finite: they are not in the metrics.
    pub scores_refused: u64,
    /// Shown scores forgotten at their bound, before their label had matured.
    pub scores_forgotten: u64,
    /// Examples put into micro-batches; numbers them for dropout.
    pub examples: u64,
    /// Examples learned.
    pub learned: u64,
    /// Micro-batches learned.
    pub batches: u64,
    /// Micro-batches of which not one example could be learned.
    pub batches_refused: u64,
    /// Examples that were not learned, since a gradient or weight would not have been finite.
    pub examples_refused: u64,
    /// Corrections of examples that were refused: there is nothing to correct.
    pub corrections_ignored: u64,
    /// Refused examples forgotten at their bound: their corrections would be learned.
    pub refusals_forgotten: u64,
    /// Rows of the table that expired.
    pub rows_expired: u64,
    /// Ids that were counted towards admission and expired.
    pub candidates_expired: u64,
    /// Rows that made room for new ids at the bound of the table.
    pub rows_evicted: u64,
    /// The same, of ids that were counted towards admission.
    pub candidates_evicted: u64,
    /// Ids that were refused a row, or a place among those that are counted, for want of room; once a batch.
    pub ids_refused: u64,
}

/// All of them, for reports.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Counters {
    /// Of the intake.
    #[serde(flatten)]
    pub intake: IntakeCounters,
    /// Of the learner.
    #[serde(flatten)]
    pub learner: LearnerCounters,
}

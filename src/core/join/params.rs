//! What the join is told: windows, label policy and bounds.

use serde::{Deserialize, Serialize};

/// The parameters of the join. Times are milliseconds of event time.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct JoinParams {
    /// The attribution window: a click counts from the impression until this long after it, both ends included.
    pub window_ms: i64,
    /// How long before the impression a click counts, too: two servers' clocks differ.
    pub click_before_ms: i64,
    /// How far the watermark stays behind the largest event time.
    pub lateness_ms: i64,
    /// How long after its window an impression, a waiting click or an event id is remembered.
    pub retention_ms: i64,
    /// When labels are emitted.
    pub labels: LabelPolicy,
    /// What a click after a learned negative does.
    pub late_clicks: LatePolicy,
    /// The most open impressions, at least 1; at the bound the oldest is closed unlabelled.
    pub open_impressions_max: usize,
    /// The most bytes of payloads held, of open impressions and of those that a late click may still correct. At the bound the
    /// oldest resolved one is forgotten; without one, the oldest open one is closed unlabelled.
    pub held_bytes_max: usize,
    /// The most clicks waiting for their impression; at the bound the oldest is forgotten.
    pub waiting_clicks_max: usize,
    /// The most resolved impressions, and the most event ids of each kind, that are remembered.
    pub remembered_max: usize,
}

/// When an impression's label is emitted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum LabelPolicy {
    /// A positive at its click, a negative when the watermark passes the window.
    AtClick,
    /// Both when the watermark passes the window.
    AtMaturity,
    /// A negative at once and a positive at its click, importance-weighted.
    FakeNegative,
}

/// What a late click does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum LatePolicy {
    /// It is counted.
    Drop,
    /// It is learned as a correction, once per impression.
    Correct,
}

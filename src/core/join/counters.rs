//! What became of every record and every impression, counted.

use serde::{Deserialize, Serialize};

use super::record::EmissionKind;

/// Counts since the state began. Every received record is dropped, conflicting, waiting, forgotten, expired, beside an
/// impression (outside, extra, late, unlabelled) or part of a label: exactly one of these.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct JoinCounters {
    /// Impressions received, dropped ones included.
    pub received_impressions: u64,
    /// Clicks received, dropped ones included.
    pub received_clicks: u64,
    /// Records dropped because their retention had already passed.
    pub too_late: u64,
    /// Records dropped because their event id was remembered.
    pub duplicate: u64,
    /// Impressions dropped because another with their id was held.
    pub conflicting_impression: u64,
    /// Impressions, not dropped, that came after the watermark had passed them.
    pub late_impression: u64,
    /// Clicks before their impression or after its window.
    pub click_outside_window: u64,
    /// Clicks on an impression that had its click.
    pub extra_click: u64,
    /// Clicks within the window of an impression whose negative was already final, corrected ones included.
    pub late_click: u64,
    /// Waiting clicks whose impression did not come within the retention.
    pub orphan_expired: u64,
    /// Positives emitted.
    pub positives: u64,
    /// Negatives emitted.
    pub negatives: u64,
    /// Corrections emitted.
    pub corrections: u64,
    /// Fake negatives emitted.
    pub fake_negatives: u64,
    /// Fake positives emitted, those of late clicks included.
    pub fake_positives: u64,
    /// Impressions whose window passed without a click after a fake negative.
    pub matured: u64,
    /// Open impressions closed unlabelled at the bound.
    pub closed_unlabelled: u64,
    /// Clicks within the window of an impression that is closed unlabelled.
    pub unlabelled_click: u64,
    /// Waiting clicks forgotten at the bound.
    pub forgotten_waiting: u64,
    /// Resolved impressions forgotten at the bound.
    pub forgotten_impressions: u64,
    /// Event ids forgotten at the bound.
    pub forgotten_event_ids: u64,
}

impl JoinCounters {
    /// Clicks that became a label.
    pub fn attributed_clicks(&self) -> u64 {
        self.positives + self.corrections + self.fake_positives
    }

    /// The share of received clicks that became a label; `None` before the first click.
    pub fn click_coverage(&self) -> Option<f64> {
        (self.received_clicks > 0).then(|| self.attributed_clicks() as f64 / self.received_clicks as f64)
    }

    pub(super) fn count_emission(&mut self, kind: EmissionKind) {
        let counter = match kind {
            EmissionKind::Positive => &mut self.positives,
            EmissionKind::Negative => &mut self.negatives,
            EmissionKind::Correction => &mut self.corrections,
            EmissionKind::FakeNegative => &mut self.fake_negatives,
            EmissionKind::FakePositive => &mut self.fake_positives,
            EmissionKind::Matured => &mut self.matured,
            // Counted where it is closed.
            EmissionKind::Unlabelled => return,
        };
        *counter += 1;
    }
}

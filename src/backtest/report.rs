//! What a backtest says: how well each impression was predicted when it was shown.

use std::collections::BTreeMap;

use serde::Serialize;

use crate::drive::losses::{self, Loss, Read, Seen};
use deepfm_core::event::EventKind;
use deepfm_core::metric::{Metrics, exact_auc};
use deepfm_core::train::{Counters, Fate, Ledger, Scored, StateDigest, Tally};

/// The quality of predictions over a set of impressions. What is undefined (no clicks, say) is `null`.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Quality {
    /// Impressions that were scored when shown and whose label has matured.
    pub examples: u64,
    /// Clicks among them.
    pub clicks: u64,
    /// Those that were scored before the first example was learned: by a model that knew nothing.
    pub before_learning: u64,
    /// Mean log loss of the predictions.
    pub log_loss: Option<f64>,
    /// Log loss of always predicting the click rate: its entropy.
    pub base_log_loss: Option<f64>,
    /// Log loss over base log loss: below 1 the features helped.
    pub normalized_entropy: Option<f64>,
    /// Area under the ROC curve, exact, ties one half.
    pub auc: Option<f64>,
    /// Clicks predicted over clicks observed.
    pub calibration: Option<f64>,
}

/// The report of a backtest.
#[derive(Clone, Debug, Serialize)]
pub struct BacktestReport {
    /// Over all impressions.
    #[serde(flatten)]
    pub quality: Quality,
    /// Over the later half of the impressions in merged order, when the model had learned from the first.
    pub second_half: Quality,
    /// Over the last fifth of them: of a long log, how good the model has become.
    pub last_fifth: Quality,
    /// Impressions whose window the log does not cover: their labels are not known, and they are in no other figure.
    pub unmatured: usize,
    /// What was lost, and why.
    pub losses: Vec<Loss>,
    /// Impressions that were read, and those that were refused.
    pub impressions_read: Read,
    /// Clicks that were read, and those that were refused.
    pub clicks_read: Read,
    /// Offsets behind an open transaction, by partition: they cannot be read before it ends.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub open_transactions: BTreeMap<String, u64>,
    /// Digest of the state at the end.
    pub state_digest: String,
    /// Records consumed.
    pub records: u64,
    /// Examples learned; more or fewer than scored ones when clicks correct, or negatives are sampled.
    pub learned: u64,
    /// Rows of the embedding table at the end.
    pub rows: usize,
    /// Wall-clock time, in seconds.
    pub seconds: f64,
    /// Examples learned in each second of it.
    pub examples_per_second: f64,
    /// What became of every record, by partition; absent when labels were immediate.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ledger: Option<BTreeMap<String, BTreeMap<Fate, Tally>>>,
    /// What was counted on the way.
    pub counters: Counters,
    /// What the join counted; absent when labels were immediate.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub join: Option<deepfm_core::join::JoinCounters>,
}

/// One impression's score: 24 bytes, kept for all impressions of a backtest so that its AUC and halves are exact.
#[derive(Clone, Copy, Debug)]
struct Kept {
    number: u64,
    logit: f64,
    weight: f32,
    label: bool,
}

/// Collects scores while a backtest runs.
#[derive(Clone, Debug, Default)]
pub struct Scores(Vec<Kept>);

impl Scores {
    /// Keeps a score.
    pub fn add(&mut self, scored: Scored) {
        let Scored { number, logit, label, weight, .. } = scored;
        self.0.push(Kept { number, logit, weight: weight as f32, label });
    }

    /// The quality over impressions with this number or a later one.
    /// from `taught_at` on the model had learned something.
    pub fn quality_from(&self, first: u64, taught_at: u64) -> Quality {
        let mut metrics = Metrics::default();
        let (mut logits, mut labels, mut weights) = (Vec::new(), Vec::new(), Vec::new());
        let kept = || self.0.iter().filter(move |kept| kept.number >= first);
        for kept in kept() {
            metrics.add(kept.logit, kept.label, f64::from(kept.weight));
            logits.push(kept.logit);
            labels.push(kept.label);
            weights.push(f64::from(kept.weight));
        }
        let report = metrics.report();
        Quality {
            examples: report.examples,
            clicks: report.clicks,
            before_learning: kept().filter(|kept| kept.number < taught_at).count() as u64,
            log_loss: report.log_loss,
            base_log_loss: report.base_log_loss,
            normalized_entropy: report.normalized_entropy,
            auc: exact_auc(&logits, &labels, &weights),
            calibration: report.calibration,
        }
    }
}

/// How a backtest ended, beside its scores.
pub(super) struct Ending {
    pub(super) digest: StateDigest,
    pub(super) records: u64,
    pub(super) rows: usize,
    pub(super) unmatured: usize,
    pub(super) taught_at: u64,
    pub(super) seconds: f64,
    pub(super) counters: Counters,
    pub(super) ledger: Option<Ledger>,
    pub(super) join: Option<deepfm_core::join::JoinCounters>,
}

impl BacktestReport {
    pub(super) fn new(scores: &Scores, seen: &Seen, ending: Ending) -> Self {
        let (impressions, taught_at) = (ending.counters.intake.impressions, ending.taught_at);
        Self {
            quality: scores.quality_from(0, taught_at),
            second_half: scores.quality_from(impressions / 2, taught_at),
            last_fifth: scores.quality_from(impressions / 5 * 4, taught_at),
            unmatured: ending.unmatured,
            losses: losses::losses(&ending.counters, ending.join.as_ref(), 0, seen),
            impressions_read: seen.of(EventKind::Impression),
            clicks_read: seen.of(EventKind::Click),
            open_transactions: BTreeMap::new(),
            state_digest: ending.digest.to_string(),
            records: ending.records,
            learned: ending.counters.learner.learned,
            rows: ending.rows,
            seconds: ending.seconds,
            examples_per_second: ending.counters.learner.learned as f64 / ending.seconds.max(1e-9),
            ledger: ending.ledger.map(|ledger| ledger.by_name()),
            counters: ending.counters,
            join: ending.join,
        }
    }
}

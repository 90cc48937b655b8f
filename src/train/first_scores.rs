//! First scores that wait for their label, under the `fake_negative` policy: there an impression is scored when it is
//! shown, and its label matures later. A pair is complete when both halves are known, in either order.
//!
//! Bounded by the open impressions of the join plus one micro-batch.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
enum Half {
    Score { logit: f64, weight: f64 },
    Label(bool),
}

/// A first score with its matured label.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Pair {
    pub(super) logit: f64,
    pub(super) weight: f64,
    pub(super) label: bool,
}

/// Scores without labels and labels without scores, by impression number.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct FirstScores {
    halves: BTreeMap<u64, Half>,
}

impl FirstScores {
    /// The impression was scored.
    pub(super) fn score(&mut self, number: u64, logit: f64, weight: f64) -> Option<Pair> {
        if let Some(Half::Label(label)) = self.halves.remove(&number) {
            return Some(Pair { logit, weight, label });
        }
        self.halves.insert(number, Half::Score { logit, weight });
        None
    }

    /// The impression's label matured; `None` as well when its score was refused.
    pub(super) fn label(&mut self, number: u64, label: bool, in_batch: bool) -> Option<Pair> {
        match self.halves.get(&number).copied() {
            Some(Half::Score { logit, weight }) => {
                self.halves.remove(&number);
                Some(Pair { logit, weight, label })
            }
            None if in_batch => {
                self.halves.insert(number, Half::Label(label));
                None
            }
            // The first label to mature stays; without a score to come there is nothing to wait for.
            Some(Half::Label(_)) | None => None,
        }
    }

    /// The impression's batch was refused: it will have no score.
    pub(super) fn forget(&mut self, number: u64) {
        self.halves.remove(&number);
    }
}

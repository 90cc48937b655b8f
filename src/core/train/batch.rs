//! The half-filled micro-batch, which a checkpoint stores as it is.

use serde::{Deserialize, Serialize};

use super::Shown;
use crate::event::Id;
use crate::model::{Example, Importance};

/// Labelled impressions that wait for their micro-batch to be cut.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Batch {
    /// In the order of their labels.
    pub pending: Vec<Pending>,
    /// The largest event time released when the first of them was labelled, in milliseconds.
    pub since: Option<i64>,
}

/// A labelled impression that has not been learned yet.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Pending {
    /// The impression.
    pub impression_id: Id,
    /// When it was shown, in milliseconds.
    pub impression_time: i64,
    /// What was shown.
    pub shown: Box<Shown>,
    /// Its label.
    pub label: bool,
    /// How its own logit changes its weight.
    pub importance: Importance,
    /// Its number among the examples, which fixes its dropout mask.
    pub number: u64,
}

impl Pending {
    pub(super) fn example(&self) -> Example<'_> {
        Example {
            features: &self.shown.features,
            label: if self.label { 1.0 } else { 0.0 },
            weight: self.shown.weight,
            importance: self.importance,
            number: self.number,
        }
    }
}

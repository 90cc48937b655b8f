//! What the intake says and the learner hears: one ordered stream, a delivery for each record of the merged order. Nothing
//! goes back the other way.

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::feature::Features;
use crate::join::{Emission, EmissionKind, Weigh};
use crate::stream::Partition;

/// What is known of an impression for as long as it may be learned from.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Shown {
    /// Its number among the impressions of the merged order, from 0.
    pub number: u64,
    /// The partition it was read from.
    pub partition: Partition,
    /// Its offset there.
    pub offset: i64,
    /// Its example weight.
    pub weight: f32,
    /// Its encoded features.
    pub features: Features,
}

impl Weigh for Arc<Shown> {
    fn weight(&self) -> usize {
        size_of::<Shown>() + self.features.weight()
    }
}

/// One thing that a record brings about.
#[derive(Clone, Debug, PartialEq)]
pub enum Item {
    /// An impression arrived, and its label is waited for.
    Shown {
        /// Its id.
        impression_id: Arc<str>,
        /// Its event time, in milliseconds.
        time: i64,
        /// The impression.
        shown: Arc<Shown>,
    },
    /// A label became known, was corrected, or never will be known.
    Label(Label),
    /// A label is not learned, nor metered: it is of an outage of clicks.
    Skipped(Label),
}

/// What became known of an impression.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Label {
    /// What.
    pub kind: EmissionKind,
    /// Its id.
    pub impression_id: Arc<str>,
    /// When it was shown, in milliseconds.
    pub impression_time: i64,
    /// What was shown.
    pub shown: Arc<Shown>,
}

impl From<Emission<Arc<Shown>>> for Label {
    fn from(emission: Emission<Arc<Shown>>) -> Self {
        let Emission { kind, impression_id, impression_time, payload: shown, .. } = emission;
        Self { kind, impression_id, impression_time, shown }
    }
}

/// Which labels have matured.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Maturity {
    /// Those of impressions whose window has passed by the watermark; `None` is minus infinity.
    Watermark(Option<i64>),
    /// All of them: each label came with its impression.
    Known,
}

/// What one record brings about, in order.
#[derive(Clone, Debug, PartialEq)]
pub struct Delivery {
    /// The log's time: the largest event time released, this record's included, in milliseconds. It comes before the items.
    pub log_time: Option<i64>,
    /// The items.
    pub items: Vec<Item>,
    /// Which labels have matured, after the items.
    pub maturity: Maturity,
}

impl Default for Delivery {
    fn default() -> Self {
        Self { log_time: None, items: Vec::new(), maturity: Maturity::Watermark(None) }
    }
}

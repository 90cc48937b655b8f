//! Everything that fixes how the log becomes a state.

use serde::{Deserialize, Serialize};

use super::breaker::BreakerParams;
use crate::join::params::JoinParams;
use crate::math;
use crate::model::params::ModelParams;

/// The parameters of a trainer.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct TrainParams {
    /// The join.
    pub join: JoinParams,
    /// The model and its optimizers.
    pub model: ModelParams,
    /// How micro-batches are cut.
    pub batch: BatchParams,
    /// Share of negatives that are learned, in (0, 1]; which ones is a hash of the impression id.
    pub negative_sampling_rate: f64,
    /// Impressions in a metrics window.
    pub window_impressions: u64,
    /// Share of impressions that are scored when shown, in (0, 1]; which ones is a hash of the impression id.
    pub metrics_sampling_rate: f64,
    /// The circuit breaker; none in parameters of before there was one.
    #[serde(default)]
    pub breaker: Option<BreakerParams>,
}

impl TrainParams {
    /// What is added to a training logit to undo the down-sampling of negatives: `ln r` (He et al. 2014, section 6.3,
    /// in logit form).
    pub fn logit_offset(&self) -> f64 {
        math::ln(self.negative_sampling_rate)
    }
}

/// How micro-batches are cut, by the log alone.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct BatchParams {
    /// Examples in a batch of a young model.
    pub min: usize,
    /// Examples in a batch of an old model.
    pub max: usize,
    /// The size grows by one example for this many learned.
    pub growth_examples: u64,
    /// A batch is cut when the largest event time has moved this far since its first example, in milliseconds.
    pub span_ms: i64,
}

impl BatchParams {
    /// Examples in a full batch after `learned` examples.
    pub fn size(&self, learned: u64) -> usize {
        let grown = usize::try_from(learned / self.growth_examples.max(1)).unwrap_or(usize::MAX);
        grown.clamp(self.min, self.max)
    }
}

//! Another configuration for a state that was learned with one: a decision that the journal writes down, parameters and
//! all, so that a replay makes it in the same place.

use super::{TrainParams, Trainer};
use crate::join::params::JoinParams;
use crate::model::Executor;
use crate::model::params::ModelParams;
use crate::stream::StreamError;

impl TrainParams {
    /// The parameters as the journal has them: JSON.
    pub fn to_text(&self) -> String {
        serde_json::to_string(self).expect("parameters are plain data with string keys")
    }

    /// Whether a state of these parameters can go on with others: fields may be added, and everything may change but what the
    /// state is made of (dimension, layers, dropout, seed, initial scale), what was promised of it (labels, sampling, lateness, metrics
    /// windows), and optimizer parameters of embeddings under a group penalty, which cannot be solved for z.
    pub fn can_become(&self, other: &Self) -> bool {
        let (ours, theirs) = (&self.model, &other.model);
        let is_solvable =
            ours.embedding == theirs.embedding || (ours.embedding.l21, theirs.embedding.l21) == (0.0, 0.0);
        let same = Self {
            join: JoinParams { labels: self.join.labels, lateness_ms: self.join.lateness_ms, ..other.join.clone() },
            model: ModelParams {
                fields: ours.fields.max(theirs.fields),
                bias: theirs.bias,
                linear: theirs.linear,
                embedding: theirs.embedding,
                sgd: theirs.sgd,
                n_max: theirs.n_max,
                gradient_max: theirs.gradient_max,
                admission: theirs.admission,
                ..ours.clone()
            },
            batch: other.batch,
            breaker: other.breaker,
            ..self.clone()
        };
        is_solvable && same == *other
    }
}

impl<E: Executor> Trainer<E> {
    /// The largest change of a weight by the newest change of parameters: rounding.
    pub fn largest_change(&self) -> f32 {
        self.largest_change
    }

    /// Reads the parameters of a decision, and checks that this state can go on with them.
    pub(super) fn readable(&self, parameters: &str) -> Result<TrainParams, StreamError> {
        let params = TrainParams::from_text(parameters)
            .map_err(|error| StreamError::Parameters { reason: error.to_string() })?;
        if self.params().can_become(&params) {
            Ok(params)
        } else {
            Err(StreamError::Parameters { reason: "the model has another shape".to_owned() })
        }
    }

    /// Goes on with other parameters. Weights stay as they are, up to rounding.
    pub(super) fn convert(&mut self, params: TrainParams) {
        self.intake.join.reconfigure(&params.join);
        self.intake.breaker_params = params.breaker;
        self.largest_change = self.learner.reconfigure(params);
    }
}

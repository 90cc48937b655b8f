//! The learner alone: encoded examples in batches of one size, each scored when it is shown, before its batch is learned.

use std::time::Instant;

use deepfm_core::feature::Features;
use deepfm_core::metric::log_loss;
use deepfm_core::model::params::ModelParams;
use deepfm_core::model::{DeepFm, Example, Executor, Inline, Scratch};

/// What was done with some examples.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(crate) struct Done {
    /// How many they were.
    pub(crate) examples: usize,
    /// How long it took.
    pub(crate) seconds: f64,
    /// The sum of the log losses of their scores.
    pub(crate) loss: f64,
}

impl Done {
    /// Examples a second.
    pub(crate) fn rate(&self) -> f64 {
        self.examples as f64 / self.seconds
    }
}

/// A model that learns from nothing but examples.
pub(crate) struct Alone<E = Inline> {
    executor: E,
    model: DeepFm,
    scratch: Scratch,
    batch: usize,
    logits: Vec<f32>,
}

impl<E: Executor> Alone<E> {
    /// One that has learned nothing.
    pub(crate) fn new(params: &ModelParams, batch: usize, executor: E) -> Self {
        let (model, scratch) = (DeepFm::new(params.clone()), Scratch::default());
        Self { executor, model, scratch, batch, logits: Vec::new() }
    }

    /// The model.
    pub(crate) fn model(&self) -> &DeepFm {
        &self.model
    }

    /// Scores and learns all of them, batch after batch.
    pub(crate) fn learn(&mut self, examples: &[Example<'_>]) -> Done {
        let shown: Vec<&Features> = examples.iter().map(|example| example.features).collect();
        self.logits.clear();
        self.logits.reserve(examples.len());
        let start = Instant::now();
        for (examples, shown) in examples.chunks(self.batch).zip(shown.chunks(self.batch)) {
            self.logits.extend(self.model.score(shown, &mut self.scratch, &self.executor));
            let divisor = examples.len() as f32;
            self.model.learn(examples, divisor, 0, &mut self.scratch, &self.executor).expect("they are finite");
        }
        let seconds = start.elapsed().as_secs_f64();
        let losses = self.logits.iter().zip(examples);
        let loss = losses.map(|(logit, example)| log_loss(f64::from(*logit), example.label > 0.5)).sum();
        Done { examples: examples.len(), seconds, loss }
    }
}

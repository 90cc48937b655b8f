//! `[optimizer]`: how each group of parameters learns.

use deepfm_core::model::params::Parts;
use deepfm_core::optim::params::{FtrlParams, SgdParams};

use super::declare::{Readable, section};
use super::keys::Bounds;
use super::kinds::{Number, number};
use super::section::Section;

const RATE: Number = number(Bounds::POSITIVE, "FTRL divides by alpha, its learning rate");
const BETA: Number = number(Bounds::POSITIVE, "at beta 0 a new row would lose its initial weight");
const PENALTY: Number = number(Bounds::NOT_NEGATIVE, "a penalty holds weights at 0");
const DAMPING: Number = number(Bounds::NOT_NEGATIVE, "it makes steps smaller, as a larger beta does");

section! {
    /// How each group of parameters learns.
    Optimizer in "optimizer" {}
    with {
        /// The bias.
        bias: BiasOptimizer,
        /// The linear weights.
        linear: LinearOptimizer,
        /// The embeddings.
        embedding: EmbeddingOptimizer,
        /// The MLP.
        mlp: MlpOptimizer,
    }
}

section! {
    /// FTRL-Proximal, for bias, linear weights and embeddings. Each coordinate has its own rate, about
    /// alpha / (beta + root of its summed squared gradients): it falls as an id is seen, so no schedule is needed.
    BiasOptimizer in "optimizer.bias" as "model.bias" {
        /// Larger learns faster and forgets faster.
        alpha: f32 = 0.1, RATE, Converts;
        /// Larger makes the first steps smaller.
        beta: f32 = 1.0, BETA, Converts;
        /// With it, weights with little evidence are exactly 0.
        l1: f32 = 0.0, PENALTY, Converts;
        /// Makes the first steps smaller too: with l1 = l21 = 0 it is exactly a beta larger by alpha * l2, and a first weight
        /// smaller by beta / (beta + alpha * l2). It does not pull weights to 0.
        l2: f32 = 0.0, DAMPING, Converts;
    }
}

section! {
    /// FTRL-Proximal for the linear weights; its keys are those of `[optimizer.bias]`.
    LinearOptimizer in "optimizer.linear" as "model.linear" {
        /// With model.parts = "linear" it is 0.1 unless given.
        alpha: f32 = linear_alpha(Parts::Deepfm), RATE, Converts, Follows;
        /// Larger makes the first steps smaller.
        beta: f32 = 1.0, BETA, Converts;
        /// With it, weights with little evidence are exactly 0.
        l1: f32 = 0.0, PENALTY, Converts;
        /// Makes the first steps smaller too.
        l2: f32 = 1.0, DAMPING, Converts;
    }
}

section! {
    /// FTRL-Proximal for the embeddings. With a group penalty these keys cannot change under a model that has learned.
    EmbeddingOptimizer in "optimizer.embedding" as "model.embedding" {
        /// The best one goes with the number of feature entries of an impression, those of lists counted each for itself:
        /// about 1.5 / entries, between 0.03 and 0.25. `config init` sets that; this one is for 20 entries.
        alpha: f32 = 0.07, RATE, Converts;
        /// Larger makes the first steps smaller.
        beta: f32 = 1.0, BETA, Converts;
        /// With it, weights with little evidence are exactly 0.
        l1: f32 = 0.0, PENALTY, Converts;
        /// Makes the first steps smaller too.
        l2: f32 = 8.0, DAMPING, Converts;
        /// Group penalty over a whole embedding: ids with little evidence have none. 0 is off.
        l21: f32 = 0.0, PENALTY, Refused;
    }
}

section! {
    /// Stochastic gradient descent, for the MLP.
    MlpOptimizer in "optimizer.mlp" as "model.sgd" {
        /// Step size for the mean gradient of a micro-batch. Larger learns faster, until it diverges.
        learning_rate: f32 = 0.05,
            number(Bounds::POSITIVE, "a step goes down the gradient; for no MLP set model.mlp.layers = []"), Converts;
        /// Share of the last step that is kept. The effective rate is `learning_rate / (1 - momentum)`.
        momentum: f32 = 0.0, number(Bounds::BELOW_ONE, "momentum keeps a share of the last step"), Converts;
        /// Penalty on weights, not on biases.
        l2: f32 = 0.0, number(Bounds::NOT_NEGATIVE, "a penalty pulls weights towards 0"), Converts;
        /// The largest norm of the MLP's gradient; larger ones are scaled down to it. 0 is off.
        clip_norm: f32 = 10.0, number(Bounds::NOT_NEGATIVE, "0 is off"), Converts;
    }
}

impl Optimizer {
    pub(super) fn read(section: &Section<'_>, parts: Parts) -> Self {
        let mut optimizer = Self::read_keys(section);
        if section.section("linear").node("alpha").is_none() {
            optimizer.linear.alpha = linear_alpha(parts);
        }
        optimizer
    }
}

impl BiasOptimizer {
    pub(super) fn params(&self) -> FtrlParams {
        FtrlParams { alpha: self.alpha, beta: self.beta, l1: self.l1, l2: self.l2, l21: 0.0 }
    }
}

impl LinearOptimizer {
    pub(super) fn params(&self) -> FtrlParams {
        FtrlParams { alpha: self.alpha, beta: self.beta, l1: self.l1, l2: self.l2, l21: 0.0 }
    }
}

impl EmbeddingOptimizer {
    pub(super) fn params(&self) -> FtrlParams {
        FtrlParams { alpha: self.alpha, beta: self.beta, l1: self.l1, l2: self.l2, l21: self.l21 }
    }
}

impl MlpOptimizer {
    pub(super) fn params(&self) -> SgdParams {
        let Self { learning_rate, momentum, l2, clip_norm } = *self;
        SgdParams { learning_rate, momentum, l2, clip_norm }
    }
}

/// The default alpha of the linear weights of `parts`: without pairs beside them they have everything to learn.
fn linear_alpha(parts: Parts) -> f32 {
    match parts {
        Parts::Linear => 0.1,
        Parts::Fm | Parts::Deepfm => 0.05,
    }
}

/// The alpha of embeddings that `config init` sets for impressions of so many feature entries, those of lists counted
/// each for itself. One example moves its own logit by about alpha times their number, so the best alpha falls with it;
/// beyond the two bounds nothing was measured.
pub fn embedding_alpha(entries: f64) -> f32 {
    let alpha = if entries > 0.0 { (1.5 / entries).clamp(0.03, 0.25) } else { 0.07 };
    ((alpha * 1000.0).round() / 1000.0) as f32
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_embeddings_rate_falls_with_the_entries_of_an_impression() {
        assert_eq!([1.0, 6.0, 10.0, 20.0, 33.0, 400.0].map(embedding_alpha), [0.25, 0.25, 0.15, 0.075, 0.045, 0.03]);
        assert_eq!(embedding_alpha(0.0), Optimizer::default().embedding.alpha);
    }
}

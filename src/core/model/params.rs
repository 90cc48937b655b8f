//! The shape of a model and everything that fixes how it learns.

use serde::{Deserialize, Serialize};

use crate::optim::params::{FtrlParams, SgdParams};

/// The shape of a model and its optimizers.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ModelParams {
    /// Number of fields.
    pub fields: usize,
    /// Width of an embedding.
    pub embedding_dim: usize,
    /// Seed of the initial weights and the dropout masks.
    pub seed: u64,
    /// Initial embeddings are uniform in `(-init_scale, init_scale)`.
    pub init_scale: f32,
    /// Which parts the logit has.
    pub parts: Parts,
    /// The MLP over the concatenated field vectors.
    pub mlp: MlpParams,
    /// Optimizer of the bias.
    pub bias: FtrlParams,
    /// Optimizer of the linear weights.
    pub linear: FtrlParams,
    /// Optimizer of the embeddings.
    pub embedding: FtrlParams,
    /// Optimizer of the MLP.
    pub sgd: SgdParams,
    /// Bound on a coordinate's `n`, which keeps an old model able to move; `None` is off.
    pub n_max: Option<f32>,
    /// Bound on the gradient by which one example moves a row or the bias, in units of the larger of 1 and the root of the
    /// coordinate's `n`: at 1 no example more than doubles an `n` above 1. `None` is off.
    pub gradient_max: Option<f32>,
    /// Which ids have a row, and for how long.
    pub admission: AdmissionParams,
}

/// Which ids have a row of the table. An id without one weighs nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct AdmissionParams {
    /// The most rows, and the most ids that are counted towards admission; those unseen the longest make room for new ones.
    pub rows_max: usize,
    /// The batch in which an id is counted for the so-manieth time admits it; 1 is the first.
    pub min_count: u32,
    /// Seconds of event time without being learned after which a row is removed; 0 is never.
    pub expire_after_seconds: u32,
}

impl Default for AdmissionParams {
    /// Every id, for ever.
    fn default() -> Self {
        Self { rows_max: usize::MAX, min_count: 1, expire_after_seconds: 0 }
    }
}

/// Which parts the logit has, beside the bias.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Parts {
    /// Linear weights only: logistic regression.
    Linear,
    /// Linear weights and pair interactions: a factorization machine.
    Fm,
    /// Linear, pairs and the MLP.
    Deepfm,
}

/// The MLP: any number of hidden layers of one activation, then an output vector without bias.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct MlpParams {
    /// Widths of the hidden layers; empty is no MLP.
    pub layers: Vec<usize>,
    /// The activation of every hidden layer.
    pub activation: Activation,
    /// Dropout probability after each hidden layer; empty is none.
    pub dropout: Vec<f32>,
}

/// Activations of the hidden layers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Activation {
    /// `max(0, x)`, with derivative 0 at 0.
    Relu,
    /// `x` above 0, `0.01 x` below.
    LeakyRelu,
    /// Hyperbolic tangent.
    Tanh,
    /// Logistic function.
    Sigmoid,
}

impl ModelParams {
    /// Bytes of a row of the table: head, then z and n of the linear weight and the embedding.
    pub fn row_bytes(&self) -> usize {
        16 + 8 * (1 + self.embedding_dim)
    }
}

impl Default for ModelParams {
    /// A `DeepFM` of no fields yet: dimension 10, layers of 64 and 32.
    fn default() -> Self {
        let ftrl = FtrlParams { alpha: 0.1, beta: 1.0, l1: 0.0, l2: 0.0, l21: 0.0 };
        Self {
            fields: 0,
            embedding_dim: 10,
            seed: 1,
            init_scale: 0.01,
            parts: Parts::Deepfm,
            mlp: MlpParams::default(),
            bias: ftrl,
            linear: ftrl,
            embedding: ftrl,
            sgd: SgdParams { learning_rate: 0.01, momentum: 0.0, l2: 0.0, clip_norm: 0.0 },
            n_max: None,
            gradient_max: None,
            admission: AdmissionParams::default(),
        }
    }
}

impl Default for MlpParams {
    fn default() -> Self {
        Self { layers: vec![64, 32], activation: Activation::Relu, dropout: Vec::new() }
    }
}

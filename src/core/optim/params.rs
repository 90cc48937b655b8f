//! Hyper-parameters of the optimizers.

use serde::{Deserialize, Serialize};

/// FTRL-Proximal (`McMahan` et al. 2013, Algorithm 1), with an optional group penalty.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct FtrlParams {
    /// The learning rate's numerator, > 0.
    pub alpha: f32,
    /// Added to the root of the summed squared gradients.
    pub beta: f32,
    /// L1 penalty: weights with `|z| <= l1` are exactly zero.
    pub l1: f32,
    /// L2 penalty. Without the other two it is exactly a beta larger by `alpha · l2`, with the first weight of a new row
    /// smaller by `beta / (beta + alpha · l2)`: it makes early steps smaller, and pulls no weight towards 0.
    pub l2: f32,
    /// Group penalty over a whole embedding; 0 is off.
    pub l21: f32,
}

/// Stochastic gradient descent with momentum (no dampening, no Nesterov).
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct SgdParams {
    /// Step size.
    pub learning_rate: f32,
    /// Share of the last step's buffer that is kept.
    pub momentum: f32,
    /// L2 penalty on layer weights and the output vector, not on biases.
    pub l2: f32,
    /// The largest norm of the whole gradient; 0 is off.
    pub clip_norm: f32,
}

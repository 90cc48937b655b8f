//! Stochastic gradient descent for the MLP, in golden's order: clip the whole gradient by its norm, add L2, average into
//! the momentum buffer, step.

use super::params::SgdParams;
use crate::kernel;

/// Euclidean norm of a gradient, summed in f64.
pub fn norm(gradient: &[f32]) -> f64 {
    kernel::dense::sum_of_squares(gradient).sqrt()
}

/// The factor that brings a gradient of this norm to the largest allowed one; 1 when it is within.
pub fn clip_factor(params: &SgdParams, norm: f64) -> f32 {
    let bound = f64::from(params.clip_norm);
    if bound > 0.0 && norm > bound { (bound / norm) as f32 } else { 1.0 }
}

/// One step over a run of parameters. `l2` is the penalty for this run: 0 for biases.
pub fn step(params: &SgdParams, l2: f32, factor: f32, gradient: &[f32], momentum: &mut [f32], weights: &mut [f32]) {
    kernel::dense::step([params.learning_rate, params.momentum, factor, l2], gradient, momentum, weights);
}

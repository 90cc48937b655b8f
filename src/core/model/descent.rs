//! The step of the MLP: gradient descent, by the shortest way that gives it.
//!
//! As a rule nothing is clipped and there is neither momentum nor a penalty: then gradients go straight into the parameters, and what
//! would have to be looked at for it, the gradient's norm and whether all stays finite, follows from a bound that costs next
//! to nothing. The optimizer's own formulas are those of `optim::sgd`.

use super::DenseState;
use super::batch::{self, Architecture, Chunk, MlpScratch};
use super::mlp::UnitPart;
use crate::kernel;
use crate::optim::params::SgdParams;
use crate::optim::sgd;

/// How the MLP is stepped.
#[derive(Clone, Copy, Debug)]
pub(super) enum MlpStep {
    /// By adding the gradient of each example, times this, to the parameters.
    Examples(f32),
    /// By adding the gradient, which is computed, times this, to them.
    Gradient(f32),
    /// By taking the next parameters and their momentum, which are computed.
    Swap,
}

/// Below so many examples each is added to the MLP's parameters; from there on their gradients are added up before, which costs a
/// pass over all parameters, and does not round what they add one by one.
const FEW_EXAMPLES: usize = 16;

/// The longest step of the MLP. It is far below the resolution of the largest finite number, so that no step within it makes a finite
/// parameter infinite, and none has to be looked at.
const STEP_MAX: f64 = 1e30;

impl MlpStep {
    /// The step where it is known before the gradient is, which as a rule it is.
    pub(super) fn foreseen(sgd_params: &SgdParams, divisor: f32, chunks: &[Chunk]) -> Option<Self> {
        // The norm is at most this, and within the bound for clipping as a rule: then it need not be known.
        let sum_bound = batch::mlp_gradient_bound(chunks);
        let bound = sum_bound / f64::from(divisor);
        let is_unclipped = bound.is_finite() && sgd::clip_factor(sgd_params, bound) == 1.0;
        if !is_plain(sgd_params) || !is_unclipped || !is_short(sgd_params, bound) {
            return None;
        }
        let rate = -sgd_params.learning_rate / divisor;
        if batch::examples(chunks) < FEW_EXAMPLES {
            return Some(Self::Examples(rate));
        }
        // The sum must be finite as well.
        (sum_bound <= STEP_MAX).then_some(Self::Gradient(rate))
    }

    /// Computes the step of the MLP; `None` when it, or what it leads to, is not finite.
    pub(super) fn of(
        sgd_params: &SgdParams,
        architecture: &Architecture,
        dense: &DenseState,
        divisor: f32,
        chunks: &[Chunk],
        scratch: &mut MlpScratch,
    ) -> Option<Self> {
        let norm = sgd::norm(scratch.add_up(architecture, chunks)) / f64::from(divisor);
        let factor = sgd::clip_factor(sgd_params, norm);
        if is_plain(sgd_params) {
            let rate = -sgd_params.learning_rate / divisor;
            return is_short(sgd_params, norm * f64::from(factor)).then_some(Self::Gradient(rate * factor));
        }
        let MlpScratch { gradients, next, momentum_next, .. } = scratch;
        let gradient = &gradients[0];
        next.clone_from(&dense.mlp);
        momentum_next.clone_from(&dense.momentum);
        for (run, is_penalised) in architecture.mlp.runs() {
            let l2 = if is_penalised { sgd_params.l2 } else { 0.0 };
            let (gradient, momentum) = (&gradient[run.clone()], &mut momentum_next[run.clone()]);
            sgd::step(sgd_params, l2, factor / divisor, gradient, momentum, &mut next[run]);
        }
        (norm.is_finite() && all_finite(next)).then_some(Self::Swap)
    }

    /// Takes the step.
    pub(super) fn take(
        self,
        architecture: &Architecture,
        dense: &mut DenseState,
        chunks: &[Chunk],
        scratch: &mut MlpScratch,
    ) {
        let MlpScratch { gradients, parts, next, momentum_next, scaled } = scratch;
        match self {
            Self::Examples(factor) => {
                batch::add_mlp_gradient(architecture, chunks, factor, scaled, (UnitPart::ALL, &mut dense.mlp));
            }
            Self::Gradient(factor) => {
                for (part, gradient) in UnitPart::each(*parts).zip(gradients) {
                    let mut gradient = gradient.as_slice();
                    for run in architecture.mlp.runs_of(part) {
                        let (of_run, behind) = gradient.split_at(run.len());
                        kernel::dense::add_scaled(&mut dense.mlp[run], factor, of_run);
                        gradient = behind;
                    }
                }
            }
            Self::Swap => {
                std::mem::swap(&mut dense.mlp, next);
                std::mem::swap(&mut dense.momentum, momentum_next);
            }
        }
    }
}

/// Whether there is neither momentum nor a penalty.
fn is_plain(sgd_params: &SgdParams) -> bool {
    sgd_params.momentum == 0.0 && sgd_params.l2 == 0.0
}

/// Whether a step by a gradient of this norm is within [`STEP_MAX`].
fn is_short(sgd_params: &SgdParams, norm: f64) -> bool {
    norm * f64::from(sgd_params.learning_rate) <= STEP_MAX
}

/// Whether every value is finite.
pub(super) fn all_finite(values: &[f32]) -> bool {
    kernel::dense::largest(values).is_finite()
}

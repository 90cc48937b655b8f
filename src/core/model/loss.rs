//! Log loss on logits, and the importance of examples whose labels came early or late.

use serde::{Deserialize, Serialize};

use crate::math;

/// The largest weight of a late correction: at p = 0.95 it would begin to shake the model.
const CORRECTION_MAX: f64 = 20.0;

/// How an example's own training logit changes its weight.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Importance {
    /// Not at all.
    None,
    /// A click after its negative was learned: `1 / (1 - p)`, which equals retracting the negative; at most 20.
    LateCorrection,
    /// A negative learned before its label is known: `(1 + p)(1 - p)` (Ktena et al. 2019, fake negative weighted).
    FakeNegative,
    /// The click of an impression learned as a fake negative: `1 + p` (the same).
    FakePositive,
}

impl Importance {
    /// The factor on the example's weight, given the probability that the model gives it now.
    pub fn factor(self, probability: f64) -> f64 {
        match self {
            Self::None => 1.0,
            Self::LateCorrection => (1.0 / (1.0 - probability)).min(CORRECTION_MAX),
            Self::FakeNegative => (1.0 + probability) * (1.0 - probability),
            Self::FakePositive => 1.0 + probability,
        }
    }
}

/// The logistic function, without overflow.
#[inline]
pub fn sigmoid(logit: f64) -> f64 {
    if logit >= 0.0 {
        1.0 / (1.0 + math::exp(-logit))
    } else {
        let e = math::exp(logit);
        e / (1.0 + e)
    }
}

/// `ln(1 + e^x)`, without overflow.
#[inline]
pub fn softplus(x: f64) -> f64 {
    x.max(0.0) + math::ln_1p(math::exp(-x.abs()))
}

/// Log loss of a logit against a label in [0, 1]: `softplus(logit) - label * logit`, in the form that keeps the tiny loss
/// of a sure and right prediction.
#[inline]
pub fn log_loss(logit: f64, label: f64) -> f64 {
    label * softplus(-logit) + (1.0 - label) * softplus(logit)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_log_loss_of_an_extreme_logit_is_finite_and_exact() {
        assert_eq!(log_loss(100.0, 1.0), math::exp(-100.0));
        assert_eq!(log_loss(1000.0, 0.0), 1000.0);
        assert_eq!(log_loss(-1000.0, 1.0), 1000.0);
        assert!((log_loss(0.0, 1.0) - std::f64::consts::LN_2).abs() < 1e-15);
        assert_eq!((sigmoid(-1000.0), sigmoid(1000.0)), (0.0, 1.0));
    }

    #[test]
    fn a_late_correction_weighs_at_most_twenty() {
        assert_eq!(Importance::LateCorrection.factor(1.0), 20.0);
        assert_eq!(Importance::LateCorrection.factor(0.5), 2.0);
        assert_eq!(Importance::FakeNegative.factor(0.5), 0.75);
        assert_eq!(Importance::FakePositive.factor(0.5), 1.5);
    }
}

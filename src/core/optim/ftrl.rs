//! FTRL-Proximal (`McMahan` et al. 2013, Algorithm 1), per coordinate, with an optional group penalty over a whole vector
//! (group lasso, as in Ni et al. 2019). `sigma` stays a difference of square roots of the *stored* n: the algebraically
//! equal quotient drifts in f32.

use super::params::FtrlParams;
use crate::kernel::rows::{self, Ftrl};

/// The weight of one coordinate without the group penalty: exactly 0 where `|z| <= l1`.
#[inline]
pub fn weight(params: &FtrlParams, z: f32, n: f32) -> f32 {
    rows::weight(coefficients(params), z, n)
}

#[inline]
fn coefficients(&FtrlParams { alpha, beta, l1, l2, .. }: &FtrlParams) -> Ftrl {
    Ftrl { alpha, beta, l1, l2 }
}

/// The weights of coordinates with state `z`, `n`, without the group penalty.
pub fn weights(params: &FtrlParams, z: &[f32], n: &[f32], w: &mut [f32]) {
    rows::weights(coefficients(params), z, n, w);
}

/// Applies the group penalty to one vector of weights: `s * (1 - l21 * sqrt(k) / ||s||)`, zero where the soft-thresholded
/// z has `||s|| <= l21 * sqrt(k)`. Does nothing when `l21` is 0.
pub fn shrink_group(params: &FtrlParams, z: &[f32], w: &mut [f32]) {
    if params.l21 <= 0.0 {
        return;
    }
    let norm = z.iter().map(|z| f64::from((z.abs() - params.l1).max(0.0)).powi(2)).sum::<f64>().sqrt();
    let bound = f64::from(params.l21) * (z.len() as f64).sqrt();
    let factor = if norm <= bound { 0.0 } else { (1.0 - bound / norm) as f32 };
    for w in w {
        *w = if factor > 0.0 { *w * factor } else { 0.0 };
    }
}

/// One round: takes the gradients `g` at the weights `w` into the state. `n_max` bounds n, which keeps an old model able
/// to move. Says whether all of the state is finite then.
pub fn update(params: &FtrlParams, n_max: Option<f32>, g: &[f32], w: &[f32], z: &mut [f32], n: &mut [f32]) -> bool {
    rows::update(coefficients(params), n_max.unwrap_or(f32::INFINITY), g, w, z, n)
}

/// The z at which a coordinate with this `n` has weight `w` when nothing is penalised: the centre of a new row.
#[inline]
pub fn centred(params: &FtrlParams, w: f32, n: f32) -> f32 {
    -(params.beta + n.sqrt()) / params.alpha * w
}

/// The z at which a coordinate with this `n` has weight `w` under the penalties of `params` (without the group
/// penalty): for warm starts, and for a change of parameters. A zero weight gives z = 0.
#[inline]
pub fn solve(params: &FtrlParams, w: f32, n: f32) -> f32 {
    if w == 0.0 {
        return 0.0;
    }
    let rate = (params.beta + n.sqrt()) / params.alpha + params.l2;
    -(w * rate + params.l1.copysign(w))
}

#[cfg(test)]
mod tests {
    use super::*;

    const PARAMS: FtrlParams = FtrlParams { alpha: 0.1, beta: 1.0, l1: 0.5, l2: 0.01, l21: 0.0 };

    #[test]
    fn a_weight_is_zero_up_to_l1_and_has_the_sign_opposite_to_z_beyond() {
        assert_eq!(weight(&PARAMS, 0.5, 3.0), 0.0);
        assert_eq!(weight(&PARAMS, -0.5, 3.0), 0.0);
        assert!(weight(&PARAMS, 0.6, 3.0) < 0.0);
        assert!(weight(&PARAMS, -0.6, 3.0) > 0.0);
        assert_eq!(weight(&PARAMS, 0.7, 3.0), -weight(&PARAMS, -0.7, 3.0));
    }

    #[test]
    fn a_warm_started_weight_does_not_jump_when_it_is_first_touched() {
        for w in [0.3_f32, -0.02, 1.7] {
            let (mut z, mut n) = ([solve(&PARAMS, w, 4.0)], [4.0_f32]);
            let before = weight(&PARAMS, z[0], n[0]);
            assert!((before - w).abs() <= 1e-6 * w.abs().max(1.0), "{before} is not {w}");
            update(&PARAMS, None, &[1e-3], &[before], &mut z, &mut n);
            assert!((weight(&PARAMS, z[0], n[0]) - before).abs() < 1e-3);
        }
    }

    #[test]
    fn a_zero_gradient_changes_nothing() {
        let (mut z, mut n) = ([0.7_f32], [2.0_f32]);
        update(&PARAMS, None, &[0.0], &[weight(&PARAMS, 0.7, 2.0)], &mut z, &mut n);
        assert_eq!((z[0], n[0]), (0.7, 2.0));
    }

    #[test]
    fn a_bound_on_n_keeps_the_step_from_shrinking_for_ever() {
        let (mut z, mut n) = ([0.0_f32], [0.0_f32]);
        for _ in 0..100 {
            let w = weight(&PARAMS, z[0], n[0]);
            update(&PARAMS, Some(5.0), &[1.0], &[w], &mut z, &mut n);
        }
        assert_eq!(n[0], 5.0);
    }
}

//! FTRL-Proximal over coordinates side by side, and rows of them copied. `optim::ftrl` says what the formulas are.

use super::kernels;

/// What one parameter group's FTRL depends on.
#[derive(Clone, Copy, Debug)]
pub struct Ftrl {
    /// The learning rate's numerator.
    pub alpha: f32,
    /// Added to the root of the summed squared gradients.
    pub beta: f32,
    /// L1 penalty.
    pub l1: f32,
    /// L2 penalty.
    pub l2: f32,
}

/// The weight of one coordinate: exactly 0 where `|z| <= l1`.
#[inline(always)]
pub fn weight(ftrl: Ftrl, z: f32, n: f32) -> f32 {
    let shrunk = (z.abs() - ftrl.l1).max(0.0);
    let rate = (ftrl.beta + n.sqrt()) / ftrl.alpha + ftrl.l2;
    if shrunk > 0.0 { -shrunk.copysign(z) / rate } else { 0.0 }
}

/// Copies a row of so many values; of usual widths without a call.
#[inline(always)]
pub fn copy(width: usize, from: &[f32], to: &mut [f32]) {
    match width {
        4 => to[..4].copy_from_slice(&from[..4]),
        8 => to[..8].copy_from_slice(&from[..8]),
        10 => to[..10].copy_from_slice(&from[..10]),
        16 => to[..16].copy_from_slice(&from[..16]),
        32 => to[..32].copy_from_slice(&from[..32]),
        _ => to[..width].copy_from_slice(&from[..width]),
    }
}

kernels! {
    /// The weights of coordinates with state `z`, `n`, without the group penalty.
    pub fn weights(ftrl: Ftrl, z: &[f32], n: &[f32], w: &mut [f32]) {
        for ((w, z), n) in w.iter_mut().zip(z).zip(n) {
            *w = weight(ftrl, *z, *n);
        }
    }

    /// One round: takes the gradients `g` at the weights `w` into the state. `cap` bounds n. Says whether all of the state is finite.
    pub fn update(ftrl: Ftrl, cap: f32, g: &[f32], w: &[f32], z: &mut [f32], n: &mut [f32]) -> bool {
        let mut largest = 0;
        for (((z, n), &g), &w) in z.iter_mut().zip(n).zip(g).zip(w) {
            let grown = (*n + g * g).min(cap.max(*n));
            let sigma = (grown.sqrt() - n.sqrt()) / ftrl.alpha;
            *z += g - sigma * w;
            *n = grown;
            // As in `dense::largest`.
            largest = largest.max(z.abs().to_bits()).max(grown.abs().to_bits());
        }
        f32::from_bits(largest).is_finite()
    }
}

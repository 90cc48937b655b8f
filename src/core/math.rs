//! Transcendental functions in Rust. The C library has its own, which differ from version to version and from CPU to CPU in
//! the last bit; these give the same bits wherever they run. (`sqrt` and the like are exact in IEEE 754 and need no copy.)

/// `e^x`.
#[inline]
pub fn exp(x: f64) -> f64 {
    libm::exp(x)
}

/// The natural logarithm.
#[inline]
pub fn ln(x: f64) -> f64 {
    libm::log(x)
}

/// `ln(1 + x)`, exact for small x.
#[inline]
pub fn ln_1p(x: f64) -> f64 {
    libm::log1p(x)
}

/// The hyperbolic tangent.
#[inline]
pub fn tanh(x: f32) -> f32 {
    libm::tanhf(x)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The largest difference from the C library's, in units in the last place of the result.
    fn difference(ours: fn(f64) -> f64, theirs: fn(f64) -> f64, low: f64, high: f64) -> f64 {
        let steps = 100_000;
        let at = |step: i32| low + (high - low) * f64::from(step) / f64::from(steps);
        let ulps = |x: f64| {
            let (ours, theirs) = (ours(x), theirs(x));
            (ours - theirs).abs() / (theirs.abs().next_up() - theirs.abs()).max(f64::MIN_POSITIVE)
        };
        (0..=steps).map(at).map(ulps).fold(0.0, f64::max)
    }

    #[test]
    #[expect(clippy::disallowed_methods, reason = "they are what ours are compared to")]
    fn each_function_is_within_one_unit_in_the_last_place_of_the_c_librarys() {
        assert!(difference(exp, f64::exp, -700.0, 700.0) <= 1.0);
        assert!(difference(ln, f64::ln, 1e-9, 1e9) <= 1.0);
        assert!(difference(ln_1p, f64::ln_1p, -0.999, 50.0) <= 1.0);
        let close = |x: f32| (tanh(x) - x.tanh()).abs() <= 2.0 * f32::EPSILON * x.tanh().abs();
        assert!((-10_000..=10_000).map(|step| step as f32 / 1000.0).all(close));
    }

    #[test]
    fn the_bits_are_those_of_every_machine() {
        let bits = [exp(-1.25).to_bits(), ln(7.5).to_bits(), ln_1p(1e-3).to_bits(), u64::from(tanh(0.7).to_bits())];
        assert_eq!(
            bits.map(|bits| format!("{bits:x}")),
            ["3fd25618372a584f", "40001e85798eb9a3", "3f5060354f8c3ebf", "3f1ab7d8"]
        );
    }
}

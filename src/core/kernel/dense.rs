//! Inner products and steps over flat vectors.

use super::{LANES, fma, kernels, total};

/// The inner product, as [`LANES`] chains.
#[inline(always)]
fn inner<const FUSED: bool>(a: &[f32], b: &[f32]) -> f32 {
    let mut sums = [0.0_f32; LANES];
    let ((a, a_rest), (b, b_rest)) = (a.as_chunks::<LANES>(), b.as_chunks::<LANES>());
    for (x, y) in a.iter().zip(b) {
        for lane in 0..LANES {
            sums[lane] = fma::<FUSED>(x[lane], y[lane], sums[lane]);
        }
    }
    for ((sum, x), y) in sums.iter_mut().zip(a_rest).zip(b_rest) {
        *sum = fma::<FUSED>(*x, *y, *sum);
    }
    total(sums)
}

/// The largest magnitude; not finite when a value is not.
#[inline(always)]
pub(super) fn largest_of(values: &[f32]) -> f32 {
    // As integers magnitudes have the same order, with infinity above all numbers, and above it what is none.
    let largest = values.iter().fold(0, |largest, value| value.abs().to_bits().max(largest));
    f32::from_bits(largest)
}

/// What is multiplied at once where there is enough of it.
const SOME: usize = 4;

/// Lanes of half a step.
const HALF: usize = LANES / 2;

/// The inner products of a vector with [`SOME`] others, each as [`inner`] has it: what is loaded of it serves all, and the chains of
/// all are added up side by side. Lanes are counted by constants, so that they stay in registers; what is left of a step may not.
#[inline(always)]
fn inners<const FUSED: bool>(x: &[f32], others: [&[f32]; SOME]) -> [f32; SOME] {
    let (inputs, steps) = (x.len(), x.len() / LANES);
    let whole = &x.as_chunks::<LANES>().0[..steps];
    let [first, second, third, fourth] = others;
    let (first, second) = (&first.as_chunks::<LANES>().0[..steps], &second.as_chunks::<LANES>().0[..steps]);
    let (third, fourth) = (&third.as_chunks::<LANES>().0[..steps], &fourth.as_chunks::<LANES>().0[..steps]);
    let mut sums = [[0.0_f32; LANES]; SOME];
    for at in 0..steps {
        for lane in 0..LANES {
            sums[0][lane] = fma::<FUSED>(whole[at][lane], first[at][lane], sums[0][lane]);
            sums[1][lane] = fma::<FUSED>(whole[at][lane], second[at][lane], sums[1][lane]);
            sums[2][lane] = fma::<FUSED>(whole[at][lane], third[at][lane], sums[2][lane]);
            sums[3][lane] = fma::<FUSED>(whole[at][lane], fourth[at][lane], sums[3][lane]);
        }
    }
    let mut halves = [[[0.0_f32; HALF]; 2]; SOME];
    for k in 0..SOME {
        for lane in 0..HALF {
            (halves[k][0][lane], halves[k][1][lane]) = (sums[k][lane], sums[k][lane + HALF]);
        }
    }
    let (mut at, mut half) = (steps * LANES, 0);
    if let Some(x) = x[at..].first_chunk::<HALF>() {
        for k in 0..SOME {
            let other = others[k][at..].first_chunk::<HALF>().expect("all are of one length");
            for lane in 0..HALF {
                halves[k][0][lane] = fma::<FUSED>(x[lane], other[lane], halves[k][0][lane]);
            }
        }
        (at, half) = (at + HALF, 1);
    }
    if at < inputs {
        let mut finished = halves;
        for k in 0..SOME {
            for (sum, (x, other)) in finished[k][half].iter_mut().zip(x[at..].iter().zip(&others[k][at..])) {
                *sum = fma::<FUSED>(*x, *other, *sum);
            }
        }
        halves = finished;
    }
    // As `total` adds them up.
    let mut quarters = [[0.0_f32; HALF / 2]; SOME];
    for k in 0..SOME {
        let [low, high] = halves[k];
        for lane in 0..HALF / 2 {
            quarters[k][lane] = (low[lane] + high[lane]) + (low[lane + HALF / 2] + high[lane + HALF / 2]);
        }
    }
    let mut totals = [0.0_f32; SOME];
    for k in 0..SOME {
        totals[k] = (quarters[k][0] + quarters[k][2]) + (quarters[k][1] + quarters[k][3]);
    }
    totals
}

/// The sum of squares of [`LANES`] chains, in f64.
#[inline(always)]
fn squares(values: &[f32]) -> f64 {
    let mut sums = [0.0_f64; LANES];
    let (chunks, rest) = values.as_chunks::<LANES>();
    for chunk in chunks {
        for lane in 0..LANES {
            let value = f64::from(chunk[lane]);
            sums[lane] += value * value;
        }
    }
    for (sum, value) in sums.iter_mut().zip(rest) {
        let value = f64::from(*value);
        *sum += value * value;
    }
    sums.iter().sum()
}

/// Adds each row of a matrix (`[rows, width]`), from its column `first` on and times its factor, to `out`.
#[inline(always)]
fn add_weighted<const FUSED: bool>(
    factor: impl Fn(usize) -> f32,
    (matrix, width, first): (&[f32], usize, usize),
    out: &mut [f32],
) {
    debug_assert!(first + out.len() <= width, "there are as many columns");
    for (number, out) in out.chunks_mut(LANES).enumerate() {
        let lanes = out.len();
        let rows = matrix.chunks_exact(width).map(|row| &row[first + number * LANES..][..lanes]).enumerate();
        if let Some(out) = out.first_chunk_mut::<LANES>() {
            // In registers.
            let mut sums = *out;
            for (at, row) in rows {
                let (factor, row) = (factor(at), row.first_chunk::<LANES>().expect("it is as long"));
                for lane in 0..LANES {
                    sums[lane] = fma::<FUSED>(factor, row[lane], sums[lane]);
                }
            }
            *out = sums;
            continue;
        }
        for (at, row) in rows {
            let factor = factor(at);
            for (out, value) in out.iter_mut().zip(row) {
                *out = fma::<FUSED>(factor, *value, *out);
            }
        }
    }
}

kernels! {
    /// The inner product of two vectors of one length.
    pub fn dot(a: &[f32], b: &[f32]) -> f32 {
        inner::<FUSED>(a, b)
    }

    /// Adds the inner product of `x` with each row of `matrix` (`[outputs, inputs]`) to `out` (`[outputs]`).
    pub fn add_dots(x: &[f32], matrix: &[f32], out: &mut [f32]) {
        let inputs = x.len();
        debug_assert_eq!(matrix.len(), inputs * out.len(), "each row has its output");
        let (mut some, mut to) = (matrix.chunks_exact(SOME * inputs), out.chunks_exact_mut(SOME));
        for (rows, out) in (&mut some).zip(&mut to) {
            let ((low, high), middle) = (rows.split_at(2 * inputs), inputs);
            let sums = inners::<FUSED>(x, [&low[..middle], &low[middle..], &high[..middle], &high[middle..]]);
            for at in 0..SOME {
                out[at] += sums[at];
            }
        }
        for (out, row) in to.into_remainder().iter_mut().zip(some.remainder().chunks_exact(inputs)) {
            *out += inner::<FUSED>(x, row);
        }
    }

    /// Adds the sum of the rows of `matrix` (`[inputs, outputs]`), each times its `x` (`[inputs]`), to `out` (`[outputs]`). A row whose `x` is 0
    /// is passed over: rectifiers make many.
    pub fn add_rows(x: &[f32], matrix: &[f32], out: &mut [f32]) {
        for (x, row) in x.iter().zip(matrix.chunks_exact(out.len())).filter(|(x, _)| **x != 0.0) {
            for (out, weight) in out.iter_mut().zip(row) {
                *out = fma::<FUSED>(*x, *weight, *out);
            }
        }
    }

    /// Adds `left[i] · right[j]` to each `out[i, j]` (`[left, right]`); rows whose `left` is 0 are passed over.
    pub fn add_outer(left: &[f32], right: &[f32], out: &mut [f32]) {
        for (factor, out) in left.iter().zip(out.chunks_exact_mut(right.len())).filter(|(factor, _)| **factor != 0.0) {
            for (out, right) in out.iter_mut().zip(right) {
                *out = fma::<FUSED>(*factor, *right, *out);
            }
        }
    }

    /// The sum of squares, in f64, where a square of an f32 is exact.
    pub fn sum_of_squares(values: &[f32]) -> f64 {
        squares(values)
    }

    /// Writes the sum of squares of each row of `matrix` (`[rows, width]`) to `sums` (`[rows]`).
    pub fn sums_of_squares(matrix: &[f32], width: usize, sums: &mut [f64]) {
        for (sum, row) in sums.iter_mut().zip(matrix.chunks_exact(width)) {
            *sum = squares(row);
        }
    }

    /// Adds the columns of `matrix` (`[rows, width]`) from `first` on, as many as `out` has, up on it, row by row.
    pub fn add_columns(matrix: &[f32], width: usize, first: usize, out: &mut [f32]) {
        add_weighted::<FUSED>(|_| 1.0, (matrix, width, first), out);
    }

    /// The same of each row times `factor` and its own factor (`[rows]`).
    pub fn add_columns_scaled(factor: f32, factors: &[f32], matrix: &[f32], width: usize, first: usize, out: &mut [f32]) {
        add_weighted::<FUSED>(|row| factor * factors[row], (matrix, width, first), out);
    }

    /// The largest magnitude; not finite when a value is not.
    pub fn largest(values: &[f32]) -> f32 {
        largest_of(values)
    }

    /// `values += factor · other`.
    pub fn add_scaled(values: &mut [f32], factor: f32, other: &[f32]) {
        for (value, other) in values.iter_mut().zip(other) {
            *value = fma::<FUSED>(factor, *other, *value);
        }
    }

    /// `max(0, x)` of each; 0 of NaN.
    pub fn rectify(values: &mut [f32]) {
        for value in values {
            // Not `max`, which may give either of two zeros.
            *value = if *value > 0.0 { *value } else { 0.0 };
        }
    }

    /// Zeroes each whose unit is not above 0: the derivative of [`rectify`].
    pub fn rectify_gradient(values: &mut [f32], units: &[f32]) {
        for (value, unit) in values.iter_mut().zip(units) {
            *value *= f32::from(u8::from(*unit > 0.0));
        }
    }

    /// A step of gradient descent with momentum, with the coefficients rate, decay, factor and l2:
    /// `momentum = decay · momentum + (factor · gradient + l2 · weight)`, then `weight -= rate · momentum`.
    pub fn step(
        coefficients: [f32; 4],
        gradient: &[f32],
        momentum: &mut [f32],
        weights: &mut [f32],
    ) {
        let [rate, decay, factor, l2] = coefficients;
        for ((w, m), &g) in weights.iter_mut().zip(momentum).zip(gradient) {
            *m = decay * *m + (g * factor + l2 * *w);
            *w -= rate * *m;
        }
    }
}

use ndarray::{Array2, ArrayView2};
use proptest::prelude::*;

use super::factors::{Entries, Repeats, Sums};
use super::{InstructionSet, LANES, dense, factors, product, rounded_once, rows, total};
use crate::feature::hash;

/// Numbers between -1 and 1, some of them 0, and some subnormal.
fn numbers(seed: u64, count: usize) -> Vec<f32> {
    let number = |lane: u64| match hash::hash(seed, lane, 1) % 8 {
        0 => 0.0,
        1 => hash::uniform_weight(seed, lane, 2, 1.0) * 1e-39,
        _ => hash::uniform_weight(seed, lane, 2, 1.0),
    };
    (0..count as u64).map(number).collect()
}

/// The instruction set is the whole process's: one test at a time goes through all.
#[expect(clippy::disallowed_types, reason = "tests have threads")]
static TURN: std::sync::Mutex<()> = std::sync::Mutex::new(());

/// What a function gives under each instruction set of this processor.
fn on_each<T: PartialEq + std::fmt::Debug>(run: impl Fn() -> T) -> T {
    let _turn = TURN.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    let before = InstructionSet::in_use();
    let mut results = InstructionSet::available().map(|set| {
        InstructionSet::choose(set.name()).expect("it is available");
        (set, run())
    });
    let (_, first) = results.next().expect("there is the baseline");
    for (set, result) in results {
        assert_eq!(result, first, "{} differs from the baseline", set.name());
    }
    InstructionSet::choose(before.name()).expect("it was in use");
    first
}

fn bits(values: &[f32]) -> Vec<u32> {
    values.iter().map(|value| value.to_bits()).collect()
}

/// The inner product as it is stated.
fn chains(a: &[f32], b: &[f32]) -> f32 {
    let mut sums = [0.0_f32; LANES];
    a.iter().zip(b).enumerate().for_each(|(at, (x, y))| sums[at % LANES] = x.mul_add(*y, sums[at % LANES]));
    total(sums)
}

/// Gradients by slot, linear ones and embeddings', as they are stated: example by example, what a field has of a slot at once.
fn scattered(batch: Entries<'_>, dlogits: &[f32], gradients: &[f32], slots: usize) -> [Vec<u32>; 2] {
    let (dim, mut start) = (batch.dim, 0);
    let (mut linear, mut embedding) = (vec![0.0_f32; slots], vec![0.0_f32; slots * dim]);
    for ((field, gradient), end) in gradients.chunks_exact(dim).enumerate().zip(batch.ends) {
        let entries = &batch.entries[start..*end as usize];
        start = *end as usize;
        for (at, (slot, _)) in entries.iter().enumerate() {
            if entries[..at].iter().any(|(other, _)| other == slot) {
                continue;
            }
            let of_slot = entries.iter().filter(|(other, _)| other == slot);
            let x = of_slot.map(|(_, x)| *x).reduce(|sum, x| sum + x).expect("there is one");
            let slot = *slot as usize;
            linear[slot] = x.mul_add(dlogits[field / batch.fields], linear[slot]);
            for (sum, d) in embedding[slot * dim..][..dim].iter_mut().zip(gradient) {
                *sum = x.mul_add(*d, *sum);
            }
        }
    }
    [bits(&linear), bits(&embedding)]
}

proptest! {
    #[test]
    fn a_product_is_one_chain_an_element_whatever_its_shape_and_strides(
        seed: u64, rows in 0_usize..30, inner in 0_usize..300, columns in 0_usize..40, transposed: (bool, bool)
    ) {
        let (a, b, c) = (numbers(seed, rows * inner), numbers(seed + 1, inner * columns), numbers(seed + 2, rows * columns));
        let view = |values, rows, columns, is_transposed| {
            let shape = if is_transposed { (columns, rows) } else { (rows, columns) };
            let view = ArrayView2::from_shape(shape, values).expect("it has the length");
            if is_transposed { view.reversed_axes() } else { view }
        };
        let (left, right) = (view(&a, rows, inner, transposed.0), view(&b, inner, columns, transposed.1));
        let found = on_each(|| {
            let mut out = Array2::from_shape_vec((rows, columns), c.clone()).expect("it has the length");
            product::add_product(left, right, out.view_mut());
            bits(&out.into_raw_vec_and_offset().0)
        });
        let chain = |(at, first): (usize, &f32)| {
            let (row, column) = (at / columns, at % columns);
            (0..inner).fold(*first, |sum, k| left[[row, k]].mul_add(right[[k, column]], sum)).to_bits()
        };
        prop_assert_eq!(found, c.iter().enumerate().map(chain).collect::<Vec<_>>());
    }

    #[test]
    fn dense_kernels_give_the_same_bits_under_each_instruction_set(seed: u64, inputs in 1_usize..70, outputs in 1_usize..40) {
        let (x, matrix) = (numbers(seed, inputs), numbers(seed + 1, inputs * outputs));
        let (y, start) = (numbers(seed + 2, outputs), numbers(seed + 3, outputs));
        prop_assert_eq!(on_each(|| dense::dot(&x, &matrix[..inputs]).to_bits()), chains(&x, &matrix[..inputs]).to_bits());
        let dots = on_each(|| {
            let mut out = start.clone();
            dense::add_dots(&x, &matrix, &mut out);
            bits(&out)
        });
        let expected: Vec<f32> = start.iter().zip(matrix.chunks_exact(inputs)).map(|(s, row)| s + chains(&x, row)).collect();
        prop_assert_eq!(dots, bits(&expected));
        let summed = on_each(|| {
            let mut out = start.clone();
            dense::add_rows(&x, &matrix, &mut out);
            let mut outer = matrix.clone();
            dense::add_outer(&y, &x, &mut outer);
            dense::add_scaled(&mut outer, 0.3, &matrix);
            dense::add_columns(&matrix, matrix.len(), 0, &mut outer);
            let (mut momentum, mut weights) = (numbers(seed + 4, outer.len()), matrix.clone());
            dense::step([0.05, 0.9, 0.7, 1e-3], &outer, &mut momentum, &mut weights);
            let mut rectified = weights.clone();
            dense::rectify(&mut rectified);
            dense::rectify_gradient(&mut momentum, &rectified);
            let scalars = [dense::sum_of_squares(&outer).to_bits(), u64::from(dense::largest(&weights).to_bits())];
            ([out, outer, momentum, weights, rectified].map(|values| bits(&values)), scalars)
        });
        let outer: Vec<f32> = (0..inputs * outputs)
            .map(|at| {
                let [product, first] = [y[at / inputs], x[at % inputs]];
                let outer = product.mul_add(first, matrix[at]);
                0.3_f32.mul_add(matrix[at], outer) + matrix[at]
            })
            .collect();
        let values = |at: usize| summed.0[at].iter().map(|bits| f32::from_bits(*bits)).collect::<Vec<f32>>();
        prop_assert_eq!(values(1), outer.clone());
        let squares: f64 = outer.iter().map(|value| f64::from(*value).powi(2)).sum();
        prop_assert!((f64::from_bits(summed.1[0]) - squares).abs() <= 1e-12 * squares);
        let momentum: Vec<f32> = numbers(seed + 4, outer.len())
            .iter()
            .zip(outer.iter().zip(&matrix))
            .map(|(m, (g, w))| 0.9 * m + (g * 0.7 + 1e-3 * w))
            .collect();
        let weights: Vec<f32> = matrix.iter().zip(&momentum).map(|(w, m)| w - 0.05 * m).collect();
        prop_assert_eq!(values(3), weights.clone());
        let rectified: Vec<f32> = weights.iter().map(|w| if *w > 0.0 { *w } else { 0.0 }).collect();
        let gradient: Vec<f32> = momentum.iter().zip(&weights).map(|(m, w)| if *w > 0.0 { *m } else { 0.0 }).collect();
        prop_assert_eq!((values(4), values(2)), (rectified, gradient));
        let expected: Vec<f32> = (0..outputs)
            .map(|at| (0..inputs).fold(start[at], |sum, k| x[k].mul_add(matrix[k * outputs + at], sum)))
            .collect();
        // Passing over zeros is as adding them, but for the sign of a zero.
        prop_assert_eq!(values(0), expected);
    }

    #[test]
    fn columns_are_added_up_row_by_row_under_each_instruction_set(seed: u64, rows in 0_usize..20, width in 1_usize..70, first in 0_usize..70) {
        let first = first % width;
        let (matrix, factors, start) = (numbers(seed, rows * width), numbers(seed + 1, rows), numbers(seed + 2, width - first));
        let (sums, scaled, squares) = on_each(|| {
            let (mut sums, mut scaled, mut squares) = (start.clone(), start.clone(), vec![0.0; rows]);
            dense::add_columns(&matrix, width, first, &mut sums);
            dense::add_columns_scaled(0.7, &factors, &matrix, width, first, &mut scaled);
            dense::sums_of_squares(&matrix, width, &mut squares);
            (bits(&sums), bits(&scaled), squares.iter().map(|sum| sum.to_bits()).collect::<Vec<_>>())
        });
        let right = numbers(seed + 3, rows * 5);
        let outers = on_each(|| {
            [0, first].map(|first| {
                let mut out = vec![0.5; 5 * (width - first)];
                product::add_outer((&matrix, first..width), &right, &mut out, [rows, width, 5]);
                bits(&out)
            })
        });
        prop_assert_eq!(&outers[0][5 * first..], &outers[1][..], "a part of a product");
        let column = |at: usize| (0..rows).map(move |row| (row, row * width + first + at));
        let expected = |at: usize| column(at).fold(start[at], |sum, (_, place)| sum + matrix[place]).to_bits();
        prop_assert_eq!(sums, (0..start.len()).map(expected).collect::<Vec<_>>());
        let expected = |at: usize| {
            column(at).fold(start[at], |sum, (row, place)| (0.7 * factors[row]).mul_add(matrix[place], sum)).to_bits()
        };
        prop_assert_eq!(scaled, (0..start.len()).map(expected).collect::<Vec<_>>());
        let expected = |row: &[f32]| dense::sum_of_squares(row).to_bits();
        prop_assert_eq!(squares, matrix.chunks_exact(width).map(expected).collect::<Vec<_>>());
    }

    #[test]
    fn the_largest_magnitude_is_that_and_shows_what_is_not_finite(seed: u64, len in 0_usize..70, at: usize, fault in 0_usize..4) {
        let mut values = numbers(seed, len);
        let largest = values.iter().fold(0.0_f32, |most, value| most.max(value.abs()));
        prop_assert_eq!(on_each(|| dense::largest(&values)), largest);
        if let (Some(fault), false) = ([None, Some(f32::NAN), Some(f32::INFINITY), Some(f32::NEG_INFINITY)][fault], len == 0) {
            values[at % len] = fault;
            prop_assert!(!on_each(|| dense::largest(&values).is_finite()));
        }
    }

    #[test]
    fn field_vectors_and_gradients_give_the_same_bits_under_each_instruction_set(
        seed: u64, examples in 1_usize..6, fields in 1_usize..7, dim in prop_oneof![Just(10_usize), 1_usize..40, 170_usize..600], bounded: bool
    ) {
        const SLOTS: usize = 5;
        let mut entries = Vec::new();
        let mut ends = Vec::new();
        for field in 0..(examples * fields) as u64 {
            let count = [1, 1, 0, 3][(hash::hash(seed, field, 3) % 4) as usize];
            let entry = |n: u64| {
                let x = if hash::hash(seed, field, 9).is_multiple_of(2) { 1.0 } else { hash::uniform_weight(seed, field, n, 3.0) };
                ((hash::hash(seed, field, n) % SLOTS as u64) as u32, x)
            };
            entries.extend((10..10 + count).map(entry));
            ends.push(entries.len() as u32);
        }
        let batch = Entries { entries: &entries, start: 0, ends: &ends, fields, dim };
        let (linear, embedding) = (numbers(seed, SLOTS), numbers(seed + 1, SLOTS * dim));
        let n: Vec<f32> = numbers(seed + 2, SLOTS * dim).iter().map(|n| n.abs()).collect();
        let dlogits = numbers(seed + 3, examples);
        let found = on_each(|| {
            let (mut vectors, mut sums) = (vec![0.0; examples * fields * dim], vec![0.0; examples]);
            factors::field_vectors(batch, &linear, &embedding, &mut vectors, &mut sums);
            let (mut all, mut pairs) = (vec![0.0; examples * dim], vec![0.0; examples]);
            factors::interactions(dim, &vectors, &mut all, &mut pairs);
            let mut gradients = numbers(seed + 4, vectors.len());
            factors::add_interaction_gradients(dim, &dlogits, &vectors, &all, &mut gradients);
            let (mut g, mut h) = (vec![0.0; SLOTS], vec![0.0; SLOTS * dim]);
            let bound = bounded.then_some(0.25);
            let (linear, embedding) = (Sums { g: &mut g, n: &n[..SLOTS], bound }, Sums { g: &mut h, n: &n, bound });
            factors::scatter(batch, (&dlogits, &gradients), 0, linear, embedding, &mut Repeats::default());
            // Cut in two, it is the same.
            let (mut cut_g, mut cut_h) = (vec![0.0; SLOTS], vec![0.0; SLOTS * dim]);
            for part in [0..SLOTS / 3, SLOTS / 3..SLOTS] {
                let lanes = part.start * dim..part.end * dim;
                let linear = Sums { g: &mut cut_g[part.clone()], n: &n[part.clone()], bound };
                let embedding = Sums { g: &mut cut_h[lanes.clone()], n: &n[lanes], bound };
                factors::scatter(batch, (&dlogits, &gradients), part.start, linear, embedding, &mut Repeats::default());
            }
            assert_eq!((bits(&cut_g), bits(&cut_h)), (bits(&g), bits(&h)));
            [vectors, sums, all, pairs, gradients, g, h].map(|values| bits(&values))
        });
        let values = |at: usize| found[at].iter().map(|bits| f32::from_bits(*bits)).collect::<Vec<f32>>();
        let (all, before) = (values(2), numbers(seed + 4, examples * fields * dim));
        let expected = |(at, (vector, before)): (usize, (&f32, &f32))| {
            let example = at / (fields * dim);
            dlogits[example].mul_add(all[example * dim + at % dim] - vector, *before)
        };
        let vectors = values(0);
        let expected: Vec<f32> = vectors.iter().zip(&before).enumerate().map(expected).collect();
        prop_assert_eq!(&found[4], &bits(&expected));
        if !bounded {
            prop_assert_eq!(&found[5..], &scattered(batch, &dlogits, &expected, SLOTS)[..]);
        }
        // The pairs against the double sum of their definition.
        let vectors: Vec<f64> = found[0].iter().map(|bits| f64::from(f32::from_bits(*bits))).collect();
        for (vectors, pairs) in vectors.chunks_exact(fields * dim).zip(&found[3]) {
            let mut expected = 0.0;
            for (at, e) in vectors.chunks_exact(dim).enumerate() {
                for f in vectors.chunks_exact(dim).skip(at + 1) {
                    expected += e.iter().zip(f).map(|(e, f)| e * f).sum::<f64>();
                }
            }
            let pairs = f64::from(f32::from_bits(*pairs));
            prop_assert!((pairs - expected).abs() <= 1e-4 * (1.0 + expected.abs()), "{pairs} is not {expected}");
        }
    }

    #[test]
    fn ftrl_gives_the_same_bits_under_each_instruction_set(seed: u64, len in 0_usize..70, l1 in 0.0_f32..0.5) {
        let ftrl = rows::Ftrl { alpha: 0.1, beta: 1.0, l1, l2: 0.01 };
        on_each(|| {
            let (mut z, g) = (numbers(seed, len), numbers(seed + 1, len));
            let mut n: Vec<f32> = numbers(seed + 2, len).iter().map(|n| n.abs()).collect();
            let mut w = vec![0.0; len];
            rows::weights(ftrl, &z, &n, &mut w);
            rows::update(ftrl, 4.0, &g, &w, &mut z, &mut n);
            [w, z, n].map(|values| bits(&values))
        });
    }
}

/// Numbers of every size, subnormal ones among them, and those that are none.
fn any_number() -> impl Strategy<Value = f32> {
    prop_oneof![any::<u32>().prop_map(f32::from_bits), (0_u32..1 << 24).prop_map(f32::from_bits), -2.0_f32..2.0]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(20_000))]
    #[test]
    fn a_multiply_add_without_an_instruction_for_it_is_rounded_once(x in any_number(), y in any_number(), z in any_number(), near in -3_i32..4) {
        // Sums that cancel, and sums near a halfway case, are among them.
        let cancels = f32::from_bits((-(x * y)).to_bits().wrapping_add_signed(near));
        for z in [z, cancels, x * y * 2.0_f32.powi(-24 * near.signum())] {
            let (found, expected) = (rounded_once(x, y, z), x.mul_add(y, z));
            prop_assert!(found.to_bits() == expected.to_bits() || found.is_nan() && expected.is_nan(), "{x:e} {y:e} {z:e}: {found:e} {expected:e}");
        }
    }
}

#[test]
fn a_subnormal_sum_is_not_rounded_twice() {
    let (x, y) = (2.0_f32.powi(-75) * (1.0 + 2.0_f32.powi(-16)), 2.0_f32.powi(-75) * (1.0 - 2.0_f32.powi(-16)));
    let z = f32::from_bits((1 << 22) + 1);
    assert_eq!(rounded_once(x, y, z).to_bits(), (1 << 22) + 1);
}

#[test]
fn an_instruction_set_that_is_not_there_is_refused_by_name() {
    let error = InstructionSet::choose("mmx").expect_err("there is none").to_string();
    assert!(error.contains("\"mmx\" is no instruction set of this processor: it has baseline"), "{error}");
}

//! Encoded examples of one-hot fields that no file has: values drawn by a hash of the example's number and the field.

use deepfm_core::feature::{Entry, Features, hash};
use deepfm_core::model::{Example, Importance};

/// One number of `[0, 1)` for each example and field.
pub(crate) fn unit(number: u64, field: u64) -> f64 {
    (hash::hash(7, number, field) >> 11) as f64 / (1_u64 << 53) as f64
}

/// So many examples of so many fields, from a number on. `draw` gives a value for the example's number, a number of `[0, 1)` and the
/// field.
pub(crate) fn events(
    numbers: std::ops::Range<u64>,
    fields: usize,
    draw: impl Fn(u64, f64, u64) -> u64,
) -> Vec<Features> {
    let entry = |n: u64, f: u64| vec![Entry { id: hash::mix64(f << 40 | draw(n, unit(n, f), f)), x: 1.0 }];
    numbers.map(|n| Features::new(&(0..fields as u64).map(|f| entry(n, f)).collect::<Vec<_>>())).collect()
}

/// Zipf-like values out of vocabularies that grow from the first field's to the last one's: the inverse of a density that falls with
/// the rank.
pub(crate) fn zipf(first: f64, last: f64, fields: usize) -> impl Fn(u64, f64, u64) -> u64 {
    move |_, unit, field| {
        let vocabulary = first * (last / first).powf(field as f64 / (fields - 1) as f64);
        vocabulary.powf(unit) as u64 - 1
    }
}

/// Each as an example, a tenth of them clicked.
pub(crate) fn examples(events: &[Features]) -> Vec<Example<'_>> {
    let label = |n: usize| if hash::unit(3, n as u64) < 0.1 { 1.0 } else { 0.0 };
    let example = |(n, features)| Example {
        features,
        label: label(n),
        weight: 1.0,
        importance: Importance::None,
        number: n as u64,
    };
    events.iter().enumerate().map(example).collect()
}

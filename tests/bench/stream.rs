//! The stream that learners are compared on: what `tests/study/gen_ctr.py --arrays` writes, as encoded examples, and how well it can
//! be predicted at all.

use std::fs;
use std::ops::Range;
use std::path::Path;

use deepfm_core::feature::id::feature_id;
use deepfm_core::feature::{Entry, Features};
use deepfm_core::metric::log_loss;
use deepfm_core::model::{Example, Importance};

/// Fields of an example, each with one value.
pub(crate) const FIELDS: usize = 20;

/// A stream whose probabilities are known.
pub(crate) struct Stream {
    features: Vec<Features>,
    labels: Vec<bool>,
    probabilities: Vec<f64>,
}

/// The name of a field.
pub(crate) fn name(field: usize) -> String {
    format!("f{field:02}")
}

fn array<const BYTES: usize, T>(file: &Path, read: impl Fn([u8; BYTES]) -> T) -> Vec<T> {
    let bytes = fs::read(file).unwrap_or_else(|error| panic!("{}: {error}", file.display()));
    let (values, rest) = bytes.as_chunks::<BYTES>();
    assert!(rest.is_empty(), "{} is whole", file.display());
    values.iter().map(|value| read(*value)).collect()
}

impl Stream {
    /// Reads the arrays of a directory.
    ///
    /// # Panics
    /// When they are not there, or not of one length.
    pub(crate) fn read(directory: &Path) -> Self {
        let values = array(&directory.join("ids.i32"), i32::from_le_bytes);
        let labels = array(&directory.join("labels.u8"), |[label]| label == 1);
        let probabilities = array(&directory.join("probabilities.f64"), f64::from_le_bytes);
        assert!(values.len() == FIELDS * labels.len() && labels.len() == probabilities.len(), "one length");
        let names: Vec<String> = (0..FIELDS).map(name).collect();
        let entry =
            |(name, value): (&String, &i32)| vec![Entry { id: feature_id(name, value.to_string().as_bytes()), x: 1.0 }];
        let encoded = |values: &[i32]| Features::new(&names.iter().zip(values).map(entry).collect::<Vec<_>>());
        Self { features: values.chunks_exact(FIELDS).map(encoded).collect(), labels, probabilities }
    }

    /// Number of examples.
    pub(crate) fn len(&self) -> usize {
        self.labels.len()
    }

    /// The features of an example.
    pub(crate) fn features(&self, number: usize) -> &Features {
        &self.features[number]
    }

    /// These examples, to be learned.
    pub(crate) fn examples(&self, span: Range<usize>) -> Vec<Example<'_>> {
        let example = |number: usize| Example {
            features: &self.features[number],
            label: if self.labels[number] { 1.0 } else { 0.0 },
            weight: 1.0,
            importance: Importance::None,
            number: number as u64,
        };
        span.map(example).collect()
    }

    /// Where log loss counts.
    pub(crate) fn last_fifth(&self) -> Range<usize> {
        self.len() / 5 * 4..self.len()
    }

    /// Log loss of the true probabilities over the last fifth: what nothing is better than.
    pub(crate) fn best_possible(&self) -> f64 {
        let loss = |n: usize| log_loss((self.probabilities[n] / (1.0 - self.probabilities[n])).ln(), self.labels[n]);
        let span = self.last_fifth();
        span.clone().map(loss).sum::<f64>() / span.len() as f64
    }

    /// Log loss over the last fifth of the click rate before it, whatever is shown.
    pub(crate) fn constant(&self) -> f64 {
        let span = self.last_fifth();
        let clicks = |span: Range<usize>| self.labels[span].iter().filter(|label| **label).count() as f64;
        let rate = clicks(0..span.start) / span.start as f64;
        let share = clicks(span.clone()) / span.len() as f64;
        -(share * rate.ln() + (1.0 - share) * (1.0 - rate).ln())
    }
}

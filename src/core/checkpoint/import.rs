//! A starting state out of a model that was trained elsewhere: weights and vocabularies in, a trainer that has learned nothing
//! yet out, whose logits are the model's. z is solved for each weight, so that none jumps when it is first learned.
//!
//! The weights are a safetensors file of 32-bit reals with the names that a `DeepFM` usually has in `state_dict` of `PyTorch`:
//!
//! | tensor | shape | |
//! |---|---|---|
//! | `embedding.<field>.weight` | `[values, dim]` | row i belongs to value i of the field's vocabulary |
//! | `linear.<field>.weight` | `[values, 1]` or `[values]` | |
//! | `bias` | `[1]` | may be missing: 0 |
//! | `mlp.<n>.weight`, `mlp.<n>.bias` | `[outputs, inputs]`, `[outputs]` | by rising n: the hidden layers, then one of one output |
//!
//! Beside each of the first three there may be one of the same shape with `.sum` at its end instead of `.weight` (`bias.sum`):
//! the sum of squared gradients that Adagrad keeps, which becomes n. Without it n is 0, as in a new row.

use std::collections::{BTreeMap, BTreeSet};

use safetensors::{Dtype, SafeTensors};
use serde_json::Value;

use crate::feature::FeatureId;
use crate::feature::encoder::{Encoder, EntryBounds, Misfit};
use crate::feature::field::{Field, FieldKind, FieldSet};
use crate::feature::id::feature_id;
use crate::model::batch::Architecture;
use crate::model::{DenseState, RowError};
use crate::optim::ftrl;
use crate::optim::params::FtrlParams;
use crate::stream::Control;
use crate::train::{Ledger, Restore, RestoreError, TrainParams, Trainer};

/// What a value of a vocabulary may be.
const VALUE_BOUNDS: EntryBounds = EntryBounds { features_max: 16, weight_max: 1.0 };

/// A model that cannot be taken in.
#[derive(Debug, thiserror::Error)]
#[expect(missing_docs, reason = "fields of errors say it by name and type")]
pub enum ImportError {
    /// The bytes are not safetensors.
    #[error("not a safetensors file: {0}")]
    Format(String),
    /// A tensor is missing.
    #[error("tensor {0} is missing")]
    Missing(String),
    /// A tensor has another type or shape.
    #[error("tensor {name} is {found}, expected {expected}")]
    Shape { name: String, found: String, expected: String },
    /// A value is not finite, or a sum of squares negative.
    #[error("tensor {0} has a value that is not finite, or a sum of squares below 0")]
    Value(String),
    /// A tensor is of no field of the configuration.
    #[error("tensor {0} belongs to no field of the configuration, nor to the model")]
    Unknown(String),
    /// A field has no vocabulary.
    #[error("field {0} has weights and no vocabulary")]
    NoVocabulary(String),
    /// A vocabulary has another length than its weights.
    #[error("the vocabulary of {field} has {values} values, its weights have {rows} rows")]
    Vocabulary { field: String, values: usize, rows: usize },
    /// A value is none of its field.
    #[error("value {number} of the vocabulary of {field} is none of the field's")]
    NoValue { field: String, number: usize, source: Misfit },
    /// A value stands for no feature, or for several.
    #[error("value {number} of the vocabulary of {field} is no single value")]
    NotOne { field: String, number: usize },
    /// The MLP has not the layers of the configuration.
    #[error(
        "the weights have {found} layers of an MLP, the configuration has {expected} hidden ones, and one of one output on them"
    )]
    Layers { found: usize, expected: usize },
    /// There are more rows than the configuration allows.
    #[error("there are {rows} rows, more than model.rows_max, {max}")]
    Rows { rows: usize, max: usize },
    /// A weight does not fit in what the optimizer keeps.
    #[error("tensor {0} has a weight whose z is not finite")]
    NotSolvable(String),
    /// Two values have one id.
    #[error("a value stands twice in a vocabulary, or two values have one id")]
    Repeated(#[from] RowError),
    /// The parts contradict each other.
    #[error(transparent)]
    Restore(#[from] RestoreError),
}

/// A model that was taken in.
#[derive(Debug)]
pub struct Imported {
    /// It has learned nothing yet; no partition has begun.
    pub trainer: Trainer,
    /// The largest change of a weight: the rounding of z over the denominator of the weight.
    pub largest_change: f32,
}

/// A model that was trained elsewhere.
#[derive(Clone, Copy, Debug)]
pub struct Foreign<'f> {
    /// The safetensors file.
    pub weights: &'f [u8],
    /// The values of each field, in the order of its rows; null for a row that stands for no value. Values of numeric fields are
    /// the numbers of their buckets.
    pub vocabularies: &'f BTreeMap<String, Vec<Value>>,
    /// When its rows were last learned, in seconds since 1970: they expire as if then.
    pub seconds: u32,
}

/// Takes a model in, to be learned with these parameters and fields.
///
/// # Errors
/// When a tensor, a vocabulary or a value does not fit them.
pub fn import(params: &TrainParams, fields: &FieldSet, foreign: Foreign<'_>) -> Result<Imported, ImportError> {
    let file = SafeTensors::deserialize(foreign.weights).map_err(|error| ImportError::Format(error.to_string()))?;
    check_names(&file, fields)?;
    let mut importer = Importer { file: &file, params, largest_change: 0.0, rows: Vec::new(), ids: BTreeSet::new() };
    for field in fields.as_slice() {
        importer.take_field(field, foreign)?;
    }
    let dense = importer.dense()?;
    let rows_max = params.model.admission.rows_max;
    let row_bytes = params.model.row_bytes();
    let count = importer.rows.len() / row_bytes;
    if count > rows_max {
        return Err(ImportError::Rows { rows: count, max: rows_max });
    }
    let mut begun = Trainer::new(params.clone());
    let configured = Control::Configured { parameters: params.to_text(), fields: fields.as_slice().to_vec() };
    begun.control(&configured).expect("a new trainer can be told what it was made with");
    let Importer { largest_change, rows, .. } = importer;
    let saved = Restore {
        scalars: crate::train::Scalars { dense, ..begun.scalars() },
        journal: begun.sequencer().journal().to_vec(),
        ledger: Ledger::default(),
        rows: rows.chunks_exact(row_bytes),
        candidates: Vec::new(),
        shown_scores: std::iter::empty(),
        entries: Vec::new(),
    };
    Ok(Imported { trainer: Trainer::restore(params.clone(), saved)?, largest_change })
}

/// A tensor that nobody reads is a model that is not the one that was trained.
fn check_names(file: &SafeTensors<'_>, fields: &FieldSet) -> Result<(), ImportError> {
    let is_fields = |name: &str| {
        let rest = name.strip_prefix("embedding.").or_else(|| name.strip_prefix("linear."));
        let field = rest.and_then(|rest| rest.strip_suffix(".weight").or_else(|| rest.strip_suffix(".sum")));
        field.is_some_and(|field| fields.as_slice().iter().any(|known| known.name == field))
    };
    let is_known = |name: &str| matches!(name, "bias" | "bias.sum") || layer(name).is_some() || is_fields(name);
    match file.names().into_iter().find(|name| !is_known(name)) {
        Some(name) => Err(ImportError::Unknown(name.to_owned())),
        None => Ok(()),
    }
}

/// The number in the name of a layer's tensor.
fn layer(name: &str) -> Option<u32> {
    let rest = name.strip_prefix("mlp.")?;
    rest.strip_suffix(".weight").or_else(|| rest.strip_suffix(".bias"))?.parse().ok()
}

struct Importer<'f> {
    file: &'f SafeTensors<'f>,
    params: &'f TrainParams,
    largest_change: f32,
    /// Rows as their bytes.
    rows: Vec<u8>,
    ids: BTreeSet<FeatureId>,
}

impl Importer<'_> {
    fn take_field(&mut self, field: &Field, foreign: Foreign<'_>) -> Result<(), ImportError> {
        let (dim, name) = (self.params.model.embedding_dim, &field.name);
        let values = foreign.vocabularies.get(name).ok_or_else(|| ImportError::NoVocabulary(name.clone()))?;
        let embedding = self.reals(&format!("embedding.{name}.weight"), &[&[values.len(), dim]])?;
        let shapes: [&[usize]; 2] = [&[values.len(), 1], &[values.len()]];
        let linear = self.reals(&format!("linear.{name}.weight"), &shapes)?;
        let embedding_n = self.squares(&format!("embedding.{name}.sum"), &[&[values.len(), dim]], embedding.len())?;
        let linear_n = self.squares(&format!("linear.{name}.sum"), &shapes, linear.len())?;
        let encoder = single(field);
        let (linear_params, embedding_params) = (self.params.model.linear, self.params.model.embedding);
        for (number, value) in values.iter().enumerate().filter(|(_, value)| !value.is_null()) {
            let id = id_of(field, &encoder, number, value)?;
            if !self.ids.insert(id) {
                return Err(RowError::RepeatedId(id).into());
            }
            let lanes = number * dim..(number + 1) * dim;
            let (w, n) = (&embedding[lanes.clone()], &embedding_n[lanes]);
            let mut z = vec![0.0; 1 + dim];
            z[0] = self.solve(&linear_params, linear[number], linear_n[number]);
            self.solve_group(&embedding_params, w, n, &mut z[1..]);
            if z.iter().any(|z| !z.is_finite()) {
                return Err(ImportError::NotSolvable(format!("embedding.{name}.weight or linear.{name}.weight")));
            }
            self.rows.extend(id.to_le_bytes());
            self.rows.extend(foreign.seconds.to_le_bytes());
            self.rows.extend(self.params.model.admission.min_count.max(1).to_le_bytes());
            let state = z.iter().chain([&linear_n[number]]).chain(n);
            self.rows.extend(state.flat_map(|value| value.to_le_bytes()));
        }
        Ok(())
    }

    /// The z of a weight: of those next to the solution the one whose weight is nearest.
    fn solve(&mut self, params: &FtrlParams, w: f32, n: f32) -> f32 {
        let z = nearest(ftrl::solve(params, w, n), |z| (ftrl::weight(params, z, n) - w).abs());
        self.largest_change = self.largest_change.max((ftrl::weight(params, z, n) - w).abs());
        z
    }

    /// The z of an embedding. Under a group penalty of `b = l21 · √dim` its soft-thresholded z have the norm of those without the
    /// penalty, and b more.
    fn solve_group(&mut self, params: &FtrlParams, w: &[f32], n: &[f32], z: &mut [f32]) {
        if params.l21 <= 0.0 {
            z.iter_mut().zip(w.iter().zip(n)).for_each(|(z, (w, n))| *z = self.solve(params, *w, *n));
            return;
        }
        let rate = |n: f32| (params.beta + n.sqrt()) / params.alpha + params.l2;
        let norm = w.iter().zip(n).map(|(w, n)| f64::from(w * rate(*n)).powi(2)).sum::<f64>().sqrt();
        let bound = f64::from(params.l21) * (w.len() as f64).sqrt();
        let longer = if norm > 0.0 { ((norm + bound) / norm) as f32 } else { 1.0 };
        for (z, (w, n)) in z.iter_mut().zip(w.iter().zip(n)) {
            *z = if *w == 0.0 { 0.0 } else { -(w * rate(*n) * longer + params.l1.copysign(*w)) };
        }
        let mut found = vec![0.0; w.len()];
        ftrl::weights(params, z, n, &mut found);
        ftrl::shrink_group(params, z, &mut found);
        for (found, w) in found.iter().zip(w) {
            self.largest_change = self.largest_change.max((found - w).abs());
        }
    }

    /// Bias and MLP. The output layer's own bias is the model's.
    fn dense(&mut self) -> Result<DenseState, ImportError> {
        let architecture = Architecture::new(&self.params.model);
        let shape = &architecture.mlp;
        let numbers: BTreeSet<u32> = self.file.names().into_iter().filter_map(layer).collect();
        // Hidden layers and one of one output; nothing at all without hidden layers.
        let expected = shape.layers.len();
        if numbers.len() != expected + usize::from(expected > 0) {
            return Err(ImportError::Layers { found: numbers.len(), expected });
        }
        let mut mlp = vec![0.0; shape.len];
        for (layer, number) in shape.layers.iter().zip(&numbers) {
            let weight = self.reals(&format!("mlp.{number}.weight"), &[&[layer.outputs, layer.inputs]])?;
            mlp[layer.weight..layer.bias].copy_from_slice(&weight);
            let bias = self.reals(&format!("mlp.{number}.bias"), &[&[layer.outputs]])?;
            mlp[layer.bias..layer.bias + layer.outputs].copy_from_slice(&bias);
        }
        let mut bias = 0.0;
        if let (Some(last), Some(number)) = (shape.layers.last(), numbers.last()) {
            let output = self.reals(&format!("mlp.{number}.weight"), &[&[1, last.outputs]])?;
            mlp[shape.output..].copy_from_slice(&output);
            bias += self.reals(&format!("mlp.{number}.bias"), &[&[1]])?[0];
        }
        if self.file.tensor("bias").is_ok() {
            bias += self.reals("bias", &[&[1]])?[0];
        }
        let bias_n = self.squares("bias.sum", &[&[1]], 1)?[0];
        let params = self.params.model.bias;
        let bias_z = self.solve(&params, bias, bias_n);
        if !bias_z.is_finite() {
            return Err(ImportError::NotSolvable("bias".to_owned()));
        }
        Ok(DenseState { bias_z, bias_n, momentum: vec![0.0; mlp.len()], mlp })
    }

    /// Sums of squares, or zeros where there are none.
    fn squares(&self, name: &str, shapes: &[&[usize]], length: usize) -> Result<Vec<f32>, ImportError> {
        if self.file.tensor(name).is_err() {
            return Ok(vec![0.0; length]);
        }
        let sums = self.reals(name, shapes)?;
        if sums.iter().any(|sum| *sum < 0.0) { Err(ImportError::Value(name.to_owned())) } else { Ok(sums) }
    }

    fn reals(&self, name: &str, shapes: &[&[usize]]) -> Result<Vec<f32>, ImportError> {
        let view = self.file.tensor(name).map_err(|_| ImportError::Missing(name.to_owned()))?;
        if view.dtype() != Dtype::F32 || !shapes.contains(&view.shape()) {
            let found = format!("{:?} {:?}", view.dtype(), view.shape());
            let expected = shapes.iter().map(|shape| format!("F32 {shape:?}")).collect::<Vec<_>>().join(" or ");
            return Err(ImportError::Shape { name: name.to_owned(), found, expected });
        }
        let (words, _) = view.data().as_chunks::<4>();
        let values: Vec<f32> = words.iter().map(|word| f32::from_le_bytes(*word)).collect();
        if values.iter().any(|value| !value.is_finite()) {
            return Err(ImportError::Value(name.to_owned()));
        }
        Ok(values)
    }
}

/// Of a number and the two next to it the one with the least error. One that is not finite stays so.
fn nearest(z: f32, error: impl Fn(f32) -> f32) -> f32 {
    if !z.is_finite() {
        return z;
    }
    let others = [z.next_down(), z.next_up()];
    others.into_iter().fold(z, |best, z| if error(z) < error(best) { z } else { best })
}

/// An encoder of one field.
fn single(field: &Field) -> Encoder {
    let fields = FieldSet::new(vec![field.clone()]).expect("a field of a set is a set");
    Encoder::new(fields, VALUE_BOUNDS)
}

/// The id of a value of a vocabulary: as it would have in an impression, or of a numeric field's bucket.
fn id_of(field: &Field, encoder: &Encoder, number: usize, value: &Value) -> Result<FeatureId, ImportError> {
    let name = || field.name.clone();
    if matches!(field.kind, FieldKind::Numeric { .. }) {
        let bucket = value.as_i64().ok_or_else(|| ImportError::NotOne { field: name(), number })?;
        return Ok(feature_id(&field.name, bucket.to_string().as_bytes()));
    }
    let features = serde_json::json!({ &field.name: value }).to_string();
    let features =
        encoder.encode_json(&features).map_err(|source| ImportError::NoValue { field: name(), number, source })?;
    match features.ids() {
        [id] => Ok(*id),
        _ => Err(ImportError::NotOne { field: name(), number }),
    }
}

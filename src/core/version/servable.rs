//! Weights only: what a server scores with. Reads an artefact's tensors as hostile bytes: shapes, order and finiteness are
//! checked before anything is used. Scoring shares the forward code of training. The rows lie in the bytes that they were read
//! from, which the shell may have mapped: they cost no memory of their own then.

use std::ops::Range;
use std::slice;

use half::f16;
use safetensors::{Dtype, SafeTensors};

use super::manifest::Shape;
use crate::feature::{FeatureId, Features};
use crate::model::batch::{Architecture, Dense};
use crate::model::table::Changes;
use crate::model::weights::{Precision, RowHasher, WeightsDigest, dense_hash};
use crate::model::{DeepFm, Inline, Scratch};

use super::bytes::{Bytes, Column};
use super::row_index::row_of;
use super::safetensors::Tensor;

/// Weights that cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[expect(missing_docs, reason = "fields of errors say it by name and type")]
pub enum ServableError {
    /// The shape is not a model's.
    #[error("{0}")]
    Params(String),
    /// The bytes are not safetensors.
    #[error("not a safetensors file: {0}")]
    Format(String),
    /// A tensor is missing.
    #[error("tensor {0} is missing")]
    Missing(String),
    /// A tensor has another type or shape than the manifest asks for.
    #[error("tensor {name} is {found}, expected {expected}")]
    Shape { name: String, found: String, expected: String },
    /// A value is NaN or infinite.
    #[error("tensor {0} has a value that is not finite")]
    NotFinite(String),
    /// The feature ids do not ascend.
    #[error("the feature ids do not ascend strictly")]
    Order,
    /// There are more rows than a server can find.
    #[error("{0} rows are more than 32 bits can number")]
    TooManyRows(usize),
}

/// The weights of one version.
#[derive(Debug)]
pub struct Servable {
    pub(super) architecture: Architecture,
    pub(super) bias: f32,
    pub(super) logit_offset: f64,
    /// In how many bits the rows are written. Here they have 32, whatever that is.
    pub(super) precision: Precision,
    pub(super) ids: Column<FeatureId>,
    pub(super) linear: Column<f32>,
    pub(super) embeddings: Column<f32>,
    pub(super) mlp: Vec<f32>,
}

impl Servable {
    /// The weights of a model as it stands. Its rows must be [sorted](Self::sorted) before anything is looked up.
    pub(super) fn unsorted(model: &DeepFm, logit_offset: f64) -> Self {
        let (dim, table) = (model.params().embedding_dim, model.table());
        let rows = table.len();
        let (mut ids, mut linear) = (Vec::with_capacity(rows), Vec::with_capacity(rows));
        let mut embeddings = vec![0.0; rows * dim];
        for (row, v) in table.numbers().zip(embeddings.chunks_exact_mut(dim)) {
            ids.push(table.head(row).id);
            linear.push(model.row_weights(row, v));
        }
        Self::of(model, logit_offset, (ids, linear, embeddings))
    }

    /// Bias and MLP of a model, with the rows that changed. They must be [sorted](Self::sorted) too.
    pub(super) fn changed(model: &DeepFm, logit_offset: f64, changes: Changes) -> Self {
        Self::of(model, logit_offset, (changes.ids, changes.linear, changes.embeddings))
    }

    /// As much of a model as scores these features as the whole model does.
    pub(super) fn sample(model: &DeepFm, logit_offset: f64, features: &[Features]) -> Self {
        let dim = model.params().embedding_dim;
        let mut ids: Vec<FeatureId> = features.iter().flat_map(Features::ids).copied().collect();
        ids.sort_unstable();
        ids.dedup();
        ids.retain(|id| model.table().find(*id).is_some());
        let mut embeddings = vec![0.0; ids.len() * dim];
        let rows = ids.iter().zip(embeddings.chunks_exact_mut(dim));
        let linear = rows.map(|(id, v)| model.weights(*id, v)).collect();
        Self::of(model, logit_offset, (ids, linear, embeddings))
    }

    fn of(model: &DeepFm, logit_offset: f64, (ids, linear, embeddings): (Vec<FeatureId>, Vec<f32>, Vec<f32>)) -> Self {
        Self {
            architecture: model.architecture().clone(),
            bias: model.bias(),
            logit_offset,
            precision: Precision::F32,
            ids: ids.into(),
            linear: linear.into(),
            embeddings: embeddings.into(),
            mlp: model.dense().mlp,
        }
    }

    /// The same with its rows by rising id.
    pub(super) fn sorted(self) -> Self {
        let dim = self.architecture.dim;
        let mut order: Vec<(FeatureId, u32)> = self.ids.iter().copied().zip(0..).collect();
        order.sort_unstable();
        let mut embeddings = Vec::with_capacity(self.embeddings.len());
        for (_, row) in &order {
            embeddings.extend_from_slice(&self.embeddings[*row as usize * dim..][..dim]);
        }
        let linear: Vec<f32> = order.iter().map(|(_, row)| self.linear[*row as usize]).collect();
        let ids: Vec<FeatureId> = order.into_iter().map(|(id, _)| id).collect();
        Self { ids: ids.into(), linear: linear.into(), embeddings: embeddings.into(), ..self }
    }

    /// Reads the weights of a version with this many fields and this shape. The rows stay where they are.
    ///
    /// # Errors
    /// When a tensor is missing, misshapen or not finite, or ids do not ascend.
    pub fn from_bytes(bytes: &Bytes, fields: usize, shape: &Shape) -> Result<Self, ServableError> {
        let file = SafeTensors::deserialize(bytes).map_err(|error| ServableError::Format(error.to_string()))?;
        let params = shape.params(fields);
        params.check().map_err(|error| ServableError::Params(error.to_string()))?;
        let architecture = Architecture::new(&params);
        // Nothing is made room for that is not in the file.
        if architecture.mlp.len > bytes.len() / 4 {
            return Err(ServableError::Missing("mlp".to_owned()));
        }
        let ids: Column<FeatureId> = Column::shared(bytes, place(bytes, u64s(&file, "feature_ids")?));
        if ids.windows(2).any(|pair| pair[0] >= pair[1]) {
            return Err(ServableError::Order);
        }
        let mut mlp = vec![0.0; architecture.mlp.len];
        for (number, layer) in architecture.mlp.layers.iter().enumerate() {
            let values = |name: &str, shape: &[usize]| f32s(bytes, &file, &format!("mlp.{number}.{name}"), shape);
            mlp[layer.weight..layer.bias].copy_from_slice(&values("weight", &[layer.outputs, layer.inputs])?);
            mlp[layer.bias..layer.bias + layer.outputs].copy_from_slice(&values("bias", &[layer.outputs])?);
        }
        if let Some(last) = architecture.mlp.layers.last() {
            mlp[architecture.mlp.output..].copy_from_slice(&f32s(bytes, &file, "mlp.output", &[last.outputs])?);
        }
        let precision = precision(&file, "linear")?;
        Ok(Self {
            bias: f32s(bytes, &file, "bias", &[1])?[0],
            logit_offset: shape.logit_offset,
            precision,
            linear: reals(bytes, &file, "linear", (&[ids.len()], precision))?,
            embeddings: reals(bytes, &file, "embeddings", (&[ids.len(), shape.embedding_dim], precision))?,
            ids,
            mlp,
            architecture,
        })
    }

    /// The tensors, as they are written.
    pub fn tensors(&self) -> Vec<(String, Vec<usize>, Tensor<'_>)> {
        let (rows, dim) = (self.ids.len(), self.architecture.dim);
        let reals = |values| match self.precision {
            Precision::F32 => Tensor::F32(values),
            Precision::F16 => Tensor::F16(values),
        };
        let mut tensors = vec![
            ("feature_ids".to_owned(), vec![rows], Tensor::U64(&self.ids)),
            ("linear".to_owned(), vec![rows], reals(&self.linear)),
            ("embeddings".to_owned(), vec![rows, dim], reals(&self.embeddings)),
            ("bias".to_owned(), vec![1], Tensor::F32(slice::from_ref(&self.bias))),
        ];
        let shape = &self.architecture.mlp;
        for (number, layer) in shape.layers.iter().enumerate() {
            let weight = &self.mlp[layer.weight..layer.bias];
            let shape = vec![layer.outputs, layer.inputs];
            tensors.push((format!("mlp.{number}.weight"), shape, Tensor::F32(weight)));
            let bias = &self.mlp[layer.bias..layer.bias + layer.outputs];
            tensors.push((format!("mlp.{number}.bias"), vec![layer.outputs], Tensor::F32(bias)));
        }
        if let Some(last) = shape.layers.last() {
            tensors.push(("mlp.output".to_owned(), vec![last.outputs], Tensor::F32(&self.mlp[shape.output..])));
        }
        tensors
    }

    /// The logits of encoded features, corrected for down-sampling: what a server answers with.
    pub fn logits(&self, batch: &[Features]) -> Vec<f64> {
        self.score(batch.iter(), &mut Scratch::default()).collect()
    }

    /// The same in memory that is used again.
    pub fn score<'a>(
        &'a self,
        batch: impl Iterator<Item = &'a Features> + Clone,
        scratch: &'a mut Scratch,
    ) -> impl Iterator<Item = f64> + 'a {
        let dim = self.architecture.dim;
        let (ids, linear, embeddings) = (&*self.ids, &*self.linear, &*self.embeddings);
        scratch.gather(&self.architecture, batch, |id, v| match row_of(ids, id) {
            Some(row) => {
                v.copy_from_slice(&embeddings[row * dim..][..dim]);
                linear[row]
            }
            None => 0.0,
        });
        scratch.forward(&self.architecture, Dense { bias: self.bias, mlp: &self.mlp }, &Inline);
        scratch.logits().iter().map(|logit| f64::from(*logit) + self.logit_offset)
    }

    /// What all rows share.
    pub fn architecture(&self) -> &Architecture {
        &self.architecture
    }

    /// The feature ids, ascending, `[rows]`.
    pub fn ids(&self) -> &[FeatureId] {
        &self.ids
    }

    /// The linear weights, `[rows]`.
    pub fn linear(&self) -> &[f32] {
        &self.linear
    }

    /// The embeddings, `[rows, dim]`.
    pub fn embeddings(&self) -> &[f32] {
        &self.embeddings
    }

    /// The MLP's parameters, as its shape places them.
    pub fn mlp(&self) -> &[f32] {
        &self.mlp
    }

    /// The bias.
    pub fn bias(&self) -> f32 {
        self.bias
    }

    /// What is added to every logit: the correction of down-sampled negatives.
    pub fn logit_offset(&self) -> f64 {
        self.logit_offset
    }

    /// Number of rows.
    pub fn rows(&self) -> usize {
        self.ids.len()
    }

    /// A copy with its rows rounded to a precision.
    pub(super) fn rounded(&self, precision: Precision) -> Self {
        let rounded = |column: &[f32]| column.iter().map(|weight| precision.round(*weight)).collect::<Vec<_>>().into();
        Self {
            architecture: self.architecture.clone(),
            bias: self.bias,
            logit_offset: self.logit_offset,
            precision,
            ids: self.ids.to_vec().into(),
            linear: rounded(&self.linear),
            embeddings: rounded(&self.embeddings),
            mlp: self.mlp.clone(),
        }
    }

    /// In how many bits its rows are written.
    pub fn precision(&self) -> Precision {
        self.precision
    }

    /// What the rows add to the digest of the weights: see [`WeightsDigest`].
    pub(super) fn rows_hash(&self) -> u128 {
        let mut hasher = RowHasher::default();
        let rows = self.ids.iter().zip(&*self.linear).zip(self.embeddings.chunks_exact(self.architecture.dim));
        rows.fold(0, |sum: u128, ((id, linear), v)| sum.wrapping_add(hasher.hash(*id, *linear, v)))
    }

    /// What bias and MLP add to it.
    pub(super) fn dense_hash(&self) -> u128 {
        dense_hash(self.bias, &self.mlp)
    }

    /// The digest of all weights. It reads them all.
    pub fn digest(&self) -> WeightsDigest {
        WeightsDigest(self.rows_hash().wrapping_add(self.dense_hash()))
    }

    /// Whether every weight is finite.
    pub fn is_finite(&self) -> bool {
        let parts = [&*self.linear, &*self.embeddings, &self.mlp];
        self.bias.is_finite() && parts.iter().all(|part| part.iter().all(|weight| weight.is_finite()))
    }
}

/// Where a part of the bytes lies in them.
pub(super) fn place(bytes: &Bytes, part: &[u8]) -> Range<usize> {
    let start = part.as_ptr().addr() - bytes.as_ptr().addr();
    start..start + part.len()
}

pub(super) fn u64s<'f>(file: &SafeTensors<'f>, name: &str) -> Result<&'f [u8], ServableError> {
    let view = file.tensor(name).map_err(|_| ServableError::Missing(name.to_owned()))?;
    if view.dtype() != Dtype::U64 || view.shape().len() != 1 {
        let found = format!("{:?} {:?}", view.dtype(), view.shape());
        return Err(ServableError::Shape { name: name.to_owned(), found, expected: "U64 [rows]".to_owned() });
    }
    Ok(view.data())
}

/// The precision of the rows, by the type of a tensor.
fn precision(file: &SafeTensors<'_>, name: &str) -> Result<Precision, ServableError> {
    let view = file.tensor(name).map_err(|_| ServableError::Missing(name.to_owned()))?;
    Ok(if view.dtype() == Dtype::F16 { Precision::F16 } else { Precision::F32 })
}

/// Reals of the rows. Those of 16 bits are copied into 32.
fn reals(
    bytes: &Bytes,
    file: &SafeTensors<'_>,
    name: &str,
    (shape, precision): (&[usize], Precision),
) -> Result<Column<f32>, ServableError> {
    if precision == Precision::F32 {
        return f32s(bytes, file, name, shape);
    }
    let view = file.tensor(name).map_err(|_| ServableError::Missing(name.to_owned()))?;
    if view.dtype() != Dtype::F16 || view.shape() != shape {
        let found = format!("{:?} {:?}", view.dtype(), view.shape());
        return Err(ServableError::Shape { name: name.to_owned(), found, expected: format!("F16 {shape:?}") });
    }
    let (halves, _) = view.data().as_chunks::<2>();
    let values: Vec<f32> = halves.iter().map(|half| f16::from_le_bytes(*half).to_f32()).collect();
    if values.iter().any(|value| !value.is_finite()) {
        return Err(ServableError::NotFinite(name.to_owned()));
    }
    Ok(values.into())
}

fn f32s(bytes: &Bytes, file: &SafeTensors<'_>, name: &str, shape: &[usize]) -> Result<Column<f32>, ServableError> {
    let view = file.tensor(name).map_err(|_| ServableError::Missing(name.to_owned()))?;
    if view.dtype() != Dtype::F32 || view.shape() != shape {
        let found = format!("{:?} {:?}", view.dtype(), view.shape());
        return Err(ServableError::Shape { name: name.to_owned(), found, expected: format!("F32 {shape:?}") });
    }
    let values: Column<f32> = Column::shared(bytes, place(bytes, view.data()));
    if values.iter().any(|value| !value.is_finite()) {
        return Err(ServableError::NotFinite(name.to_owned()));
    }
    Ok(values)
}

//! A delta: what a version's weights have changed since its parent's, and the parent's weights made into the version's by a
//! merge of sorted rows. Values are absolute, so applying one leaves exactly what the full version of the same number has;
//! the digest of the weights, which every manifest states, shows it.
//!
//! `delta.safetensors` has the tensors of a full version for the rows that changed or came, the whole MLP and bias, and
//! `removed_ids`, ascending: ids that have no row any more. Some of them may never have been in the parent.

use safetensors::SafeTensors;

use super::bytes::{Bytes, Column};
use super::manifest::{Manifest, ParentVersion, Shape};
use super::safetensors::Tensor;
use super::servable::{Servable, ServableError, place, u64s};
use crate::feature::FeatureId;
use crate::model::DeepFm;
use crate::model::table::Changes;
use crate::model::weights::{Precision, RowHasher, WeightsDigest, dense_hash};

/// The weights of a delta.
pub const DELTA: &str = "delta.safetensors";

/// The tensor of the ids that are removed.
const REMOVED: &str = "removed_ids";

/// A delta that cannot be read, or not applied here.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[expect(missing_docs, reason = "fields of errors say it by name and type")]
pub enum DeltaError {
    /// Its rows cannot be used.
    #[error(transparent)]
    Servable(#[from] ServableError),
    /// The removed ids do not ascend.
    #[error("the removed ids do not ascend strictly")]
    Order,
    /// An id is changed and removed.
    #[error("the row of feature id {0} is changed and removed")]
    Both(FeatureId),
    /// Links before it have not been applied.
    #[error("version {version} is a delta on version {parent}, version {at} is at hand: links between are missing")]
    Gap { version: u64, parent: u64, at: u64 },
    /// It was applied before, or is older.
    #[error("version {version} is a delta on version {parent}, version {at} is at hand: it is not older")]
    Passed { version: u64, parent: u64, at: u64 },
    /// What is at hand has the parent's number and is not the parent.
    #[error("version {version} is a delta on version {parent} with manifest {expected}, at hand is one with {found}")]
    OtherParent { version: u64, parent: u64, expected: String, found: String },
    /// The parent has another shape or precision.
    #[error("its shape or precision is not its parent's")]
    Shape,
    /// The result is not the version.
    #[error("applied, its weights have digest {found}, its manifest says {expected}")]
    Digest { found: String, expected: String },
}

/// What has changed of the weights since the parent.
#[derive(Debug)]
pub struct Delta {
    /// The rows that changed or came, with the whole of the rest.
    changed: Servable,
    removed: Column<FeatureId>,
}

/// Weights with their digest.
#[derive(Clone, Copy, Debug)]
pub struct Digested<'w> {
    /// The weights.
    pub weights: &'w Servable,
    /// Their digest.
    pub digest: WeightsDigest,
}

impl Delta {
    /// What a model has changed, as it was noted, in that precision.
    pub(super) fn of(model: &DeepFm, logit_offset: f64, precision: Precision, mut changes: Changes) -> Self {
        let removed = std::mem::take(&mut changes.gone).into();
        Self { changed: Servable { precision, ..Servable::changed(model, logit_offset, changes) }, removed }
    }

    /// The same with its rows by rising id.
    pub(super) fn sorted(self) -> Self {
        Self { changed: self.changed.sorted(), ..self }
    }

    /// Reads a delta of a version with this many fields and this shape.
    ///
    /// # Errors
    /// When a tensor is missing, misshapen or not finite, ids do not ascend, or one is changed and removed.
    pub fn from_bytes(bytes: &Bytes, fields: usize, shape: &Shape) -> Result<Self, DeltaError> {
        let changed = Servable::from_bytes(bytes, fields, shape)?;
        let file = SafeTensors::deserialize(bytes).map_err(|error| ServableError::Format(error.to_string()))?;
        let removed: Column<FeatureId> = Column::shared(bytes, place(bytes, u64s(&file, REMOVED)?));
        if removed.windows(2).any(|pair| pair[0] >= pair[1]) {
            return Err(DeltaError::Order);
        }
        match removed.iter().find(|id| changed.ids.binary_search(id).is_ok()) {
            Some(id) => Err(DeltaError::Both(*id)),
            None => Ok(Self { changed, removed }),
        }
    }

    /// The tensors, as they are written.
    pub fn tensors(&self) -> Vec<(String, Vec<usize>, Tensor<'_>)> {
        let mut tensors = self.changed.tensors();
        // Beside the other ids, where 64-bit values are aligned.
        tensors.insert(1, (REMOVED.to_owned(), vec![self.removed.len()], Tensor::U64(&self.removed)));
        tensors
    }

    /// Whether every weight in it is finite.
    pub(super) fn is_finite(&self) -> bool {
        self.changed.is_finite()
    }

    /// In how many bits its rows are written.
    pub fn precision(&self) -> Precision {
        self.changed.precision()
    }

    /// Number of rows that changed or came.
    pub fn changed(&self) -> usize {
        self.changed.rows()
    }

    /// Number of ids that have no row any more.
    pub fn removed(&self) -> usize {
        self.removed.len()
    }

    /// The weights of the version from those of its parent. Which is the parent's is [`check_parent`]'s to see to.
    ///
    /// # Errors
    /// When the parent has another shape, or the result is not what the version's manifest says.
    pub fn apply(&self, parent: Digested<'_>, expected: WeightsDigest) -> Result<Servable, DeltaError> {
        let Self { changed, removed } = self;
        let Digested { weights: before, digest } = parent;
        let is_alike = before.architecture == changed.architecture
            && before.logit_offset == changed.logit_offset
            && before.precision == changed.precision;
        if !is_alike {
            return Err(DeltaError::Shape);
        }
        let (ids, linear, embeddings, moved) = merge(before, changed, removed);
        let applied = Servable {
            architecture: changed.architecture.clone(),
            bias: changed.bias,
            logit_offset: changed.logit_offset,
            precision: changed.precision,
            ids: ids.into(),
            linear: linear.into(),
            embeddings: embeddings.into(),
            mlp: changed.mlp.clone(),
        };
        let dense = dense_hash(applied.bias, &applied.mlp).wrapping_sub(before.dense_hash());
        let found = WeightsDigest(digest.0.wrapping_add(moved).wrapping_add(dense));
        if found == expected {
            return Ok(applied);
        }
        Err(DeltaError::Digest { found: found.to_string(), expected: expected.to_string() })
    }
}

/// Whether a delta's parent is the version at hand.
///
/// # Errors
/// When it is another: what is missing, or what this delta is.
pub fn check_parent(delta: &Manifest, at: &ParentVersion) -> Result<(), DeltaError> {
    let (version, at_number) = (delta.version, at.version);
    // A delta without a parent is refused when its manifest is read.
    let Some(parent) = &delta.parent else { return Err(DeltaError::Gap { version, parent: 0, at: at_number }) };
    if at_number >= version || parent.version < at_number {
        return Err(DeltaError::Passed { version, parent: parent.version, at: at_number });
    }
    if parent.version > at_number {
        return Err(DeltaError::Gap { version, parent: parent.version, at: at_number });
    }
    if parent.manifest_digest != at.manifest_digest {
        let (expected, found) = (parent.manifest_digest.clone(), at.manifest_digest.clone());
        return Err(DeltaError::OtherParent { version, parent: parent.version, expected, found });
    }
    Ok(())
}

/// How many of these ids, which ascend, are below one. It is looked for in steps that double, since it is near: changes lie all over the
/// rows.
fn below(ids: &[FeatureId], id: FeatureId) -> usize {
    let mut most = 1;
    while ids.get(most - 1).is_some_and(|other| *other < id) {
        most *= 2;
    }
    let least = most / 2;
    least + ids[least..ids.len().min(most)].partition_point(|other| *other < id)
}

/// Rows of weights on their way into a version.
struct Merged<'w> {
    before: &'w Servable,
    dim: usize,
    /// The first row of `before` that was not looked at.
    next: usize,
    ids: Vec<FeatureId>,
    linear: Vec<f32>,
    embeddings: Vec<f32>,
    hasher: RowHasher,
    /// By what the digest of the rows moves.
    moved: u128,
}

impl Merged<'_> {
    /// Copies the rows below an id, and passes over its own, if there is one.
    fn copy_below(&mut self, id: FeatureId) {
        let Servable { ids, linear, embeddings, .. } = self.before;
        let end = self.next + below(&ids[self.next..], id);
        self.copy_to(end);
        if ids.get(end) == Some(&id) {
            let row = &embeddings[end * self.dim..][..self.dim];
            self.moved = self.moved.wrapping_sub(self.hasher.hash(id, linear[end], row));
            self.next += 1;
        }
    }

    fn copy_to(&mut self, end: usize) {
        let rows = self.next..end;
        self.ids.extend_from_slice(&self.before.ids[rows.clone()]);
        self.linear.extend_from_slice(&self.before.linear[rows.clone()]);
        self.embeddings.extend_from_slice(&self.before.embeddings[rows.start * self.dim..rows.end * self.dim]);
        self.next = end;
    }

    fn push(&mut self, id: FeatureId, linear: f32, row: &[f32]) {
        self.moved = self.moved.wrapping_add(self.hasher.hash(id, linear, row));
        self.ids.push(id);
        self.linear.push(linear);
        self.embeddings.extend_from_slice(row);
    }
}

/// The rows of `before` with those of `changed` and without `removed`, by rising id, and by what their digest moves.
fn merge(before: &Servable, changed: &Servable, removed: &[FeatureId]) -> (Vec<FeatureId>, Vec<f32>, Vec<f32>, u128) {
    let dim = before.architecture.dim;
    let room = before.rows() + changed.rows();
    let mut merged = Merged {
        before,
        dim,
        next: 0,
        ids: Vec::with_capacity(room),
        linear: Vec::with_capacity(room),
        embeddings: Vec::with_capacity(room * dim),
        hasher: RowHasher::default(),
        moved: 0,
    };
    let mut removed = removed.iter().copied().peekable();
    let rows = changed.ids.iter().zip(&*changed.linear).zip(changed.embeddings.chunks_exact(dim));
    for ((id, linear), row) in rows {
        while let Some(gone) = removed.next_if(|gone| gone < id) {
            merged.copy_below(gone);
        }
        merged.copy_below(*id);
        merged.push(*id, *linear, row);
    }
    removed.for_each(|gone| merged.copy_below(gone));
    merged.copy_to(before.rows());
    (merged.ids, merged.linear, merged.embeddings, merged.moved)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_is_looked_for_in_doubling_steps_and_found_where_it_belongs() {
        for length in 0..70_u64 {
            let ids: Vec<FeatureId> = (0..length).map(|n| 2 * n + 1).collect();
            for id in 0..2 * length + 3 {
                assert_eq!(below(&ids, id), ids.partition_point(|other| *other < id), "{id} of {length}");
            }
        }
    }
}

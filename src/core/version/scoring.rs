//! Scores of a version, for servers: the formula of training, arranged for rows side by side and for one context with many
//! candidates, without allocating.
//!
//! Training lays a batch out by distinct ids; a server has a row, or a hundred candidates that share half of their fields. What the
//! context adds is computed once: its linear sum, the sums of its field vectors, its pairs (Rendle 2010, as a running sum), and
//! what the first layer of the MLP has of it. Candidates go on from there, `BLOCK` of them at a time: rows are looked up first, so
//! that they are waited for together, and each layer is one matrix product. Every sum is a chain along fields or inputs in their
//! order, so that a row's score does not depend on the rows beside it. Sums run in another order than in training: results agree
//! to rounding, and probes hold them.

use ndarray::ArrayView2;

use super::row_index::RowIndex;
use super::servable::{Servable, ServableError};
use crate::feature::Entry;
use crate::kernel::factors::{self, Placed};
use crate::kernel::{self, product};
use crate::model::params::Parts;

/// Rows that are scored at once.
const BLOCK: usize = 64;

/// Numbers of their field vectors, so that wide models take fewer rows at once.
const BLOCK_NUMBERS: usize = 1 << 18;

/// Weights, and what makes looking them up and multiplying by them fast.
#[derive(Debug)]
pub struct Scoring {
    servable: Servable,
    index: RowIndex,
    /// The weights of each layer, `[inputs, outputs]`.
    transposed: Vec<Vec<f32>>,
}

/// Rows to score, encoded one after the other. Entries come with the numbers of their fields, in any order.
#[derive(Clone, Copy, Debug)]
pub struct Rows<'a> {
    /// The entries of all rows.
    pub entries: &'a [(u16, Entry)],
    /// Where the first row begins.
    pub start: usize,
    /// Where each row ends.
    pub ends: &'a [usize],
}

/// The sums over the fields of a context.
#[derive(Clone, Debug, Default)]
struct Context {
    linear: f32,
    pairs: f32,
    /// Sum of the field vectors, `[dim]`.
    sums: Vec<f32>,
    /// Input of the first layer's activation, `[outputs]`.
    hidden: Vec<f32>,
}

/// Working memory, used again for the next rows, of the same version or another.
#[derive(Clone, Debug, Default)]
pub struct ScoringWork {
    context: Context,
    /// The rows of the entries' ids, of those that have one.
    placed: Vec<Placed>,
    /// Field vectors, `[rows, fields · dim]`, of the fields that are there.
    x: Vec<f32>,
    /// Sums of the field vectors, `[rows, dim]`.
    sums: Vec<f32>,
    linear: Vec<f32>,
    pairs: Vec<f32>,
    /// Outputs of the layer below and of the layer at hand, `[rows, outputs]`.
    layers: [Vec<f32>; 2],
}

impl Scoring {
    /// Prepares weights for scoring.
    ///
    /// # Errors
    /// When there are more rows than can be numbered in 32 bits.
    pub fn new(servable: Servable) -> Result<Self, ServableError> {
        let index =
            RowIndex::new(servable.ids(), servable.linear()).ok_or(ServableError::TooManyRows(servable.rows()))?;
        let mlp = &servable.architecture().mlp;
        let transposed = mlp.layers.iter().map(|layer| {
            let weight = &servable.mlp()[layer.weight..layer.bias];
            let weight = ArrayView2::from_shape((layer.outputs, layer.inputs), weight);
            weight.expect("the slice has the shape's length").reversed_axes().iter().copied().collect()
        });
        let transposed = transposed.collect();
        Ok(Self { servable, index, transposed })
    }

    /// The weights.
    pub fn servable(&self) -> &Servable {
        &self.servable
    }

    /// Appends the logit of each row to `logits`, corrected for down-sampling.
    pub fn score(&self, rows: Rows<'_>, work: &mut ScoringWork, logits: &mut Vec<f64>) {
        self.clear_context(work);
        self.score_candidates(rows, work, logits);
    }

    /// Takes up the fields that candidates share, once for all of them.
    pub fn set_context(&self, entries: &[(u16, Entry)], work: &mut ScoringWork) {
        self.clear_context(work);
        self.add_vectors(Rows { entries, start: 0, ends: &[entries.len()] }, work);
        let ScoringWork { context, sums, linear, pairs, layers, .. } = work;
        (context.linear, context.pairs) = (linear[0], pairs[0]);
        context.sums.copy_from_slice(sums);
        context.hidden.copy_from_slice(&layers[0]);
    }

    /// Appends the logit of each candidate's fields together with those of the context that was set. A field is in one of them
    /// only: where it is in both its two vectors count as two fields of the pairs.
    pub fn score_candidates(&self, rows: Rows<'_>, work: &mut ScoringWork, logits: &mut Vec<f64>) {
        let mut start = rows.start;
        let width = self.servable.architecture().fields * self.servable.architecture().dim;
        for ends in rows.ends.chunks((BLOCK_NUMBERS / width.max(1)).clamp(1, BLOCK)) {
            self.add_vectors(Rows { start, ends, ..rows }, work);
            self.add_layers(ends.len(), work);
            let ScoringWork { linear, pairs, layers, .. } = &*work;
            let mlp = self.servable.architecture().mlp.layers.last().map(|last| layers[0].chunks_exact(last.outputs));
            let output = &self.servable.mlp()[self.servable.architecture().mlp.output..];
            let mut mlp = mlp.into_iter().flatten();
            logits.extend(linear.iter().zip(pairs).map(|(linear, pairs)| {
                let deep = mlp.next().map_or(0.0, |units| kernel::dense::dot(units, output));
                f64::from(self.servable.bias() + linear + pairs + deep) + self.servable.logit_offset()
            }));
            start = ends[ends.len() - 1];
        }
    }

    fn clear_context(&self, work: &mut ScoringWork) {
        let architecture = self.servable.architecture();
        let context = &mut work.context;
        (context.linear, context.pairs) = (0.0, 0.0);
        context.sums.clear();
        context.sums.resize(architecture.dim, 0.0);
        context.hidden.clear();
        if let Some(first) = architecture.mlp.layers.first() {
            context.hidden.extend_from_slice(&self.servable.mlp()[first.bias..first.bias + first.outputs]);
        }
    }

    /// Goes on from the context with the fields of each row, up to the input of the first activation.
    fn add_vectors(&self, rows: Rows<'_>, work: &mut ScoringWork) {
        let architecture = self.servable.architecture();
        let dim = architecture.dim;
        let entries = &rows.entries[rows.start..rows.ends.last().copied().unwrap_or(rows.start)];
        // Candidates have some of the fields, most often side by side.
        let numbers = || entries.iter().map(|(field, _)| usize::from(*field));
        let first = numbers().min().unwrap_or(0);
        let fields = numbers().max().map_or(0, |last| last + 1 - first);
        let (count, width) = (rows.ends.len(), fields * dim);
        self.find(rows, first, fields, &mut work.placed);
        let ScoringWork { context, placed, x, sums, linear, pairs, layers } = work;
        for (values, len, value) in
            [(&mut *x, count * width, 0.0), (&mut *linear, count, context.linear), (&mut *pairs, count, 0.0)]
        {
            values.clear();
            values.resize(len, value);
        }
        factors::add_placed(dim, placed, self.servable.embeddings(), x, linear);
        repeat(&context.sums, count, sums);
        if architecture.parts != Parts::Linear {
            factors::interactions(dim, x, sums, pairs);
            for pairs in pairs.iter_mut() {
                *pairs += context.pairs;
            }
        }
        repeat(&context.hidden, count, &mut layers[0]);
        if let (Some(weights), Some(layer)) = (self.transposed.first(), architecture.mlp.layers.first()) {
            let weights = &weights[first * dim * layer.outputs..][..width * layer.outputs];
            product::add(x, weights, &mut layers[0], [count, width, layer.outputs]);
        }
    }

    /// Looks the ids of rows up, so that they are waited for together. Vectors are numbered row by row, of `fields` fields from the
    /// first one on.
    fn find(&self, rows: Rows<'_>, first: usize, fields: usize, placed: &mut Vec<Placed>) {
        let (ids, linear, embeddings) = (self.servable.ids(), self.servable.linear(), self.servable.embeddings());
        let dim = self.servable.architecture().dim;
        let entries = &rows.entries[rows.start..rows.ends.last().copied().unwrap_or(rows.start)];
        for (_, entry) in entries {
            self.index.prefetch(entry.id);
        }
        placed.clear();
        let mut start = rows.start;
        for (example, end) in rows.ends.iter().enumerate() {
            placed.extend(rows.entries[start..*end].iter().filter_map(|(field, entry)| {
                let (row, linear) = self.index.find(ids, linear, entry.id)?;
                let embedding = &embeddings[row as usize * dim..][..dim];
                kernel::prefetch(&embedding[0]);
                kernel::prefetch(&embedding[dim - 1]);
                let vector = (example * fields + usize::from(*field) - first) as u32;
                Some(Placed { row, linear, x: entry.x, vector, example: example as u32 })
            }));
            start = *end;
        }
    }

    /// The layers of the MLP, from the input of the first activation to the output of the last.
    fn add_layers(&self, rows: usize, work: &mut ScoringWork) {
        let (shape, params) = (&self.servable.architecture().mlp, self.servable.mlp());
        let [below, above] = &mut work.layers;
        if !shape.is_empty() {
            shape.activate(below);
        }
        for (layer, weights) in shape.layers.iter().zip(&self.transposed).skip(1) {
            repeat(&params[layer.bias..layer.bias + layer.outputs], rows, above);
            product::add(below, weights, above, [rows, layer.inputs, layer.outputs]);
            shape.activate(above);
            std::mem::swap(below, above);
        }
    }
}

/// Fills `to` with a row, so many times.
fn repeat(row: &[f32], times: usize, to: &mut Vec<f32>) {
    to.clear();
    (0..times).for_each(|_| to.extend_from_slice(row));
}

//! Scores of a version, for servers: the formula of training, arranged for few rows at once and for one context with many
//! candidates, without allocating.
//!
//! Training lays a batch out by distinct ids and multiplies matrices; a server has a row, or a hundred candidates that share half
//! of their fields. Here a row's fields are added one after the other to a *partial sum*: the linear sum, the pair interactions
//! with the fields before (Rendle 2010, as a running sum), and what the first layer of the MLP has of them. The context's
//! partial is made once and each candidate goes on from a copy. Weights of layers are transposed when a version is loaded, so that
//! an input adds a row of them. Sums run in another order than in training: results agree to rounding, and probes hold them.

use super::row_index::RowIndex;
use super::servable::{Servable, ServableError};
use crate::feature::Entry;
use crate::model::params::Parts;

/// Weights, and what makes looking them up and multiplying by them fast.
#[derive(Debug)]
pub struct Scoring {
    servable: Servable,
    index: RowIndex,
    /// The weights of each layer, `[inputs, outputs]`.
    transposed: Vec<Vec<f32>>,
}

/// The sums over the fields that were added so far.
#[derive(Clone, Debug, Default)]
struct Partial {
    linear: f32,
    pairs: f32,
    /// Sum of the field vectors, `[dim]`.
    sums: Vec<f32>,
    /// Input of the first layer's activation, `[outputs]`.
    hidden: Vec<f32>,
}

impl Partial {
    /// Copies another, into memory that is there.
    fn copy(&mut self, other: &Self) {
        (self.linear, self.pairs) = (other.linear, other.pairs);
        self.sums.clone_from(&other.sums);
        self.hidden.clone_from(&other.hidden);
    }
}

/// Working memory, used again for the next row, of the same version or another.
#[derive(Clone, Debug, Default)]
pub struct ScoringWork {
    /// Row of each entry, if its id has one.
    rows: Vec<Option<usize>>,
    /// Field vectors, `[fields, dim]`; zero between rows.
    x: Vec<f32>,
    /// The fields of the row at hand that have a vector.
    is_touched: Vec<bool>,
    context: Partial,
    row: Partial,
    /// Outputs of the layers behind the first.
    layers: [Vec<f32>; 2],
}

impl Scoring {
    /// Prepares weights for scoring.
    ///
    /// # Errors
    /// When there are more rows than can be numbered in 32 bits.
    pub fn new(servable: Servable) -> Result<Self, ServableError> {
        let index = RowIndex::new(servable.ids()).ok_or(ServableError::TooManyRows(servable.rows()))?;
        let mlp = &servable.architecture().mlp;
        let transposed = mlp.layers.iter().map(|layer| {
            let weight = &servable.mlp()[layer.weight..layer.bias];
            let mut transposed = vec![0.0; weight.len()];
            for (output, row) in weight.chunks_exact(layer.inputs).enumerate() {
                for (input, value) in row.iter().enumerate() {
                    transposed[input * layer.outputs + output] = *value;
                }
            }
            transposed
        });
        let transposed = transposed.collect();
        Ok(Self { servable, index, transposed })
    }

    /// The weights.
    pub fn servable(&self) -> &Servable {
        &self.servable
    }

    /// The logit of a row, corrected for down-sampling. Entries come with the numbers of their fields, in any order.
    pub fn logit(&self, entries: &[(u16, Entry)], work: &mut ScoringWork) -> f64 {
        self.set_context(&[], work);
        self.candidate_logit(entries, work)
    }

    /// Adds the fields that candidates share up, once for all of them.
    pub fn set_context(&self, entries: &[(u16, Entry)], work: &mut ScoringWork) {
        let architecture = self.servable.architecture();
        let context = &mut work.context;
        (context.linear, context.pairs) = (0.0, 0.0);
        context.sums.clear();
        context.sums.resize(architecture.dim, 0.0);
        context.hidden.clear();
        if let Some(first) = architecture.mlp.layers.first() {
            context.hidden.extend_from_slice(&self.servable.mlp()[first.bias..first.bias + first.outputs]);
        }
        let mut context = std::mem::take(&mut work.context);
        self.add(entries, work, &mut context);
        work.context = context;
    }

    /// The logit of a candidate's fields together with those of the context that was set. A field is in one of them only: where it
    /// is in both its two vectors count as two fields of the pairs.
    pub fn candidate_logit(&self, entries: &[(u16, Entry)], work: &mut ScoringWork) -> f64 {
        let mut row = std::mem::take(&mut work.row);
        row.copy(&work.context);
        self.add(entries, work, &mut row);
        let mlp = self.mlp(&mut row.hidden, &mut work.layers);
        let logit = self.servable.bias() + row.linear + row.pairs + mlp;
        work.row = row;
        f64::from(logit) + self.servable.logit_offset()
    }

    fn add(&self, entries: &[(u16, Entry)], work: &mut ScoringWork, to: &mut Partial) {
        let architecture = self.servable.architecture();
        let (dim, fields) = (architecture.dim, architecture.fields);
        let (ids, linear, embeddings) = (self.servable.ids(), self.servable.linear(), self.servable.embeddings());
        // Apart from what follows, so that the look-ups wait for memory together.
        work.rows.clear();
        work.rows.extend(entries.iter().map(|(_, entry)| self.index.find(ids, entry.id)));
        if work.x.len() != fields * dim || work.is_touched.len() != fields {
            work.x.clear();
            work.x.resize(fields * dim, 0.0);
            work.is_touched.clear();
            work.is_touched.resize(fields, false);
        }
        for ((field, entry), row) in entries.iter().zip(&work.rows) {
            let Some(row) = *row else { continue };
            let field = usize::from(*field);
            work.is_touched[field] = true;
            to.linear += entry.x * linear[row];
            let e = &mut work.x[field * dim..][..dim];
            e.iter_mut().zip(&embeddings[row * dim..][..dim]).for_each(|(e, v)| *e += entry.x * v);
        }
        for (field, is_touched) in work.is_touched.iter_mut().enumerate().filter(|(_, is_touched)| **is_touched) {
            *is_touched = false;
            let e = &mut work.x[field * dim..][..dim];
            if architecture.parts != Parts::Linear {
                for (sum, value) in to.sums.iter_mut().zip(e.iter()) {
                    to.pairs += value * *sum;
                    *sum += value;
                }
            }
            if let (Some(weights), Some(first)) = (self.transposed.first(), architecture.mlp.layers.first()) {
                add_rows(e, &weights[field * dim * first.outputs..], &mut to.hidden);
            }
            e.fill(0.0);
        }
    }

    /// The MLP's part of the logit, from the input of the first activation.
    fn mlp(&self, first: &mut Vec<f32>, [input, output]: &mut [Vec<f32>; 2]) -> f32 {
        let (shape, params) = (&self.servable.architecture().mlp, self.servable.mlp());
        if shape.is_empty() {
            return 0.0;
        }
        shape.activate(first);
        input.clone_from(first);
        for (layer, weights) in shape.layers.iter().zip(&self.transposed).skip(1) {
            output.clear();
            output.extend_from_slice(&params[layer.bias..layer.bias + layer.outputs]);
            add_rows(input, weights, output);
            shape.activate(output);
            std::mem::swap(input, output);
        }
        crate::model::mlp::dot(input, &params[shape.output..])
    }
}

/// `out += x · weights`, with `x` of `[inputs]` and `weights` beginning with `[inputs, outputs]`. Four inputs at a time, so that
/// what is added to stays in registers longer; the order of additions is fixed.
#[inline]
fn add_rows(x: &[f32], weights: &[f32], out: &mut [f32]) {
    let outputs = out.len();
    let (fours, rest) = x.as_chunks::<4>();
    for (x, rows) in fours.iter().zip(weights.chunks_exact(4 * outputs)) {
        // Rectifiers make many zeros.
        if *x == [0.0; 4] {
            continue;
        }
        let (a, others) = rows.split_at(outputs);
        let (b, others) = others.split_at(outputs);
        let (c, d) = others.split_at(outputs);
        for ((((out, a), b), c), d) in out.iter_mut().zip(a).zip(b).zip(c).zip(d) {
            *out += (x[0] * a + x[1] * b) + (x[2] * c + x[3] * d);
        }
    }
    for (x, row) in rest.iter().zip(weights[4 * fours.len() * outputs..].chunks_exact(outputs)) {
        out.iter_mut().zip(row).for_each(|(out, weight)| *out += x * weight);
    }
}

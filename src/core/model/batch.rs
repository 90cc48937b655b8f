//! One batch through the model: forward over all parts, and backward to the gradient of every parameter.
//!
//! Works on slots (see [`Layout`]) and plain weights, so that training and weights-only scoring share it. Examples are
//! cut into chunks of a fixed size; a chunk's results do not depend on the others, and gradients are added up in the order
//! of chunks and examples, so the executor does not show in the bits.

use std::ops::Range;

use super::executor::Executor;
use super::gather::Layout;
use super::loss::{Importance, sigmoid};
use super::mlp::{Activations, MlpShape};
use super::params::{ModelParams, Parts};
use super::table::RowNumber;
use crate::feature::{FeatureId, Features};

/// Examples in a chunk: enough for a matrix product, few enough to stay in cache.
const CHUNK_EXAMPLES: usize = 64;

/// An encoded, labelled and weighted impression.
#[derive(Clone, Copy, Debug)]
pub struct Example<'f> {
    /// Its features.
    pub features: &'f Features,
    /// Its label, in [0, 1].
    pub label: f32,
    /// Its weight, at least 0.
    pub weight: f32,
    /// How its own logit changes its weight.
    pub importance: Importance,
    /// Its number in the log, which fixes its dropout mask.
    pub number: u64,
}

/// What all examples of a batch share.
#[derive(Clone, Debug, PartialEq)]
pub struct Architecture {
    /// Number of fields.
    pub fields: usize,
    /// Width of an embedding.
    pub dim: usize,
    /// Which parts the logit has.
    pub parts: Parts,
    /// The MLP's shape.
    pub mlp: MlpShape,
}

impl Architecture {
    /// The architecture of a model.
    pub fn new(params: &ModelParams) -> Self {
        let mlp = match params.parts {
            Parts::Deepfm => params.mlp.clone(),
            Parts::Linear | Parts::Fm => super::params::MlpParams { layers: Vec::new(), ..params.mlp.clone() },
        };
        let (fields, dim) = (params.fields, params.embedding_dim);
        Self { fields, dim, parts: params.parts, mlp: MlpShape::new(&mlp, fields * dim, params.seed) }
    }
}

/// Weights, and later gradients, of one parameter group by slot.
#[derive(Clone, Debug, Default)]
pub struct Group {
    /// FTRL state z.
    pub z: Vec<f32>,
    /// FTRL state n.
    pub n: Vec<f32>,
    /// Weights.
    pub w: Vec<f32>,
    /// Gradients, summed over the batch.
    pub g: Vec<f32>,
}

impl Group {
    /// Adds `x · d` to the gradients of a slot, shortened so that none is beyond `max · max(1, √n)`. Not finite stays so.
    #[inline]
    fn add_bounded(&mut self, coordinates: Range<usize>, x: f32, d: &[f32], max: f32) {
        let g = &mut self.g[coordinates.clone()];
        // Almost always all are within the least that the bound can be.
        let beyond = d.iter().fold(false, |beyond, d| beyond | ((x * d).abs() > max));
        let mut factor = 1.0_f32;
        if beyond {
            for (d, n) in d.iter().zip(&self.n[coordinates]) {
                factor = factor.min(max * n.sqrt().max(1.0) / (x * d).abs());
            }
        }
        g.iter_mut().zip(d).for_each(|(g, d)| *g += factor * (x * d));
    }

    pub(super) fn clear(&mut self) {
        self.z.clear();
        self.n.clear();
    }
}

/// What an id of a batch is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Slot {
    /// It has a row.
    Row(RowNumber),
    /// It gets a row with this batch.
    Admitted,
    /// It is counted towards its admission.
    Counted,
    /// There is no room for it.
    Refused,
}

/// Working memory of a batch, used again for the next.
#[derive(Clone, Debug, Default)]
pub struct Scratch {
    pub(super) layout: Layout,
    pub(super) linear: Group,
    pub(super) embedding: Group,
    pub(super) mlp_gradient: Vec<f32>,
    pub(super) mlp_next: Vec<f32>,
    pub(super) momentum_next: Vec<f32>,
    pub(super) rows: Vec<Slot>,
    repeats: Repeats,
    chunks: Vec<Chunk>,
    logits: Vec<f32>,
    dlogits: Vec<f32>,
}

/// What a chunk needs of an example to go backward.
#[derive(Clone, Copy, Debug)]
struct Target {
    label: f32,
    weight: f32,
    importance: Importance,
}

#[derive(Clone, Debug, Default)]
struct Chunk {
    start: usize,
    targets: Vec<Target>,
    numbers: Vec<u64>,
    /// Field vectors, `[examples, fields · dim]`.
    x: Vec<f32>,
    /// Gradient of the field vectors, the same shape.
    dx: Vec<f32>,
    /// Sum of the field vectors, `[examples, dim]`.
    sums: Vec<f32>,
    linear: Vec<f32>,
    fm: Vec<f32>,
    logits: Vec<f32>,
    dlogits: Vec<f32>,
    work: Activations,
    mlp_gradient: Vec<f32>,
}

/// The weights that a batch is evaluated with, beside those of its slots.
#[derive(Clone, Copy, Debug)]
pub struct Dense<'a> {
    /// The bias.
    pub bias: f32,
    /// The MLP's parameters, flat.
    pub mlp: &'a [f32],
}

impl Scratch {
    /// The training logits of the last batch, in the order of its examples.
    pub fn logits(&self) -> &[f32] {
        &self.logits
    }

    /// The linear and the FM term of each logit of the last batch.
    pub fn terms(&self) -> impl Iterator<Item = (f32, f32)> {
        self.chunks.iter().flat_map(|chunk| chunk.linear.iter().copied().zip(chunk.fm.iter().copied()))
    }

    /// The gradient of each logit of the last batch.
    pub fn dlogits(&self) -> &[f32] {
        &self.dlogits
    }

    /// For every distinct id of the last batch, the gradients of its linear weight and its embedding.
    pub fn row_gradients(&self, dim: usize) -> impl Iterator<Item = (FeatureId, f32, &[f32])> {
        let rows = self.linear.g.iter().zip(self.embedding.g.chunks_exact(dim));
        self.layout.ids.iter().zip(rows).map(|(id, (linear, embedding))| (*id, *linear, embedding))
    }

    /// The gradient of the MLP's parameters, summed over the last batch.
    pub fn mlp_gradient(&self) -> &[f32] {
        &self.mlp_gradient
    }

    /// Lays a batch out and takes plain weights from `lookup`, which writes the embedding and returns the linear weight;
    /// both are zero for an id that has none.
    pub fn gather<'f>(
        &mut self,
        architecture: &Architecture,
        batch: impl Iterator<Item = &'f Features>,
        mut lookup: impl FnMut(FeatureId, &mut [f32]) -> f32,
    ) {
        self.layout.fill(architecture.fields, batch);
        let slots = self.layout.ids.len();
        self.linear.w.clear();
        self.embedding.w.clear();
        self.embedding.w.resize(slots * architecture.dim, 0.0);
        for (id, embedding) in self.layout.ids.iter().zip(self.embedding.w.chunks_exact_mut(architecture.dim)) {
            self.linear.w.push(lookup(*id, embedding));
        }
    }

    /// Scores the batch that was laid out, without dropout.
    pub fn forward<E: Executor>(&mut self, architecture: &Architecture, dense: Dense<'_>, executor: &E) {
        self.cut(&[]);
        let (layout, linear, embedding) = (&self.layout, &self.linear.w, &self.embedding.w);
        executor.for_each(&mut self.chunks, |chunk| {
            chunk.forward(architecture, layout, linear, embedding, dense, false);
        });
        self.collect_logits();
    }

    /// Scores the batch that was laid out, with dropout, and computes every gradient; what one example adds to a row is
    /// bounded (see [`ModelParams::gradient_max`]), where the groups' `n` must be those of the rows.
    pub fn backward<E: Executor>(
        &mut self,
        architecture: &Architecture,
        dense: Dense<'_>,
        examples: &[Example<'_>],
        gradient_max: Option<f32>,
        executor: &E,
    ) {
        self.cut(examples);
        let (layout, linear, embedding) = (&self.layout, &self.linear.w, &self.embedding.w);
        executor.for_each(&mut self.chunks, |chunk| {
            chunk.forward(architecture, layout, linear, embedding, dense, true);
            chunk.backward(architecture, dense);
        });
        self.collect_logits();
        self.scatter(architecture, gradient_max);
        self.mlp_gradient.clear();
        self.mlp_gradient.resize(architecture.mlp.len, 0.0);
        for chunk in &self.chunks {
            self.mlp_gradient.iter_mut().zip(&chunk.mlp_gradient).for_each(|(sum, g)| *sum += g);
        }
    }

    fn cut(&mut self, examples: &[Example<'_>]) {
        let count = self.layout.examples();
        self.chunks.resize_with(count.div_ceil(CHUNK_EXAMPLES), Chunk::default);
        for (number, chunk) in self.chunks.iter_mut().enumerate() {
            chunk.start = number * CHUNK_EXAMPLES;
            let end = count.min(chunk.start + CHUNK_EXAMPLES);
            chunk.logits.clear();
            chunk.logits.resize(end - chunk.start, 0.0);
            chunk.targets.clear();
            chunk.numbers.clear();
            for example in examples.get(chunk.start..end).unwrap_or_default() {
                let Example { label, weight, importance, .. } = *example;
                chunk.targets.push(Target { label, weight, importance });
                chunk.numbers.push(example.number);
            }
        }
    }

    fn collect_logits(&mut self) {
        self.logits.clear();
        self.dlogits.clear();
        for chunk in &self.chunks {
            self.logits.extend_from_slice(&chunk.logits);
            self.dlogits.extend_from_slice(&chunk.dlogits);
        }
    }

    /// Adds the gradients of all entries up on their slots, in the order of examples.
    fn scatter(&mut self, architecture: &Architecture, gradient_max: Option<f32>) {
        let (fields, dim) = (architecture.fields, architecture.dim);
        let slots = self.layout.ids.len();
        for (group, width) in [(&mut self.linear, 1), (&mut self.embedding, dim)] {
            group.g.clear();
            group.g.resize(slots * width, 0.0);
        }
        for chunk in &self.chunks {
            for (example, &dlogit) in chunk.dlogits.iter().enumerate() {
                for field in 0..fields {
                    let dx = &chunk.dx[(example * fields + field) * dim..][..dim];
                    let entries = self.layout.field(chunk.start + example, field);
                    let Some(max) = gradient_max else {
                        for &(slot, x) in entries {
                            let slot = slot as usize;
                            self.linear.g[slot] += x * dlogit;
                            let g = &mut self.embedding.g[slot * dim..][..dim];
                            g.iter_mut().zip(dx).for_each(|(g, d)| *g += x * d);
                        }
                        continue;
                    };
                    for &(slot, x) in self.repeats.summed(entries, slots) {
                        let slot = slot as usize;
                        self.linear.add_bounded(slot..slot + 1, x, &[dlogit], max);
                        self.embedding.add_bounded(slot * dim..(slot + 1) * dim, x, dx, max);
                    }
                }
            }
        }
    }
}

/// Adds up the entries of one field that are for one slot: they move it together.
#[derive(Clone, Debug, Default)]
struct Repeats {
    /// Where a slot is in `summed`, if that says so too.
    places: Vec<u32>,
    summed: Vec<(u32, f32)>,
}

impl Repeats {
    /// The entries, each slot once, in the order in which they come first.
    fn summed<'s>(&'s mut self, entries: &'s [(u32, f32)], slots: usize) -> &'s [(u32, f32)] {
        if entries.len() <= 1 {
            return entries;
        }
        self.places.resize(self.places.len().max(slots), 0);
        self.summed.clear();
        for &(slot, x) in entries {
            let place = self.places[slot as usize] as usize;
            if let Some((_, sum)) = self.summed.get_mut(place).filter(|(other, _)| *other == slot) {
                *sum += x;
            } else {
                self.places[slot as usize] = self.summed.len() as u32;
                self.summed.push((slot, x));
            }
        }
        &self.summed
    }
}

impl Chunk {
    fn forward(
        &mut self,
        architecture: &Architecture,
        layout: &Layout,
        linear: &[f32],
        embedding: &[f32],
        dense: Dense<'_>,
        learning: bool,
    ) {
        let (fields, dim) = (architecture.fields, architecture.dim);
        let examples = self.logits.len();
        self.dlogits.clear();
        self.linear.clear();
        self.fm.clear();
        self.x.clear();
        self.x.resize(examples * fields * dim, 0.0);
        self.sums.clear();
        self.sums.resize(examples * dim, 0.0);
        for example in 0..examples {
            let x = &mut self.x[example * fields * dim..][..fields * dim];
            let mut sum = 0.0;
            for (field, e) in x.chunks_exact_mut(dim).enumerate() {
                for &(slot, x) in layout.field(self.start + example, field) {
                    let slot = slot as usize;
                    sum += x * linear[slot];
                    let v = &embedding[slot * dim..][..dim];
                    e.iter_mut().zip(v).for_each(|(e, v)| *e += x * v);
                }
            }
            let sums = &mut self.sums[example * dim..][..dim];
            let fm = if architecture.parts == Parts::Linear { 0.0 } else { interactions(x, dim, sums) };
            self.linear.push(sum);
            self.fm.push(fm);
            self.logits[example] = dense.bias + sum + fm;
        }
        let numbers = learning.then_some(self.numbers.as_slice());
        architecture.mlp.forward(dense.mlp, &self.x, numbers, &mut self.work, &mut self.logits);
    }

    fn backward(&mut self, architecture: &Architecture, dense: Dense<'_>) {
        let (fields, dim) = (architecture.fields, architecture.dim);
        self.dlogits.extend(self.logits.iter().zip(&self.targets).map(|(&logit, target)| {
            let probability = sigmoid(f64::from(logit));
            let weight = f64::from(target.weight) * target.importance.factor(probability);
            (weight * (probability - f64::from(target.label))) as f32
        }));
        self.dx.clear();
        self.dx.resize(self.x.len(), 0.0);
        self.mlp_gradient.clear();
        self.mlp_gradient.resize(architecture.mlp.len, 0.0);
        architecture.mlp.backward(
            dense.mlp,
            &self.x,
            &self.dlogits,
            &mut self.work,
            &mut self.mlp_gradient,
            &mut self.dx,
        );
        if architecture.parts == Parts::Linear {
            return;
        }
        let width = fields * dim;
        for (example, &dlogit) in self.dlogits.iter().enumerate() {
            let sums = &self.sums[example * dim..][..dim];
            let x = self.x[example * width..][..width].chunks_exact(dim);
            let dx = self.dx[example * width..][..width].chunks_exact_mut(dim);
            for (e, de) in x.zip(dx) {
                for ((de, &e), &sum) in de.iter_mut().zip(e).zip(sums) {
                    *de += dlogit * (sum - e);
                }
            }
        }
    }
}

/// The pair interactions between fields, `Σ_j Σ_{f<g} e_f[j] · e_g[j]` (Rendle 2010), and the sums over fields. Each field
/// meets the sum of those before it: as many operations as the usual difference of squares, without its cancellation.
#[inline]
fn interactions(x: &[f32], dim: usize, sums: &mut [f32]) -> f32 {
    let mut pairs = 0.0;
    for e in x.chunks_exact(dim) {
        for (sum, &value) in sums.iter_mut().zip(e) {
            pairs += value * *sum;
            *sum += value;
        }
    }
    pairs
}

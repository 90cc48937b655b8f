//! One batch through the model: forward over all parts, and backward to the gradient of every parameter.
//!
//! Works on slots (see [`Layout`]) and plain weights, so that training and weights-only scoring share it. Examples are
//! cut into chunks; an example's results do not depend on the others, and gradients are added up in the order of examples, so
//! neither the cut nor the executor shows in the bits.

use super::executor::{Executor, held};
use super::gather::Layout;
use super::loss::{Importance, sigmoid};
use super::mlp::{Activations, MlpShape, UnitPart};
use super::params::{ModelParams, Parts};
use super::parts::{self, Part, Slots};
use crate::feature::{FeatureId, Features};
use crate::kernel::factors;
use crate::kernel::product::FEW_ROWS;

/// Examples in a chunk: enough for a matrix product, few enough to stay in cache.
const CHUNK_EXAMPLES: usize = 128;

/// Examples that are worth a chunk of their own where chunks are worked off at once.
const CHUNK_EXAMPLES_MIN: usize = 32;

const _: () =
    assert!(CHUNK_EXAMPLES_MIN / 2 >= FEW_ROWS && CHUNK_EXAMPLES_MIN <= CHUNK_EXAMPLES, "a cut leaves no chunk of few");

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

/// What a step of the MLP needs, where its gradient is not added to the parameters at once.
#[derive(Clone, Debug, Default)]
pub(super) struct MlpScratch {
    /// The gradient in as many parts as `parts` says, each a vector of its [`UnitPart`]. There may be more, kept for their room.
    pub(super) gradients: Vec<Vec<f32>>,
    pub(super) parts: usize,
    pub(super) next: Vec<f32>,
    pub(super) momentum_next: Vec<f32>,
    /// A layer's deltas times a factor.
    pub(super) scaled: Vec<f32>,
}

/// Working memory of a batch, used again for the next.
#[derive(Clone, Debug, Default)]
pub struct Scratch {
    pub(super) layout: Layout,
    pub(super) slots: Slots,
    pub(super) mlp: MlpScratch,
    pub(super) chunks: Vec<Chunk>,
    spare: Vec<Chunk>,
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

/// Examples side by side, and all that is computed of each of them.
#[derive(Clone, Debug, Default)]
pub(super) struct Chunk {
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
    /// The norm of the MLP's gradient of each example, or a bound on it.
    mlp_norms: Vec<f64>,
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
        let rows = self.slots.linear.g.iter().zip(self.slots.embedding.g.chunks_exact(dim));
        self.layout.ids.iter().zip(rows).map(|(id, (linear, embedding))| (*id, *linear, embedding))
    }

    /// The gradient of the MLP's parameters, summed over the last batch.
    pub fn mlp_gradient(&mut self, architecture: &Architecture) -> &[f32] {
        self.mlp.add_up(architecture, &self.chunks)
    }

    /// Lays a batch out and takes plain weights from `lookup`, which writes the embedding and returns the linear weight;
    /// both are zero for an id that has none.
    pub fn gather<'f>(
        &mut self,
        architecture: &Architecture,
        batch: impl Iterator<Item = &'f Features> + Clone,
        mut lookup: impl FnMut(FeatureId, &mut [f32]) -> f32,
    ) {
        self.layout.fill(architecture.fields, batch);
        let slots = self.layout.ids.len();
        self.slots.linear.w.clear();
        self.slots.embedding.w.clear();
        self.slots.embedding.w.resize(slots * architecture.dim, 0.0);
        for (id, embedding) in self.layout.ids.iter().zip(self.slots.embedding.w.chunks_exact_mut(architecture.dim)) {
            self.slots.linear.w.push(lookup(*id, embedding));
        }
    }

    /// Scores the batch that was laid out, without dropout.
    pub fn forward<E: Executor>(&mut self, architecture: &Architecture, dense: Dense<'_>, executor: &E) {
        self.cut(&[], executor.width());
        let (layout, linear, embedding) = (&self.layout, &self.slots.linear.w, &self.slots.embedding.w);
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
        self.differentiate(architecture, dense, examples, executor);
        let (slots, dim) = (self.layout.ids.len(), architecture.dim);
        self.slots.resize(slots, dim);
        let Self { layout, slots: cut, chunks, .. } = self;
        let (mut cut, count) = held(cut.cut(layout, dim, parts::count(executor, slots)));
        executor.for_each(&mut cut[..count], |part| {
            if let Some(part) = part {
                part.add_gradients(architecture, layout, chunks, gradient_max);
            }
        });
    }

    /// The part of [`backward`](Self::backward) that is done example by example.
    pub(super) fn differentiate<E: Executor>(
        &mut self,
        architecture: &Architecture,
        dense: Dense<'_>,
        examples: &[Example<'_>],
        executor: &E,
    ) {
        self.cut(examples, executor.width());
        let (layout, linear, embedding) = (&self.layout, &self.slots.linear.w, &self.slots.embedding.w);
        executor.for_each(&mut self.chunks, |chunk| {
            chunk.forward(architecture, layout, linear, embedding, dense, true);
            chunk.backward(architecture, dense);
        });
        self.collect_logits();
    }

    /// Cuts the examples into chunks, of which so many are worked off at once. They are as even as can be: where there are many examples
    /// no chunk has few, which products add up in another order.
    fn cut(&mut self, examples: &[Example<'_>], width: usize) {
        let count = self.layout.examples();
        let size = count.div_ceil(width.max(1)).clamp(CHUNK_EXAMPLES_MIN, CHUNK_EXAMPLES);
        let chunks = count.div_ceil(size);
        // A small batch costs the next large one no memory.
        while self.chunks.len() > chunks {
            self.spare.extend(self.chunks.pop());
        }
        while self.chunks.len() < chunks {
            self.chunks.push(self.spare.pop().unwrap_or_default());
        }
        for (number, chunk) in self.chunks.iter_mut().enumerate() {
            let end = (number + 1) * count / chunks;
            chunk.start = number * count / chunks;
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
}

impl Part<'_> {
    /// Adds the gradients of all entries up on the slots of this part, in the order of examples.
    pub(super) fn add_gradients(
        &mut self,
        architecture: &Architecture,
        layout: &Layout,
        chunks: &[Chunk],
        gradient_max: Option<f32>,
    ) {
        let (linear, embedding) = (&mut self.linear, &mut self.embedding);
        linear.g.fill(0.0);
        embedding.g.fill(0.0);
        for chunk in chunks {
            let linear = factors::Sums { g: linear.g, n: linear.n, bound: gradient_max };
            let embedding = factors::Sums { g: embedding.g, n: embedding.n, bound: gradient_max };
            let entries = layout.chunk(chunk.start, chunk.dlogits.len(), architecture.dim);
            let from = (&*chunk.dlogits, &*chunk.dx);
            factors::scatter(entries, from, self.first, linear, embedding, &mut self.scratch.repeats);
        }
    }
}

impl MlpScratch {
    /// Room for the gradient in so many parts, which are to be added up.
    pub(super) fn cut(&mut self, count: usize) -> impl Iterator<Item = (UnitPart, &mut Vec<f32>)> {
        self.parts = count;
        self.gradients.resize_with(self.gradients.len().max(count), Vec::new);
        UnitPart::each(count).zip(&mut self.gradients)
    }

    /// Adds the gradients of examples up.
    pub(super) fn add_up(&mut self, architecture: &Architecture, chunks: &[Chunk]) -> &[f32] {
        for (part, to) in self.cut(1) {
            add_up(architecture, chunks, part, to);
        }
        &self.gradients[0]
    }
}

/// Adds the gradients of examples by a part of the parameters up.
pub(super) fn add_up(architecture: &Architecture, chunks: &[Chunk], part: UnitPart, to: &mut Vec<f32>) {
    to.clear();
    to.resize(architecture.mlp.runs_of(part).map(|run| run.len()).sum(), 0.0);
    // Of a factor of 1 nothing is scaled.
    add_mlp_gradient(architecture, chunks, 1.0, &mut Vec::new(), (part, to));
}

/// Adds `factor` times the gradient of a part of the MLP's parameters to `to`, example by example.
pub(super) fn add_mlp_gradient(
    architecture: &Architecture,
    chunks: &[Chunk],
    factor: f32,
    scaled: &mut Vec<f32>,
    (part, to): (UnitPart, &mut [f32]),
) {
    for Chunk { x, dlogits, work, .. } in chunks {
        architecture.mlp.add_gradient((x, dlogits), factor, work, scaled, (part, to));
    }
}

/// A bound on the norm of that gradient, the sum of the norms of the examples' in their order; not finite when the gradient is not.
pub(super) fn mlp_gradient_bound(chunks: &[Chunk]) -> f64 {
    chunks.iter().flat_map(|chunk| &chunk.mlp_norms).sum()
}

/// How many examples there are.
pub(super) fn examples(chunks: &[Chunk]) -> usize {
    chunks.iter().map(|chunk| chunk.logits.len()).sum()
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
        for (values, width) in
            [(&mut self.x, fields * dim), (&mut self.sums, dim), (&mut self.linear, 1), (&mut self.fm, 1)]
        {
            values.resize(examples * width, 0.0);
        }
        let entries = layout.chunk(self.start, examples, dim);
        factors::field_vectors(entries, linear, embedding, &mut self.x, &mut self.linear);
        if architecture.parts == Parts::Linear {
            self.fm.fill(0.0);
        } else {
            self.sums.fill(0.0);
            factors::interactions(dim, &self.x, &mut self.sums, &mut self.fm);
        }
        for (logit, (linear, fm)) in self.logits.iter_mut().zip(self.linear.iter().zip(&self.fm)) {
            *logit = dense.bias + linear + fm;
        }
        let numbers = learning.then_some(self.numbers.as_slice());
        architecture.mlp.forward(dense.mlp, &self.x, numbers, &mut self.work, &mut self.logits);
    }

    fn backward(&mut self, architecture: &Architecture, dense: Dense<'_>) {
        self.dlogits.extend(self.logits.iter().zip(&self.targets).map(|(&logit, target)| {
            let probability = sigmoid(f64::from(logit));
            let weight = f64::from(target.weight) * target.importance.factor(probability);
            (weight * (probability - f64::from(target.label))) as f32
        }));
        self.dx.resize(self.x.len(), 0.0);
        if architecture.mlp.is_empty() {
            self.dx.fill(0.0);
        }
        architecture.mlp.backward(dense.mlp, &self.dlogits, &mut self.work, &mut self.dx);
        architecture.mlp.gradient_norms(&self.x, &self.dlogits, &mut self.work, &mut self.mlp_norms);
        if architecture.parts != Parts::Linear {
            let dim = architecture.dim;
            factors::add_interaction_gradients(dim, &self.dlogits, &self.x, &self.sums, &mut self.dx);
        }
    }
}

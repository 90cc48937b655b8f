//! Field vectors of examples, their pair interactions, and the way back.

use super::dense::largest_of;
use super::{LANES, fma, kernels, total};

/// Which slots the examples of a chunk refer to.
#[derive(Clone, Copy, Debug)]
pub struct Entries<'a> {
    /// `(slot, x)`, example by example, field by field.
    pub entries: &'a [(u32, f32)],
    /// Where the first field begins in `entries`.
    pub start: usize,
    /// Where each field of each example ends, `[examples, fields]`.
    pub ends: &'a [u32],
    /// Fields of an example.
    pub fields: usize,
    /// Width of a field vector.
    pub dim: usize,
}

impl<'a> Entries<'a> {
    /// The entries of each field, in order.
    #[inline(always)]
    fn by_field(&self) -> impl Iterator<Item = &'a [(u32, f32)]> {
        let (entries, mut at) = (self.entries, self.start);
        self.ends.iter().map(move |end| {
            let start = std::mem::replace(&mut at, *end as usize);
            &entries[start..*end as usize]
        })
    }
}

/// Calls a function with the width of a field vector as a constant, for usual widths: loops over it are unrolled then. 0 is any.
macro_rules! by_dim {
    ($dim:expr, $function:ident($($arg:expr),* $(,)?)) => {
        match $dim {
            4 => $function::<4, FUSED>($($arg),*),
            8 => $function::<8, FUSED>($($arg),*),
            10 => $function::<10, FUSED>($($arg),*),
            16 => $function::<16, FUSED>($($arg),*),
            32 => $function::<32, FUSED>($($arg),*),
            _ => $function::<0, FUSED>($($arg),*),
        }
    };
}

kernels! {
    /// Writes the field vectors of examples, the sums of their entries' embeddings (`[slots, dim]`) times x, to `vectors`
    /// (`[examples, fields · dim]`), and the sums of their linear weights (`[slots]`) times x to `sums` (`[examples]`).
    pub fn field_vectors(batch: Entries<'_>, linear: &[f32], embedding: &[f32], vectors: &mut [f32], sums: &mut [f32]) {
        by_dim!(batch.dim, field_vectors_of(batch, linear, embedding, vectors, sums));
    }

    /// Adds the embedding of each placed row (of `[rows, dim]`) times its x to its vector (of `[vectors, dim]`), and its linear weight
    /// times x to the sum of its example (`[examples]`).
    pub fn add_placed(dim: usize, placed: &[Placed], embeddings: &[f32], vectors: &mut [f32], sums: &mut [f32]) {
        by_dim!(dim, add_placed_of(dim, placed, embeddings, vectors, sums));
    }

    /// Writes the pair interactions of each example, `Σ_j Σ_{f<g} e_f[j] · e_g[j]` (Rendle 2010), to `pairs` (`[examples]`), and adds
    /// its fields to `sums` (`[examples, dim]`), which are those of fields before them. Each field meets the sum of those before it: as many operations
    /// as the usual difference of squares, without its cancellation.
    pub fn interactions(dim: usize, vectors: &[f32], sums: &mut [f32], pairs: &mut [f32]) {
        by_dim!(dim, interactions_of(dim, vectors, sums, pairs));
    }

    /// Adds the gradient of the pair interactions, `dlogit · (sum - e_f)`, to that of each field vector.
    pub fn add_interaction_gradients(dim: usize, dlogits: &[f32], vectors: &[f32], sums: &[f32], gradients: &mut [f32]) {
        by_dim!(dim, add_interaction_gradients_of(dim, dlogits, vectors, sums, gradients));
    }

    /// Adds the gradients of entries up on their slots, in the order of examples: `x` times those of the logits
    /// (`[examples]`) to the linear ones, and of the field vectors (`[examples, fields · dim]`) to the embeddings'. Sums are those from
    /// `first` on, as many as are given; the others' entries are passed over.
    pub fn scatter(batch: Entries<'_>, from: (&[f32], &[f32]), first: usize, linear: Sums<'_>, embedding: Sums<'_>, repeats: &mut Repeats) {
        by_dim!(batch.dim, scatter_of(batch, from, first, (linear, embedding), repeats));
    }
}

#[inline(always)]
fn width_of<const DIM: usize>(dim: usize) -> usize {
    if DIM == 0 { dim } else { DIM }
}

#[inline(always)]
fn field_vectors_of<const DIM: usize, const FUSED: bool>(
    batch: Entries<'_>,
    linear: &[f32],
    embedding: &[f32],
    vectors: &mut [f32],
    sums: &mut [f32],
) {
    let dim = width_of::<DIM>(batch.dim);
    let mut fields = batch.by_field();
    for (sum, vectors) in sums.iter_mut().zip(vectors.chunks_exact_mut(batch.fields * dim)) {
        let mut linear_sum = 0.0_f32;
        for vector in vectors.chunks_exact_mut(dim) {
            let entries = fields.next().unwrap_or_default();
            let row = |slot: u32| &embedding[slot as usize * dim..][..dim];
            if let &[(slot, 1.0)] = entries {
                linear_sum += linear[slot as usize];
                vector.copy_from_slice(row(slot));
                continue;
            }
            vector.fill(0.0);
            for &(slot, x) in entries {
                linear_sum = fma::<FUSED>(x, linear[slot as usize], linear_sum);
                let row = row(slot);
                for lane in 0..dim {
                    vector[lane] = fma::<FUSED>(x, row[lane], vector[lane]);
                }
            }
        }
        *sum = linear_sum;
    }
}

/// A row of weights, and where it is added.
#[derive(Clone, Copy, Debug)]
pub struct Placed {
    /// Its number.
    pub row: u32,
    /// Its linear weight.
    pub linear: f32,
    /// What they are multiplied by.
    pub x: f32,
    /// The field vector that it is added to.
    pub vector: u32,
    /// The example that this is of.
    pub example: u32,
}

#[inline(always)]
fn add_placed_of<const DIM: usize, const FUSED: bool>(
    dim: usize,
    placed: &[Placed],
    embeddings: &[f32],
    vectors: &mut [f32],
    sums: &mut [f32],
) {
    let dim = width_of::<DIM>(dim);
    for &Placed { row, linear, x, vector, example } in placed {
        let sum = &mut sums[example as usize];
        *sum = fma::<FUSED>(x, linear, *sum);
        let vector = &mut vectors[vector as usize * dim..][..dim];
        let embedding = &embeddings[row as usize * dim..][..dim];
        for lane in 0..dim {
            vector[lane] = fma::<FUSED>(x, embedding[lane], vector[lane]);
        }
    }
}

#[inline(always)]
fn interactions_of<const DIM: usize, const FUSED: bool>(
    dim: usize,
    vectors: &[f32],
    sums: &mut [f32],
    pairs: &mut [f32],
) {
    let dim = width_of::<DIM>(dim);
    let width = vectors.len().checked_div(pairs.len()).unwrap_or(0);
    if width == 0 {
        return;
    }
    for ((pairs, sums), vectors) in pairs.iter_mut().zip(sums.chunks_exact_mut(dim)).zip(vectors.chunks_exact(width)) {
        let mut products = [0.0_f32; LANES];
        for start in (0..dim).step_by(LANES) {
            let lanes = LANES.min(dim - start);
            let mut sum = [0.0_f32; LANES];
            sum[..lanes].copy_from_slice(&sums[start..start + lanes]);
            for vector in vectors.chunks_exact(dim) {
                let vector = &vector[start..start + lanes];
                for lane in 0..lanes {
                    products[lane] = fma::<FUSED>(vector[lane], sum[lane], products[lane]);
                    sum[lane] += vector[lane];
                }
            }
            sums[start..start + lanes].copy_from_slice(&sum[..lanes]);
        }
        *pairs = total(products);
    }
}

/// Values that the sums of an example are repeated to, field by field: what is added to its gradients is one loop then, whose lanes
/// are neighbours whatever the width of a field.
const TILE: usize = 512;

#[inline(always)]
fn add_interaction_gradients_of<const DIM: usize, const FUSED: bool>(
    dim: usize,
    dlogits: &[f32],
    vectors: &[f32],
    sums: &[f32],
    gradients: &mut [f32],
) {
    let dim = width_of::<DIM>(dim);
    let width = vectors.len().checked_div(dlogits.len()).unwrap_or(0);
    if width == 0 {
        return;
    }
    let mut tile = [0.0_f32; TILE];
    let repeated = (TILE / dim).min(width / dim) * dim;
    let examples = vectors.chunks_exact(width).zip(gradients.chunks_exact_mut(width));
    for ((dlogit, sums), (vectors, gradients)) in dlogits.iter().zip(sums.chunks_exact(dim)).zip(examples) {
        tile[..repeated].chunks_exact_mut(dim).for_each(|field| field.copy_from_slice(sums));
        // A field that is wider than the tile has its sums as they are.
        let sums = if repeated > 0 { &tile[..repeated] } else { sums };
        for (vectors, gradients) in vectors.chunks(sums.len()).zip(gradients.chunks_mut(sums.len())) {
            for ((gradient, vector), sum) in gradients.iter_mut().zip(vectors).zip(sums) {
                *gradient = fma::<FUSED>(*dlogit, sum - vector, *gradient);
            }
        }
    }
}

/// Gradients of a parameter group by slot, added up, and what bounds what one example adds to one.
#[derive(Debug)]
pub struct Sums<'a> {
    /// Gradients, summed over a batch.
    pub g: &'a mut [f32],
    /// FTRL state n: what one example adds is shortened so that no coordinate's part is beyond `bound · max(1, √n)`.
    pub n: &'a [f32],
    /// `None` is no bound.
    pub bound: Option<f32>,
}

impl Sums<'_> {
    /// Adds `x · d` to coordinates from a place on. Not finite stays so. `most` is at least the magnitude of each `d`, or not finite.
    #[inline(always)]
    fn add<const DIM: usize, const FUSED: bool>(&mut self, start: usize, x: f32, d: &[f32], most: f32) {
        let mut factor = x;
        // Almost always all are within the least that the bound can be.
        if let Some(bound) = self.bound
            && (most.is_nan() || (x * most).abs() > bound)
        {
            factor *= share(bound, x, d, &self.n[start..]);
        }
        let g = &mut self.g[start..start + d.len()];
        if let (Some(g), Some(d)) = (g.first_chunk_mut::<DIM>(), d.first_chunk::<DIM>())
            && DIM > 0
        {
            // In registers, so that lanes are side by side.
            let mut sums = *g;
            for lane in 0..DIM {
                sums[lane] = fma::<FUSED>(factor, d[lane], sums[lane]);
            }
            *g = sums;
            return;
        }
        for (g, d) in g.iter_mut().zip(d) {
            *g = fma::<FUSED>(factor, *d, *g);
        }
    }
}

/// What `x · d` is multiplied by so that no part of it is beyond its bound.
#[cold]
fn share(bound: f32, x: f32, d: &[f32], n: &[f32]) -> f32 {
    let part = |d: &f32| (x * d).abs();
    let (mut beyond, mut infinite) = (false, false);
    for part in d.iter().map(part) {
        beyond |= part > bound;
        infinite |= part == f32::INFINITY;
    }
    if beyond && !infinite {
        d.iter().zip(n).map(|(d, n)| bound * n.sqrt().max(1.0) / part(d)).fold(1.0, f32::min)
    } else {
        1.0
    }
}

/// Adds up the entries of one field that are for one slot: they move it together.
#[derive(Clone, Debug, Default)]
pub struct Repeats {
    /// Where a slot is in `summed`, if that says so too.
    places: Vec<u32>,
    summed: Vec<(u32, f32)>,
}

impl Repeats {
    /// Those of the entries that are for slots from `first` on, each slot once, in the order in which they come first. A single entry
    /// is given back whatever it is for.
    #[inline(always)]
    fn summed<'s>(&'s mut self, entries: &'s [(u32, f32)], first: usize, slots: usize) -> &'s [(u32, f32)] {
        if entries.len() <= 1 { entries } else { self.sum(entries, first, slots) }
    }

    fn sum(&mut self, entries: &[(u32, f32)], first: usize, slots: usize) -> &[(u32, f32)] {
        self.places.resize(self.places.len().max(slots), 0);
        self.summed.clear();
        for &(slot, x) in entries {
            let Some(place) = self.places[..slots].get_mut((slot as usize).wrapping_sub(first)) else { continue };
            if let Some((_, sum)) = self.summed.get_mut(*place as usize).filter(|(other, _)| *other == slot) {
                *sum += x;
            } else {
                *place = self.summed.len() as u32;
                self.summed.push((slot, x));
            }
        }
        &self.summed
    }
}

#[inline(always)]
fn scatter_of<const DIM: usize, const FUSED: bool>(
    batch: Entries<'_>,
    (dlogits, gradients): (&[f32], &[f32]),
    first: usize,
    (mut linear, mut embedding): (Sums<'_>, Sums<'_>),
    repeats: &mut Repeats,
) {
    let dim = width_of::<DIM>(batch.dim);
    let mut fields = batch.by_field();
    for (dlogit, gradients) in dlogits.iter().zip(gradients.chunks_exact(batch.fields * dim)) {
        let most = largest_of(gradients);
        for gradient in gradients.chunks_exact(dim) {
            let entries = fields.next().unwrap_or_default();
            let slots = linear.g.len();
            // Without a bound it makes no difference but of rounding whether entries are added up before.
            for &(slot, x) in repeats.summed(entries, first, slots) {
                let slot = (slot as usize).wrapping_sub(first);
                if slot < slots {
                    linear.add::<1, FUSED>(slot, x, std::slice::from_ref(dlogit), *dlogit);
                    embedding.add::<DIM, FUSED>(slot * dim, x, &gradient[..dim], most);
                }
            }
        }
    }
}

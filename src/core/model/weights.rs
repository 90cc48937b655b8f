//! The weights of rows as servers get them, and the digest by which copies of them are compared.
//!
//! The digest of a model's weights is a sum modulo 2^128: of the XXH3-128 of each row (`id`, linear weight, embedding: the
//! id in 64 bits, each weight in 32, little-endian), and of the XXH3-128 of bias and MLP. So it is kept from what changed,
//! as the table's own digest is, and does not cost what there is.

use xxhash_rust::xxh3::xxh3_128;

use super::params::ModelParams;
use crate::feature::FeatureId;
use crate::optim::ftrl;
use crate::optim::params::FtrlParams;

/// How the weights of a row follow from its optimizer state.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct WeightRule {
    pub(super) linear: FtrlParams,
    pub(super) embedding: FtrlParams,
}

impl WeightRule {
    /// The rule of a model.
    pub fn of(params: &ModelParams) -> Self {
        Self { linear: params.linear, embedding: params.embedding }
    }

    /// Writes the embedding of a row with this state (`z[1 + dim]`, then `n[1 + dim]`, linear coordinate first) to `v`
    /// (`[dim]`), and returns its linear weight.
    #[inline]
    pub fn weights(&self, state: &[f32], v: &mut [f32]) -> f32 {
        let (z, n) = state.split_at(1 + v.len());
        ftrl::weights(&self.embedding, &z[1..], &n[1..], v);
        ftrl::shrink_group(&self.embedding, &z[1..], v);
        ftrl::weight(&self.linear, z[0], n[0])
    }
}

/// Hashes rows of weights; keeps the room for their bytes.
#[derive(Clone, Debug, Default)]
pub struct RowHasher {
    words: Vec<u32>,
}

impl RowHasher {
    /// What a row adds to the digest of the weights.
    #[inline]
    pub fn hash(&mut self, id: FeatureId, linear: f32, embedding: &[f32]) -> u128 {
        self.words.clear();
        self.words.extend([id as u32, (id >> 32) as u32, linear.to_bits()]);
        self.words.extend_from_slice(bytemuck::cast_slice(embedding));
        xxh3_128(bytemuck::cast_slice(&self.words))
    }
}

/// What bias and MLP add to the digest of the weights.
pub fn dense_hash(bias: f32, mlp: &[f32]) -> u128 {
    let values: Vec<f32> = std::iter::once(bias).chain(mlp.iter().copied()).collect();
    xxh3_128(bytemuck::cast_slice(&values))
}

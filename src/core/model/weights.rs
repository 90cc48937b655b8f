//! The weights of rows as servers get them, and the digest by which copies of them are compared.
//!
//! The digest of a model's weights is a sum modulo 2^128: of the XXH3-128 of each row (`id`, linear weight, embedding: the
//! id in 64 bits, each weight in 32, little-endian), and of the XXH3-128 of bias and MLP. So it is kept from what changed,
//! as the table's own digest is, and does not cost what there is.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};
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

/// The digest of all weights of a version: equal of two that score alike, unless by accident. It is no proof against who
/// makes weights to fit it: that is what the files' SHA-256 is for.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(into = "String", try_from = "String")]
pub struct WeightsDigest(pub u128);

/// A text that is no digest of weights.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a digest of weights has 32 small hexadecimal digits")]
pub struct NoWeightsDigest;

impl fmt::Display for WeightsDigest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:032x}", self.0)
    }
}

impl fmt::Debug for WeightsDigest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for WeightsDigest {
    type Err = NoWeightsDigest;

    fn from_str(text: &str) -> Result<Self, NoWeightsDigest> {
        let digest = u128::from_str_radix(text, 16).map(Self).map_err(|_| NoWeightsDigest)?;
        // Read only as it is written: no sign, no capitals, no digit more or less.
        if digest.to_string() == text { Ok(digest) } else { Err(NoWeightsDigest) }
    }
}

impl From<WeightsDigest> for String {
    fn from(digest: WeightsDigest) -> Self {
        digest.to_string()
    }
}

impl TryFrom<String> for WeightsDigest {
    type Error = NoWeightsDigest;

    fn try_from(text: String) -> Result<Self, NoWeightsDigest> {
        text.parse()
    }
}

//! The weights of rows as servers get them, and the digest by which copies of them are compared.
//!
//! The digest of a model's weights is a sum modulo 2^128: of the XXH3-128 of each row (`id`, linear weight, embedding: the
//! id in 64 bits, each weight in 32, little-endian), and of the XXH3-128 of bias and MLP. So it is kept from what changed,
//! as the table's own digest is, and does not cost what there is.

use std::fmt;
use std::str::FromStr;

use half::f16;
use serde::{Deserialize, Serialize};
use xxhash_rust::xxh3::xxh3_128;

use super::params::ModelParams;
use crate::feature::FeatureId;
use crate::optim::ftrl;
use crate::optim::params::FtrlParams;

/// In how many bits the weights of rows are served. Bias and MLP have 32 in any case.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Precision {
    /// IEEE binary32: as they were learned.
    #[default]
    F32,
    /// IEEE binary16, rounded to the nearest, of two as near to the even one. What is beyond its range becomes its largest.
    F16,
}

impl Precision {
    /// The served weight. One that is not finite stays so.
    #[inline]
    pub fn round(self, weight: f32) -> f32 {
        if self == Self::F16 && weight.is_finite() {
            f16::from_f32(weight.clamp(f16::MIN.to_f32(), f16::MAX.to_f32())).to_f32()
        } else {
            weight
        }
    }

    /// The most by which rounding moves a weight of at least 2⁻¹⁴ and at most 65504 in size, as a share of it; a smaller one
    /// moves by at most 2⁻²⁵.
    pub fn weight_error(self) -> f32 {
        match self {
            Self::F32 => 0.0,
            Self::F16 => 1.0 / 2048.0,
        }
    }
}

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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn weights_in_16_bits_are_the_nearest_of_two_the_even_one_and_never_beyond_the_largest() {
        let round = |weight| Precision::F16.round(weight);
        let unit = 2.0_f32.powi(-10);
        for (weight, expected) in [
            (0.1, 0.099_975_586),
            (1.0 + unit / 2.0, 1.0),
            (1.0 + 1.5 * unit, 1.0 + 2.0 * unit),
            (1.0 + 0.51 * unit, 1.0 + unit),
            (2.0_f32.powi(-25), 0.0),
            (1.5 * 2.0_f32.powi(-24), 2.0_f32.powi(-23)),
            (65_504.0, 65_504.0),
            (65_530.0, 65_504.0),
            (-1e30, -65_504.0),
            (f32::INFINITY, f32::INFINITY),
        ] {
            assert_eq!(round(weight), expected, "{weight}");
        }
        assert!(round(f32::NAN).is_nan());
        assert_eq!(Precision::F32.round(0.1), 0.1);
    }

    #[test]
    fn a_digest_of_weights_is_read_only_as_it_is_written() {
        let digest = WeightsDigest(u128::MAX / 11);
        assert_eq!(digest.to_string().parse(), Ok(digest));
        let text = digest.to_string();
        for other in [text[1..].to_owned(), format!("0{text}"), text.to_uppercase(), format!("+{}", &text[1..])] {
            assert_eq!(other.parse::<WeightsDigest>(), Err(NoWeightsDigest), "{other}");
        }
    }
}

//! Fields, feature ids and encoded features: how a value of an event becomes a row of the embedding table.
//!
//! Training, backtests and serving share this code; [`field::FieldSet::fingerprint`] names what it was told, and travels
//! in every version.

pub mod encoder;
pub mod field;
pub mod hash;
pub mod id;
pub mod value;

mod features;
mod wire;

use serde::{Deserialize, Serialize};

pub use features::Features;

/// A feature id: the XXH3-64 of a field and a value.
pub type FeatureId = u64;

/// One value of a field.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Entry {
    /// Its feature id.
    pub id: FeatureId,
    /// Its weight; 1 for a plain value.
    pub x: f32,
}

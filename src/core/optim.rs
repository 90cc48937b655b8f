//! One update rule per parameter group: FTRL-Proximal for bias, linear weights and embeddings, SGD for the MLP.
//!
//! Free functions over slices of f32. An FTRL weight is never stored: it is a pure function of its state (z, n), so it
//! cannot go stale.

pub mod ftrl;
pub mod params;
pub mod sgd;

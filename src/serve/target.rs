//! Which version a server wants, and what it accepts.

use std::time::Duration;

use deepfm_core::event::options::EventOptions;
use deepfm_core::feature::encoder::EntryBounds;

pub use deepfm_core::version::target::Target;

/// Fingerprints that versions must have to be served. What is not given is not asked for; that fields and hashing are what the
/// version's own manifest says of them is checked in any case.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Required {
    /// Of the fields.
    pub fields: Option<String>,
    /// Of the configuration.
    pub configuration: Option<String>,
}

/// How versions are followed and requests are bounded.
#[derive(Clone, Debug, PartialEq)]
pub struct FollowOptions {
    /// Name of the model: versions of others are refused.
    pub model: String,
    /// Which version is followed.
    pub target: Target,
    /// What versions must be.
    pub required: Required,
    /// What one row of features may hold.
    pub bounds: EntryBounds,
    /// The most rows or candidates of one request.
    pub rows_max: usize,
    /// How often a directory is looked at.
    pub poll: Duration,
}

impl FollowOptions {
    /// The defaults for a model: the alias `live`, rows bounded as training bounds them, 10,000 of them, five looks a second.
    pub fn new(model: &str) -> Self {
        Self {
            model: model.to_owned(),
            target: Target::default(),
            required: Required::default(),
            bounds: EventOptions::default().bounds(),
            rows_max: 10_000,
            poll: Duration::from_millis(200),
        }
    }
}

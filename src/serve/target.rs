//! Which version a server wants, and what it accepts.

#[cfg(feature = "object-store")]
use std::path::PathBuf;
use std::time::Duration;

use deepfm_core::event::options::EventOptions;
use deepfm_core::feature::encoder::EntryBounds;

pub use deepfm_core::version::target::Target;

#[cfg(feature = "object-store")]
use crate::config::storage::Storage;

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
    /// Where versions are fetched from and to that are announced on the topic and not on this machine.
    #[cfg(feature = "object-store")]
    pub remote: Option<RemoteOptions>,
}

/// How versions are fetched from object storage.
#[cfg(feature = "object-store")]
#[derive(Clone, Debug, PartialEq)]
pub struct RemoteOptions {
    /// The place that is fetched from, and how it is reached. A version that is announced to lie elsewhere is refused.
    pub storage: Storage,
    /// The directory of what was fetched, for this program alone.
    pub cache: PathBuf,
    /// The most bytes that a version may take in the cache with all that it stands on, manifests included.
    pub fetch_bytes_max: u64,
}

#[cfg(feature = "object-store")]
impl RemoteOptions {
    /// The most bytes of a version with all that it stands on, where nothing else is said.
    pub const FETCH_BYTES_MAX: u64 = 64 << 30;

    /// The defaults.
    pub fn new(storage: Storage, cache: PathBuf) -> Self {
        Self { storage, cache, fetch_bytes_max: Self::FETCH_BYTES_MAX }
    }
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
            #[cfg(feature = "object-store")]
            remote: None,
        }
    }
}

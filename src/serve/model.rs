//! A version that is ready to score.

use deepfm_core::feature::encoder::Encoder;
use deepfm_core::model::weights::WeightsDigest;
use deepfm_core::version::manifest::Manifest;
use deepfm_core::version::scoring::Scoring;

/// A loaded version: immutable, shared by all who score with it.
#[derive(Debug)]
pub struct ServedModel {
    pub(super) manifest: Manifest,
    pub(super) digest: String,
    pub(super) encoder: Encoder,
    pub(super) scoring: Scoring,
    /// Digest of the logits that this process computed for its probes.
    pub(super) probes_digest: String,
    /// Of all weights: deltas go on from it.
    pub(super) weights_digest: WeightsDigest,
}

impl ServedModel {
    /// Its number.
    pub fn version(&self) -> u64 {
        self.manifest.version
    }

    /// SHA-256 of its manifest.
    pub fn digest(&self) -> &str {
        &self.digest
    }

    /// What it says of itself.
    pub fn manifest(&self) -> &Manifest {
        &self.manifest
    }

    /// How it turns features into ids.
    pub fn encoder(&self) -> &Encoder {
        &self.encoder
    }

    /// Its weights.
    pub fn scoring(&self) -> &Scoring {
        &self.scoring
    }

    /// How old what it has learned is at `now`, in milliseconds since 1970: how far its event-time watermark is behind. `None`
    /// without a watermark; never below 0.
    pub fn age_ms(&self, now: i64) -> Option<i64> {
        self.manifest.watermark.map(|watermark| now.saturating_sub(watermark).max(0))
    }
}

//! `[training]`: micro-batches and down-sampling.

use serde::{Serialize, Serializer};

use super::section::{Bounds, Section};

/// How examples are cut into micro-batches, and which negatives are learned.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Training {
    /// Examples in a micro-batch of a young model.
    pub batch_min: usize,
    /// Examples in a micro-batch of an old model.
    pub batch_max: usize,
    /// A micro-batch has as many examples as this goes into the number learned, between the two bounds.
    pub batch_growth_examples: u64,
    /// A micro-batch is cut when event time has moved this far since its first example, in milliseconds.
    pub batch_span_ms: u64,
    /// The share of negatives that is learned.
    pub negative_sampling_rate: f32,
    /// Bound on a coordinate's summed squared gradients; `None` is off.
    #[serde(serialize_with = "zero_for_off")]
    pub n_max: Option<f32>,
    /// Bound on what one example may add to a row; `None` is off.
    #[serde(serialize_with = "zero_for_off")]
    pub gradient_max: Option<f32>,
}

impl Training {
    pub(super) fn read(section: &Section<'_>) -> Self {
        let default = Self::default();
        let size = "a micro-batch has at least one example, and all of its examples are scored with the same weights";
        let growth = "it divides the number of examples learned";
        let sampling = "it is the share of negatives that is kept";
        let off = default.n_max.unwrap_or_default();
        let n_max = section.number("n_max", off, Bounds::NOT_NEGATIVE, "it bounds a sum of squares; 0 is off");
        let off = default.gradient_max.unwrap_or_default();
        let gradient_max = section.number("gradient_max", off, Bounds::NOT_NEGATIVE, "it bounds a gradient; 0 is off");
        let training = Self {
            batch_min: section.count("batch_min", default.batch_min, 1, 65_536, size),
            batch_max: section.count("batch_max", default.batch_max, 1, 65_536, size),
            batch_growth_examples: section.whole(
                "batch_growth_examples",
                default.batch_growth_examples,
                1,
                1_000_000_000_000,
                growth,
            ),
            batch_span_ms: section.whole("batch_span_ms", default.batch_span_ms, 1, 86_400_000, "it is at most a day"),
            negative_sampling_rate: section.number(
                "negative_sampling_rate",
                default.negative_sampling_rate,
                Bounds::SHARE,
                sampling,
            ),
            n_max: (n_max > 0.0).then_some(n_max),
            gradient_max: (gradient_max > 0.0).then_some(gradient_max),
        };
        if training.batch_min > training.batch_max && section.are_sound(&["batch_min", "batch_max"]) {
            let problem = format!("{} is above batch_max, {}", training.batch_min, training.batch_max);
            section.refuse("batch_min", problem, "batches grow from batch_min to batch_max");
        }
        training
    }
}

#[expect(
    clippy::ref_option,
    clippy::trivially_copy_pass_by_ref,
    reason = "serde's serialize_with passes the field by reference"
)]
fn zero_for_off<S: Serializer>(n_max: &Option<f32>, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_f32(n_max.unwrap_or(0.0))
}

//! `[training]`: micro-batches and down-sampling.

use serde::Serializer;

use super::declare::{Readable, section};
use super::keys::Bounds;
use super::kinds::{OffAtZero, Whole, number, whole};
use super::section::Section;
use crate::thread::crew::THREADS_MAX;

const SIZE: Whole = whole(
    1,
    65_536,
    "a micro-batch has at least one example, and all of its examples are scored with the same weights",
);

section! {
    /// How examples are cut into micro-batches, and which negatives are learned.
    Training in "training" {
        /// Examples in a micro-batch of a young model. All of them are scored with the same weights: large batches are fast
        /// but learn late on a young model.
        batch_min: usize = 4, SIZE, Converts;
        /// Examples in a micro-batch of an old model. After alpha the largest lever where users come in sessions, since an
        /// example learns nothing from those of its own batch: on 100,000 movie ratings log loss is 0.576 at batches of 4,
        /// 0.597 at 32 and 0.610 at 256. Lower it there if the speed allows.
        batch_max: usize = 256, SIZE, Converts;
        /// A micro-batch has as many examples as this goes into the number learned, between the two bounds.
        batch_growth_examples: u64 = 12_500,
            whole(1, 1_000_000_000_000, "it divides the number of examples learned"), Converts;
        /// A batch is also cut when event time has moved this far since its first example. Shorter is fresher on slow topics.
        batch_span_ms: u64 = 500, whole(1, 86_400_000, "it is at most a day"), Converts;
        /// Threads that work on a micro-batch, beside those that read and decode. What is learned is the same, to the bit. It pays
        /// where batches are large, and cores have nothing else to do.
        #[serde(skip_serializing_if = "is_unsaid")]
        threads: usize = 1, whole(1, THREADS_MAX as u64, "a batch is cut into so many parts at most"), Free;
        /// The share of negatives that is learned, chosen by a hash of the impression. Less is faster; scores and metrics are
        /// corrected for it. Not with labels = "fake_negative".
        negative_sampling_rate: f32 = 1.0, number(Bounds::SHARE, "it is the share of negatives that is kept"), Refused;
        /// Bound on a coordinate's summed squared gradients, which keeps an old model able to move. 0 is off; 100 is a good
        /// start where tastes drift fast (log loss 0.2015 instead of 0.2024 on simulated clicks); where they drifted slowly
        /// it changed nothing.
        #[serde(serialize_with = "zero_for_off")]
        n_max: Option<f32> = None, OffAtZero("it bounds a sum of squares; 0 is off"), ConvertsAs("model.n_max");
        /// The circuit breaker: when so many clicks are missing, by the usual rate of clicks, learning pauses until clicks come
        /// again, no version is published, and what was shown meanwhile is skipped. Labels wait while clicks seem to be missing,
        /// so that nothing of an outage is learned. 0 is off. Only with emit = "at_maturity" (and labels = "window").
        #[serde(serialize_with = "zero_for_off")]
        missing_clicks_max: Option<f32> = Some(50.0), OffAtZero("it is a number of clicks; 0 is off"), Converts;
        /// How far one example may move a row or the bias: its gradient of a coordinate is at most so many times the root of
        /// the coordinate's summed squared gradients, or so much while that is below 1. At 1 no example can more than double
        /// the sum, and so none, whatever its weights, spoils a learning rate. 0 is off.
        #[serde(serialize_with = "zero_for_off")]
        gradient_max: Option<f32> = Some(1.0),
            OffAtZero("it bounds a gradient; 0 is off"), ConvertsAs("model.gradient_max");
    }
}

/// Whether a number of threads is the one that no file can have.
#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde asks so")]
fn is_unsaid(threads: &usize) -> bool {
    *threads == 0
}

impl Training {
    /// The same without what does not decide the state: the canonical form does not say it.
    pub(super) fn deciding(&self) -> Self {
        Self { threads: 0, ..self.clone() }
    }

    pub(super) fn read(section: &Section<'_>) -> Self {
        let training = Self::read_keys(section);
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

//! Why a record cannot be read.

use std::fmt;

use serde::{Deserialize, Serialize};

use super::plain::plain;

/// The longest detail of a refusal, in characters: it travels in dead letters, and may quote what a producer wrote.
pub const DETAIL_CHARS_MAX: usize = 512;

/// The reasons, each counted apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Reason {
    /// The record has no value.
    Tombstone,
    /// The value is longer than `record_bytes_max`.
    Oversized,
    /// The value is not JSON by its own account (a header says so).
    UnsupportedFraming,
    /// The value is not valid UTF-8 or not valid JSON.
    Malformed,
    /// A value has another type than its place asks for.
    Mistyped,
    /// A required key is missing.
    MissingKey,
    /// A key stands twice.
    DuplicateKey,
    /// There are more feature values than `features_max`.
    TooManyFeatures,
    /// A weight, the example's or that of a value of a field, is beyond `weight_max`.
    WeightOutOfRange,
    /// The event time is in seconds.
    SecondsNotMilliseconds,
    /// The event time is in microseconds or nanoseconds.
    MicrosecondsNotMilliseconds,
    /// The event time is before 1970.
    TimeOutOfRange,
    /// The event time is later than the record's own timestamp allows.
    FutureDated,
    /// The impression could be read, and not be learned: a gradient or weight would not have been finite.
    NotFinite,
}

impl Reason {
    /// Every reason.
    pub const ALL: [Self; 14] = [
        Self::Tombstone,
        Self::Oversized,
        Self::UnsupportedFraming,
        Self::Malformed,
        Self::Mistyped,
        Self::MissingKey,
        Self::DuplicateKey,
        Self::TooManyFeatures,
        Self::WeightOutOfRange,
        Self::SecondsNotMilliseconds,
        Self::MicrosecondsNotMilliseconds,
        Self::TimeOutOfRange,
        Self::FutureDated,
        Self::NotFinite,
    ];

    /// Its name in metrics and dead letters.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Tombstone => "tombstone",
            Self::Oversized => "oversized",
            Self::UnsupportedFraming => "unsupported_framing",
            Self::Malformed => "malformed",
            Self::Mistyped => "mistyped",
            Self::MissingKey => "missing_key",
            Self::DuplicateKey => "duplicate_key",
            Self::TooManyFeatures => "too_many_features",
            Self::WeightOutOfRange => "weight_out_of_range",
            Self::SecondsNotMilliseconds => "seconds_not_milliseconds",
            Self::MicrosecondsNotMilliseconds => "microseconds_not_milliseconds",
            Self::TimeOutOfRange => "time_out_of_range",
            Self::FutureDated => "future_dated",
            Self::NotFinite => "not_finite",
        }
    }
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// A record that cannot be read.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{reason}: {detail}")]
pub struct Refusal {
    /// The reason, for counting.
    pub reason: Reason,
    /// Never set but by [`Refusal::new`], which bounds it.
    detail: Box<str>,
}

impl Refusal {
    /// A refusal. Of the detail [`DETAIL_CHARS_MAX`] characters are kept, [plain].
    pub fn new(reason: Reason, detail: impl AsRef<str>) -> Self {
        Self { reason, detail: plain(detail.as_ref(), DETAIL_CHARS_MAX).into() }
    }

    /// What was found and where, for people: one line, whatever the record had in it.
    pub fn detail(&self) -> &str {
        &self.detail
    }
}

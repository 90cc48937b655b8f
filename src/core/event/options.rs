//! What the decoder accepts: limits, and where a foreign event keeps its parts.

use serde::{Deserialize, Serialize};

use super::EventKind;
use crate::feature::encoder::EntryBounds;

/// Limits of one record, and how topics that look different are read.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct EventOptions {
    /// How far an event time may be ahead of its record's own Kafka timestamp, in seconds.
    pub future_max_seconds: u64,
    /// The largest record that is decoded, in bytes.
    pub record_bytes_max: usize,
    /// The most feature entries that one impression may have, all fields together.
    pub features_max: usize,
    /// The largest magnitude of a weight: an example's, or one that an object gives a value of a field.
    pub weight_max: f64,
    /// Where foreign events keep their parts.
    pub mapping: Mappings,
}

impl EventOptions {
    /// The part of them that concerns features.
    pub fn bounds(&self) -> EntryBounds {
        EntryBounds { features_max: self.features_max, weight_max: self.weight_max }
    }
}

impl Default for EventOptions {
    fn default() -> Self {
        Self {
            future_max_seconds: 10,
            record_bytes_max: 1 << 20,
            features_max: 4096,
            weight_max: 1e6,
            mapping: Mappings::default(),
        }
    }
}

/// One mapping for each kind of event.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Mappings {
    /// How impressions are read.
    pub impression: Mapping,
    /// How clicks are read.
    pub click: Mapping,
}

impl Mappings {
    /// How events of this kind are read.
    pub fn of(&self, kind: EventKind) -> &Mapping {
        match kind {
            EventKind::Impression => &self.impression,
            EventKind::Click => &self.click,
        }
    }
}

/// JSON pointers (RFC 6901) to the parts of a foreign event. What is not named is read at its standard key.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Mapping {
    /// Where the impression's id is, in impressions and in clicks.
    pub impression_id: Option<String>,
    /// Where the event's own id is.
    pub event_id: Option<String>,
    /// Where the event time is.
    pub event_time: Option<String>,
    /// Where the object of features is; `""` is the whole document. A configured field in it wins over an optional part at
    /// the same key, unless that is mapped.
    pub features: Option<String>,
    /// Where the example weight is.
    pub weight: Option<String>,
    /// The unit of the event time.
    pub time_unit: TimeUnit,
}

/// Units of a foreign event time.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum TimeUnit {
    /// Seconds since 1970, fractions allowed.
    S,
    /// Milliseconds since 1970.
    #[default]
    Ms,
    /// Microseconds since 1970.
    Us,
    /// Nanoseconds since 1970.
    Ns,
    /// A date and time with offset, as a string (RFC 3339).
    Rfc3339,
}

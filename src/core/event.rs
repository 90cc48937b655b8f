//! What happened: impressions and clicks, decoded from bytes with their features already encoded.
//!
//! A record's bytes go through one streaming pass into a typed [`Event`]; there is no intermediate document. What cannot
//! be read becomes a [`Refusal`] with a [`Reason`], and is never fatal. `schemas/` says the same for people, and a test
//! holds the two to one verdict.

mod decode;
mod envelope;
mod framing;
mod id;
pub mod mapping;
pub mod options;
pub mod plain;
mod refusal;
mod time;

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::feature::Features;

pub use decode::Decoder;
pub use envelope::RawRecord;
pub use framing::unframe;
pub use id::Id;
pub use mapping::MappingError;
pub use refusal::{DETAIL_CHARS_MAX, Reason, Refusal};

/// The two kinds of events. At equal event times an impression comes before a click.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum EventKind {
    /// Something was shown.
    Impression,
    /// What was shown was clicked.
    Click,
}

impl fmt::Display for EventKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Impression => "impression",
            Self::Click => "click",
        })
    }
}

/// Something was shown.
#[derive(Clone, Debug, PartialEq)]
pub struct Impression {
    /// Its id, which clicks name.
    pub impression_id: Id,
    /// The event's own id, by which repeated sending is known.
    pub event_id: Option<Id>,
    /// Milliseconds since 1970, by the producer.
    pub event_time: i64,
    /// Example weight, at least 0; 1 unless given.
    pub weight: f32,
    /// Its features.
    pub features: Features,
}

/// What was shown was clicked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Click {
    /// The impression's id.
    pub impression_id: Id,
    /// The event's own id.
    pub event_id: Option<Id>,
    /// Milliseconds since 1970, by the producer.
    pub event_time: i64,
}

/// An event of either kind.
#[derive(Clone, Debug, PartialEq)]
pub enum Event {
    /// Something was shown.
    Impression(Impression),
    /// It was clicked.
    Click(Click),
}

impl Event {
    /// Milliseconds since 1970.
    pub fn event_time(&self) -> i64 {
        match self {
            Self::Impression(impression) => impression.event_time,
            Self::Click(click) => click.event_time,
        }
    }
}

/// An event, with what was passed over in it.
#[derive(Clone, Debug, PartialEq)]
pub struct Decoded {
    /// The event.
    pub event: Event,
    /// Top-level keys that mean nothing.
    pub unknown_keys: u32,
    /// Features of no configured field.
    pub unknown_fields: u32,
}

impl Decoded {
    /// Bytes of its event's ids and features.
    pub fn bytes(&self) -> usize {
        let (impression_id, event_id, features) = match &self.event {
            Event::Impression(Impression { impression_id, event_id, features, .. }) => {
                (impression_id, event_id, features.weight())
            }
            Event::Click(Click { impression_id, event_id, .. }) => (impression_id, event_id, 0),
        };
        impression_id.len() + event_id.as_ref().map_or(0, |id| id.len()) + features
    }
}

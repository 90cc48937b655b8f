//! A record as the core receives it: decoded, or refused with all that a dead letter needs.

use xxhash_rust::xxh3::xxh3_64;

use crate::event::{Decoded, Refusal};
use crate::feature::hash::mix64;

/// One record of a partition, decoded by the shell with the core's decoder.
#[derive(Clone, Debug)]
pub struct Arrival {
    /// Its offset in the partition.
    pub offset: i64,
    /// Its [`record_hash`], for the ledger.
    pub hash: u64,
    /// What it said, or why it could not be read.
    pub body: Result<Decoded, Box<Refused>>,
}

/// The hash of a record by its offset and its value (`None` is a tombstone): what the ledger adds up.
pub fn record_hash(offset: i64, payload: Option<&[u8]>) -> u64 {
    mix64(payload.map_or(0, xxh3_64) ^ mix64(offset as u64 + 1))
}

impl Arrival {
    /// The room that it takes in a queue: 1, or more for one that was [refused](Refused::weight).
    pub fn weight(&self) -> usize {
        self.body.as_ref().err().map_or(1, |refused| refused.weight())
    }

    /// The event time, if the record has a usable one (milliseconds).
    pub fn event_time(&self) -> Option<i64> {
        self.body.as_ref().ok().map(|decoded| decoded.event.event_time())
    }
}

/// A record that could not be read, as it is sent to the dead-letter topic.
#[derive(Clone, Debug, PartialEq)]
pub struct Refused {
    /// Why.
    pub refusal: Refusal,
    /// The record's value, or its beginning when it is longer than `dead_letter_bytes_max`.
    pub payload: Option<Vec<u8>>,
    /// Length of the whole value, in bytes.
    pub payload_bytes: u64,
    /// SHA-256 of the whole value, when only its beginning is kept.
    pub payload_sha256: Option<[u8; 32]>,
    /// The record's headers.
    pub headers: Vec<(String, Option<Vec<u8>>)>,
    /// The record's key.
    pub key: Option<Vec<u8>>,
    /// The record's Kafka timestamp, in milliseconds.
    pub timestamp: Option<i64>,
}

impl Refused {
    /// How many decoded records it counts for in a queue, by the memory that it takes.
    pub fn weight(&self) -> usize {
        let headers: usize =
            self.headers.iter().map(|(key, value)| key.len() + value.as_ref().map_or(0, Vec::len)).sum();
        let bytes = headers + self.key.as_ref().map_or(0, Vec::len) + self.payload.as_ref().map_or(0, Vec::len);
        1 + bytes / 1024
    }
}

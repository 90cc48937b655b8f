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
    record_hash_of(offset, payload.map_or(0, xxh3_64))
}

/// The same, of a value whose XXH3-64 is known.
pub fn record_hash_of(offset: i64, value_hash: u64) -> u64 {
    mix64(value_hash ^ mix64(offset as u64 + 1))
}

/// Bytes that one place in a queue stands for. A record takes as many places as it has such bytes, and one more.
const PLACE_BYTES: usize = 1024;

impl Arrival {
    /// The room that it takes in a queue, in places: 1, and one more for each kibibyte that it holds.
    pub fn weight(&self) -> usize {
        let bytes = match &self.body {
            Ok(decoded) => decoded.bytes(),
            Err(refused) => refused.bytes(),
        };
        1 + bytes / PLACE_BYTES
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
    /// A refusal with nothing of its record: an empty one, or one that is left where it was read.
    pub fn without_record(refusal: Refusal) -> Self {
        Self {
            refusal,
            payload: None,
            payload_bytes: 0,
            payload_sha256: None,
            headers: Vec::new(),
            key: None,
            timestamp: None,
        }
    }

    /// Bytes that it holds.
    pub fn bytes(&self) -> usize {
        let header = |(key, value): &(String, Option<Vec<u8>>)| {
            size_of::<(String, Option<Vec<u8>>)>() + key.len() + value.as_ref().map_or(0, Vec::len)
        };
        let headers: usize = self.headers.iter().map(header).sum();
        let parts = self.key.as_ref().map_or(0, Vec::len) + self.payload.as_ref().map_or(0, Vec::len);
        headers + parts + self.refusal.detail().len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event::{Event, Impression, Reason};
    use crate::feature::{Entry, Features};

    fn impression(entries: usize) -> Arrival {
        let features = Features::new(&[vec![Entry { id: 7, x: 1.0 }; entries]]);
        let impression_id = "i".into();
        let event =
            Event::Impression(Impression { impression_id, event_id: None, event_time: 0, weight: 1.0, features });
        Arrival { offset: 0, hash: 0, body: Ok(Decoded { event, unknown_keys: 0, unknown_fields: 0 }) }
    }

    #[test]
    fn a_record_takes_room_by_its_bytes() {
        assert_eq!(impression(30).weight(), 1);
        assert_eq!(impression(4096).weight(), 65);
        let refused = Refused {
            refusal: Refusal::new(Reason::Malformed, "no"),
            payload: Some(vec![0; 65_536]),
            payload_bytes: 65_536,
            payload_sha256: None,
            headers: vec![(String::new(), None); 900],
            key: Some(vec![0; 1024]),
            timestamp: None,
        };
        assert!(Arrival { offset: 0, hash: 0, body: Err(Box::new(refused)) }.weight() > 65 + 40);
    }
}

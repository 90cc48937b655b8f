//! From a raw record to an [`Arrival`]: decoded, or refused with all that its dead letter needs. Runs on the source's thread.

use sha2::{Digest as _, Sha256};

use super::rooms::Rooms;
use crate::lines::Long;
use deepfm_core::event::{Decoder, Event, EventKind, RawRecord, Refusal, unframe};
use deepfm_core::stream::{Arrival, Refused, record_hash, record_hash_of};

/// A record with its key, as a source hands it over.
#[derive(Clone, Copy, Debug)]
pub struct Message<'a> {
    /// Its offset.
    pub offset: i64,
    /// Its key.
    pub key: Option<&'a [u8]>,
    /// Value, headers, timestamp.
    pub record: RawRecord<'a>,
}

type Observer = Box<dyn FnMut(&Event, &[u8]) + Send>;

/// Decodes records, and shows the documents of those that could be decoded, without their frames, to an observer, which
/// may keep some of their raw form.
pub struct Ingest {
    decoder: Decoder,
    dead_letter_bytes_max: usize,
    observe: Observer,
    rooms: Rooms,
}

impl std::fmt::Debug for Ingest {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Ingest").field("dead_letter_bytes_max", &self.dead_letter_bytes_max).finish_non_exhaustive()
    }
}

impl Ingest {
    /// An ingest that keeps at most `dead_letter_bytes_max` bytes of what it refuses.
    pub fn new(
        decoder: Decoder,
        dead_letter_bytes_max: usize,
        observe: impl FnMut(&Event, &[u8]) + Send + 'static,
    ) -> Self {
        Self { decoder, dead_letter_bytes_max, observe: Box::new(observe), rooms: Rooms::default() }
    }

    /// Another ingest of the same kind, for a second thread; it shows its records to nobody.
    #[must_use]
    pub fn unobserved(&self) -> Self {
        let unobserved = Self::new(self.decoder.clone(), self.dead_letter_bytes_max, |_, _| ());
        Self { rooms: self.rooms.clone(), ..unobserved }
    }

    /// Where features go whose records are learned; [`fetch_rooms`](Self::fetch_rooms) fetches them.
    pub fn rooms(&self) -> &Rooms {
        &self.rooms
    }

    /// Fetches room for the features of a handful of records.
    pub fn fetch_rooms(&mut self) {
        self.rooms.fetch(self.decoder.rooms());
    }

    /// The decoder.
    pub fn decoder(&self) -> &Decoder {
        &self.decoder
    }

    /// Decodes a record.
    pub fn arrival(&mut self, kind: EventKind, message: &Message<'_>) -> Arrival {
        let body = match self.decoder.decode(kind, &message.record) {
            Ok(decoded) => {
                (self.observe)(&decoded.event, unframe(message.record.payload.unwrap_or_default()));
                Ok(decoded)
            }
            Err(refusal) => Err(Box::new(self.refused(refusal, message))),
        };
        Arrival { offset: message.offset, hash: record_hash(message.offset, message.record.payload), body }
    }

    /// The longest value that is decoded, in bytes.
    pub fn record_bytes_max(&self) -> usize {
        self.decoder.record_bytes_max()
    }

    /// Refuses a line that is too long to be held: as a record of that value would be.
    pub fn oversized(&self, offset: i64, long: &Long<'_>) -> Arrival {
        let kept = long.beginning.len().min(self.dead_letter_bytes_max);
        let refused = Refused {
            refusal: self.decoder.oversized(long.bytes),
            payload: Some(long.beginning[..kept].to_vec()),
            payload_bytes: long.bytes,
            payload_sha256: Some(long.sha256),
            headers: Vec::new(),
            key: None,
            timestamp: None,
        };
        Arrival { offset, hash: record_hash_of(offset, long.xxh3), body: Err(Box::new(refused)) }
    }

    fn refused(&self, refusal: Refusal, message: &Message<'_>) -> Refused {
        let payload = message.record.payload;
        let is_cut = payload.is_some_and(|payload| payload.len() > self.dead_letter_bytes_max);
        Refused {
            refusal,
            payload: payload.map(|payload| payload[..payload.len().min(self.dead_letter_bytes_max)].to_vec()),
            payload_bytes: payload.map_or(0, |payload| payload.len() as u64),
            payload_sha256: payload.filter(|_| is_cut).map(|payload| Sha256::digest(payload).into()),
            headers: message
                .record
                .headers
                .iter()
                .map(|(key, value)| ((*key).to_owned(), value.map(<[u8]>::to_vec)))
                .collect(),
            key: message.key.map(<[u8]>::to_vec),
            timestamp: message.record.timestamp,
        }
    }
}

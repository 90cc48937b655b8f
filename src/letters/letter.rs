//! Dead letters read back: what they say, and their records sent again once what was wrong is mended.

use std::collections::BTreeMap;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use rdkafka::message::Message as _;
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use crate::config::kafka::Kafka;
use crate::kafka::BrokerError;
use crate::kafka::produce::{Raw, Sender};
use crate::kafka::read::{read_to_end, read_value};
use deepfm_core::event::plain::plain;
use deepfm_core::event::{DETAIL_CHARS_MAX, Decoder, EventKind, RawRecord, Reason};
use deepfm_core::stream::Refused;

/// The longest letter, in bytes: a topic takes a megabyte unless it is set up otherwise.
pub const LETTER_BYTES_MAX: usize = 900_000;

/// The most characters of a key that are logged.
const KEY_CHARS_MAX: usize = 300;

/// The most characters of the detail of a letter that had to be cut to the least.
const LEAST_DETAIL_CHARS: usize = 60;

/// A dead letter, as `schemas/dead_letter.schema.json` has it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct DeadLetter {
    /// Why the record was refused, for machines.
    pub reason: String,
    /// What was found and where, for people.
    pub detail: String,
    /// The topic that it was read from.
    pub topic: String,
    /// Its partition.
    pub partition: i32,
    /// Its offset there.
    pub offset: i64,
    /// Its Kafka timestamp, in milliseconds.
    pub timestamp: Option<i64>,
    /// Its key, in base 64.
    pub key_base64: Option<String>,
    /// Its headers.
    pub headers: Vec<LetterHeader>,
    /// Its value, or the beginning of a long one, in base 64.
    pub payload_base64: Option<String>,
    /// Bytes of the whole value.
    pub payload_bytes: u64,
    /// SHA-256 of the whole value, when only its beginning is here.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub payload_sha256: Option<String>,
}

/// A header of a record.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LetterHeader {
    /// Its name.
    pub key: String,
    /// Its value, in base 64.
    pub value_base64: Option<String>,
}

impl DeadLetter {
    /// The letter of a record that was refused.
    pub fn of(topic: &str, partition: i32, offset: i64, refused: &Refused) -> Self {
        let encoded = |bytes: &Option<Vec<u8>>| bytes.as_deref().map(|bytes| BASE64.encode(bytes));
        let header =
            |(key, value): &(String, Option<Vec<u8>>)| LetterHeader { key: key.clone(), value_base64: encoded(value) };
        Self {
            reason: refused.refusal.reason.as_str().to_owned(),
            detail: refused.refusal.detail().to_owned(),
            topic: topic.to_owned(),
            partition,
            offset,
            timestamp: refused.timestamp,
            key_base64: encoded(&refused.key),
            headers: refused.headers.iter().map(header).collect(),
            payload_base64: encoded(&refused.payload),
            payload_bytes: refused.payload_bytes,
            payload_sha256: refused.payload_sha256.map(hex::encode),
        }
    }

    /// A letter in place of one that cannot be read itself: all that is known of it is its key.
    pub fn unreadable(key: &str, error: &str) -> Self {
        let mut parts = key.rsplitn(3, '/');
        let offset = parts.next().and_then(|offset| offset.parse().ok());
        let partition = parts.next().and_then(|partition| partition.parse().ok());
        Self {
            reason: Reason::Malformed.as_str().to_owned(),
            detail: format!("its letter could not be read from the checkpoint: {error}"),
            topic: plain(parts.next().unwrap_or_default(), DETAIL_CHARS_MAX),
            partition: partition.unwrap_or(0),
            offset: offset.unwrap_or(0),
            timestamp: None,
            key_base64: None,
            headers: Vec::new(),
            payload_base64: None,
            payload_bytes: 0,
            payload_sha256: None,
        }
    }

    /// The key under which it is sent: one that is sent again is known as the same.
    pub fn key(&self) -> String {
        format!("{}/{}/{}", self.topic, self.partition, self.offset)
    }

    /// Whether the letter has the place of its record and nothing of the record: so it is where an example was not learned.
    fn is_left_in_its_topic(&self) -> bool {
        self.payload_base64.is_none() && self.payload_bytes == 0 && self.reason == "not_finite"
    }

    /// Whether a value is the one that the letter is about, by its length, and by its digest where the letter has one.
    fn is_of(&self, payload: &[u8]) -> bool {
        payload.len() as u64 == self.payload_bytes
            && self.payload_sha256.as_ref().is_none_or(|digest| *digest == hex::encode(Sha256::digest(payload)))
    }

    /// Its headers as they were; a value that is not base 64 is left out.
    fn decoded_headers(&self) -> Vec<(&str, Option<Vec<u8>>)> {
        let value = |text: &String| BASE64.decode(text).ok();
        self.headers.iter().map(|header| (header.key.as_str(), header.value_base64.as_ref().and_then(value))).collect()
    }

    /// Its text, in at most `bytes_max` bytes as far as possible: what makes it longer is left out, the least needed first.
    /// Place, reason and a short detail are never left out; they take less than two kilobytes.
    pub fn fit(mut self, bytes_max: usize) -> String {
        self.detail = plain(&self.detail, DETAIL_CHARS_MAX);
        let mut text = self.encode();
        for shorten in [Self::drop_headers, Self::drop_key, Self::drop_payload, Self::shorten_detail] {
            if text.len() > bytes_max {
                shorten(&mut self);
                text = self.encode();
            }
        }
        text
    }

    fn encode(&self) -> String {
        serde_json::to_string(self).expect("a letter of strings and numbers always encodes")
    }

    fn drop_headers(&mut self) {
        self.headers.clear();
    }

    fn drop_key(&mut self) {
        self.key_base64 = None;
    }

    fn drop_payload(&mut self) {
        let whole = self.payload_base64.take().and_then(|text| BASE64.decode(text).ok());
        if self.payload_sha256.is_none() {
            self.payload_sha256 = whole.map(|whole| hex::encode(Sha256::digest(whole)));
        }
    }

    fn shorten_detail(&mut self) {
        self.detail = plain(&self.detail, LEAST_DETAIL_CHARS);
    }
}

/// The dead letters of a topic, each once, by key.
///
/// # Errors
/// When the topic is missing or the broker does not answer.
pub fn read(kafka: &Kafka) -> Result<BTreeMap<String, DeadLetter>, BrokerError> {
    let mut letters = BTreeMap::new();
    read_to_end(kafka, &kafka.dead_letter_topic, &mut |message| {
        let key = message.key().map(|key| String::from_utf8_lossy(key).into_owned()).unwrap_or_default();
        match message.payload().map(serde_json::from_slice::<DeadLetter>) {
            // What says of itself that it is another record's is nobody's letter.
            Some(Ok(letter)) if letter.key() != key => {
                tracing::warn!("offset {} is not the dead letter of {}", message.offset(), plain(&key, KEY_CHARS_MAX));
            }
            Some(Ok(letter)) => {
                letters.insert(key, letter);
            }
            Some(Err(error)) => tracing::warn!("offset {} is not a dead letter: {error}", message.offset()),
            None => {
                letters.remove(&key);
            }
        }
    })?;
    Ok(letters)
}

/// What becomes of a letter that is to be sent again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum LetterFate {
    /// Its record can be read with this configuration, and is inside its window and retention: a worker of this configuration
    /// learns it once.
    InTime,
    /// Its record can be read now, but the join has passed it: only a replay would learn it.
    ForReplaysOnly,
    /// Its record is refused as before, or for another reason.
    StillRefused,
    /// Only the beginning of its record is in the letter, and the topic does not have it any more: nothing of its length and
    /// digest is at its offset.
    Gone,
    /// Its topic has no such partition.
    NoPartition,
    /// It comes from a topic that is not configured.
    ForeignTopic,
}

/// A letter's record, with what would become of it.
#[derive(Clone, Debug)]
pub struct Examined {
    /// Its fate.
    pub fate: LetterFate,
    /// Its kind.
    pub kind: Option<EventKind>,
    /// Its whole value.
    pub payload: Vec<u8>,
}

/// How to judge letters.
#[derive(Debug)]
pub struct Examiner<'c> {
    /// Where the records are.
    pub kafka: &'c Kafka,
    /// Reads them as they would be read now.
    pub decoder: Decoder,
    /// How long after its event time a record still has an effect, in milliseconds.
    pub held_ms: i64,
    /// The watermark that the join has reached at least, in milliseconds.
    pub watermark: Option<i64>,
    /// The number of partitions of each event topic.
    pub partitions: BTreeMap<String, usize>,
    /// The time that a record which is sent now is stamped with, in milliseconds.
    pub now: i64,
}

impl Examiner<'_> {
    /// Judges a letter.
    ///
    /// # Errors
    /// When the whole record has to be read from its topic, and the broker does not answer.
    pub fn examine(&mut self, letter: &DeadLetter) -> Result<Examined, BrokerError> {
        let kind = match &letter.topic {
            topic if *topic == self.kafka.impressions_topic => EventKind::Impression,
            topic if *topic == self.kafka.clicks_topic => EventKind::Click,
            _ => return Ok(Examined { fate: LetterFate::ForeignTopic, kind: None, payload: Vec::new() }),
        };
        let some = |fate, payload| Ok(Examined { fate, kind: Some(kind), payload });
        let count = self.partitions.get(&letter.topic).copied().unwrap_or_default();
        // A producer takes −1 for "any partition".
        if !usize::try_from(letter.partition).is_ok_and(|number| number < count) {
            return some(LetterFate::NoPartition, Vec::new());
        }
        let carried = letter.payload_base64.as_deref().and_then(|text| BASE64.decode(text).ok()).unwrap_or_default();
        let payload = if letter.is_left_in_its_topic() {
            // Of an example that could not be learned the letter has the place alone.
            match read_value(self.kafka, &letter.topic, letter.partition, letter.offset)? {
                Some(payload) => payload,
                None => return some(LetterFate::Gone, Vec::new()),
            }
        } else if letter.is_of(&carried) {
            carried
        } else {
            match read_value(self.kafka, &letter.topic, letter.partition, letter.offset)? {
                Some(payload) if letter.is_of(&payload) => payload,
                _ => return some(LetterFate::Gone, Vec::new()),
            }
        };
        // Judged as it will be read: with its headers, which a CloudEvent has its id and time in, and a new timestamp.
        let headers = letter.decoded_headers();
        let headers: Vec<(&str, Option<&[u8]>)> = headers.iter().map(|(key, value)| (*key, value.as_deref())).collect();
        let record = RawRecord { payload: Some(&payload), headers: &headers, timestamp: Some(self.now) };
        let fate = match self.decoder.decode(kind, &record) {
            Err(_) => LetterFate::StillRefused,
            Ok(decoded) => {
                let held_until = decoded.event.event_time().saturating_add(self.held_ms);
                let is_past = self.watermark.is_some_and(|watermark| watermark > held_until);
                if is_past { LetterFate::ForReplaysOnly } else { LetterFate::InTime }
            }
        };
        some(fate, payload)
    }
}

/// Sends a letter's record again, to the partition that it came from, with its key and headers.
///
/// # Errors
/// When the producer does not take it.
pub fn send_again(sender: &mut Sender, letter: &DeadLetter, examined: &Examined) -> Result<(), BrokerError> {
    let key = letter.key_base64.as_deref().and_then(|text| BASE64.decode(text).ok());
    sender.send_raw(&Raw {
        topic: &letter.topic,
        partition: letter.partition,
        key: key.as_deref(),
        payload: &examined.payload,
        headers: &letter.decoded_headers(),
    })
}

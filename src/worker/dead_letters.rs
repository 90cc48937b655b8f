//! Records that could not be read, on their way to the dead-letter topic.
//!
//! A letter is keyed by `<topic>/<partition>/<offset>`, so that a letter that is sent again after a crash is known as
//! the same one. Letters are flushed before each checkpoint: no position moves past a record whose letter could be lost.

use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use rdkafka::ClientConfig;
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::producer::{BaseRecord, Producer, ThreadedProducer};
use serde::Serialize;

use crate::event::EventKind;
use crate::source::client::Deliveries;
use crate::stream::{Partition, Refused};

/// A dead letter, as `schemas/dead_letter.schema.json` has it.
#[derive(Debug, Serialize)]
struct Letter<'a> {
    reason: &'static str,
    detail: &'a str,
    topic: &'a str,
    partition: i32,
    offset: i64,
    timestamp: Option<i64>,
    key_base64: Option<String>,
    headers: Vec<Header<'a>>,
    payload_base64: Option<String>,
    payload_bytes: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    payload_sha256: Option<String>,
}

#[derive(Debug, Serialize)]
struct Header<'a> {
    key: &'a str,
    value_base64: Option<String>,
}

/// Dead letters could not be delivered.
#[derive(Debug, thiserror::Error)]
pub enum DeadLetterError {
    /// The producer could not be made.
    #[error("cannot make a producer for dead letters")]
    Producer(#[source] KafkaError),
    /// The broker did not take them in time.
    #[error("{waiting} dead letters were not taken by topic {topic} within {bound:?}")]
    Undelivered {
        /// The dead-letter topic.
        topic: String,
        /// How many.
        waiting: usize,
        /// How long was waited.
        bound: Duration,
    },
    /// The broker refused some.
    #[error("topic {topic} refused {failed} dead letters; see the log for each")]
    Refused {
        /// The dead-letter topic.
        topic: String,
        /// How many.
        failed: u64,
    },
}

/// Sends refused records to the dead-letter topic.
pub struct DeadLetters {
    producer: ThreadedProducer<Deliveries>,
    failed: Deliveries,
    topic: String,
    impressions_topic: String,
    clicks_topic: String,
    bound: Duration,
}

impl DeadLetters {
    /// A sender; nothing is waited for longer than `bound`.
    ///
    /// # Errors
    /// When the client configuration is refused.
    pub fn new(
        client: &ClientConfig,
        topic: &str,
        [impressions_topic, clicks_topic]: [&str; 2],
        bound: Duration,
    ) -> Result<Self, DeadLetterError> {
        let failed = Deliveries::default();
        let producer = client.create_with_context(failed.clone()).map_err(DeadLetterError::Producer)?;
        Ok(Self {
            producer,
            failed,
            topic: topic.to_owned(),
            impressions_topic: impressions_topic.to_owned(),
            clicks_topic: clicks_topic.to_owned(),
            bound,
        })
    }

    /// Hands a letter to the producer; a full producer queue is waited for.
    ///
    /// # Errors
    /// When the producer's queue stays full past the bound, or does not take the letter at all.
    pub fn send(&self, partition: Partition, offset: i64, refused: &Refused) -> Result<(), DeadLetterError> {
        let topic = match partition.kind {
            EventKind::Impression => &self.impressions_topic,
            EventKind::Click => &self.clicks_topic,
        };
        let key = format!("{topic}/{}/{offset}", partition.number);
        let letter = serde_json::to_vec(&letter(topic, partition.number, offset, refused))
            .expect("a letter of strings and numbers always encodes");
        let mut record = BaseRecord::to(&self.topic).key(&key).payload(&letter);
        loop {
            match self.producer.send(record) {
                Ok(()) => return Ok(()),
                Err((KafkaError::MessageProduction(RDKafkaErrorCode::QueueFull), unsent)) => {
                    self.flush()?;
                    record = unsent;
                }
                Err((error, _)) => {
                    tracing::error!("a dead letter cannot be sent: {error}");
                    return Err(DeadLetterError::Refused { topic: self.topic.clone(), failed: 1 });
                }
            }
        }
    }

    /// Waits until every letter was taken by the broker.
    ///
    /// # Errors
    /// When that takes longer than the bound, or a letter was refused.
    pub fn flush(&self) -> Result<(), DeadLetterError> {
        if self.producer.flush(self.bound).is_err() {
            let waiting = usize::try_from(self.producer.in_flight_count()).unwrap_or_default();
            return Err(DeadLetterError::Undelivered { topic: self.topic.clone(), waiting, bound: self.bound });
        }
        match self.failed.take_failed() {
            0 => Ok(()),
            failed => Err(DeadLetterError::Refused { topic: self.topic.clone(), failed }),
        }
    }
}

fn letter<'a>(topic: &'a str, partition: i32, offset: i64, refused: &'a Refused) -> Letter<'a> {
    let header = |(key, value): &'a (String, Option<Vec<u8>>)| Header {
        key,
        value_base64: value.as_deref().map(|bytes| BASE64.encode(bytes)),
    };
    Letter {
        reason: refused.refusal.reason.as_str(),
        detail: &refused.refusal.detail,
        topic,
        partition,
        offset,
        timestamp: refused.timestamp,
        key_base64: refused.key.as_deref().map(|bytes| BASE64.encode(bytes)),
        headers: refused.headers.iter().map(header).collect(),
        payload_base64: refused.payload.as_deref().map(|bytes| BASE64.encode(bytes)),
        payload_bytes: refused.payload_bytes,
        payload_sha256: refused.payload_sha256.map(hex::encode),
    }
}

//! The versions topic: one partition, compacted; the newest record of each key counts. Readers ignore a record equal to the
//! one they know, so that announcing twice does no harm.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::message::Message as _;
use rdkafka::producer::{FutureProducer, FutureRecord};
use rdkafka::{Offset, TopicPartitionList};

use super::announcement::{Alias, Announcement};
use crate::config::kafka::Kafka;
use crate::source::client::{self, Quiet};

/// The versions topic cannot be read or written.
#[derive(Debug, thiserror::Error)]
pub enum TopicError {
    /// The client failed.
    #[error("the versions topic {topic}")]
    Client {
        /// Its name.
        topic: String,
        /// Why.
        source: KafkaError,
    },
    /// It does not exist.
    #[error("the versions topic {topic} does not exist; `deepfm topics apply --config FILE` creates it")]
    Missing {
        /// Its name.
        topic: String,
    },
    /// The broker did not answer within the bound.
    #[error("the versions topic {topic} did not answer within {bound:?} (kafka.retry_max_seconds): {reason}")]
    Unreachable {
        /// Its name.
        topic: String,
        /// How long was tried.
        bound: Duration,
        /// What the client said last.
        reason: String,
    },
}

/// What the topic says of one model.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Versions {
    /// Its versions, by number.
    pub announced: BTreeMap<u64, Announcement>,
    /// Its aliases, by name.
    pub aliases: BTreeMap<String, Alias>,
}

fn bound(kafka: &Kafka) -> Duration {
    Duration::from_secs(kafka.retry_max_seconds.max(1))
}

/// Reads the topic to its end. Records of other models and of unknown forms are passed over.
///
/// # Errors
/// When the topic is missing or the broker does not answer within the bound.
pub fn read(kafka: &Kafka, model: &str) -> Result<Versions, TopicError> {
    let topic = &kafka.versions_topic;
    let failed = |source| TopicError::Client { topic: topic.clone(), source };
    let consumer: BaseConsumer<Quiet> = client::consumer(kafka).create_with_context(Quiet).map_err(failed)?;
    let (start, bound) = (Instant::now(), bound(kafka));
    let unreachable = |reason: String| TopicError::Unreachable { topic: topic.clone(), bound, reason };
    let ask = Duration::from_secs(5).min(bound);
    let end = loop {
        match consumer.fetch_watermarks(topic, 0, ask) {
            Ok((_, high)) => break high,
            Err(error) if crate::source::kafka::is_unknown_topic(&error) => {
                return Err(TopicError::Missing { topic: topic.clone() });
            }
            Err(error) if start.elapsed() >= bound => return Err(unreachable(error.to_string())),
            Err(error) => tracing::warn!("the versions topic {topic} does not answer: {error}"),
        }
    };
    let mut versions = Versions::default();
    if end == 0 {
        return Ok(versions);
    }
    let mut assignment = TopicPartitionList::new();
    assignment.add_partition_offset(topic, 0, Offset::Beginning).map_err(failed)?;
    consumer.assign(&assignment).map_err(failed)?;
    let mut last_progress = Instant::now();
    loop {
        match consumer.poll(Duration::from_millis(100)) {
            Some(Ok(message)) => {
                last_progress = Instant::now();
                if let (Some(key), Some(payload)) = (message.key(), message.payload()) {
                    versions.take(model, key, payload);
                }
                if message.offset() + 1 >= end {
                    return Ok(versions);
                }
            }
            Some(Err(KafkaError::PartitionEOF(_))) => return Ok(versions),
            Some(Err(error)) if last_progress.elapsed() >= bound => return Err(unreachable(error.to_string())),
            None if last_progress.elapsed() >= bound => return Err(unreachable("nothing arrives".to_owned())),
            Some(Err(error)) => tracing::warn!("the versions topic {topic}: {error}"),
            None => {}
        }
    }
}

impl Versions {
    fn take(&mut self, model: &str, key: &[u8], payload: &[u8]) {
        let Some((of, rest)) =
            std::str::from_utf8(key).ok().and_then(|key| key.rsplit_once("/v/").or_else(|| key.rsplit_once("/a/")))
        else {
            return;
        };
        if of != model {
            return;
        }
        if let Ok(announcement) = serde_json::from_slice::<Announcement>(payload) {
            self.announced.insert(announcement.version, announcement);
        } else if let Ok(alias) = serde_json::from_slice::<Alias>(payload) {
            self.aliases.insert(rest.to_owned(), alias);
        }
    }

    /// The greatest number that was announced.
    pub fn newest(&self) -> Option<u64> {
        self.announced.keys().next_back().copied()
    }
}

/// Sends records to the topic, each waited for.
pub struct Announcer {
    producer: FutureProducer<Quiet>,
    runtime: tokio::runtime::Runtime,
    kafka: Kafka,
}

impl Announcer {
    /// A sender.
    ///
    /// # Errors
    /// When the client's settings are refused.
    pub fn new(kafka: &Kafka) -> Result<Self, TopicError> {
        let failed = |source| TopicError::Client { topic: kafka.versions_topic.clone(), source };
        let producer = client::producer(kafka).set("linger.ms", "0").create_with_context(Quiet).map_err(failed)?;
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build();
        let runtime = runtime.map_err(|error| failed(KafkaError::ClientCreation(error.to_string())))?;
        Ok(Self { producer, runtime, kafka: kafka.clone() })
    }

    /// Sends a record and waits until the broker has it.
    ///
    /// # Errors
    /// When it is refused, or not taken within the bound.
    pub fn send(&self, key: &str, payload: &str) -> Result<(), TopicError> {
        let topic = &self.kafka.versions_topic;
        let bound = bound(&self.kafka);
        let record = FutureRecord::to(topic).partition(0).key(key).payload(payload);
        match self.runtime.block_on(self.producer.send(record, bound)) {
            Ok(_) => Ok(()),
            Err((error, _)) if crate::source::kafka::is_unknown_topic(&error) => {
                Err(TopicError::Missing { topic: topic.clone() })
            }
            Err((error, _)) if error.rdkafka_error_code() == Some(RDKafkaErrorCode::MessageTimedOut) => {
                Err(TopicError::Unreachable { topic: topic.clone(), bound, reason: error.to_string() })
            }
            Err((source, _)) => Err(TopicError::Client { topic: topic.clone(), source }),
        }
    }
}

//! Client settings: measured defaults, then what the user gives, then what the program rests on. And the contexts in which
//! clients run.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use rdkafka::config::RDKafkaLogLevel;
use rdkafka::error::KafkaError;
use rdkafka::message::Message as _;
use rdkafka::producer::{DeliveryResult, ProducerContext};
use rdkafka::{ClientConfig, ClientContext};

use super::contact::{Contact, Voice};
use crate::config::kafka::Kafka;

/// A consumer that reads fast from many partitions at once: without the short `fetch.wait.max.ms` a partition that has
/// just become wanted waits behind fetches that the broker holds open for partitions at their end.
const CONSUMER: [(&str, &str); 6] = [
    ("fetch.queue.backoff.ms", "5"),
    ("fetch.wait.max.ms", "10"),
    ("fetch.message.max.bytes", "8388608"),
    ("queued.min.messages", "20000"),
    ("queued.max.messages.kbytes", "16384"),
    ("topic.metadata.refresh.interval.ms", "30000"),
];

/// What reading rests on: offsets are ours, a jump is an error, ends are told.
const CONSUMER_FIXED: [(&str, &str); 5] = [
    ("group.id", "deepfm-stream"),
    ("enable.auto.commit", "false"),
    ("enable.auto.offset.store", "false"),
    ("auto.offset.reset", "error"),
    ("enable.partition.eof", "true"),
];

/// A producer that keeps order and does not repeat itself.
const PRODUCER: [(&str, &str); 3] = [("linger.ms", "20"), ("batch.size", "262144"), ("compression.type", "lz4")];

/// What every client has: addresses, and the user's own settings.
pub fn base(kafka: &Kafka) -> ClientConfig {
    let mut config = ClientConfig::new();
    config.set("bootstrap.servers", &kafka.brokers).set("client.id", "deepfm-stream");
    apply_user(kafka, &mut config);
    config.set_log_level(RDKafkaLogLevel::Warning);
    config
}

/// A consumer's settings.
pub fn consumer(kafka: &Kafka) -> ClientConfig {
    let mut config = base(kafka);
    apply(&CONSUMER, &mut config);
    apply_user(kafka, &mut config);
    apply(&CONSUMER_FIXED, &mut config);
    config
}

/// Prefixes of settings that only a consumer has: a producer would warn of each.
const CONSUMER_ONLY: [&str; 5] = ["fetch.", "queued.", "session.timeout", "heartbeat.", "max.poll."];

/// A producer's settings; nothing is retried for longer than `kafka.retry_max_seconds`.
pub fn producer(kafka: &Kafka) -> ClientConfig {
    let mut config = ClientConfig::new();
    config.set("bootstrap.servers", &kafka.brokers).set("client.id", "deepfm-stream");
    apply(&PRODUCER, &mut config);
    config.set("message.timeout.ms", (kafka.retry_max_seconds.max(1) * 1000).to_string());
    for (key, value) in kafka.librdkafka_properties() {
        if !CONSUMER_ONLY.iter().any(|prefix| key.starts_with(prefix)) {
            config.set(key, value);
        }
    }
    config.set_log_level(RDKafkaLogLevel::Warning);
    config.set("enable.idempotence", "true");
    config
}

fn apply_user(kafka: &Kafka, config: &mut ClientConfig) {
    for (key, value) in kafka.librdkafka_properties() {
        config.set(key, value);
    }
}

fn apply(settings: &[(&str, &str)], config: &mut ClientConfig) {
    for (key, value) in settings {
        config.set(*key, *value);
    }
}

/// A producer's deliveries that failed for good, counted, and the troubles of its client.
#[derive(Clone, Debug, Default)]
pub struct Deliveries {
    failed: Arc<AtomicU64>,
    first: Arc<Mutex<Option<(String, KafkaError)>>>,
    contact: Contact,
}

impl Deliveries {
    /// Those of somebody who says failures aloud, or leaves that to another.
    pub fn of(voice: Voice) -> Self {
        Self { contact: Contact::of(voice), ..Self::default() }
    }

    /// How many failed since the last call; the topic of the first of them, and why it failed.
    pub fn take_failed(&self) -> Option<(u64, String, KafkaError)> {
        let first = self.first.lock().unwrap_or_else(PoisonError::into_inner).take();
        let failed = self.failed.swap(0, Ordering::Relaxed);
        first.map(|(topic, error)| (failed.max(1), topic, error))
    }

    /// What the client said of its brokers.
    pub fn contact(&self) -> &Contact {
        &self.contact
    }
}

impl ClientContext for Deliveries {
    fn log(&self, level: RDKafkaLogLevel, fac: &str, message: &str) {
        self.contact.log(level, fac, message);
    }

    fn error(&self, error: KafkaError, reason: &str) {
        self.contact.error(error, reason);
    }
}

impl ProducerContext for Deliveries {
    type DeliveryOpaque = ();

    /// One line for the first of many that fail alike: whoever waits for them says how many they were.
    fn delivery(&self, result: &DeliveryResult<'_>, (): Self::DeliveryOpaque) {
        if let Err((error, message)) = result {
            let mut first = self.first.lock().unwrap_or_else(PoisonError::into_inner);
            self.failed.fetch_add(1, Ordering::Relaxed);
            if first.is_none() {
                if self.contact.voice() == Voice::Aloud {
                    tracing::error!("a record was not delivered to {}: {error}", message.topic());
                }
                *first = Some((message.topic().to_owned(), error.clone()));
            }
        }
    }
}

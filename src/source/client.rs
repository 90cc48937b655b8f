//! Client settings: measured defaults, then what the user gives, then what the program rests on. And the contexts in which
//! clients run.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use rdkafka::config::RDKafkaLogLevel;
use rdkafka::consumer::ConsumerContext;
use rdkafka::error::KafkaError;
use rdkafka::message::Message as _;
use rdkafka::producer::{DeliveryResult, ProducerContext};
use rdkafka::{ClientConfig, ClientContext};

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

/// A client whose lost connections are not worth a line each: who asks it says in his own words that nothing answers.
#[derive(Clone, Copy, Debug, Default)]
pub struct Quiet;

impl ClientContext for Quiet {
    fn error(&self, error: KafkaError, reason: &str) {
        tracing::debug!("kafka: {error}: {reason}");
    }
}

impl ConsumerContext for Quiet {}

/// A producer's deliveries that failed for good, counted.
#[derive(Clone, Debug, Default)]
pub struct Deliveries {
    failed: Arc<AtomicU64>,
}

impl Deliveries {
    /// How many failed since the last call.
    pub fn take_failed(&self) -> u64 {
        self.failed.swap(0, Ordering::Relaxed)
    }
}

impl ClientContext for Deliveries {
    fn error(&self, error: KafkaError, reason: &str) {
        Quiet.error(error, reason);
    }
}

impl ProducerContext for Deliveries {
    type DeliveryOpaque = ();

    fn delivery(&self, result: &DeliveryResult<'_>, (): Self::DeliveryOpaque) {
        if let Err((error, message)) = result {
            tracing::error!("a record was not delivered to {}: {error}", message.topic());
            self.failed.fetch_add(1, Ordering::Relaxed);
        }
    }
}

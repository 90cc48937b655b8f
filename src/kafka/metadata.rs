//! What brokers tell of topics: how many partitions, where each begins and ends, their ids.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use rdkafka::consumer::{BaseConsumer, Consumer as _};
use rdkafka::error::KafkaError;
use rdkafka::metadata::{Metadata, MetadataTopic};
use rdkafka::types::RDKafkaErrorCode;

use super::ask::{ASK, about_topic, ask, denied, is_denial, retry_bound};
use super::contact::Contact;
use super::{BrokerError, topic_id};
use crate::config::kafka::Kafka;

/// How long the brokers may take to say which ids the topics have.
const IDS: Duration = Duration::from_secs(2);

/// How the id of the client library's embedded cluster begins; it has no controller, so that questions about ids wait for
/// their timeout.
const EMBEDDED: &str = "mockCluster";

/// What the broker has of a partition: the first offset, and the one after the last.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Extent {
    /// The first offset that can be read.
    pub low: i64,
    /// The offset that the next record will have.
    pub high: i64,
}

/// How long a topic that was just made may take to be known to every broker.
const SPREAD: Duration = Duration::from_secs(5);

/// Asks about topics again for a while where one is missing: the broker that answers may not have heard of it yet.
pub(crate) fn once_spread<T>(ask: impl Fn() -> Result<T, BrokerError>) -> Result<T, BrokerError> {
    let start = Instant::now();
    loop {
        match ask() {
            Err(BrokerError::MissingTopic { .. }) if start.elapsed() < SPREAD => {
                std::thread::park_timeout(Duration::from_millis(200));
            }
            answer => return answer,
        }
    }
}

/// The number of partitions of a topic.
pub(crate) fn partition_count(
    consumer: &BaseConsumer<Contact>,
    kafka: &Kafka,
    topic: &str,
) -> Result<usize, BrokerError> {
    let metadata = ask(kafka, consumer, |patience| consumer.fetch_metadata(Some(topic), patience));
    count_in(&metadata.map_err(|error| about_topic(kafka, topic, "Describe", error))?, kafka, topic)
}

/// The number of partitions that an answer says a topic has.
pub(super) fn count_in(metadata: &Metadata, kafka: &Kafka, topic: &str) -> Result<usize, BrokerError> {
    let found = metadata.topics().iter().find(|found| found.name() == topic);
    if found.and_then(MetadataTopic::error).map(RDKafkaErrorCode::from).is_some_and(is_denial) {
        return Err(denied(kafka, &format!("topic {topic}"), "Describe"));
    }
    match found.filter(|found| found.error().is_none()).map(|found| found.partitions().len()) {
        Some(count) if count > 0 => Ok(count),
        _ => Err(BrokerError::MissingTopic { topic: topic.to_owned() }),
    }
}

/// The first offset of a partition, and the one after its last.
pub(crate) fn extent(
    consumer: &BaseConsumer<Contact>,
    kafka: &Kafka,
    topic: &str,
    number: i32,
) -> Result<Extent, BrokerError> {
    let asked = ask(kafka, consumer, |patience| consumer.fetch_watermarks(topic, number, patience));
    let (low, high) = asked.map_err(|error| about_topic(kafka, topic, "Describe", error))?;
    Ok(Extent { low, high })
}

/// Whether the cluster is the client library's embedded one.
pub(crate) fn is_embedded(consumer: &BaseConsumer<Contact>, kafka: &Kafka) -> bool {
    let cluster = consumer.client().fetch_cluster_id(ASK.min(retry_bound(kafka)));
    cluster.is_some_and(|id| id.starts_with(EMBEDDED))
}

/// The ids of topics, in the form of Kafka's own tools; a topic whose broker does not give one is absent.
pub(crate) fn ids_of(
    consumer: &BaseConsumer<Contact>,
    topics: &[&str],
) -> Result<BTreeMap<String, String>, KafkaError> {
    topic_id::topic_ids(consumer.client(), topics, IDS)
}

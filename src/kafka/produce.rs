//! A producer that waits for room, counts what it sends, and says what was not delivered.

use std::time::Duration;

use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::message::{Header, OwnedHeaders};
use rdkafka::producer::{BaseRecord, Producer as _, ThreadedProducer};

use super::BrokerError;
use super::ask::{Asked, denied, is_denied, retry_bound};
use super::client::{self, Deliveries};
use super::metadata::{count_in, once_spread};
use crate::config::kafka::Kafka;

/// A record as it is.
#[derive(Debug)]
pub struct Raw<'a> {
    /// Its topic.
    pub topic: &'a str,
    /// Its partition.
    pub partition: i32,
    /// Its key.
    pub key: Option<&'a [u8]>,
    /// Its value.
    pub payload: &'a [u8],
    /// Its headers.
    pub headers: &'a [(&'a str, Option<Vec<u8>>)],
}

/// A producer of records.
pub struct Sender {
    producer: ThreadedProducer<Deliveries>,
    deliveries: Deliveries,
    kafka: Kafka,
    sent: u64,
}

impl Sender {
    /// A producer with the configured settings.
    ///
    /// # Errors
    /// When the client's settings are refused.
    pub fn new(kafka: &Kafka) -> Result<Self, BrokerError> {
        let deliveries = Deliveries::default();
        let producer = client::producer(kafka).create_with_context(deliveries.clone())?;
        Ok(Self { producer, deliveries, kafka: kafka.clone(), sent: 0 })
    }

    /// The number of partitions of a topic.
    ///
    /// # Errors
    /// When the topic is missing, or the brokers do not answer within the bound.
    pub fn partition_count(&self, topic: &str) -> Result<usize, BrokerError> {
        let asked = Asked::of(&self.kafka, self.deliveries.contact());
        once_spread(|| {
            let metadata = asked.ask(|patience| self.producer.client().fetch_metadata(Some(topic), patience))?;
            count_in(&metadata, &self.kafka, topic)
        })
    }

    /// Records handed to the producer.
    pub fn sent(&self) -> u64 {
        self.sent
    }

    /// Hands a record to the producer as it is; a full producer queue is waited for.
    ///
    /// # Errors
    /// When the producer does not take it.
    pub fn send_raw(&mut self, raw: &Raw<'_>) -> Result<(), BrokerError> {
        let mut headers = OwnedHeaders::new();
        for (key, value) in raw.headers {
            headers = headers.insert(Header { key, value: value.as_deref() });
        }
        let mut record = BaseRecord::<[u8], [u8]>::to(raw.topic).partition(raw.partition).payload(raw.payload);
        record = record.headers(headers);
        record.key = raw.key;
        self.send(record)
    }

    /// Hands a record to the producer; a full producer queue is waited for.
    ///
    /// # Errors
    /// When the producer does not take it.
    pub fn send(&mut self, record: BaseRecord<'_, [u8], [u8]>) -> Result<(), BrokerError> {
        let mut record = record;
        loop {
            match self.producer.send(record) {
                Ok(()) => break,
                Err((KafkaError::MessageProduction(RDKafkaErrorCode::QueueFull), unsent)) => {
                    record = unsent;
                    std::thread::park_timeout(Duration::from_millis(5));
                }
                Err((error, _)) => return Err(error.into()),
            }
        }
        self.sent += 1;
        Ok(())
    }

    /// Waits until the broker has everything.
    ///
    /// # Errors
    /// When that takes longer than the bound, or a record was not taken.
    pub fn flush(&self) -> Result<(), BrokerError> {
        let bound = retry_bound(&self.kafka);
        self.producer.flush(bound)?;
        match self.deliveries.take_failed() {
            None => Ok(()),
            Some((_, topic, error)) if is_denied(&error) => {
                Err(denied(&self.kafka, &format!("topic {topic}"), "Write"))
            }
            Some((failed, _, error)) => Err(BrokerError::Unreachable {
                brokers: self.kafka.brokers.clone(),
                bound,
                reason: format!("{failed} records were not delivered ({error})"),
            }),
        }
    }
}

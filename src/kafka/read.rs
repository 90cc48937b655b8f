//! Small topics read whole: versions, dead letters. And single records, read at their offsets.

use std::collections::BTreeMap;
use std::fmt;
use std::time::{Duration, Instant};

use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::error::KafkaError;
use rdkafka::message::{BorrowedMessage, Message as _};
use rdkafka::{Offset, TopicPartitionList};

use super::ask::{about_topic, is_denied, is_unknown_topic, retry_bound};
use super::contact::{Contact, Voice};
use super::metadata::{Extent, extent, partition_count};
use super::{BrokerError, client};
use crate::config::kafka::Kafka;

/// How long one poll waits.
const NAP: Duration = Duration::from_millis(100);

/// How long a client that was kept is asked before another is made, in seconds.
const KEPT_SECONDS_MAX: u64 = 1;

/// Shows every record that a topic has now, each partition in its order.
///
/// # Errors
/// When the topic is missing, or nothing arrives for the bound.
pub fn read_to_end(kafka: &Kafka, topic: &str, take: &mut dyn FnMut(&BorrowedMessage<'_>)) -> Result<(), BrokerError> {
    TopicReader::default().read_on(kafka, topic, Voice::Aloud, take)
}

/// Reads a topic to its end, and later on from there: what was shown is never shown again.
///
/// The client is kept, since to make one takes longer than to read. Nothing is assigned to it between two readings, so that each
/// begins with nothing that came before and hears of ends that are ends now. One that fails is given up, and the reading goes on with
/// another: brokers that were restarted and topics that were made anew are met with a client that knows nothing of before.
#[derive(Default)]
pub struct TopicReader {
    /// The next offset of each partition.
    next: BTreeMap<i32, i64>,
    kept: Option<BaseConsumer<Contact>>,
}

impl fmt::Debug for TopicReader {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TopicReader").field("next", &self.next).finish_non_exhaustive()
    }
}

impl TopicReader {
    /// Shows what the topic has more by now.
    ///
    /// # Errors
    /// When the topic is missing, or nothing arrives for the bound; what was shown by then is not shown again.
    pub fn read_on(
        &mut self,
        kafka: &Kafka,
        topic: &str,
        voice: Voice,
        take: &mut dyn FnMut(&BorrowedMessage<'_>),
    ) -> Result<(), BrokerError> {
        if let Some(consumer) = self.kept.take().filter(|kept| kept.context().voice() == voice) {
            let retry_max_seconds = kafka.retry_max_seconds.min(KEPT_SECONDS_MAX);
            let hasty = Kafka { retry_max_seconds, ..kafka.clone() };
            consumer.context().clear();
            match self.read_with(&consumer, &hasty, topic, take) {
                Ok(()) => {
                    self.kept = Some(consumer);
                    return Ok(());
                }
                Err(error) => tracing::debug!("topic {topic} is read on with another client: {error}"),
            }
        }
        let consumer: BaseConsumer<Contact> = client::consumer(kafka).create_with_context(Contact::of(voice))?;
        self.read_with(&consumer, kafka, topic, take)?;
        self.kept = Some(consumer);
        Ok(())
    }

    fn read_with(
        &mut self,
        consumer: &BaseConsumer<Contact>,
        kafka: &Kafka,
        topic: &str,
        take: &mut dyn FnMut(&BorrowedMessage<'_>),
    ) -> Result<(), BrokerError> {
        let Self { next, .. } = self;
        let mut ends = BTreeMap::new();
        let mut assignment = TopicPartitionList::new();
        for number in 0..partition_count(consumer, kafka, topic)? as i32 {
            let Extent { low, high } = extent(consumer, kafka, topic, number)?;
            // Records before the first may have been deleted; a topic that was made anew begins again.
            let start = next.get(&number).copied().filter(|start| *start <= high).map_or(low, |start| start.max(low));
            if start < high {
                assignment.add_partition_offset(topic, number, Offset::Offset(start))?;
                ends.insert(number, high);
            }
            next.insert(number, start);
        }
        if ends.is_empty() {
            return Ok(());
        }
        consumer.assign(&assignment)?;
        let mut progress = Instant::now();
        while !ends.is_empty() {
            let failed = match consumer.poll(NAP) {
                Some(Ok(message)) => {
                    progress = Instant::now();
                    take(&message);
                    next.insert(message.partition(), message.offset() + 1);
                    if ends.get(&message.partition()).is_some_and(|end| message.offset() + 1 >= *end) {
                        ends.remove(&message.partition());
                    }
                    continue;
                }
                Some(Err(KafkaError::PartitionEOF(number))) => {
                    progress = Instant::now();
                    // Behind the last record may be the mark of a transaction, which is shown to nobody.
                    if let Some(end) = ends.remove(&number) {
                        next.entry(number).and_modify(|next| *next = end.max(*next));
                    }
                    continue;
                }
                Some(Err(error)) if is_unknown_topic(&error) => {
                    return Err(BrokerError::MissingTopic { topic: topic.to_owned() });
                }
                Some(Err(error)) if is_denied(&error) => return Err(about_topic(kafka, topic, "Read", error.into())),
                Some(Err(error)) => error.to_string(),
                None => "nothing arrives".to_owned(),
            };
            give_up(kafka, consumer.context(), progress, failed)?;
        }
        Ok(consumer.unassign()?)
    }
}

/// The value of one record, if the topic still has it.
///
/// # Errors
/// When the broker does not answer for the bound.
pub fn read_value(kafka: &Kafka, topic: &str, partition: i32, offset: i64) -> Result<Option<Vec<u8>>, BrokerError> {
    let consumer: BaseConsumer<Contact> = client::consumer(kafka).create_with_context(Contact::default())?;
    let Extent { low, high } = extent(&consumer, kafka, topic, partition)?;
    if !(low..high).contains(&offset) {
        return Ok(None);
    }
    let mut assignment = TopicPartitionList::new();
    assignment.add_partition_offset(topic, partition, Offset::Offset(offset))?;
    consumer.assign(&assignment)?;
    let start = Instant::now();
    loop {
        let failed = match consumer.poll(NAP) {
            Some(Ok(message)) if message.offset() == offset => return Ok(message.payload().map(<[u8]>::to_vec)),
            Some(Ok(_) | Err(KafkaError::PartitionEOF(_))) => return Ok(None),
            Some(Err(error)) if is_denied(&error) => return Err(about_topic(kafka, topic, "Read", error.into())),
            Some(Err(error)) => error.to_string(),
            None => "nothing arrives".to_owned(),
        };
        give_up(kafka, consumer.context(), start, failed)?;
    }
}

fn give_up(kafka: &Kafka, contact: &Contact, since: Instant, reason: String) -> Result<(), BrokerError> {
    if let Some(trouble) = contact.misconfigured() {
        return Err(BrokerError::Misconfigured(trouble));
    }
    let bound = retry_bound(kafka);
    if since.elapsed() < bound {
        return Ok(());
    }
    let reason = contact.trouble().map_or(reason, |trouble| trouble.to_string());
    Err(BrokerError::Unreachable { brokers: kafka.brokers.clone(), bound, reason })
}

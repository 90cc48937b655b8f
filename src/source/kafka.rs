//! The two event topics as a log. All partitions are assigned once, from offsets that are ours; the client's groups and
//! commits are not used.
//!
//! Each topic is read by a consumer on a thread of its own. A partition whose records wait for the core up to
//! `queue_records_max` is paused until half of them are consumed. (A queue per partition would need no pausing, but the
//! client may put records into its common queue again after the queues were split: order could not be relied on.)

mod ends;
mod reader;

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use rdkafka::consumer::{BaseConsumer, Consumer, ConsumerContext};
use rdkafka::error::KafkaError;
use rdkafka::types::RDKafkaErrorCode;
use rdkafka::{Offset, TopicPartitionList};

use super::topic_id::topic_ids;
use super::{Confirmation, Gap, Ingest, Source, SourceError, SourceEvent, client, vital};
use crate::config::kafka::{Kafka, Start};
use crate::event::EventKind;
use crate::stream::{Partition, Positions};
use ends::Questions;
use reader::Reader;

pub use reader::Health;

/// How long the brokers may take to say which ids the topics have.
const IDS: Duration = Duration::from_secs(2);

/// How long one question to the broker may take.
pub(super) const ASK: Duration = Duration::from_secs(5);

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

/// The log as it stands at the broker, not yet read.
pub struct KafkaLog {
    consumer: Arc<BaseConsumer<Health>>,
    kafka: Kafka,
    extents: BTreeMap<Partition, Extent>,
    ids: BTreeMap<String, String>,
}

/// Records waiting for the core, by partition.
type Waiting = Arc<Mutex<BTreeMap<Partition, Arc<AtomicUsize>>>>;

/// The offsets after the last records that the broker is known to have.
type Ends = Arc<Mutex<Positions>>;

/// A reader of the log.
pub struct KafkaSource {
    questions: Questions,
    events: Receiver<Result<SourceEvent, SourceError>>,
    waiting: Waiting,
    known_waiting: BTreeMap<Partition, Arc<AtomicUsize>>,
    ends: Ends,
    stop: Arc<AtomicBool>,
    threads: Vec<JoinHandle<()>>,
}

/// The topic of a kind of events.
pub(super) fn topic(kafka: &Kafka, kind: EventKind) -> &str {
    match kind {
        EventKind::Impression => &kafka.impressions_topic,
        EventKind::Click => &kafka.clicks_topic,
    }
}

/// The name of the thread that reads a topic.
fn thread_name(kind: EventKind) -> &'static str {
    match kind {
        EventKind::Impression => "impressions-reading",
        EventKind::Click => "clicks-reading",
    }
}

/// Asks until there is an answer, at most for the bound; missing topics are an answer.
pub(super) fn ask<T>(kafka: &Kafka, mut question: impl FnMut() -> Result<T, KafkaError>) -> Result<T, SourceError> {
    let start = Instant::now();
    let bound = Duration::from_secs(kafka.retry_max_seconds);
    loop {
        match question() {
            Ok(answer) => return Ok(answer),
            Err(error) if start.elapsed() >= bound => {
                return Err(SourceError::Unreachable {
                    brokers: kafka.brokers.clone(),
                    bound,
                    reason: error.to_string(),
                });
            }
            Err(error) => {
                let tried = start.elapsed().as_secs();
                tracing::warn!("the brokers {} do not answer ({error}); tried for {tried} of {bound:?}", kafka.brokers);
                std::thread::park_timeout(Duration::from_millis(500).min(bound.saturating_sub(start.elapsed())));
            }
        }
    }
}

/// The number of partitions of a topic.
pub(super) fn partition_count<C: ConsumerContext>(
    consumer: &impl Consumer<C>,
    kafka: &Kafka,
    topic: &str,
) -> Result<usize, SourceError> {
    let metadata = ask(kafka, || consumer.fetch_metadata(Some(topic), ASK.min(retry_bound(kafka))))?;
    let found = metadata.topics().iter().find(|found| found.name() == topic && found.error().is_none());
    match found.map(|found| found.partitions().len()) {
        Some(count) if count > 0 => Ok(count),
        _ => Err(SourceError::MissingTopic { topic: topic.to_owned() }),
    }
}

/// The ids of both event topics; none where the cluster does not tell them, which is no reason not to read it.
fn known_ids<C: ConsumerContext>(consumer: &BaseConsumer<C>, kafka: &Kafka) -> BTreeMap<String, String> {
    let cluster = consumer.client().fetch_cluster_id(ASK.min(retry_bound(kafka)));
    if cluster.is_some_and(|id| id.starts_with(EMBEDDED)) {
        return BTreeMap::new();
    }
    let asked = ids_of(consumer, kafka).or_else(|_| ids_of(consumer, kafka));
    asked.unwrap_or_else(|error| {
        tracing::warn!("the brokers do not tell the ids of topics ({error}): one that is recreated may go unnoticed");
        BTreeMap::new()
    })
}

/// The ids of both event topics.
fn ids_of<C: ConsumerContext>(
    consumer: &BaseConsumer<C>,
    kafka: &Kafka,
) -> Result<BTreeMap<String, String>, KafkaError> {
    topic_ids(consumer.client(), &[&kafka.impressions_topic, &kafka.clicks_topic], IDS)
}

/// Compares ids with those that are remembered; only topics that have one in both can differ.
fn compare_ids(remembered: &BTreeMap<String, String>, ids: &BTreeMap<String, String>) -> Result<(), SourceError> {
    let differs =
        ids.iter().find_map(|(topic, is)| remembered.get(topic).filter(|was| *was != is).map(|was| (topic, was, is)));
    differs.map_or(Ok(()), |(topic, was, is)| {
        Err(SourceError::Recreated { topic: topic.clone(), was: was.clone(), is: is.clone() })
    })
}

/// How long anything is tried again.
pub(super) fn retry_bound(kafka: &Kafka) -> Duration {
    Duration::from_secs(kafka.retry_max_seconds.max(1))
}

impl KafkaLog {
    /// Asks the brokers for both topics and what they have of each partition.
    ///
    /// # Errors
    /// When the brokers do not answer within `kafka.retry_max_seconds`, or a topic is missing.
    pub fn connect(kafka: &Kafka) -> Result<Self, SourceError> {
        let consumer: BaseConsumer<Health> = client::consumer(kafka).create_with_context(Health::default())?;
        let mut extents = BTreeMap::new();
        for kind in [EventKind::Impression, EventKind::Click] {
            let topic = topic(kafka, kind);
            let count = partition_count(&consumer, kafka, topic)?;
            for number in 0..count as i32 {
                let (low, high) = ask(kafka, || consumer.fetch_watermarks(topic, number, ASK.min(retry_bound(kafka))))?;
                extents.insert(Partition { kind, number }, Extent { low, high });
            }
        }
        let ids = known_ids(&consumer, kafka);
        Ok(Self { consumer: Arc::new(consumer), kafka: kafka.clone(), extents, ids })
    }

    /// The ids of both topics, by name, in the form of Kafka's own tools; absent where the broker does not give one.
    pub fn topic_ids(&self) -> BTreeMap<String, String> {
        self.ids.clone()
    }

    /// Checks that the topics are the ones that were read before. A topic without an id, or of another name, is not
    /// compared: a mirror with equal offsets is the same log.
    ///
    /// # Errors
    /// When a topic has another id than the one that is remembered.
    pub fn check_ids(&self, remembered: &BTreeMap<String, String>) -> Result<(), SourceError> {
        compare_ids(remembered, &self.ids)
    }

    /// What the broker has of each partition.
    pub fn extents(&self) -> &BTreeMap<Partition, Extent> {
        &self.extents
    }

    /// The offset after the last record of each partition.
    pub fn ends(&self) -> Positions {
        self.extents.iter().map(|(partition, extent)| (*partition, extent.high)).collect()
    }

    /// The offsets at which a log without a checkpoint starts. A time is looked up in the broker's index, which is a hint:
    /// the first record at or after it by the records' own timestamps.
    ///
    /// # Errors
    /// When the brokers cannot be asked for a time.
    pub fn starts(&self, start: &Start) -> Result<Positions, SourceError> {
        let at = match start {
            Start::Earliest => return Ok(self.extents.iter().map(|(p, extent)| (*p, extent.low)).collect()),
            Start::Latest => return Ok(self.ends()),
            Start::At(milliseconds) => *milliseconds,
        };
        let mut wanted = TopicPartitionList::new();
        for partition in self.extents.keys() {
            wanted.add_partition_offset(topic(&self.kafka, partition.kind), partition.number, Offset::Offset(at))?;
        }
        let found = ask(&self.kafka, || self.consumer.offsets_for_times(wanted.clone(), ASK))?;
        let offset = |partition: &Partition, extent: &Extent| {
            let element = found.find_partition(topic(&self.kafka, partition.kind), partition.number);
            match element.map(|element| element.offset()) {
                Some(Offset::Offset(offset)) if offset >= 0 => offset,
                Some(Offset::End) => extent.high,
                _ => extent.low,
            }
        };
        Ok(self.extents.iter().map(|(partition, extent)| (*partition, offset(partition, extent))).collect())
    }

    /// Checks that everything from these positions on is still there.
    ///
    /// # Errors
    /// When a position is before what the broker has, or after it.
    pub fn check(&self, positions: &Positions) -> Result<(), SourceError> {
        match self.gaps(positions)? {
            gaps if gaps.is_empty() => Ok(()),
            gaps => Err(SourceError::Lost { gaps }),
        }
    }

    /// The records from these positions on that the broker no longer has, by partition.
    ///
    /// # Errors
    /// When a partition is missing, or a position is after what the broker has: that is another log, not a gap.
    pub fn gaps(&self, positions: &Positions) -> Result<Vec<Gap>, SourceError> {
        let mut gaps = Vec::new();
        for (partition, offset) in positions {
            let Some(Extent { low, high }) = self.extents.get(partition).copied() else {
                return Err(SourceError::MissingTopic {
                    topic: format!("{} (partition {})", topic(&self.kafka, partition.kind), partition.number),
                });
            };
            if *offset > high {
                return Err(SourceError::Beyond { partition: *partition, offset: *offset, high });
            }
            if *offset < low {
                gaps.push(Gap { partition: *partition, from: *offset, to: low });
            }
        }
        Ok(gaps)
    }

    /// Reads from these positions on, on threads of its own.
    ///
    /// # Errors
    /// When the partitions cannot be assigned.
    pub fn read(self, positions: &Positions, ingest: Ingest) -> Result<KafkaSource, SourceError> {
        let (sender, events) = std::sync::mpsc::channel();
        let waiting = Waiting::default();
        let stop = Arc::new(AtomicBool::new(false));
        let ends = self.ends();
        let known_ends: Ends = Arc::new(Mutex::new(ends.clone()));
        let clicks = (EventKind::Click, ingest.unobserved());
        let mut threads = Vec::new();
        for (kind, ingest) in [(EventKind::Impression, ingest), clicks] {
            let consumer = client::consumer(&self.kafka).create_with_context(Health::default())?;
            let reader = Reader {
                consumer: Arc::new(consumer),
                kind,
                kafka: self.kafka.clone(),
                ingest,
                sender: sender.clone(),
                waiting: Arc::clone(&waiting),
                stop: Arc::clone(&stop),
                ids: self.ids.clone(),
                ends: Arc::clone(&known_ends),
            };
            let reader = reader.assign(positions, &ends)?;
            let body = move |_: &Sender<_>| reader.run();
            threads.push(vital::spawn(thread_name(kind), sender.clone(), body, |panicked| Err(panicked.into())));
        }
        let questions = Questions::of(self.consumer, self.kafka);
        let known_waiting = BTreeMap::new();
        Ok(KafkaSource { questions, events, waiting, known_waiting, ends: known_ends, stop, threads })
    }
}

impl KafkaSource {
    /// The offset after the last record that the broker is known to have, by partition: a second old at most while records
    /// are read.
    pub fn ends(&self) -> Positions {
        self.ends.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl Source for KafkaSource {
    fn next(&mut self, wait: Duration) -> Result<Option<SourceEvent>, SourceError> {
        match self.events.recv_timeout(wait) {
            Ok(event) => event.map(Some),
            Err(RecvTimeoutError::Timeout) => Ok(None),
            Err(RecvTimeoutError::Disconnected) => Err(SourceError::Ended),
        }
    }

    fn consumed(&mut self, partition: Partition, weight: usize) {
        if !self.known_waiting.contains_key(&partition) {
            self.known_waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner).clone();
        }
        if let Some(waiting) = self.known_waiting.get(&partition) {
            waiting.fetch_sub(weight, Ordering::AcqRel);
        }
    }

    fn confirm_end(&mut self, partition: Partition, position: i64) -> Result<Confirmation, SourceError> {
        self.questions.confirm(partition, position)
    }
}

impl Drop for KafkaSource {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Release);
        for thread in self.threads.drain(..) {
            if thread.join().is_err() {
                tracing::error!("a reading thread has panicked");
            }
        }
    }
}

/// Whether an error says that a topic or partition does not exist.
pub(crate) fn is_unknown_topic(error: &KafkaError) -> bool {
    matches!(
        error.rdkafka_error_code(),
        Some(
            RDKafkaErrorCode::UnknownTopicOrPartition
                | RDKafkaErrorCode::UnknownTopic
                | RDKafkaErrorCode::UnknownPartition
        )
    )
}

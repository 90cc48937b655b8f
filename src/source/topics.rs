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
use std::time::Duration;

use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::error::KafkaError;
use rdkafka::{Offset, TopicPartitionList};

use super::link::Link;
use super::rooms::Rooms;
use super::{Confirmation, Gap, Ingest, Source, SourceError, SourceEvent, thread_name};
use crate::config::kafka::{Kafka, Start};
use crate::kafka::ask::ask;
use crate::kafka::contact::Contact;
use crate::kafka::metadata::{self, Extent, extent, is_embedded, once_spread, partition_count};
use crate::kafka::{BrokerError, client};
use crate::thread::vital;
use deepfm_core::event::EventKind;
use deepfm_core::feature::Features;
use deepfm_core::stream::{Partition, Positions};
use ends::Questions;
use reader::Reader;

/// The log as it stands at the broker, not yet read.
pub struct KafkaLog {
    consumer: Arc<BaseConsumer<Contact>>,
    kafka: Kafka,
    extents: BTreeMap<Partition, Extent>,
    ids: BTreeMap<String, String>,
    link: Link,
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
    rooms: Rooms,
    threads: Vec<JoinHandle<()>>,
}

/// The ids of both event topics; none where the cluster does not tell them, which is no reason not to read it.
fn known_ids(consumer: &BaseConsumer<Contact>, kafka: &Kafka) -> BTreeMap<String, String> {
    if is_embedded(consumer, kafka) {
        return BTreeMap::new();
    }
    let asked = ids_of(consumer, kafka).or_else(|_| ids_of(consumer, kafka));
    asked.unwrap_or_else(|error| {
        tracing::warn!("the brokers do not tell the ids of topics ({error}): one that is recreated may go unnoticed");
        BTreeMap::new()
    })
}

/// The ids of both event topics.
fn ids_of(consumer: &BaseConsumer<Contact>, kafka: &Kafka) -> Result<BTreeMap<String, String>, KafkaError> {
    metadata::ids_of(consumer, &[&kafka.impressions_topic, &kafka.clicks_topic])
}

/// Compares ids with those that are remembered; only topics that have one in both can differ.
fn compare_ids(remembered: &BTreeMap<String, String>, ids: &BTreeMap<String, String>) -> Result<(), SourceError> {
    let differs =
        ids.iter().find_map(|(topic, is)| remembered.get(topic).filter(|was| *was != is).map(|was| (topic, was, is)));
    differs.map_or(Ok(()), |(topic, was, is)| {
        Err(SourceError::Recreated { topic: topic.clone(), was: was.clone(), is: is.clone() })
    })
}

impl KafkaLog {
    /// Asks the brokers for both topics and what they have of each partition.
    ///
    /// # Errors
    /// When the brokers do not answer within `kafka.retry_max_seconds`, or a topic is missing.
    pub fn connect(kafka: &Kafka) -> Result<Self, SourceError> {
        let consumer: BaseConsumer<Contact> = client::consumer(kafka).create_with_context(Contact::default())?;
        let mut extents = BTreeMap::new();
        for kind in [EventKind::Impression, EventKind::Click] {
            let topic = kafka.topic_of(kind);
            let count = once_spread(|| partition_count(&consumer, kafka, topic))?;
            for number in 0..count as i32 {
                extents.insert(Partition { kind, number }, extent(&consumer, kafka, topic, number)?);
            }
        }
        let ids = known_ids(&consumer, kafka);
        Ok(Self { consumer: Arc::new(consumer), kafka: kafka.clone(), extents, ids, link: Link::default() })
    }

    /// Tells here whether the brokers answer while the log is read.
    #[must_use]
    pub fn told_to(self, link: Link) -> Self {
        Self { link, ..self }
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

    /// The partitions whose end is held back by an open transaction, and how many offsets lie behind it: none of them can be
    /// read before it ends.
    ///
    /// # Errors
    /// When the brokers do not answer.
    pub fn open_transactions(&self) -> Result<BTreeMap<Partition, u64>, SourceError> {
        let mut settings = client::consumer(&self.kafka);
        settings.set("isolation.level", "read_uncommitted");
        let uncommitted: BaseConsumer<Contact> = settings.create_with_context(Contact::default())?;
        let mut found = BTreeMap::new();
        for (partition, known) in &self.extents {
            let topic = self.kafka.topic_of(partition.kind);
            let all = extent(&uncommitted, &self.kafka, topic, partition.number)?;
            // Records may have come since: the committed end is asked for again, after the other.
            if all.high > known.high {
                let committed = extent(&self.consumer, &self.kafka, topic, partition.number)?;
                if committed.high < all.high {
                    found.insert(*partition, all.high.abs_diff(committed.high));
                }
            }
        }
        Ok(found)
    }

    /// Says which partitions end at an open transaction.
    pub fn warn_of_open_transactions(&self) {
        match self.open_transactions() {
            Ok(open) => {
                for (partition, behind) in open {
                    tracing::warn!(
                        "{partition} ends at an open transaction: {behind} offsets behind it cannot be read until its \
                         producer ends it"
                    );
                }
            }
            Err(error) => tracing::warn!("whether the log ends at open transactions cannot be found out: {error}"),
        }
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
            wanted.add_partition_offset(self.kafka.topic_of(partition.kind), partition.number, Offset::Offset(at))?;
        }
        let found =
            ask(&self.kafka, &self.consumer, |patience| self.consumer.offsets_for_times(wanted.clone(), patience))?;
        let offset = |partition: &Partition, extent: &Extent| {
            let element = found.find_partition(self.kafka.topic_of(partition.kind), partition.number);
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
                return Err(BrokerError::MissingTopic {
                    topic: format!("{} (partition {})", self.kafka.topic_of(partition.kind), partition.number),
                }
                .into());
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
        let rooms = ingest.rooms().clone();
        let clicks = (EventKind::Click, ingest.unobserved());
        let mut threads = Vec::new();
        for (kind, ingest) in [(EventKind::Impression, ingest), clicks] {
            let consumer = client::consumer(&self.kafka).create_with_context(Contact::default())?;
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
                link: self.link.clone(),
            };
            let reader = reader.assign(positions, &ends)?;
            let body = move |_: &Sender<_>| reader.run();
            threads.push(vital::spawn(thread_name(kind), sender.clone(), body, |panicked| Err(panicked.into())));
        }
        let questions = Questions::of(self.consumer, self.kafka);
        let known_waiting = BTreeMap::new();
        Ok(KafkaSource { questions, events, waiting, known_waiting, ends: known_ends, stop, rooms, threads })
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

    fn take_back(&mut self, features: &mut Vec<Features>) {
        self.rooms.take_back(features);
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

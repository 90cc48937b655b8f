//! The reading thread of one topic: polls, decodes, hands over, and pauses a partition whose records wait for the core.

mod stall;

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::mpsc::Sender;
use std::sync::{Arc, PoisonError};
use std::time::{Duration, Instant};

use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::error::KafkaError;
use rdkafka::message::{BorrowedMessage, Message as _};
use rdkafka::types::RDKafkaErrorCode;
use rdkafka::{Offset, TopicPartitionList};

use super::{Ends, Waiting, compare_ids, ids_of};
use crate::config::kafka::Kafka;
use crate::kafka::ask::{ASK, Asked, denied, is_unknown_topic, retry_bound};
use crate::kafka::contact::Contact;
use crate::kafka::known_end::known_end;
use crate::kafka::{BrokerError, headers};
use crate::source::ingest::Message;
use crate::source::link::Link;
use crate::source::{Gap, Ingest, SourceError, SourceEvent};
use crate::thread::vital;
use deepfm_core::event::{EventKind, RawRecord};
use deepfm_core::stream::{Arrival, Partition, Positions};

/// Records handed over at a time.
const HANDFUL: usize = 512;

/// How long a poll waits when nothing has arrived. Bounds the time until a partition with room again is resumed.
const NAP: Duration = Duration::from_millis(5);

/// How often it is told where partitions end.
const TELL: Duration = Duration::from_secs(1);

/// How often a broker that was lost is asked whether it is back.
const KNOCK: Duration = Duration::from_secs(1);

struct Lane {
    waiting: Arc<AtomicUsize>,
    next_offset: i64,
    captured_end: i64,
    is_paused: bool,
    /// The end that the client had heard of when it last said that everything was read.
    read_to: Option<i64>,
    /// Decoded, not handed over yet.
    arrivals: Vec<Arrival>,
    quiet: stall::Quiet,
}

/// The reading thread of one topic. A consumer of its own, since the client's end-of-partition events name no topic.
pub(super) struct Reader {
    pub(super) consumer: Arc<BaseConsumer<Contact>>,
    pub(super) kind: EventKind,
    pub(super) kafka: Kafka,
    pub(super) ingest: Ingest,
    pub(super) sender: Sender<Result<SourceEvent, SourceError>>,
    pub(super) waiting: Waiting,
    pub(super) stop: Arc<AtomicBool>,
    pub(super) ids: BTreeMap<String, String>,
    pub(super) ends: Ends,
    pub(super) link: Link,
}

/// A reader with its partitions assigned.
pub(super) struct Assigned {
    reader: Reader,
    lanes: BTreeMap<i32, Lane>,
    refreshed: Instant,
    knocked: Instant,
    told: Instant,
    missing_since: Option<Instant>,
}

impl Reader {
    /// Assigns every partition of the topic at once.
    pub(super) fn assign(self, positions: &Positions, ends: &Positions) -> Result<Assigned, SourceError> {
        let mut assignment = TopicPartitionList::new();
        let mut lanes = BTreeMap::new();
        for (partition, offset) in positions.iter().filter(|(partition, _)| partition.kind == self.kind) {
            assignment.add_partition_offset(self.topic(), partition.number, Offset::Offset(*offset))?;
            let end = ends.get(partition).copied().unwrap_or(*offset);
            lanes.insert(partition.number, self.lane(*partition, *offset, end));
        }
        self.consumer.assign(&assignment)?;
        let now = Instant::now();
        Ok(Assigned { reader: self, lanes, refreshed: now, knocked: now, told: now, missing_since: None })
    }

    fn topic(&self) -> &str {
        self.kafka.topic_of(self.kind)
    }

    fn lane(&self, partition: Partition, next_offset: i64, captured_end: i64) -> Lane {
        let waiting = Arc::new(AtomicUsize::new(0));
        let mut known = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        known.insert(partition, Arc::clone(&waiting));
        Lane {
            waiting,
            next_offset,
            captured_end,
            is_paused: false,
            read_to: None,
            arrivals: Vec::new(),
            quiet: stall::Quiet::new(Instant::now()),
        }
    }

    fn send(&self, event: SourceEvent) -> Result<(), SourceError> {
        self.sender.send(Ok(event)).map_err(|_| SourceError::Ended)
    }

    fn one(&self, number: i32) -> TopicPartitionList {
        let mut list = TopicPartitionList::new();
        list.add_partition(self.topic(), number);
        list
    }

    /// Decides whether an error of the client ends the run.
    fn judge(&self, error: &KafkaError) -> Result<(), BrokerError> {
        if is_unknown_topic(error) {
            return Err(BrokerError::MissingTopic { topic: self.topic().to_owned() });
        }
        let contact = self.consumer.context();
        match error.rdkafka_error_code() {
            Some(RDKafkaErrorCode::Authentication) => match contact.misconfigured() {
                Some(trouble) => Err(BrokerError::Misconfigured(trouble)),
                None => Ok(()),
            },
            Some(RDKafkaErrorCode::TopicAuthorizationFailed) => {
                Err(denied(&self.kafka, &format!("topic {}", self.topic()), "Read"))
            }
            Some(RDKafkaErrorCode::Fatal | RDKafkaErrorCode::ClusterAuthorizationFailed) => {
                Err(BrokerError::Client(error.clone()))
            }
            // That brokers are lost is said by who waits for them; the group is named to the client, and not used.
            Some(
                RDKafkaErrorCode::AllBrokersDown
                | RDKafkaErrorCode::BrokerTransportFailure
                | RDKafkaErrorCode::Resolve
                | RDKafkaErrorCode::SSL
                | RDKafkaErrorCode::OperationTimedOut
                | RDKafkaErrorCode::GroupAuthorizationFailed,
            ) => Ok(()),
            _ => {
                contact.say(&error.to_string());
                Ok(())
            }
        }
    }
}

impl Assigned {
    /// Reads until it is told to stop, or fails.
    pub(super) fn run(mut self) {
        while !self.reader.stop.load(Ordering::Acquire) {
            if let Err(error) = self.turn() {
                // The receiver may be gone already; then nobody wants to know.
                let _ = self.reader.sender.send(Err(error));
                return;
            }
        }
    }

    /// Takes what has arrived, hands it over, and sees to pauses, health and new partitions.
    fn turn(&mut self) -> Result<(), SourceError> {
        let moved = self.poll()?;
        self.hand_over()?;
        self.resume()?;
        self.check_health(moved)?;
        self.check_stalls(Instant::now())?;
        self.note_ends();
        if self.refreshed.elapsed() >= Duration::from_secs(self.reader.kafka.partition_refresh_seconds) {
            self.refreshed = Instant::now();
            self.look_for_partitions()?;
        }
        Ok(())
    }

    /// Polls a handful of records; waits a little only for the first. Says whether the broker gave anything.
    fn poll(&mut self) -> Result<bool, SourceError> {
        let consumer = Arc::clone(&self.reader.consumer);
        let mut moved = false;
        if self.reader.kind == EventKind::Impression {
            self.reader.ingest.fetch_rooms();
        }
        for at in 0..HANDFUL {
            match consumer.poll(if at == 0 { NAP } else { Duration::ZERO }) {
                None => break,
                Some(Ok(message)) => {
                    moved = true;
                    self.take(&message)?;
                }
                Some(Err(KafkaError::PartitionEOF(number))) => {
                    moved = true;
                    self.end(number)?;
                }
                // That the brokers are lost comes here too: nothing has moved by it.
                Some(Err(error)) => self.judge(&error)?,
            }
        }
        Ok(moved)
    }

    fn take(&mut self, message: &BorrowedMessage<'_>) -> Result<(), SourceError> {
        let Self { reader, lanes, .. } = self;
        let number = message.partition();
        let Some(lane) = lanes.get_mut(&number) else {
            return Ok(());
        };
        if message.offset() < lane.next_offset {
            // A partition that was paused may be fetched again from a little before.
            return Ok(());
        }
        let arrival = arrival(&mut reader.ingest, reader.kind, message);
        let weight = arrival.weight();
        lane.next_offset = arrival.offset + 1;
        lane.quiet.broken(Instant::now());
        lane.arrivals.push(arrival);
        if lane.waiting.fetch_add(weight, Ordering::AcqRel) + weight >= reader.kafka.queue_records_max
            && !lane.is_paused
        {
            reader.consumer.pause(&reader.one(number))?;
            lane.is_paused = true;
        }
        Ok(())
    }

    fn hand_over(&mut self) -> Result<(), SourceError> {
        let Self { reader, lanes, .. } = self;
        for (number, lane) in lanes.iter_mut().filter(|(_, lane)| !lane.arrivals.is_empty()) {
            vital::failpoint(super::thread_name(reader.kind));
            let partition = Partition { kind: reader.kind, number: *number };
            reader.send(SourceEvent::Records { partition, arrivals: lane.arrivals.drain(..).collect() })?;
        }
        Ok(())
    }

    fn end(&mut self, number: i32) -> Result<(), SourceError> {
        self.hand_over()?;
        let Some(lane) = self.lanes.get_mut(&number) else {
            return Ok(());
        };
        lane.quiet.at_end(Instant::now());
        lane.read_to = known_end(&*self.reader.consumer, self.reader.topic(), number);
        // Everything up to the broker's end was read, so whatever lies before the captured end and did not come
        // (transaction markers, compacted records) is not there.
        let next_offset = lane.next_offset.max(lane.captured_end);
        let partition = Partition { kind: self.reader.kind, number };
        self.reader.send(SourceEvent::EndOfPartition { partition, next_offset })
    }

    /// Tells where partitions end, now and then. What lies before an end that was read to is not there: it does not wait.
    fn note_ends(&mut self) {
        if self.told.elapsed() < TELL {
            return;
        }
        self.told = Instant::now();
        let Self { reader, lanes, .. } = self;
        let mut known = reader.ends.lock().unwrap_or_else(PoisonError::into_inner);
        for (number, lane) in lanes {
            if let Some(end) = known_end(&*reader.consumer, reader.topic(), *number) {
                let end = if lane.read_to == Some(end) { lane.next_offset } else { end };
                known.insert(Partition { kind: reader.kind, number: *number }, end);
            }
        }
    }

    /// Resumes partitions of which half of what was waiting has been consumed.
    fn resume(&mut self) -> Result<(), SourceError> {
        let Self { reader, lanes, .. } = self;
        for (number, lane) in lanes.iter_mut().filter(|(_, lane)| lane.is_paused) {
            if lane.waiting.load(Ordering::Acquire) <= reader.kafka.queue_records_max / 2 {
                reader.consumer.resume(&reader.one(*number))?;
                lane.is_paused = false;
                lane.quiet.broken(Instant::now());
            }
        }
        Ok(())
    }

    fn judge(&self, error: &KafkaError) -> Result<(), SourceError> {
        let code = error.rdkafka_error_code();
        if !matches!(code, Some(RDKafkaErrorCode::OffsetOutOfRange | RDKafkaErrorCode::AutoOffsetReset)) {
            return Ok(self.reader.judge(error)?);
        }
        // The client does not say which partition: it is one whose position the broker does not have.
        let mut gaps = Vec::new();
        for (number, lane) in &self.lanes {
            let partition = Partition { kind: self.reader.kind, number: *number };
            let Reader { consumer, kafka, .. } = &self.reader;
            // Whoever polls this consumer takes records from it: the reader alone.
            let (low, high) = Asked::of(kafka, consumer.context())
                .ask(|patience| consumer.fetch_watermarks(self.reader.topic(), *number, patience))?;
            if lane.next_offset > high {
                return Err(SourceError::Beyond { partition, offset: lane.next_offset, high });
            }
            if lane.next_offset < low {
                gaps.push(Gap { partition, from: lane.next_offset, to: low });
            }
        }
        if gaps.is_empty() { Err(error.clone().into()) } else { Err(SourceError::Lost { gaps }) }
    }

    /// Ends the run when all brokers were lost for longer than the bound.
    fn check_health(&mut self, moved: bool) -> Result<(), SourceError> {
        let Reader { consumer, kafka, kind, link, .. } = &self.reader;
        let contact = consumer.context();
        let Some(since) = contact.lost() else { return Ok(()) };
        if !moved && self.knocked.elapsed() < KNOCK {
            return Ok(());
        }
        self.knocked = Instant::now();
        if moved || consumer.fetch_metadata(Some(self.reader.topic()), KNOCK).is_ok() {
            contact.clear();
            link.back(*kind, &kafka.brokers);
            // Fetches begin anew: that nothing came meanwhile is no stall.
            let now = Instant::now();
            self.lanes.values_mut().for_each(|lane| lane.quiet.begin_anew(now));
            return self.tell_ends();
        }
        let bound = Duration::from_secs(kafka.retry_max_seconds);
        let reason = contact.trouble().map_or_else(|| "no answer".to_owned(), |trouble| trouble.to_string());
        if since.elapsed() >= bound {
            return Err(BrokerError::Unreachable { brokers: kafka.brokers.clone(), bound, reason }.into());
        }
        link.lost(*kind, &kafka.brokers, &reason, bound);
        Ok(())
    }

    /// Says how far each partition goes now. One that does not tell is not waited for anew; its records come all the same.
    fn tell_ends(&self) -> Result<(), SourceError> {
        let Self { reader, lanes, .. } = self;
        for number in lanes.keys() {
            let Ok((_, end)) = reader.consumer.fetch_watermarks(reader.topic(), *number, ASK) else {
                continue;
            };
            let partition = Partition { kind: reader.kind, number: *number };
            reader.send(SourceEvent::Reconnected { partition, end })?;
        }
        Ok(())
    }

    /// Notices partitions that were created meanwhile, which are read from their beginning, and topics that were recreated.
    fn look_for_partitions(&mut self) -> Result<(), SourceError> {
        let Self { reader, lanes, missing_since, .. } = self;
        let Ok(metadata) = reader.consumer.fetch_metadata(Some(reader.topic()), KNOCK) else {
            return Ok(());
        };
        let found = metadata.topics().iter().find(|found| found.name() == reader.topic());
        let count = found.filter(|found| found.error().is_none()).map_or(0, |found| found.partitions().len());
        if count == 0 {
            // A broker that is catching up after a restart may not know the topic for a moment.
            let since = *missing_since.get_or_insert_with(Instant::now);
            if since.elapsed() < retry_bound(&reader.kafka) {
                return Ok(());
            }
            return Err(BrokerError::MissingTopic { topic: reader.topic().to_owned() }.into());
        }
        *missing_since = None;
        // Without an answer they are compared the next time; where there was none at the start, there is nothing to compare.
        if !reader.ids.is_empty()
            && let Ok(ids) = ids_of(&reader.consumer, &reader.kafka)
        {
            compare_ids(&reader.ids, &ids)?;
        }
        for number in lanes.len() as i32..count as i32 {
            let Ok((low, _)) = reader.consumer.fetch_watermarks(reader.topic(), number, ASK) else {
                break;
            };
            let partition = Partition { kind: reader.kind, number };
            tracing::info!("partition {partition} was added; it is read from offset {low}");
            lanes.insert(number, reader.lane(partition, low, low));
            reader.send(SourceEvent::PartitionAdded { partition, next_offset: low })?;
            let mut added = TopicPartitionList::new();
            added.add_partition_offset(reader.topic(), number, Offset::Offset(low))?;
            reader.consumer.incremental_assign(&added)?;
        }
        Ok(())
    }
}

fn arrival(ingest: &mut Ingest, kind: EventKind, message: &BorrowedMessage<'_>) -> Arrival {
    let headers = headers::of(message);
    let headers: Vec<(&str, Option<&[u8]>)> = headers.iter().map(|(key, value)| (key.as_ref(), *value)).collect();
    let timestamp = message.timestamp().to_millis();
    let record = RawRecord { payload: message.payload(), headers: &headers, timestamp };
    ingest.arrival(kind, &Message { offset: message.offset(), key: message.key(), record })
}

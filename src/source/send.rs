//! Event files to topics, keyed by impression id. A record's timestamp is the time of sending unless event times are asked
//! for: brokers delete by timestamp, so old events stamped with their own times may be gone within minutes.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::{Duration, Instant};

use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::message::{Header, OwnedHeaders};
use rdkafka::metadata::MetadataTopic;
use rdkafka::producer::{BaseRecord, Producer, ThreadedProducer};
use serde::Deserialize;
use serde_json::value::RawValue;

use super::ask::{Asked, denied, is_denial, is_denied};
use super::client::Deliveries;
use super::{SourceError, client, files, kafka};
use crate::config::kafka::Kafka;
use crate::event::EventKind;
use crate::lines::{Line, Lines};
use crate::progress::Progress;

/// The longest line that is sent, in bytes: as long as the longest record that any configuration reads.
const LINE_BYTES_MAX: usize = 64 << 20;

/// What the timestamp of a sent record says.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Timestamps {
    /// When it was sent.
    #[default]
    Sent,
    /// Its event time, by which `kafka.start` can find it.
    Event,
}

/// A producer of events.
pub struct EventSender {
    producer: ThreadedProducer<Deliveries>,
    timestamps: Timestamps,
    failed: Deliveries,
    kafka: Kafka,
    partitions: BTreeMap<String, i32>,
    /// Records handed to the producer.
    pub sent: u64,
}

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

/// The parts of an event that its record needs.
#[derive(Deserialize)]
struct Envelope<'a> {
    #[serde(borrow)]
    impression_id: Option<std::borrow::Cow<'a, str>>,
    #[serde(borrow)]
    event_time: Option<&'a RawValue>,
}

impl Envelope<'_> {
    /// The event time where it is a whole number, also as digits in a string.
    fn time(&self) -> Option<i64> {
        self.event_time?.get().trim_matches('"').parse().ok()
    }
}

impl EventSender {
    /// A producer for the configured topics.
    ///
    /// # Errors
    /// When the client's settings are refused, or a topic is missing.
    pub fn new(kafka: &Kafka, timestamps: Timestamps) -> Result<Self, SourceError> {
        let failed = Deliveries::default();
        let producer: ThreadedProducer<Deliveries> = client::producer(kafka).create_with_context(failed.clone())?;
        let asked = Asked::of(kafka, failed.contact());
        let mut partitions = BTreeMap::new();
        for kind in [EventKind::Impression, EventKind::Click] {
            let topic = kafka::topic(kafka, kind);
            let metadata = asked.ask(|patience| producer.client().fetch_metadata(Some(topic), patience))?;
            let found = metadata.topics().iter().find(|found| found.name() == topic);
            if found.and_then(MetadataTopic::error).map(RDKafkaErrorCode::from).is_some_and(is_denial) {
                return Err(denied(kafka, &format!("topic {topic}"), "Describe"));
            }
            let count = found.filter(|found| found.error().is_none()).map_or(0, |found| found.partitions().len());
            if count == 0 {
                return Err(SourceError::MissingTopic { topic: topic.to_owned() });
            }
            partitions.insert(topic.to_owned(), i32::try_from(count).unwrap_or(i32::MAX));
        }
        Ok(Self { producer, timestamps, failed, kafka: kafka.clone(), partitions, sent: 0 })
    }

    /// The number of partitions of each event topic.
    pub fn partitions(&self) -> &BTreeMap<String, i32> {
        &self.partitions
    }

    /// Hands one event to the producer; a full producer queue is waited for.
    ///
    /// # Errors
    /// When the producer does not take it.
    pub fn send(&mut self, kind: EventKind, json: &[u8]) -> Result<(), SourceError> {
        let envelope: Option<Envelope<'_>> = serde_json::from_slice(json).ok();
        let key = envelope.as_ref().and_then(|envelope| envelope.impression_id.as_deref()).unwrap_or_default();
        let topic = kafka::topic(&self.kafka, kind).to_owned();
        let mut record = BaseRecord::<[u8], [u8]>::to(&topic).key(key.as_bytes()).payload(json);
        let event_time = envelope.as_ref().and_then(Envelope::time).filter(|time| *time >= 0);
        if let (Some(time), Timestamps::Event) = (event_time, self.timestamps) {
            record = record.timestamp(time);
        }
        self.hand_over(record)
    }

    /// Hands a record to the producer as it is; a full producer queue is waited for.
    ///
    /// # Errors
    /// When the producer does not take it.
    pub fn send_raw(&mut self, raw: &Raw<'_>) -> Result<(), SourceError> {
        let mut headers = OwnedHeaders::new();
        for (key, value) in raw.headers {
            headers = headers.insert(Header { key, value: value.as_deref() });
        }
        let mut record = BaseRecord::<[u8], [u8]>::to(raw.topic).partition(raw.partition).payload(raw.payload);
        record = record.headers(headers);
        record.key = raw.key;
        self.hand_over(record)
    }

    fn hand_over(&mut self, record: BaseRecord<'_, [u8], [u8]>) -> Result<(), SourceError> {
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
    pub fn flush(&self) -> Result<(), SourceError> {
        let bound = Duration::from_secs(self.kafka.retry_max_seconds.max(1));
        self.producer.flush(bound)?;
        match self.failed.take_failed() {
            None => Ok(()),
            Some((_, topic, error)) if is_denied(&error) => {
                Err(denied(&self.kafka, &format!("topic {topic}"), "Write"))
            }
            Some((failed, _, error)) => Err(SourceError::Unreachable {
                brokers: self.kafka.brokers.clone(),
                bound,
                reason: format!("{failed} records were not delivered ({error})"),
            }),
        }
    }
}

/// Sends a directory of event files, merged by event time, at most `rate` events a second if given. Returns the numbers of
/// impressions and clicks.
///
/// # Errors
/// When files cannot be read or the broker does not take the records.
pub fn send_directory(
    kafka: &Kafka,
    directory: &Path,
    rate: Option<f64>,
    timestamps: Timestamps,
    progress: &Progress,
) -> Result<[u64; 2], SourceError> {
    let mut sender = EventSender::new(kafka, timestamps)?;
    let Some(impressions) = files::open(directory, EventKind::Impression, LINE_BYTES_MAX, progress)? else {
        return Err(SourceError::NoEvents(directory.to_owned()));
    };
    let clicks = files::open(directory, EventKind::Click, LINE_BYTES_MAX, progress)?;
    let mut streams = vec![Stream::new(EventKind::Impression, impressions)];
    streams.extend(clicks.map(|lines| Stream::new(EventKind::Click, lines)));
    for stream in &mut streams {
        stream.advance()?;
    }
    let (start, mut counts) = (Instant::now(), [0_u64; 2]);
    while let Some(next) = streams.iter_mut().filter(|stream| stream.line.is_some()).min_by_key(|s| (s.time, s.kind)) {
        let line = next.line.take().unwrap_or_default();
        sender.send(next.kind, &line)?;
        counts[usize::from(next.kind == EventKind::Click)] += 1;
        next.advance()?;
        if let Some(rate) = rate {
            let due = Duration::from_secs_f64(sender.sent as f64 / rate);
            std::thread::park_timeout(due.saturating_sub(start.elapsed()));
        }
    }
    sender.flush()?;
    Ok(counts)
}

/// One event file, line by line.
struct Stream {
    kind: EventKind,
    lines: Lines,
    line: Option<Vec<u8>>,
    number: u64,
    time: i64,
}

impl Stream {
    fn new(kind: EventKind, lines: Lines) -> Self {
        Self { kind, lines, line: None, number: 0, time: i64::MIN }
    }

    fn advance(&mut self) -> Result<(), SourceError> {
        let path = self.lines.path().to_owned();
        let line = loop {
            self.number += 1;
            match files::next_line(&mut self.lines)? {
                None => break None,
                // Empty lines are passed over, as a backtest does.
                Some(Line::Whole(line)) if line.trim_ascii().is_empty() => {}
                Some(Line::Whole(line)) => break Some(line.to_vec()),
                Some(Line::Long(long)) => {
                    return Err(SourceError::LongLine {
                        path,
                        line: self.number,
                        bytes: long.bytes,
                        most: LINE_BYTES_MAX,
                    });
                }
            }
        };
        let envelope: Option<Envelope<'_>> = line.as_deref().and_then(|line| serde_json::from_slice(line).ok());
        // A line that cannot be read is sent as it is, right after the one before it.
        self.time = envelope.and_then(|envelope| envelope.time()).unwrap_or(self.time);
        self.line = line;
        Ok(())
    }
}

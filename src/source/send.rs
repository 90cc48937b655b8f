//! Event files to topics, keyed by impression id. A record's timestamp is the time of sending unless event times are asked
//! for: brokers delete by timestamp, so old events stamped with their own times may be gone within minutes.

use std::path::Path;
use std::time::{Duration, Instant};

use rdkafka::producer::BaseRecord;

use super::{SourceError, files};
use crate::config::kafka::Kafka;
use crate::kafka::BrokerError;
use crate::kafka::produce::Sender;
use crate::lines::{Line, Lines};
use crate::progress::Progress;
use crate::simulate::SimulatedEvent;
use deepfm_core::event::{Decoder, EventKind, Id};

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

impl<'a> From<&'a SimulatedEvent> for Outgoing<'a> {
    fn from(event: &'a SimulatedEvent) -> Self {
        let SimulatedEvent { kind, impression_id, event_time, json, .. } = event;
        Self { kind: *kind, impression_id, event_time: Some(*event_time), json: json.as_bytes() }
    }
}

/// A producer of events.
pub struct EventSender {
    sender: Sender,
    timestamps: Timestamps,
    kafka: Kafka,
}

/// An event on its way to a topic.
#[derive(Clone, Copy, Debug)]
pub struct Outgoing<'a> {
    /// What happened: it decides the topic.
    pub kind: EventKind,
    /// The impression, the record's key; empty where it is not known.
    pub impression_id: &'a str,
    /// Its event time in milliseconds since 1970, where it is known.
    pub event_time: Option<i64>,
    /// The record's value.
    pub json: &'a [u8],
}

impl EventSender {
    /// A producer for the configured topics.
    ///
    /// # Errors
    /// When the client's settings are refused, or a topic is missing.
    pub fn new(kafka: &Kafka, timestamps: Timestamps) -> Result<Self, BrokerError> {
        let sender = Sender::new(kafka)?;
        for kind in [EventKind::Impression, EventKind::Click] {
            sender.partition_count(kafka.topic_of(kind))?;
        }
        Ok(Self { sender, timestamps, kafka: kafka.clone() })
    }

    /// Hands one event to the producer; a full producer queue is waited for.
    ///
    /// # Errors
    /// When the producer does not take it.
    pub fn send(&mut self, event: Outgoing<'_>) -> Result<(), BrokerError> {
        let topic = self.kafka.topic_of(event.kind);
        let mut record = BaseRecord::<[u8], [u8]>::to(topic).key(event.impression_id.as_bytes()).payload(event.json);
        if let (Some(time @ 0..), Timestamps::Event) = (event.event_time, self.timestamps) {
            record = record.timestamp(time);
        }
        self.sender.send(record)
    }

    /// Events handed to the producer.
    pub fn sent(&self) -> u64 {
        self.sender.sent()
    }

    /// Waits until the broker has everything.
    ///
    /// # Errors
    /// When that takes longer than the bound, or a record was not taken.
    pub fn flush(&self) -> Result<(), BrokerError> {
        self.sender.flush()
    }
}

/// Sends a directory of event files, merged by event time, at most `rate` events a second if given. Returns the numbers of
/// impressions and clicks. The decoder finds the id and the time of each, where the configuration says they are.
///
/// # Errors
/// When files cannot be read or the broker does not take the records.
pub fn send_directory(
    kafka: &Kafka,
    decoder: Decoder,
    directory: &Path,
    rate: Option<f64>,
    timestamps: Timestamps,
    progress: &Progress,
) -> Result<[u64; 2], SourceError> {
    let mut decoder = decoder;
    let mut sender = EventSender::new(kafka, timestamps)?;
    let Some(impressions) = files::open(directory, EventKind::Impression, LINE_BYTES_MAX, progress)? else {
        return Err(SourceError::NoEvents(directory.to_owned()));
    };
    files::warn_without_clicks(directory);
    let clicks = files::open(directory, EventKind::Click, LINE_BYTES_MAX, progress)?;
    let mut streams = vec![Stream::new(EventKind::Impression, impressions)];
    streams.extend(clicks.map(|lines| Stream::new(EventKind::Click, lines)));
    for stream in &mut streams {
        stream.advance(&mut decoder)?;
    }
    let (start, mut counts) = (Instant::now(), [0_u64; 2]);
    while let Some(next) = streams.iter_mut().filter(|stream| stream.line.is_some()).min_by_key(|s| (s.time, s.kind)) {
        sender.send(next.event())?;
        counts[usize::from(next.kind == EventKind::Click)] += 1;
        next.advance(&mut decoder)?;
        if let Some(rate) = rate {
            let due = Duration::from_secs_f64(sender.sent() as f64 / rate);
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
    impression_id: Option<Id>,
    event_time: Option<i64>,
    number: u64,
    /// The latest event time that is known.
    time: i64,
}

impl Stream {
    fn new(kind: EventKind, lines: Lines) -> Self {
        Self { kind, lines, line: None, impression_id: None, event_time: None, number: 0, time: i64::MIN }
    }

    fn event(&self) -> Outgoing<'_> {
        Outgoing {
            kind: self.kind,
            impression_id: self.impression_id.as_deref().unwrap_or_default(),
            event_time: self.event_time,
            json: self.line.as_deref().unwrap_or_default(),
        }
    }

    fn advance(&mut self, decoder: &mut Decoder) -> Result<(), SourceError> {
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
        (self.impression_id, self.event_time) =
            line.as_deref().map_or((None, None), |line| decoder.address(self.kind, line));
        // A line that cannot be read is sent as it is, right after the one before it.
        self.time = self.event_time.unwrap_or(self.time);
        self.line = line;
        Ok(())
    }
}

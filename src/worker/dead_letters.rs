//! Records that could not be read, on their way to the dead-letter topic.
//!
//! Letters leave after the commit that passed their records, through its outbox: no position moves past a record whose
//! letter could be lost. A crash may send one again; its key says that it is the same one.

use std::collections::VecDeque;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread::JoinHandle;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::producer::{BaseRecord, Producer, ThreadedProducer};
use serde::Serialize;
use sha2::{Digest as _, Sha256};

use super::drive::Witness;
use crate::config::kafka::Kafka;
use crate::event::EventKind;
use crate::snapshot::outbox::Letter;
use crate::source::client::{self, Deliveries};
use crate::source::vital;
use crate::stream::{Partition, Refused};
use crate::train::{Scored, Step};

/// The longest letter, in bytes: a topic takes a megabyte unless it is set up otherwise.
const LETTER_BYTES_MAX: usize = 900_000;

/// The most bytes of letters that wait to be sent; at the bound input waits for the broker.
const LETTERS_BYTES_MAX: usize = 16 << 20;

/// A dead letter, as `schemas/dead_letter.schema.json` has it.
#[derive(Debug, Serialize)]
struct Document<'a> {
    reason: &'static str,
    detail: &'a str,
    topic: &'a str,
    partition: i32,
    offset: i64,
    timestamp: Option<i64>,
    key_base64: Option<String>,
    headers: Vec<Header<'a>>,
    payload_base64: Option<String>,
    payload_bytes: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    payload_sha256: Option<String>,
}

#[derive(Debug, Serialize)]
struct Header<'a> {
    key: &'a str,
    value_base64: Option<String>,
}

/// Dead letters could not be delivered.
#[derive(Debug, thiserror::Error)]
pub enum DeadLetterError {
    /// The producer could not be made.
    #[error("cannot make a producer for dead letters")]
    Producer(#[source] KafkaError),
    /// The broker did not take them in time.
    #[error("{waiting} dead letters were not taken by topic {topic} within {bound:?}")]
    Undelivered {
        /// The dead-letter topic.
        topic: String,
        /// How many.
        waiting: usize,
        /// How long was waited.
        bound: Duration,
    },
    /// The sending thread has ended.
    #[error("the thread that sends dead letters has ended")]
    Ended,
    /// The sending thread has panicked.
    #[error(transparent)]
    Panicked(#[from] vital::Panicked),
    /// The broker refused some.
    #[error("topic {topic} refused {failed} dead letters; see the log for each")]
    Refused {
        /// The dead-letter topic.
        topic: String,
        /// How many.
        failed: u64,
    },
}

/// Writes the letters of refused records.
#[derive(Clone, Debug)]
pub struct LetterWriter {
    impressions_topic: String,
    clicks_topic: String,
}

impl LetterWriter {
    /// A writer for records of these topics.
    pub fn new(kafka: &Kafka) -> Self {
        Self { impressions_topic: kafka.impressions_topic.clone(), clicks_topic: kafka.clicks_topic.clone() }
    }

    /// The letter of a record.
    pub fn write(&self, partition: Partition, offset: i64, refused: &Refused) -> Letter {
        let topic = match partition.kind {
            EventKind::Impression => &self.impressions_topic,
            EventKind::Click => &self.clicks_topic,
        };
        let mut letter = document(topic, partition.number, offset, refused);
        let mut text = encode(&letter);
        // A topic takes records of about a megabyte: what makes a letter longer than that is left out, the least needed first.
        for shorten in [Document::without_headers, Document::without_key, Document::without_payload] {
            if text.len() > LETTER_BYTES_MAX {
                shorten(&mut letter, refused);
                text = encode(&letter);
            }
        }
        Letter { key: format!("{topic}/{}/{offset}", partition.number), document: text }
    }
}

/// The letters of a worker: written as records are consumed, durable with the next commit, sent after it by a thread of
/// their own, and forgotten by the commit after that.
pub struct Letters {
    writer: LetterWriter,
    /// In the order of consumption: first those that were given to the thread, then those that were not.
    unsent: VecDeque<Letter>,
    bytes: usize,
    in_transit: usize,
    /// How many of the first are in the commit in flight.
    submitted: usize,
    courier: Option<Sender<Vec<Letter>>>,
    delivered: Receiver<Result<usize, DeadLetterError>>,
    thread: Option<JoinHandle<()>>,
}

impl Letters {
    /// Starts the sending thread. `left` are the letters that the last run may not have sent; they are durable.
    ///
    /// # Errors
    /// When the client's settings are refused.
    pub fn start(kafka: &Kafka, left: Vec<Letter>) -> Result<Self, DeadLetterError> {
        let sender = LetterSender::new(kafka)?;
        let (courier, inbox) = channel::<Vec<Letter>>();
        let (outbox, delivered) = channel();
        let body = move |outbox: &Sender<Result<usize, DeadLetterError>>| {
            for letters in inbox {
                vital::failpoint("letters");
                let result = sender.send(&letters).map(|()| letters.len());
                let failed = result.is_err();
                // The receiver may be gone already; then nobody wants to know.
                if outbox.send(result).is_err() || failed {
                    return;
                }
            }
        };
        let thread = vital::spawn("letters", outbox, body, |panicked| Err(panicked.into()));
        let mut letters = Self {
            writer: LetterWriter::new(kafka),
            bytes: left.iter().map(Letter::bytes).sum(),
            unsent: left.into(),
            in_transit: 0,
            submitted: 0,
            courier: Some(courier),
            delivered,
            thread: Some(thread),
        };
        letters.submit();
        letters.post();
        Ok(letters)
    }

    /// Letters that are not known to be sent: what the commit that is begun now holds.
    pub fn submit(&mut self) -> Vec<Letter> {
        self.submitted = self.unsent.len();
        self.unsent.iter().cloned().collect()
    }

    /// Whether all letters are known to be sent.
    pub fn is_empty(&self) -> bool {
        self.unsent.is_empty()
    }

    /// Whether letters take so much room that a commit is due.
    pub fn is_due(&self) -> bool {
        self.bytes >= LETTERS_BYTES_MAX / 2 && self.in_transit < self.unsent.len()
    }

    /// The letters that were submitted are durable: those of them that were not given to the thread are now.
    pub fn post(&mut self) {
        if self.submitted <= self.in_transit {
            return;
        }
        let posted = self.unsent.range(self.in_transit..self.submitted).cloned().collect();
        self.in_transit = self.submitted;
        if let Some(courier) = &self.courier {
            // A thread that has failed says why through `delivered`.
            let _ = courier.send(posted);
        }
    }

    /// Forgets what was delivered since the last call; says how many letters that were.
    ///
    /// # Errors
    /// When letters could not be delivered.
    pub fn note_delivered(&mut self) -> Result<usize, DeadLetterError> {
        let mut count = 0;
        while let Ok(result) = self.delivered.try_recv() {
            count += self.forget(result?);
        }
        Ok(count)
    }

    /// Waits until every letter that was given to the thread is delivered; says how many were.
    ///
    /// # Errors
    /// When letters could not be delivered, or the thread has ended.
    pub fn wait(&mut self) -> Result<usize, DeadLetterError> {
        let mut count = self.note_delivered()?;
        while self.in_transit > 0 {
            let result = self.delivered.recv().map_err(|_| DeadLetterError::Ended)?;
            count += self.forget(result?);
        }
        Ok(count)
    }

    fn forget(&mut self, delivered: usize) -> usize {
        self.in_transit -= delivered;
        self.submitted = self.submitted.saturating_sub(delivered);
        self.bytes -= self.unsent.drain(..delivered).map(|letter| letter.bytes()).sum::<usize>();
        delivered
    }
}

impl Witness for Letters {
    fn consumed(&mut self, step: Step) {
        if let Some(refused) = &step.refused {
            let letter = self.writer.write(step.partition, step.offset, refused);
            self.bytes += letter.bytes();
            self.unsent.push_back(letter);
        }
    }

    /// Letters take all the room there is: input waits.
    fn is_full(&self) -> bool {
        self.bytes >= LETTERS_BYTES_MAX
    }

    fn scored(&mut self, _: Scored) {}
}

impl Drop for Letters {
    fn drop(&mut self) {
        self.courier = None;
        if let Some(thread) = self.thread.take()
            && self.in_transit == 0
            && thread.join().is_err()
        {
            tracing::error!("the thread that sends dead letters has panicked");
        }
    }
}

/// Sends letters to the dead-letter topic.
struct LetterSender {
    producer: ThreadedProducer<Deliveries>,
    deliveries: Deliveries,
    topic: String,
    bound: Duration,
}

impl LetterSender {
    fn new(kafka: &Kafka) -> Result<Self, DeadLetterError> {
        let deliveries = Deliveries::default();
        let producer =
            client::producer(kafka).create_with_context(deliveries.clone()).map_err(DeadLetterError::Producer)?;
        let bound = Duration::from_secs(kafka.retry_max_seconds.max(1));
        Ok(Self { producer, deliveries, topic: kafka.dead_letter_topic.clone(), bound })
    }

    /// Sends letters, and waits until the broker has them.
    fn send(&self, letters: &[Letter]) -> Result<(), DeadLetterError> {
        for letter in letters {
            let mut record = BaseRecord::to(&self.topic).key(&letter.key).payload(&letter.document);
            loop {
                match self.producer.send(record) {
                    Ok(()) => break,
                    Err((KafkaError::MessageProduction(RDKafkaErrorCode::QueueFull), unsent)) => {
                        self.flush()?;
                        record = unsent;
                    }
                    Err((error, _)) => {
                        tracing::error!("a dead letter cannot be sent: {error}");
                        return Err(DeadLetterError::Refused { topic: self.topic.clone(), failed: 1 });
                    }
                }
            }
        }
        self.flush()
    }

    fn flush(&self) -> Result<(), DeadLetterError> {
        if self.producer.flush(self.bound).is_err() {
            let waiting = usize::try_from(self.producer.in_flight_count()).unwrap_or_default();
            return Err(DeadLetterError::Undelivered { topic: self.topic.clone(), waiting, bound: self.bound });
        }
        match self.deliveries.take_failed() {
            0 => Ok(()),
            failed => Err(DeadLetterError::Refused { topic: self.topic.clone(), failed }),
        }
    }
}

impl Document<'_> {
    fn without_headers(&mut self, _: &Refused) {
        self.headers.clear();
    }

    fn without_key(&mut self, _: &Refused) {
        self.key_base64 = None;
    }

    fn without_payload(&mut self, refused: &Refused) {
        self.payload_base64 = None;
        self.payload_sha256 = refused
            .payload_sha256
            .or_else(|| refused.payload.as_deref().map(|whole| Sha256::digest(whole).into()))
            .map(hex::encode);
    }
}

fn encode(document: &Document<'_>) -> String {
    serde_json::to_string(document).expect("a letter of strings and numbers always encodes")
}

fn document<'a>(topic: &'a str, partition: i32, offset: i64, refused: &'a Refused) -> Document<'a> {
    let header = |(key, value): &'a (String, Option<Vec<u8>>)| Header {
        key,
        value_base64: value.as_deref().map(|bytes| BASE64.encode(bytes)),
    };
    Document {
        reason: refused.refusal.reason.as_str(),
        detail: &refused.refusal.detail,
        topic,
        partition,
        offset,
        timestamp: refused.timestamp,
        key_base64: refused.key.as_deref().map(|bytes| BASE64.encode(bytes)),
        headers: refused.headers.iter().map(header).collect(),
        payload_base64: refused.payload.as_deref().map(|bytes| BASE64.encode(bytes)),
        payload_bytes: refused.payload_bytes,
        payload_sha256: refused.payload_sha256.map(hex::encode),
    }
}

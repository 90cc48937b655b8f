//! Records that could not be read, on their way to the dead-letter topic.
//!
//! Letters leave after the commit that passed their records, through its outbox: no position moves past a record whose
//! letter could be lost. A crash may send one again; its key says that it is the same one.
//!
//! No record makes a letter that cannot be sent: letters are cut to what a topic takes when they are written, when they are
//! loaded from a checkpoint (an older program may have written it), and once more where the topic takes less than that.

pub mod letter;
mod sender;

use std::collections::VecDeque;
use std::ops::ControlFlow;
use std::time::Duration;

use rdkafka::error::KafkaError;

use crate::config::kafka::Kafka;
use crate::drive::Witness;
use crate::drive::losses::Seen;
use crate::letters::letter::{DeadLetter, LETTER_BYTES_MAX};
use crate::thread::{Hand, HandEnded, Panicked};
use deepfm_core::event::EventKind;
use deepfm_core::stream::{Partition, Refused};
use deepfm_core::train::{Observer, Scored, Step};
use deepfm_core::version::outbox::Letter;
use sender::{LetterSender, fitted};

/// The most bytes of letters that wait to be sent; at the bound input waits for the broker.
const LETTERS_BYTES_MAX: usize = 16 << 20;

/// The most batches of letters that the sending thread holds: what is written meanwhile goes with the next one.
const BATCHES_MAX: usize = 4;

/// Dead letters could not be delivered.
#[derive(Debug, thiserror::Error)]
#[expect(missing_docs, reason = "fields of errors say it by name and type")]
pub enum DeadLetterError {
    /// The producer could not be made.
    #[error("cannot make a producer for dead letters")]
    Producer(#[source] KafkaError),
    /// The broker did not take them in time.
    #[error("{waiting} dead letters were not taken by topic {topic} within {bound:?}")]
    Undelivered { topic: String, waiting: usize, bound: Duration },
    /// The sending thread has ended.
    #[error(transparent)]
    Ended(#[from] HandEnded),
    /// The sending thread has panicked.
    #[error(transparent)]
    Panicked(#[from] Panicked),
    /// The broker refused some.
    #[error("topic {topic} refused {failed} dead letters")]
    Refused { topic: String, failed: u64, source: KafkaError },
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
        let letter = DeadLetter::of(topic, partition.number, offset, refused);
        Letter { key: letter.key(), document: letter.fit(LETTER_BYTES_MAX) }
    }
}

/// The letters of a worker: written as records are consumed, durable with the next commit, sent after it by a thread of
/// their own, and forgotten by the commit after that.
pub struct Letters {
    writer: LetterWriter,
    /// What was consumed, refused or not.
    seen: Seen,
    /// In the order of consumption: first those that were given to the thread, then those that were not.
    unsent: VecDeque<Letter>,
    bytes: usize,
    in_transit: usize,
    /// How many of the first are in the commit in flight.
    submitted: usize,
    /// How many of the first are in a commit that is durable.
    durable: usize,
    courier: Hand<Vec<Letter>, Result<usize, DeadLetterError>>,
}

impl Letters {
    /// Starts the sending thread. `left` are the letters that the last run may not have sent; they are durable.
    ///
    /// # Errors
    /// When the client's settings are refused.
    pub fn start(kafka: &Kafka, left: Vec<Letter>) -> Result<Self, DeadLetterError> {
        let left: VecDeque<Letter> = left.into_iter().map(fitted).collect();
        let sender = LetterSender::new(kafka)?;
        let work = move |letters: Vec<Letter>, tell: &mut dyn FnMut(Result<usize, DeadLetterError>)| {
            let sent = sender.send(&letters).map(|()| letters.len());
            let flow = if sent.is_ok() { ControlFlow::Continue(()) } else { ControlFlow::Break(()) };
            tell(sent);
            flow
        };
        let courier = Hand::start("letters", BATCHES_MAX, work, |panicked| Err(panicked.into()));
        let mut letters = Self {
            writer: LetterWriter::new(kafka),
            seen: Seen::default(),
            bytes: left.iter().map(Letter::bytes).sum(),
            unsent: left,
            in_transit: 0,
            submitted: 0,
            durable: 0,
            courier,
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

    /// What was consumed since the start, refused or not.
    pub fn seen(&self) -> &Seen {
        &self.seen
    }

    /// Whether all letters are known to be sent.
    pub fn is_empty(&self) -> bool {
        self.unsent.is_empty()
    }

    /// Whether letters take so much room that a commit is due.
    pub fn is_due(&self) -> bool {
        self.bytes >= LETTERS_BYTES_MAX / 2 && self.durable < self.unsent.len()
    }

    /// The letters that were submitted are durable: those of them that were not given to the thread are now, or when it has
    /// room again.
    pub fn post(&mut self) {
        self.durable = self.submitted;
        self.hand_on();
    }

    fn hand_on(&mut self) {
        if self.durable <= self.in_transit || !self.courier.has_room() {
            return;
        }
        let posted = self.unsent.range(self.in_transit..self.durable).cloned().collect();
        self.in_transit = self.durable;
        self.courier.give(posted);
    }

    /// Forgets what was delivered since the last call; says how many letters that were.
    ///
    /// # Errors
    /// When letters could not be delivered.
    pub fn note_delivered(&mut self) -> Result<usize, DeadLetterError> {
        let mut count = 0;
        while let Some(result) = self.courier.try_take() {
            count += self.forget(result?);
        }
        Ok(count)
    }

    /// Waits until every letter that was given to the thread is delivered, or `go_on`, which is asked every `pulse`, says no;
    /// says how many were.
    ///
    /// # Errors
    /// When letters could not be delivered, or the thread has ended.
    pub fn wait(&mut self, pulse: Duration, mut go_on: impl FnMut() -> bool) -> Result<usize, DeadLetterError> {
        let mut count = self.note_delivered()?;
        while self.in_transit > 0 && go_on() {
            if let Some(result) = self.courier.take_within(pulse)? {
                count += self.forget(result?);
            }
        }
        Ok(count)
    }

    fn take(&mut self, letter: Letter) {
        self.bytes += letter.bytes();
        self.unsent.push_back(letter);
    }

    fn forget(&mut self, delivered: usize) -> usize {
        self.in_transit -= delivered;
        self.submitted = self.submitted.saturating_sub(delivered);
        self.durable = self.durable.saturating_sub(delivered);
        self.bytes -= self.unsent.drain(..delivered).map(|letter| letter.bytes()).sum::<usize>();
        self.hand_on();
        delivered
    }
}

impl Witness for Letters {
    fn consumed(&mut self, step: Step) {
        self.seen.note_step(&step);
        if let Some(refused) = &step.record.refused {
            self.take(self.writer.write(step.record.partition, step.record.offset, refused));
        }
        for unlearned in &step.unlearned {
            let refused = Refused::without_record(unlearned.refusal());
            self.take(self.writer.write(unlearned.partition, unlearned.offset, &refused));
        }
    }

    /// Letters take all the room there is: input waits.
    fn is_full(&self) -> bool {
        self.bytes >= LETTERS_BYTES_MAX
    }
}

impl Observer for Letters {
    fn scored(&mut self, _: Scored) {}
}

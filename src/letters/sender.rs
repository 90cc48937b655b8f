//! The sending thread's part: letters to the topic, and what to do about one that the topic does not take.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use rdkafka::ClientContext;
use rdkafka::config::RDKafkaLogLevel;
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::producer::{BaseRecord, DeliveryResult, Producer, ProducerContext, ThreadedProducer};

use super::DeadLetterError;
use super::letter::{DeadLetter, LETTER_BYTES_MAX};
use crate::config::kafka::Kafka;
use crate::kafka::ask::retry_bound;
use crate::kafka::client;
use crate::kafka::contact::Contact;
use deepfm_core::version::outbox::Letter;

/// No letter has so few bytes: everything is left out that can be.
const LEAST_BYTES: usize = 0;

/// Letters that were not delivered, by their number within the call, each with the error.
#[derive(Clone, Debug, Default)]
struct Failures(Arc<Mutex<Vec<(usize, KafkaError)>>>);

impl Failures {
    fn add(&self, number: usize, error: KafkaError) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).push((number, error));
    }

    fn take(&self) -> Vec<(usize, KafkaError)> {
        std::mem::take(&mut *self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl ClientContext for Failures {
    fn log(&self, level: RDKafkaLogLevel, fac: &str, message: &str) {
        Contact::default().log(level, fac, message);
    }

    fn error(&self, error: KafkaError, reason: &str) {
        Contact::default().error(error, reason);
    }
}

impl ProducerContext for Failures {
    type DeliveryOpaque = Box<usize>;

    fn delivery(&self, result: &DeliveryResult<'_>, number: Self::DeliveryOpaque) {
        if let Err((error, _)) = result {
            self.add(*number, error.clone());
        }
    }
}

/// Sends letters to the dead-letter topic.
pub(super) struct LetterSender {
    producer: ThreadedProducer<Failures>,
    failures: Failures,
    topic: String,
    bound: Duration,
}

impl LetterSender {
    pub(super) fn new(kafka: &Kafka) -> Result<Self, DeadLetterError> {
        let failures = Failures::default();
        let producer =
            client::producer(kafka).create_with_context(failures.clone()).map_err(DeadLetterError::Producer)?;
        let bound = retry_bound(kafka);
        Ok(Self { producer, failures, topic: kafka.dead_letter_topic.clone(), bound })
    }

    /// Sends letters, and waits until the broker has them. Those that the topic finds too large (its `max.message.bytes`
    /// counts a whole batch) are sent again one by one, then with the least that a letter can be.
    pub(super) fn send(&self, letters: &[Letter]) -> Result<(), DeadLetterError> {
        let large = self.try_to_send(letters)?;
        for letter in large.into_iter().map(|number| &letters[number]) {
            if self.try_to_send(std::slice::from_ref(letter))?.is_empty() {
                continue;
            }
            tracing::warn!("topic {} takes the dead letter {} only without its record", self.topic, letter.key);
            let least = Letter { key: letter.key.clone(), document: fit(letter, LEAST_BYTES) };
            if !self.try_to_send(&[least])?.is_empty() {
                tracing::error!("the dead letter {} is too large for topic {} in any form", letter.key, self.topic);
                let source = KafkaError::MessageProduction(RDKafkaErrorCode::MessageSizeTooLarge);
                return Err(DeadLetterError::Refused { topic: self.topic.clone(), failed: 1, source });
            }
        }
        Ok(())
    }

    /// Gives the numbers of those that are too large for the topic.
    fn try_to_send(&self, letters: &[Letter]) -> Result<Vec<usize>, DeadLetterError> {
        for (number, letter) in letters.iter().enumerate() {
            let opaque = Box::new(number);
            let mut record = BaseRecord::with_opaque_to(&self.topic, opaque).key(&letter.key).payload(&letter.document);
            loop {
                match self.producer.send(record) {
                    Ok(()) => break,
                    Err((KafkaError::MessageProduction(RDKafkaErrorCode::QueueFull), unsent)) => {
                        self.flush()?;
                        record = unsent;
                    }
                    Err((error, _)) => {
                        self.failures.add(number, error);
                        break;
                    }
                }
            }
        }
        self.flush()?;
        let is_large =
            |error: &KafkaError| matches!(error, KafkaError::MessageProduction(RDKafkaErrorCode::MessageSizeTooLarge));
        let (large, failed): (Vec<_>, Vec<_>) = self.failures.take().into_iter().partition(|(_, e)| is_large(e));
        let count = failed.len() as u64;
        // Many fail alike: the first says it for all.
        if let Some((number, source)) = failed.into_iter().next() {
            tracing::error!("the dead letter {} was not delivered: {source}", letters[number].key);
            return Err(DeadLetterError::Refused { topic: self.topic.clone(), failed: count, source });
        }
        let mut large: Vec<usize> = large.into_iter().map(|(number, _)| number).collect();
        large.sort_unstable();
        Ok(large)
    }

    fn flush(&self) -> Result<(), DeadLetterError> {
        if self.producer.flush(self.bound).is_err() {
            let waiting = usize::try_from(self.producer.in_flight_count()).unwrap_or_default();
            return Err(DeadLetterError::Undelivered { topic: self.topic.clone(), waiting, bound: self.bound });
        }
        Ok(())
    }
}

/// A letter out of a checkpoint, cut to what a topic takes.
pub(super) fn fitted(letter: Letter) -> Letter {
    if letter.document.len() <= LETTER_BYTES_MAX {
        return letter;
    }
    Letter { document: fit(&letter, LETTER_BYTES_MAX), key: letter.key }
}

fn fit(letter: &Letter, bytes_max: usize) -> String {
    let read = serde_json::from_str::<DeadLetter>(&letter.document);
    read.unwrap_or_else(|error| DeadLetter::unreadable(&letter.key, &error.to_string())).fit(bytes_max)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn letter(detail: &str) -> Letter {
        let document = format!(
            r#"{{"reason":"unsupported_framing","detail":{},"topic":"t","partition":0,"offset":7,"timestamp":1,
            "key_base64":"aw==","headers":[{{"key":"content-type","value_base64":null}}],"payload_base64":"e30=",
            "payload_bytes":2}}"#,
            serde_json::to_string(detail).expect("a string encodes"),
        );
        Letter { key: "t/0/7".to_owned(), document }
    }

    #[test]
    fn a_letter_of_an_older_checkpoint_is_cut_to_what_a_topic_takes() {
        let whole = letter("short");
        assert_eq!(fitted(whole.clone()), whole);
        let cut = fitted(letter(&"\u{1}".repeat(170_000)));
        assert!(cut.document.len() < 5_000, "{} bytes", cut.document.len());
        let read: DeadLetter = serde_json::from_str(&cut.document).expect("it is a letter still");
        assert_eq!(read.payload_base64.as_deref(), Some("e30="), "only the detail was too long");
        assert!(read.detail.starts_with("\\u{1}\\u{1}"), "{}", read.detail);
    }

    #[test]
    fn a_letter_that_is_none_becomes_one_that_says_so() {
        let broken = Letter { key: "a/b/3/41".to_owned(), document: "x".repeat(LETTER_BYTES_MAX + 1) };
        let read: DeadLetter = serde_json::from_str(&fitted(broken).document).expect("it is a letter");
        assert_eq!((read.topic.as_str(), read.partition, read.offset), ("a/b", 3, 41));
    }

    #[test]
    fn the_least_letter_has_place_reason_and_digest() {
        let least = fit(&letter(&"x".repeat(5_000)), LEAST_BYTES);
        assert!(least.len() < 500, "{least}");
        let read: DeadLetter = serde_json::from_str(&least).expect("it is a letter still");
        let digest = "44136fa355b3678a1146ad16f7e8649e94fb4fc21fe77e8310c060f61caaff8a";
        assert_eq!(read.payload_sha256.as_deref(), Some(digest));
        assert_eq!((read.payload_base64, read.key_base64, read.headers.len()), (None, None, 0));
    }
}

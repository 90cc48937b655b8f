//! The versions topic: one partition, compacted; the newest record of each key counts. Readers ignore a record equal to the
//! one they know, so that announcing twice does no harm.

use std::time::{Duration, Instant};

use crate::config::kafka::Kafka;
use crate::kafka::BrokerError;
use crate::kafka::ask::{ASK, denied, is_denial, is_unknown_topic, retry_bound};
use crate::kafka::client::{self, Deliveries};
use crate::kafka::contact::{SAY_AGAIN, Voice};
use crate::kafka::read::TopicReader;
use deepfm_core::event::DETAIL_CHARS_MAX;
use deepfm_core::event::plain::plain;
use deepfm_core::version::alias::{Alias, Hold};
use deepfm_core::version::announcement::Announcement;
use deepfm_core::version::known::KnownVersions;
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::message::{BorrowedMessage, Message as _};
use rdkafka::producer::{BaseRecord, Producer, ThreadedProducer};

/// How long a transaction lasts at least: the client's default.
const TRANSACTION_MIN: Duration = Duration::from_mins(1);

/// How long a transaction lasts at most: brokers allow 15 minutes unless they are set up otherwise.
const TRANSACTION_MAX: Duration = Duration::from_mins(10);

/// How long a record may take to be shown that a broker has taken.
const SHOWN: Duration = Duration::from_secs(5);

/// How long after a look for it the next is.
const LOOK: Duration = Duration::from_millis(2);

/// The most records that are written as one step.
const RECORDS: usize = 500;

/// The versions topic cannot be read or written.
#[derive(Debug, thiserror::Error)]
#[expect(missing_docs, reason = "fields of errors say it by name and type")]
pub enum TopicError {
    /// The client failed.
    #[error("the versions topic {topic}")]
    Client { topic: String, source: KafkaError },
    /// It cannot be read or written.
    #[error("the versions topic {topic}")]
    Broker { topic: String, source: BrokerError },
    /// It does not exist.
    #[error("the versions topic {topic} does not exist; `deepfm topics apply --config FILE` creates it")]
    Missing { topic: String },
    /// Another worker has begun to write the model's versions.
    #[error("another worker publishes versions of model {model} to {topic} now: this one is fenced off and ends")]
    Fenced { topic: String, model: String },
    /// The broker did not answer within the bound.
    #[error("the versions topic {topic} did not answer within {bound:?} (kafka.retry_max_seconds): {reason}")]
    Unreachable { topic: String, bound: Duration, reason: String },
}

/// The transactional id of a model's one writer.
fn transactional_id(model: &str) -> String {
    format!("deepfm-stream/{model}")
}

/// Reads the topic to its end. Records of other models and of unknown forms are passed over.
///
/// # Errors
/// When the topic is missing or the broker does not answer within the bound.
pub fn read(kafka: &Kafka, model: &str) -> Result<KnownVersions, TopicError> {
    let mut reading = Reading::default();
    reading.go_on(kafka, model, Voice::Aloud)?;
    Ok(reading.known)
}

/// What the topic says of a model, as far as it was read.
#[derive(Debug, Default)]
pub struct Reading {
    /// What it says.
    pub known: KnownVersions,
    reader: TopicReader,
}

impl Reading {
    /// Reads what the topic has more by now, as [`read`] does.
    ///
    /// # Errors
    /// As [`read`]; what was read by then is known.
    pub fn go_on(&mut self, kafka: &Kafka, model: &str, voice: Voice) -> Result<(), TopicError> {
        self.hear(kafka, model, voice, &mut |_| ())
    }

    /// Reads on until this record is shown, which has just been written. A broker ends a transaction some time after it has said so,
    /// and until then shows nothing of what others have written behind it. Where it takes too long for that, nobody waits for it.
    ///
    /// # Errors
    /// As [`go_on`](Self::go_on).
    pub fn go_on_past(&mut self, kafka: &Kafka, model: &str, voice: Voice, written: &Record) -> Result<(), TopicError> {
        let (start, mut is_shown) = (Instant::now(), false);
        loop {
            self.hear(kafka, model, voice, &mut |message| is_shown |= written.is(message))?;
            if is_shown || start.elapsed() >= SHOWN {
                return Ok(());
            }
            std::thread::park_timeout(LOOK);
        }
    }

    fn hear(
        &mut self,
        kafka: &Kafka,
        model: &str,
        voice: Voice,
        see: &mut dyn FnMut(&BorrowedMessage<'_>),
    ) -> Result<(), TopicError> {
        let Self { known, reader } = self;
        let take = &mut |message: &BorrowedMessage<'_>| {
            see(message);
            let Some(key) = message.key() else { return };
            if let Err(error) = known.take(model, key, message.payload()) {
                let cause = std::error::Error::source(&error).map(|cause| format!(": {cause}")).unwrap_or_default();
                let key = plain(&String::from_utf8_lossy(key), DETAIL_CHARS_MAX);
                tracing::warn!("the record under {key:?} of the versions topic is passed over: {error}{cause}");
            }
        };
        reader.read_on(kafka, &kafka.versions_topic, voice, take).map_err(|error| unread(kafka, error))
    }
}

fn unread(kafka: &Kafka, error: BrokerError) -> TopicError {
    let topic = kafka.versions_topic.clone();
    match error {
        BrokerError::MissingTopic { .. } => TopicError::Missing { topic },
        BrokerError::Unreachable { bound, reason, .. } => TopicError::Unreachable { topic, bound, reason },
        error => TopicError::Broker { topic, source: error },
    }
}

/// A record of the topic.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Record {
    key: String,
    /// A tombstone has none.
    payload: Option<String>,
}

impl Record {
    /// A record of this key and payload.
    pub fn new(key: String, payload: String) -> Self {
        Self { key, payload: Some(payload) }
    }

    /// The record of a version.
    pub fn version(announcement: &Announcement) -> Self {
        Self::new(announcement.key(), announcement.to_json())
    }

    /// The record of an alias.
    pub fn alias(alias: &Alias) -> Self {
        Self::new(Alias::key(&alias.model, &alias.alias), alias.to_json())
    }

    /// The record of a hold.
    pub fn hold(hold: &Hold) -> Self {
        Self::new(Hold::key(&hold.model, &hold.alias), hold.to_json())
    }

    /// The record that says that a key is no more.
    pub fn tombstone(key: &str) -> Self {
        Self { key: key.to_owned(), payload: None }
    }

    /// Whether a message is this record.
    fn is(&self, message: &BorrowedMessage<'_>) -> bool {
        message.key() == Some(self.key.as_bytes()) && message.payload() == self.payload.as_deref().map(str::as_bytes)
    }

    fn to<'r>(&'r self, topic: &'r str) -> BaseRecord<'r, String, String> {
        let record = BaseRecord::to(topic).partition(0).key(&self.key);
        self.payload.as_ref().into_iter().fold(record, BaseRecord::payload)
    }
}

/// Writes records for whoever is not the writer of the model: the worker that is goes on, and is not fenced off.
///
/// # Errors
/// When the client's settings are refused, or the broker does not take the records within the bound.
pub fn write(kafka: &Kafka, records: &[Record]) -> Result<(), TopicError> {
    let topic = || kafka.versions_topic.clone();
    let failed = |source| TopicError::Client { topic: topic(), source };
    let deliveries = Deliveries::default();
    let producer: ThreadedProducer<Deliveries> =
        client::producer(kafka).create_with_context(deliveries.clone()).map_err(failed)?;
    for records in records.chunks(RECORDS) {
        for record in records {
            producer.send(record.to(&kafka.versions_topic)).map_err(|(error, _)| failed(error))?;
        }
        let flushed = producer.flush(retry_bound(kafka));
        if flushed.is_err() || deliveries.take_failed().is_some() {
            let reason = "records were not taken; the log has more".to_owned();
            return Err(TopicError::Unreachable { topic: topic(), bound: retry_bound(kafka), reason });
        }
    }
    Ok(())
}

/// The one writer of a model's versions: its transactions fence off whoever wrote under the model's name before, and it is
/// itself fenced by whoever comes after.
pub struct Announcer {
    producer: ThreadedProducer<Deliveries>,
    kafka: Kafka,
    model: String,
}

impl Announcer {
    /// Fences off every earlier writer of the model: what they had not committed by now is never seen.
    ///
    /// # Errors
    /// When the client's settings are refused, or the broker does not answer within the bound.
    pub fn fence(kafka: &Kafka, model: &str) -> Result<Self, TopicError> {
        let failed = |source| TopicError::Client { topic: kafka.versions_topic.clone(), source };
        let mut config = client::producer(kafka);
        config.set("linger.ms", "0").set("transactional.id", transactional_id(model));
        // A record may not be tried for longer than its transaction lasts, and brokers allow no endless transactions: past
        // it a transaction is begun anew.
        let tried = retry_bound(kafka).min(TRANSACTION_MAX);
        config.set("message.timeout.ms", tried.as_millis().to_string());
        config.set("transaction.timeout.ms", tried.max(TRANSACTION_MIN).as_millis().to_string());
        let producer = config.create_with_context(Deliveries::default()).map_err(failed)?;
        let announcer = Self { producer, kafka: kafka.clone(), model: model.to_owned() };
        announcer.until_done(|producer| producer.init_transactions(ASK)).map_err(|error| announcer.error(error))?;
        Ok(announcer)
    }

    /// Writes records as one step, and waits until the broker has them.
    ///
    /// # Errors
    /// When this writer was fenced, a record is refused, or the broker does not take them within the bound.
    pub fn write(&self, records: &[Record]) -> Result<(), TopicError> {
        let start = Instant::now();
        loop {
            match self.transact(records) {
                Ok(()) => return Ok(()),
                // A broker that was restarted may have forgotten what it was told of the transaction: it is begun anew.
                Err(KafkaError::Transaction(error))
                    if error.txn_requires_abort()
                        && !is_denial(error.code())
                        && start.elapsed() < retry_bound(&self.kafka) =>
                {
                    tracing::debug!("the versions topic {}: {error}; beginning anew", self.kafka.versions_topic);
                    self.until_done(|producer| producer.abort_transaction(ASK)).map_err(|error| self.error(error))?;
                }
                Err(error) => return Err(self.error(error)),
            }
        }
    }

    fn transact(&self, records: &[Record]) -> Result<(), KafkaError> {
        self.until_done(Producer::begin_transaction)?;
        for record in records {
            self.producer.send(record.to(&self.kafka.versions_topic)).map_err(|(error, _)| error)?;
        }
        self.until_done(|producer| producer.commit_transaction(ASK))
    }

    /// Announces versions again, as abandoned.
    ///
    /// # Errors
    /// As [`write`](Self::write).
    pub fn abandon(&self, versions: &[Announcement]) -> Result<(), TopicError> {
        if versions.is_empty() {
            return Ok(());
        }
        let numbers: Vec<String> = versions.iter().map(|one| one.version.to_string()).collect();
        tracing::error!("the state is from before versions {}: they are abandoned", numbers.join(", "));
        self.write(&versions.iter().map(Record::version).collect::<Vec<_>>())
    }

    /// Announces that versions are removed.
    ///
    /// # Errors
    /// As [`write`](Self::write).
    pub fn bury(&self, keys: &[String]) -> Result<(), TopicError> {
        keys.chunks(RECORDS)
            .try_for_each(|keys| self.write(&keys.iter().map(|key| Record::tombstone(key)).collect::<Vec<_>>()))
    }

    /// Repeats a step of a transaction while that may help, at most for the bound.
    fn until_done(
        &self,
        step: impl Fn(&ThreadedProducer<Deliveries>) -> Result<(), KafkaError>,
    ) -> Result<(), KafkaError> {
        let (start, bound) = (Instant::now(), retry_bound(&self.kafka));
        let mut said = start;
        loop {
            match step(&self.producer) {
                Ok(()) => return Ok(()),
                Err(error) if may_help(&error) && start.elapsed() < bound => {
                    // That the brokers are away is said by who reads them.
                    if said.elapsed() >= SAY_AGAIN {
                        said = Instant::now();
                        let (topic, tried) = (&self.kafka.versions_topic, start.elapsed().as_secs());
                        tracing::warn!("the versions topic {topic}: {error}; tried for {tried} s of {bound:?}");
                    }
                }
                Err(error) => return Err(error),
            }
        }
    }

    fn error(&self, error: KafkaError) -> TopicError {
        let topic = self.kafka.versions_topic.clone();
        let fatal = self.producer.client().fatal_error().map(|(code, _)| code);
        let code = match &error {
            KafkaError::Transaction(error) => Some(error.code()),
            error => error.rdkafka_error_code(),
        };
        let is_fenced =
            |code: &RDKafkaErrorCode| matches!(code, RDKafkaErrorCode::Fenced | RDKafkaErrorCode::InvalidProducerEpoch);
        if [fatal, code].iter().flatten().any(is_fenced) {
            return TopicError::Fenced { topic, model: self.model.clone() };
        }
        match (code, &error) {
            (Some(RDKafkaErrorCode::TransactionalIdAuthorizationFailed), _) => {
                let id = format!("transactional id {}", transactional_id(&self.model));
                TopicError::Broker { topic, source: denied(&self.kafka, &id, "Write") }
            }
            (Some(code), _) if is_denial(code) => {
                let what = format!("topic {topic}");
                TopicError::Broker { topic, source: denied(&self.kafka, &what, "Write") }
            }
            _ if is_unknown_topic(&error) => TopicError::Missing { topic },
            (Some(RDKafkaErrorCode::MessageTimedOut), _) => {
                TopicError::Unreachable { topic, bound: retry_bound(&self.kafka), reason: error.to_string() }
            }
            _ if may_help(&error) => {
                TopicError::Unreachable { topic, bound: retry_bound(&self.kafka), reason: error.to_string() }
            }
            _ => TopicError::Client { topic, source: error },
        }
    }
}

/// Whether a step that failed so may succeed when it is repeated. A commit first waits for its records, which takes longer
/// than one try while a partition changes its leader.
fn may_help(error: &KafkaError) -> bool {
    match error {
        KafkaError::Transaction(error) => error.is_retriable(),
        KafkaError::Flush(code) => *code == RDKafkaErrorCode::OperationTimedOut,
        _ => false,
    }
}

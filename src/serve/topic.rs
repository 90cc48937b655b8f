//! Versions as their topic tells of them: read from the beginning, then tailed, in no consumer group, so that every server hears
//! everything and none holds up another.

use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use deepfm_core::event::DETAIL_CHARS_MAX;
use deepfm_core::event::plain::plain;
use deepfm_core::version::alias::Alias;
use deepfm_core::version::announcement::{Announcement, RecordError};
use deepfm_core::version::names;
use rdkafka::consumer::{BaseConsumer, Consumer as _};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::message::Message as _;
use rdkafka::{Offset, TopicPartitionList};

use super::directory::Notices;
use super::follow::{FollowError, Server};
use super::follower::{AnnouncedAs, Notice, Offer, Pointer};
use super::target::{FollowOptions, Target};
use crate::config::kafka::Kafka;
use crate::kafka::client;
use crate::kafka::contact::{Contact, SAY_AGAIN};

/// How long one poll waits.
const NAP: Duration = Duration::from_millis(100);

/// How long after a consumer that can go on no more the next is made.
const PAUSE: Duration = Duration::from_secs(1);

/// The most records that are taken before what they say is acted on.
const TURN: usize = 10_000;

impl Server {
    /// Follows the versions topic of a model; artefacts are loaded from the directory of its versions, such as `versions/clicks`, or
    /// fetched from object storage if the options say so. Brokers that are away are waited for.
    ///
    /// # Errors
    /// When the model's name or the alias is none, or the cache cannot be used.
    pub fn follow_topic(kafka: &Kafka, versions: &Path, options: FollowOptions) -> Result<Self, FollowError> {
        if let Target::Alias(alias) = &options.target {
            names::check_model(alias)?;
        }
        let alias = match &options.target {
            Target::Alias(alias) => Some(alias.clone()),
            Target::Latest | Target::Pinned(_) => None,
        };
        let records = Records { model: options.model.clone(), alias };
        let tail =
            Tail { kafka: kafka.clone(), records, consumer: None, is_caught_up: false, trouble: None, said_at: None };
        Self::start(Box::new(tail), versions.to_owned(), options)
    }
}

/// Turns records into notices.
#[derive(Debug)]
struct Records {
    model: String,
    alias: Option<String>,
}

impl Records {
    /// What a record says, if it says something of this model and alias.
    fn read(&self, key: &[u8], payload: Option<&[u8]>) -> Result<Option<Notice>, RecordError> {
        let Ok(key) = std::str::from_utf8(key) else { return Ok(None) };
        let Some(rest) = key.strip_prefix(&self.model) else { return Ok(None) };
        if let Some(version) = rest.strip_prefix("/v/").and_then(names::version) {
            let Some(payload) = payload else { return Ok(Some(Notice::Withdrawn(version))) };
            let announcement = Announcement::read(key, payload)?;
            return Ok(Some(Notice::Offered(offer(announcement))));
        }
        if self.alias.is_none() || rest.strip_prefix("/a/") != self.alias.as_deref() {
            return Ok(None);
        }
        let Some(payload) = payload else { return Ok(Some(Notice::Pointed(None))) };
        let Alias { version, directory, manifest_digest, .. } = Alias::read(key, payload)?;
        Ok(Some(Notice::Pointed(Some(Pointer { version, directory, manifest_digest }))))
    }
}

fn offer(announcement: Announcement) -> Offer {
    let is_passed_over = announcement.held.is_some() || announcement.abandoned.is_some();
    let Announcement { version, directory, manifest_digest, parent, kind, epoch, uri, .. } = announcement;
    let announced = AnnouncedAs { manifest_digest, parent, kind: Some(kind), epoch, is_passed_over, uri };
    Offer { version, directory, announced: Some(announced) }
}

/// The topic, read on and on.
struct Tail {
    kafka: Kafka,
    records: Records,
    consumer: Option<BaseConsumer<Contact>>,
    is_caught_up: bool,
    trouble: Option<String>,
    /// When that was last said; since it began to be wrong, and is not known to be right again.
    said_at: Option<Instant>,
}

impl Tail {
    fn begin(&self) -> Result<BaseConsumer<Contact>, KafkaError> {
        let consumer: BaseConsumer<Contact> = client::consumer(&self.kafka).create_with_context(Contact::default())?;
        let mut assignment = TopicPartitionList::new();
        assignment.add_partition_offset(&self.kafka.versions_topic, 0, Offset::Beginning)?;
        consumer.assign(&assignment)?;
        Ok(consumer)
    }

    /// Says what is wrong when it begins, and each minute while it lasts.
    fn say(&mut self, trouble: String) {
        if self.said_at.is_none_or(|said_at| said_at.elapsed() >= SAY_AGAIN) {
            tracing::warn!("the versions topic {}: {trouble}; what is served is served on", self.kafka.versions_topic);
            self.said_at = Some(Instant::now());
        }
        self.trouble = Some(trouble);
    }

    /// Nothing is wrong any more.
    fn say_no_more(&mut self) {
        if self.said_at.take().is_some() {
            tracing::info!("the versions topic {} is read again", self.kafka.versions_topic);
        }
        self.trouble = None;
    }

    /// Takes what has come, and says what keeps the consumer from going on, if something does.
    fn take(
        &mut self,
        consumer: &BaseConsumer<Contact>,
        nap: Duration,
        tell: &mut dyn FnMut(Notice),
    ) -> Option<KafkaError> {
        let mut nap = nap;
        for _ in 0..TURN {
            match consumer.poll(nap) {
                None => {
                    if let Some(trouble) = consumer.context().trouble() {
                        self.say(trouble.to_string());
                    }
                    return None;
                }
                Some(Ok(message)) => {
                    self.say_no_more();
                    let Some(key) = message.key() else { continue };
                    match self.records.read(key, message.payload()) {
                        Ok(notice) => notice.into_iter().for_each(&mut *tell),
                        Err(error) => {
                            let key = plain(&String::from_utf8_lossy(key), DETAIL_CHARS_MAX);
                            tracing::warn!("the record under {key:?} of the versions topic is passed over: {error}");
                        }
                    }
                }
                Some(Err(KafkaError::PartitionEOF(_))) => {
                    consumer.context().clear();
                    self.say_no_more();
                    if !self.is_caught_up {
                        tell(Notice::CaughtUp);
                    }
                    self.is_caught_up = true;
                }
                // What goes away by itself the client tries again; a topic that was recreated is read anew.
                Some(Err(error)) if is_transport(&error) => self.say(error.to_string()),
                Some(Err(error)) => return Some(error),
            }
            // What has come already is taken without waiting.
            nap = Duration::ZERO;
        }
        None
    }
}

fn is_transport(error: &KafkaError) -> bool {
    use RDKafkaErrorCode::{AllBrokersDown, BrokerTransportFailure, OperationTimedOut, Resolve};
    let code = error.rdkafka_error_code();
    code.is_some_and(|code| matches!(code, AllBrokersDown | BrokerTransportFailure | OperationTimedOut | Resolve))
}

impl Notices for Tail {
    fn poll(&mut self, patience: Duration, tell: &mut dyn FnMut(Notice)) {
        let consumer =
            match self.consumer.take().map_or_else(|| self.begin().map(|it| (it, true)), |it| Ok((it, false))) {
                Ok((consumer, is_new)) => {
                    if is_new {
                        self.is_caught_up = false;
                        tell(Notice::Begun);
                    }
                    consumer
                }
                Err(error) => {
                    self.say(error.to_string());
                    thread::park_timeout(PAUSE);
                    return;
                }
            };
        match self.take(&consumer, patience.min(NAP), tell) {
            None => self.consumer = Some(consumer),
            Some(error) => {
                let said =
                    consumer.context().trouble().map_or_else(|| error.to_string(), |trouble| trouble.to_string());
                self.say(said);
                thread::park_timeout(PAUSE);
            }
        }
    }

    fn trouble(&self) -> Option<&str> {
        self.trouble.as_deref()
    }
}

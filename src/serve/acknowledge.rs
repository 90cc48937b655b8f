//! The thread that tells others what a server serves: a record when a version was swapped in, and one at every beat.
//!
//! It has no queue: it looks at what is served when it is woken, so that a swap which comes while a record is on its way is told
//! by the next. Nobody waits for it but the end of the server, and that for `END_MAX`. What keeps it from writing is said once
//! a minute, and in the server's status.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, sync_channel};
use std::thread::{JoinHandle, park_timeout};
use std::time::{Duration, Instant};

use deepfm_core::version::acknowledgement::{AcknowledgedArm, Acknowledgement};
use deepfm_core::version::names::{self, NameError};
use jiff::Timestamp;
use rdkafka::consumer::BaseConsumer;
use rdkafka::producer::{BaseRecord, Producer as _, ThreadedProducer};

use super::follow::Watch;
use super::said::AcknowledgementBoard;
use crate::config::kafka::Kafka;
use crate::kafka::BrokerError;
use crate::kafka::ask::{denied, is_denied};
use crate::kafka::client::{self, Deliveries};
use crate::kafka::contact::{Contact, SAY_AGAIN, Voice};
use crate::kafka::metadata::partition_count;
use crate::thread;

/// How long one record is tried.
const WRITE_MAX: Duration = Duration::from_secs(5);

/// How long after one that could not be written the next is tried.
const PAUSE: Duration = Duration::from_secs(2);

/// How long the end of the server waits for its last record.
const END_MAX: Duration = Duration::from_secs(3);

/// An arm, and where to look at what it serves.
#[derive(Debug)]
pub struct WatchedArm {
    /// Its name.
    pub arm: String,
    /// What it follows.
    pub target: String,
    /// What it serves.
    pub watch: Watch,
}

/// Tells others what a server serves. When it is dropped it tells them that the server has ended; brokers that are away are not
/// waited for.
#[derive(Debug)]
pub struct Acknowledger {
    is_ending: Arc<AtomicBool>,
    ended: Receiver<()>,
    thread: JoinHandle<()>,
}

impl Drop for Acknowledger {
    fn drop(&mut self) {
        self.is_ending.store(true, Ordering::Release);
        self.thread.thread().unpark();
        if self.ended.recv_timeout(END_MAX).is_err() {
            tracing::warn!("the brokers were not told that this server has ended: it will be shown as silent");
        }
    }
}

impl Acknowledger {
    /// Begins to write to `kafka.acknowledgements_topic`; brokers and topics that are away are waited for.
    ///
    /// # Errors
    /// When the model's or the server's name is none.
    pub fn start(
        kafka: &Kafka,
        model: &str,
        server: &str,
        beat_seconds: u64,
        arms: Vec<WatchedArm>,
        board: AcknowledgementBoard,
    ) -> Result<Self, NameError> {
        names::check_model(model)?;
        names::check_server(server)?;
        board.note(|status| {
            (status.server, status.topic) = (server.to_owned(), kafka.acknowledgements_topic.clone());
        });
        let kafka = Kafka { retry_max_seconds: kafka.retry_max_seconds.min(WRITE_MAX.as_secs()), ..kafka.clone() };
        let (model, server) = (model.to_owned(), server.to_owned());
        let telling =
            Telling { kafka, model, server, beat_seconds, arms, board: board.clone(), producer: None, said_at: None };
        let is_ending = Arc::new(AtomicBool::new(false));
        let (ending, ended) = sync_channel(1);
        let body = {
            let is_ending = Arc::clone(&is_ending);
            move || {
                if catch_unwind(AssertUnwindSafe(|| telling.run(&is_ending))).is_err() {
                    tracing::error!("telling others what is served has ended by a bug in deepfm; serving goes on");
                    board.note(|status| status.trouble = Some("the thread has panicked: a bug in deepfm".to_owned()));
                }
                // Who does not wait any more does not want to know.
                let _ = ending.send(());
            }
        };
        Ok(Self { is_ending, ended, thread: thread::aside("acknowledging", body) })
    }
}

/// What the thread has.
struct Telling {
    kafka: Kafka,
    model: String,
    server: String,
    beat_seconds: u64,
    arms: Vec<WatchedArm>,
    board: AcknowledgementBoard,
    producer: Option<(ThreadedProducer<Deliveries>, Deliveries)>,
    /// When it was last said that none can be written.
    said_at: Option<Instant>,
}

impl Telling {
    fn run(mut self, is_ending: &AtomicBool) {
        for arm in &self.arms {
            arm.watch.wake(std::thread::current());
        }
        let beat = Duration::from_secs(self.beat_seconds);
        let mut written: Option<(Vec<AcknowledgedArm>, Instant)> = None;
        while !is_ending.load(Ordering::Acquire) {
            let arms = self.look();
            if let Some((_, at)) = written.as_ref().filter(|(said, at)| *said == arms && at.elapsed() < beat) {
                park_timeout(beat.saturating_sub(at.elapsed()));
                continue;
            }
            match self.acknowledge(&arms) {
                Ok(()) => written = Some((arms, Instant::now())),
                Err(trouble) => {
                    self.say(trouble);
                    park_timeout(PAUSE);
                }
            }
        }
        if self.producer.is_some()
            && let Err(trouble) = self.write(None)
        {
            self.say(trouble);
        }
    }

    fn look(&self) -> Vec<AcknowledgedArm> {
        let look = |arm: &WatchedArm| AcknowledgedArm {
            arm: arm.arm.clone(),
            target: arm.target.clone(),
            serving: arm.watch.served(),
        };
        self.arms.iter().map(look).collect()
    }

    fn acknowledge(&mut self, arms: &[AcknowledgedArm]) -> Result<(), String> {
        let now = Timestamp::now().as_millisecond();
        let said = Acknowledgement::new(&self.model, &self.server, now, self.beat_seconds, arms.to_vec());
        self.write(Some(&said.to_json()))?;
        if self.said_at.take().is_some() {
            tracing::info!("what is served is told to {} again", self.kafka.acknowledgements_topic);
        }
        self.board.note(|status| {
            status.written += 1;
            status.written_at = Some(said.written_at);
            status.trouble = None;
        });
        Ok(())
    }

    fn say(&mut self, trouble: String) {
        if self.said_at.is_none_or(|said_at| said_at.elapsed() >= SAY_AGAIN) {
            let topic = &self.kafka.acknowledgements_topic;
            tracing::warn!("what is served cannot be told to {topic}: {trouble}; serving goes on");
            self.said_at = Some(Instant::now());
        }
        self.board.note(|status| {
            status.failures += 1;
            status.trouble = Some(trouble);
        });
    }

    /// Writes a record, or a tombstone, and waits until the brokers have it.
    fn write(&mut self, payload: Option<&str>) -> Result<(), String> {
        let (producer, deliveries) = match self.producer.take() {
            Some(producer) => producer,
            None => self.begin().map_err(|error| self.reason(error))?,
        };
        let (topic, key) = (&self.kafka.acknowledgements_topic, Acknowledgement::key(&self.model, &self.server));
        let record = BaseRecord::<str, str>::to(topic).partition(0).key(&key);
        let record = payload.into_iter().fold(record, BaseRecord::payload);
        producer.send(record).map_err(|(error, _)| error.to_string())?;
        // By then it has arrived or was given up: nothing is left in the producer's queue.
        let flushed = producer.flush(WRITE_MAX + Duration::from_secs(1));
        let failed = deliveries.take_failed().map(|(_, _, error)| error);
        if let Some(error) = failed.or_else(|| flushed.err()) {
            if is_denied(&error) {
                return Err(denied(&self.kafka, &format!("topic {topic}"), "Write").to_string());
            }
            let trouble = deliveries.contact().trouble();
            return Err(trouble.map_or_else(|| error.to_string(), |trouble| trouble.to_string()));
        }
        // One that failed is made anew, and the topic looked for again.
        self.producer = Some((producer, deliveries));
        Ok(())
    }

    /// A producer; not before the topic is there, since brokers may make one that is not compacted of a record to none.
    fn begin(&self) -> Result<(ThreadedProducer<Deliveries>, Deliveries), BrokerError> {
        let consumer: BaseConsumer<Contact> =
            client::consumer(&self.kafka).create_with_context(Contact::of(Voice::Quiet))?;
        partition_count(&consumer, &self.kafka, &self.kafka.acknowledgements_topic)?;
        let deliveries = Deliveries::of(Voice::Quiet);
        let mut config = client::producer(&self.kafka);
        config.set("linger.ms", "0").set("message.timeout.ms", WRITE_MAX.as_millis().to_string());
        let producer = config.create_with_context(deliveries.clone())?;
        Ok((producer, deliveries))
    }

    fn reason(&self, error: BrokerError) -> String {
        match error {
            // The bound is ours.
            BrokerError::Unreachable { reason, .. } => format!("{} do not answer: {reason}", self.kafka.brokers),
            error => error.to_string(),
        }
    }
}

//! Simulated events, each sent at the time that it says; where each click has come to stand, and when it was sent.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use deepfm_core::event::EventKind;
use deepfm_stream::config::kafka::Kafka;
use deepfm_stream::kafka::client;
use deepfm_stream::simulate::{SimulationParams, Simulator};
use rdkafka::ClientContext;
use rdkafka::message::Message as _;
use rdkafka::producer::{BaseRecord, DeliveryResult, Producer as _, ProducerContext, ThreadedProducer};

use super::watch::now;

/// A click in its topic.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Click {
    pub(crate) partition: i32,
    pub(crate) offset: i64,
    /// When it was given to the producer, in seconds since 1970.
    pub(crate) at: f64,
}

/// Notes where clicks were written.
#[derive(Clone, Default)]
struct Places(Arc<Mutex<Vec<Click>>>);

impl ClientContext for Places {}

impl ProducerContext for Places {
    /// When it was sent, if it counts.
    type DeliveryOpaque = Box<Option<f64>>;

    fn delivery(&self, delivered: &DeliveryResult<'_>, sent: Self::DeliveryOpaque) {
        let message = delivered.as_ref().expect("the broker takes every event");
        if let Some(at) = *sent {
            let click = Click { partition: message.partition(), offset: message.offset(), at };
            self.0.lock().unwrap_or_else(PoisonError::into_inner).push(click);
        }
    }
}

/// Sends so many impressions a second, and their clicks when they are due; the clicks that were sent after the warm-up.
pub(crate) fn send(kafka: &Kafka, rate: f64, warm_up: Duration, duration: Duration) -> Vec<Click> {
    let places = Places::default();
    let mut settings = client::producer(kafka);
    // Waiting for more to send together would be counted as the worker's.
    settings.set("linger.ms", "0");
    let producer: ThreadedProducer<Places> = settings.create_with_context(places.clone()).expect("they are valid");
    let (start, start_ms) = (Instant::now(), (1000.0 * now()) as i64);
    let mut simulator = Simulator::new(SimulationParams { rate, start_ms, ..SimulationParams::default() });
    while start.elapsed() < warm_up + duration {
        let event = simulator.next_event();
        let due = Duration::from_millis((event.event_time - start_ms).max(0) as u64);
        std::thread::park_timeout(due.saturating_sub(start.elapsed()));
        let counts = event.kind == EventKind::Click && start.elapsed() >= warm_up;
        let topic = kafka.topic_of(event.kind);
        let record = BaseRecord::with_opaque_to(topic, Box::new(counts.then(now)));
        let record = record.key(event.impression_id.as_bytes()).payload(event.json.as_bytes());
        assert!(producer.send(record).is_ok(), "the producer's queue has room");
    }
    producer.flush(Duration::from_secs(30)).expect("the broker takes the events");
    let tally = simulator.tally();
    let share = 100.0 * tally.clicks as f64 / tally.impressions as f64;
    println!("{} impressions, {share:.1} % of them clicked", tally.impressions);
    let clicks = places.0.lock().unwrap_or_else(PoisonError::into_inner);
    clicks.clone()
}

//! Impressions and clicks, sent as fast as a worker takes them.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use deepfm_core::event::EventKind;
use deepfm_core::feature::hash;
use deepfm_stream::config::kafka::Kafka;
use deepfm_stream::kafka::client;
use rdkafka::producer::{BaseRecord, DefaultProducerContext, ThreadedProducer};
use rdkafka::types::RDKafkaErrorCode;

use super::drawn::{Drawn, click, id};

/// Impressions in a second of event time, and after how many of those milliseconds one of 20 is clicked.
pub(crate) const RATE: i64 = 20_000;
const CLICK_AFTER_MS: i64 = 1_000;
const CLICKED: f64 = 0.05;

/// Records that may wait for the worker: some seconds of its work.
const AHEAD: u64 = 300_000;

/// What is sent, and how far who takes it has come.
pub(crate) struct Traffic {
    pub(crate) drawn: Drawn,
    /// Event time of the first impression, in milliseconds.
    pub(crate) start_ms: i64,
    /// Records that were given to the producer, and that the worker has consumed.
    pub(crate) sent: AtomicU64,
    pub(crate) consumed: AtomicU64,
    /// Whether enough was sent.
    pub(crate) is_over: AtomicBool,
}

type Events = ThreadedProducer<DefaultProducerContext>;

impl Traffic {
    /// Sends until it is told that it is over.
    pub(crate) fn send(&self, kafka: &Kafka) {
        let producer: Events =
            client::producer(kafka).set("queue.buffering.max.messages", "500000").create().expect("they are valid");
        // Event time and number of impressions that will be clicked.
        let mut clicks: VecDeque<(i64, u64)> = VecDeque::new();
        for number in 0.. {
            let time = self.start_ms + 1000 * number as i64 / RATE;
            while let Some((due, clicked)) = clicks.pop_front_if(|(due, _)| *due <= time) {
                self.give(&producer, kafka.topic_of(EventKind::Click), &id(clicked), &click(clicked, due), due);
            }
            let json = self.drawn.impression(number, time);
            self.give(&producer, kafka.topic_of(EventKind::Impression), &id(number), &json, time);
            if hash::unit(5, number) < CLICKED {
                clicks.push_back((time + CLICK_AFTER_MS, number));
            }
            while self.waiting() > AHEAD {
                if self.is_over.load(Ordering::Acquire) {
                    return;
                }
                std::thread::park_timeout(Duration::from_millis(5));
            }
        }
    }

    /// Gives an event to the producer; waits while its queue is full.
    fn give(&self, producer: &Events, topic: &str, key: &str, json: &str, time: i64) {
        let mut record = BaseRecord::to(topic).key(key).payload(json).timestamp(time);
        while let Err((error, back)) = producer.send(record) {
            assert_eq!(error.rdkafka_error_code(), Some(RDKafkaErrorCode::QueueFull), "{error}");
            record = back;
            std::thread::park_timeout(Duration::from_millis(1));
        }
        self.sent.fetch_add(1, Ordering::AcqRel);
    }

    /// Records that were sent and not consumed, as far as the worker has said.
    pub(crate) fn waiting(&self) -> u64 {
        self.sent.load(Ordering::Acquire).saturating_sub(self.consumed.load(Ordering::Acquire))
    }
}

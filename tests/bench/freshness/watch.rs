//! What can be seen from outside: announcements on the versions topic, and which version a server answers with, each with its time.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use deepfm_core::version::announcement::Announcement;
use deepfm_core::version::manifest::Kind;
use deepfm_stream::config::kafka::Kafka;
use deepfm_stream::kafka::client;
use rdkafka::consumer::{BaseConsumer, Consumer as _};
use rdkafka::message::Message as _;
use rdkafka::{Offset, TopicPartitionList};

use super::traffic::Click;
use crate::served::{Connection, request};

/// How often the server is asked for its version.
const POLL: Duration = Duration::from_millis(5);

/// Seconds since 1970.
pub(crate) fn now() -> f64 {
    SystemTime::now().duration_since(UNIX_EPOCH).expect("it is later").as_secs_f64()
}

/// What was seen, in order; another thread may look at it meanwhile.
pub(crate) struct Log<T>(Mutex<Vec<T>>);

impl<T> Default for Log<T> {
    fn default() -> Self {
        Self(Mutex::new(Vec::new()))
    }
}

impl<T: Clone> Log<T> {
    fn push(&self, seen: T) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).push(seen);
    }

    pub(crate) fn find(&self, is_it: impl Fn(&T) -> bool) -> Option<T> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).iter().find(|seen| is_it(seen)).cloned()
    }

    pub(crate) fn take(&self) -> Vec<T> {
        std::mem::take(&mut *self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

/// A version that was announced.
#[derive(Clone, Debug)]
pub(crate) struct Announced {
    pub(crate) number: u64,
    pub(crate) is_full: bool,
    pub(crate) held: Option<String>,
    /// When its announcement could be read, and when it was cut, in seconds since 1970.
    pub(crate) at: f64,
    pub(crate) cut_at: f64,
    /// How far its watermark was behind the clock then, in seconds.
    pub(crate) behind: Option<f64>,
    /// The next offset of each partition of clicks.
    positions: Vec<(i32, i64)>,
}

impl Announced {
    fn of(announcement: &Announcement, at: f64) -> Self {
        let cut: jiff::Timestamp = announcement.created_at.parse().expect("it is a time");
        let cut_at = cut.as_microsecond() as f64 / 1e6;
        let positions = announcement.positions.iter().filter_map(|(partition, next)| {
            Some((partition.strip_prefix("click/")?.parse().expect("it is a number"), *next))
        });
        Self {
            number: announcement.version,
            is_full: announcement.kind == Kind::Full,
            held: announcement.held.clone(),
            at,
            cut_at,
            behind: announcement.watermark.map(|watermark| cut_at - watermark as f64 / 1000.0),
            positions: positions.collect(),
        }
    }

    /// Whether it has seen a click.
    pub(crate) fn has(&self, click: &Click) -> bool {
        self.positions.iter().any(|(partition, next)| *partition == click.partition && click.offset < *next)
    }
}

/// Notes the announcements of the versions topic, as a server reads them.
pub(crate) fn tail(kafka: &Kafka, announced: &Log<Announced>, is_over: &AtomicBool) {
    let consumer: BaseConsumer = client::consumer(kafka).create().expect("the settings are valid");
    let mut assignment = TopicPartitionList::new();
    assignment.add_partition_offset(&kafka.versions_topic, 0, Offset::Beginning).expect("the offset is valid");
    consumer.assign(&assignment).expect("the partition exists");
    while !is_over.load(Ordering::Acquire) {
        let Some(Ok(message)) = consumer.poll(Duration::from_millis(100)) else { continue };
        let (at, key) = (now(), String::from_utf8_lossy(message.key().unwrap_or_default()));
        let payload = message.payload().filter(|_| key.contains("/v/"));
        if let Some(payload) = payload {
            announced.push(Announced::of(&Announcement::read(&key, payload).expect("the worker wrote it"), at));
        }
    }
}

/// The first answer that a server gave with a version.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Answered {
    pub(crate) version: u64,
    /// When it came, in seconds since 1970.
    pub(crate) at: f64,
}

/// Asks a server again and again, and notes each new version that it answers with.
pub(crate) fn answers(address: SocketAddr, answered: &Log<Answered>, is_over: &AtomicBool) {
    let ask = request(r#"{"context":{"user":"u1"},"candidates":[{"item":"i1.0"}]}"#);
    let (mut connection, mut newest) = (Connection::open(address), 0);
    while !is_over.load(Ordering::Acquire) {
        let (status, answer) = connection.ask(&ask);
        let at = now();
        let answer: serde_json::Value = serde_json::from_slice(&answer).expect("it is JSON");
        match (status, answer["version"].as_u64()) {
            (200, Some(version)) if version > newest => {
                newest = version;
                answered.push(Answered { version, at });
            }
            (200 | 503, _) => {}
            _ => panic!("{status}: {answer}"),
        }
        std::thread::park_timeout(POLL);
    }
}

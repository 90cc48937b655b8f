//! `[kafka]`: brokers, topics, and where to start without a checkpoint.

use std::fmt;

use jiff::Timestamp;
use serde::{Serialize, Serializer};
use serde_json::json;

use super::declare::{Readable, section};
use super::document::Value;
use super::kinds::{Special, Whole, whole};
use super::properties::{self, Properties};
use super::section::Section;
use deepfm_core::event::EventKind;

const DAY: Whole = whole(1, 86_400, "it is at most a day");

const TOPIC: Special<String> = Special {
    read: |section, key| section.checked_text(key, check_topic),
    words: "the name of a topic",
    schema: || json!({"type": "string", "pattern": "^(?!\\.{1,2}$)[A-Za-z0-9._-]{1,249}$"}),
};

const BROKERS: Special<String> = Special {
    read: read_brokers,
    words: "\"host:port\", several",
    schema: || {
        let some = json!({"type": "string", "minLength": 1});
        json!({"oneOf": [some, {"type": "array", "items": some, "minItems": 1}]})
    },
};

const START: Special<Start> = Special {
    read: read_start,
    words: "\"earliest\", \"latest\", a time",
    schema: || json!({"type": "string", "anyOf": [{"enum": ["earliest", "latest"]}, {"format": "date-time"}]}),
};

section! {
    /// How the worker reaches Kafka.
    Kafka in "kafka" {
        /// Brokers to ask first, "host:port", several separated by commas.
        brokers: String = "localhost:9092".to_owned(), BROKERS, Free;
        /// The topic of impressions. `deepfm topics plan` shows how these five are to be set up, `deepfm topics apply` does
        /// it.
        impressions_topic: String = "impressions".to_owned(), TOPIC, Free;
        /// The topic of clicks.
        clicks_topic: String = "clicks".to_owned(), TOPIC, Free;
        /// The compacted topic on which versions are announced.
        versions_topic: String = "deepfm-versions".to_owned(), TOPIC, Free;
        /// The topic of refused records.
        dead_letter_topic: String = "deepfm-dead-letters".to_owned(), TOPIC, Free;
        /// The compacted topic on which servers say what they serve. A worker does not use it.
        acknowledgements_topic: String = "deepfm-acknowledgements".to_owned(), TOPIC, Free;
        /// Where a worker without a checkpoint starts: "earliest", "latest" or a time such as "2026-01-31T00:00:00Z".
        /// Resolved once: after the first checkpoint it has no effect.
        start: Start = Start::Earliest, START, Free;
        /// A partition read to its end and silent for as long is not waited for until its next record. Shorter is fresher
        /// where click partitions are sparse; too short, and a slow producer's records come late.
        idle_after_ms: u64 = 1000,
            whole(10, 3_600_000, "a silence shorter than a fetch says nothing; at most an hour"), Free;
        /// How long an unreachable broker is tried again before the worker gives up.
        retry_max_seconds: u64 = 60, DAY, Free;
        /// How often it is looked up whether partitions were added.
        partition_refresh_seconds: u64 = 30, DAY, Free;
        /// The most records of one partition that wait in memory; one with more than a kibibyte of features, ids or refused
        /// bytes counts as one more for each. More ride out bursts of other partitions, and take memory.
        queue_records_max: usize = 50_000,
            whole(100, 10_000_000, "each partition's queue holds at least a fetch, and counts towards bounded memory"),
            Free;
    }
    with {
        /// Settings of librdkafka, by their names there.
        #[serde(serialize_with = "properties::serialize")]
        properties: Properties,
    }
}

/// Where a worker without a checkpoint starts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Start {
    /// At the oldest record of each partition.
    Earliest,
    /// At the end of each partition.
    Latest,
    /// At an event time, milliseconds since 1970.
    At(i64),
}

impl fmt::Display for Start {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Earliest => f.write_str("earliest"),
            Self::Latest => f.write_str("latest"),
            Self::At(ms) => match Timestamp::from_millisecond(*ms) {
                Ok(time) => write!(f, "{time}"),
                Err(_) => write!(f, "{ms} ms"),
            },
        }
    }
}

impl Serialize for Start {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl Kafka {
    pub(super) fn read(section: &Section<'_>) -> Self {
        let kafka = Self::read_keys(section);
        kafka.refuse_shared_topics(section);
        kafka
    }

    /// The topic of a kind of events.
    pub fn topic_of(&self, kind: EventKind) -> &str {
        match kind {
            EventKind::Impression => &self.impressions_topic,
            EventKind::Click => &self.clicks_topic,
        }
    }

    /// What a record is depends on its topic, so no two of ours may share one.
    fn refuse_shared_topics(&self, section: &Section<'_>) {
        let topics = [
            ("impressions_topic", &self.impressions_topic),
            ("clicks_topic", &self.clicks_topic),
            ("versions_topic", &self.versions_topic),
            ("dead_letter_topic", &self.dead_letter_topic),
            ("acknowledgements_topic", &self.acknowledgements_topic),
        ];
        for (index, (key, topic)) in topics.iter().enumerate() {
            if let Some((other, _)) = topics[..index].iter().find(|(_, before)| before == topic) {
                section.refuse(key, format!("\"{topic}\" is {other} too"), "each kind of record needs its own topic");
            }
        }
    }

    /// The name of a secret that stands in the configuration itself, if there is one.
    pub(super) fn inline_secret(&self) -> Option<&str> {
        let secret = self.properties.iter().find(|(_, property)| property.is_inline_secret());
        secret.map(|(name, _)| name.as_str())
    }

    /// The properties as librdkafka is given them, secrets included.
    pub fn librdkafka_properties(&self) -> impl Iterator<Item = (&str, &str)> {
        self.properties.iter().map(|(name, property)| (name.as_str(), property.value()))
    }
}

/// A string with commas, or a list.
fn read_brokers(section: &Section<'_>, key: &str) -> Option<String> {
    let brokers = if let Value::List(items) = &section.node(key)?.value {
        let names = items.iter().filter_map(|item| match &item.value {
            Value::Text(text) => Some(text.as_str()),
            other => {
                let problem = format!("{} is not a broker", other.describe());
                section.refuse(key, problem, "give each as \"host:port\"");
                None
            }
        });
        names.collect::<Vec<_>>().join(",")
    } else {
        section.text(key)?
    };
    let names_one = |broker: &str| !broker.is_empty() && !broker.contains(char::is_whitespace);
    if !brokers.split(',').map(str::trim).all(names_one) && section.are_sound(&[key]) {
        let fix = "give \"host:port\", several separated by commas";
        section.refuse(key, format!("\"{brokers}\" names no broker somewhere"), fix);
    }
    Some(brokers.split(',').map(str::trim).collect::<Vec<_>>().join(","))
}

/// A name or a time.
fn read_start(section: &Section<'_>, key: &str) -> Option<Start> {
    let node = section.node(key)?;
    let (Value::Text(text) | Value::Time(text)) = &node.value else {
        section.refuse_type(key, node, "a name or a time", START_FIX);
        return None;
    };
    match text.as_str() {
        "earliest" => Some(Start::Earliest),
        "latest" => Some(Start::Latest),
        text => {
            let time = text.parse::<Timestamp>().ok();
            if time.is_none() {
                let problem = format!("\"{text}\" is neither a name nor a time with its offset");
                section.refuse(key, problem, START_FIX);
            }
            time.map(|time| Start::At(time.as_millisecond()))
        }
    }
}

const START_FIX: &str = "give \"earliest\", \"latest\" or a time such as \"2026-01-31T00:00:00Z\"";

/// Kafka's own rule for names of topics.
fn check_topic(name: &str) -> Result<(), (String, String)> {
    let allowed = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-');
    if (1..=249).contains(&name.len()) && name.chars().all(allowed) && name != "." && name != ".." {
        return Ok(());
    }
    let fix = "Kafka allows 1 to 249 letters, digits, `.`, `_` and `-`";
    Err((format!("\"{name}\" cannot be the name of a topic"), fix.to_owned()))
}

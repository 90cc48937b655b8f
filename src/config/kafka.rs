//! `[kafka]`: brokers, topics, and where to start without a checkpoint.

use std::collections::BTreeMap;
use std::fmt;

use jiff::Timestamp;
use serde::{Serialize, Serializer};

use super::document::Value;
use super::properties::{self, Property};
use super::section::Section;

/// How the worker reaches Kafka.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Kafka {
    /// Brokers to ask first, `host:port`, separated by commas.
    pub brokers: String,
    /// The topic of impressions.
    pub impressions_topic: String,
    /// The topic of clicks.
    pub clicks_topic: String,
    /// The compacted topic on which versions are announced.
    pub versions_topic: String,
    /// The topic of refused records.
    pub dead_letter_topic: String,
    /// Where to start without a checkpoint.
    pub start: Start,
    /// How long a partition that was read to its end is waited for before it counts as idle.
    pub idle_after_ms: u64,
    /// How long an unreachable broker is tried again.
    pub retry_max_seconds: u64,
    /// How often the number of partitions is looked up.
    pub partition_refresh_seconds: u64,
    /// The most records of one partition that wait in memory.
    pub queue_records_max: usize,
    /// Settings of librdkafka, by their names there.
    #[serde(serialize_with = "properties::serialize")]
    pub properties: BTreeMap<String, Property>,
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
        let default = Self::default();
        let topic = |key, default: &str| section.checked_text(key, default, check_topic);
        let whole = |key, default, low, high, why| section.whole(key, default, low, high, why);
        let queue = "each partition's queue holds at least a fetch, and counts towards bounded memory";
        let kafka = Self {
            brokers: read_brokers(section, default.brokers),
            impressions_topic: topic("impressions_topic", &default.impressions_topic),
            clicks_topic: topic("clicks_topic", &default.clicks_topic),
            versions_topic: topic("versions_topic", &default.versions_topic),
            dead_letter_topic: topic("dead_letter_topic", &default.dead_letter_topic),
            start: read_start(section, default.start),
            idle_after_ms: whole(
                "idle_after_ms",
                default.idle_after_ms,
                10,
                3_600_000,
                "a silence shorter than a fetch says nothing; at most an hour",
            ),
            retry_max_seconds: whole("retry_max_seconds", default.retry_max_seconds, 1, 86_400, "it is at most a day"),
            partition_refresh_seconds: whole(
                "partition_refresh_seconds",
                default.partition_refresh_seconds,
                1,
                86_400,
                "it is at most a day",
            ),
            queue_records_max: section.count("queue_records_max", default.queue_records_max, 100, 10_000_000, queue),
            properties: properties::read(&section.section("properties")),
        };
        kafka.refuse_shared_topics(section);
        kafka
    }

    /// What a record is depends on its topic, so no two of ours may share one.
    fn refuse_shared_topics(&self, section: &Section<'_>) {
        let topics = [
            ("impressions_topic", &self.impressions_topic),
            ("clicks_topic", &self.clicks_topic),
            ("versions_topic", &self.versions_topic),
            ("dead_letter_topic", &self.dead_letter_topic),
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
fn read_brokers(section: &Section<'_>, default: String) -> String {
    let brokers = match section.node("brokers").map(|node| &node.value) {
        None => return default,
        Some(Value::List(items)) => {
            let names = items.iter().filter_map(|item| match &item.value {
                Value::Text(text) => Some(text.as_str()),
                other => {
                    let problem = format!("{} is not a broker", other.describe());
                    section.refuse("brokers", problem, "give each as \"host:port\"");
                    None
                }
            });
            names.collect::<Vec<_>>().join(",")
        }
        Some(_) => match section.text("brokers") {
            Some(text) => text,
            None => return default,
        },
    };
    let names_one = |broker: &str| !broker.is_empty() && !broker.contains(char::is_whitespace);
    if !brokers.split(',').map(str::trim).all(names_one) && section.are_sound(&["brokers"]) {
        let fix = "give \"host:port\", several separated by commas";
        section.refuse("brokers", format!("\"{brokers}\" names no broker somewhere"), fix);
    }
    brokers.split(',').map(str::trim).collect::<Vec<_>>().join(",")
}

fn read_start(section: &Section<'_>, default: Start) -> Start {
    let Some(node) = section.node("start") else {
        return default;
    };
    let (Value::Text(text) | Value::Time(text)) = &node.value else {
        section.refuse_type("start", node, "a name or a time", START_FIX);
        return default;
    };
    match text.as_str() {
        "earliest" => Start::Earliest,
        "latest" => Start::Latest,
        time => {
            let Ok(time) = time.parse::<Timestamp>() else {
                let problem = format!("\"{time}\" is neither a name nor a time with its offset");
                section.refuse("start", problem, START_FIX);
                return default;
            };
            Start::At(time.as_millisecond())
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

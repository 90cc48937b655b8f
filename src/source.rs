//! Where records come from: Kafka, or a directory of event files. A source reads ahead of the core, decodes on its own
//! thread, and holds a bounded number of records for each partition, the large ones counting for several.

pub mod files;
pub mod ingest;
pub mod link;
pub mod rooms;
pub mod send;
pub mod sorting;
pub mod topics;
pub mod watched;

use std::fmt;
use std::time::Duration;

use rdkafka::error::KafkaError;

use crate::kafka::BrokerError;
use crate::thread::Panicked;
use deepfm_core::event::EventKind;
use deepfm_core::feature::Features;
use deepfm_core::stream::{Arrival, Partition};

pub use ingest::Ingest;

/// The name of the thread that reads events of a kind.
fn thread_name(kind: EventKind) -> &'static str {
    match kind {
        EventKind::Impression => "impressions-reading",
        EventKind::Click => "clicks-reading",
    }
}

/// What a source has to say.
#[derive(Debug)]
pub enum SourceEvent {
    /// Records of a partition, in its order.
    Records {
        /// The partition.
        partition: Partition,
        /// The records.
        arrivals: Vec<Arrival>,
    },
    /// Everything in the partition before this offset was handed out, and there is no more now.
    EndOfPartition {
        /// The partition.
        partition: Partition,
        /// The offset that the next record will have.
        next_offset: i64,
    },
    /// The brokers were away and answer again; the partition has records up to here now. Some of it may have been passed
    /// over as silent, and records of others may arrive first.
    Reconnected {
        /// The partition.
        partition: Partition,
        /// The offset that the next record will have.
        end: i64,
    },
    /// A partition was created since the source was opened; it is read from here.
    PartitionAdded {
        /// The partition.
        partition: Partition,
        /// Its first offset.
        next_offset: i64,
    },
}

/// Records that are due, and that the broker no longer has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Gap {
    /// Their partition.
    pub partition: Partition,
    /// The offset that is due.
    pub from: i64,
    /// The first offset that the broker has.
    pub to: i64,
}

impl Gap {
    /// Number of offsets in the gap: as many records, or fewer where the log was compacted.
    pub fn records(&self) -> u64 {
        self.to.abs_diff(self.from)
    }
}

impl fmt::Display for Gap {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { partition, from, to } = self;
        write!(f, "{partition} is due at offset {from}, the broker begins at {to} ({} records lost)", self.records())
    }
}

fn list(gaps: &[Gap]) -> String {
    gaps.iter().map(Gap::to_string).collect::<Vec<_>>().join("; ")
}

/// Reading failed for good.
#[derive(Debug, thiserror::Error)]
#[expect(missing_docs, reason = "fields of errors say it by name and type")]
pub enum SourceError {
    /// The brokers do not do what they are asked for.
    #[error(transparent)]
    Broker(#[from] BrokerError),
    /// The broker no longer has records that are due.
    #[error(
        "records are gone from the broker before they were read (out of retention, or deleted): {}. \
         `deepfm run --skip-gaps` goes on without them, journalled and counted; `deepfm run --reset-state` starts anew \
         from kafka.start; a worker that must not miss them needs the topic restored with its offsets",
        list(gaps)
    )]
    Lost { gaps: Vec<Gap> },
    /// The broker does not have as many records as were read from it.
    #[error(
        "{partition} is due at offset {offset}, but the broker's records end at {high}: the topic was truncated or \
         recreated, and what was learned is not in it. No option skips this: restore the topic with its offsets, or \
         start anew from kafka.start with `deepfm run --reset-state`"
    )]
    Beyond {
        partition: Partition,
        offset: i64,
        /// The offset after the last record that the broker has.
        high: i64,
    },
    /// The topic is not the one that was read.
    #[error(
        "topic {topic} was recreated: its id is {is}, what was learned came from {was}. Its offsets mean other records \
         now: restore the topic, or start anew from kafka.start with `deepfm run --reset-state`"
    )]
    Recreated {
        topic: String,
        was: String,
        /// The id that the broker gives now.
        is: String,
    },
    /// A file cannot be read.
    #[error("cannot read {path}")]
    File { path: std::path::PathBuf, source: std::io::Error },
    /// A line is too long to be sent.
    #[error("line {line} of {path} has {bytes} bytes; at most {most} are sent")]
    LongLine { path: std::path::PathBuf, line: u64, bytes: u64, most: usize },
    /// A directory has no event files.
    #[error("{0} has neither impressions.jsonl nor impressions.jsonl.zst")]
    NoEvents(std::path::PathBuf),
    /// The reading thread has ended.
    #[error("the reading thread has ended unexpectedly")]
    Ended,
    /// A reading thread has panicked.
    #[error(transparent)]
    Panicked(#[from] Panicked),
}

impl From<KafkaError> for SourceError {
    fn from(error: KafkaError) -> Self {
        Self::Broker(error.into())
    }
}

/// A reader of all partitions of the log, from given positions on.
pub trait Source {
    /// What the source has to say next; nothing within `wait` is `None`.
    ///
    /// # Errors
    /// When reading failed for good.
    fn next(&mut self, wait: Duration) -> Result<Option<SourceEvent>, SourceError>;

    /// The core consumed records of a partition that took so much [room](Arrival::weight): there is as much again.
    fn consumed(&mut self, partition: Partition, weight: usize);

    /// Features of records that were learned from: those of records to come may have their room.
    fn take_back(&mut self, features: &mut Vec<Features>);

    /// Whether the partition still ends before `position`. Never waits: whoever gets no answer yet asks again.
    ///
    /// # Errors
    /// When the broker cannot be asked for good.
    fn confirm_end(&mut self, partition: Partition, position: i64) -> Result<Confirmation, SourceError>;
}

/// What is known of a partition's end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Confirmation {
    /// The question is under way.
    Pending,
    /// It ends there.
    Confirmed,
    /// It goes on, or whoever knows does not answer.
    Denied,
}

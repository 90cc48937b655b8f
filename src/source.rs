//! Where records come from: Kafka, or a directory of event files. A source reads ahead of the core, decodes on its own
//! thread, and holds a bounded number of records for each partition.

pub mod client;
pub mod files;
pub mod ingest;
pub mod kafka;
pub mod letters;
pub mod read;
pub mod send;
pub mod topics;

use std::time::Duration;

use crate::stream::{Arrival, Partition};

pub use ingest::Ingest;

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
    /// A partition was created since the source was opened; it is read from here.
    PartitionAdded {
        /// The partition.
        partition: Partition,
        /// Its first offset.
        next_offset: i64,
    },
}

/// Reading failed for good.
#[derive(Debug, thiserror::Error)]
pub enum SourceError {
    /// The brokers did not answer within the bound.
    #[error("the brokers {brokers} did not answer within {bound:?} (kafka.retry_max_seconds): {reason}")]
    Unreachable {
        /// The bootstrap addresses.
        brokers: String,
        /// How long was tried.
        bound: Duration,
        /// What the client said last.
        reason: String,
    },
    /// A topic does not exist.
    #[error("topic {topic} does not exist; `deepfm topics apply --config FILE` creates it")]
    MissingTopic {
        /// Its name.
        topic: String,
    },
    /// The broker no longer has, or does not have yet, the records that are due.
    #[error(
        "{partition} is due at offset {offset}, but the broker has {low} to {high}: records are lost, or the topic was recreated"
    )]
    OutOfRange {
        /// The partition.
        partition: Partition,
        /// The offset that is due.
        offset: i64,
        /// The first offset that the broker has.
        low: i64,
        /// The offset after its last.
        high: i64,
    },
    /// The client gave up.
    #[error("the Kafka client cannot go on")]
    Client(#[from] rdkafka::error::KafkaError),
    /// A file cannot be read.
    #[error("cannot read {path}")]
    File {
        /// Its path.
        path: std::path::PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// A directory has no event files.
    #[error("{0} has neither impressions.jsonl nor impressions.jsonl.zst")]
    NoEvents(std::path::PathBuf),
    /// The reading thread has ended.
    #[error("the reading thread has ended unexpectedly")]
    Ended,
}

/// A reader of all partitions of the log, from given positions on.
pub trait Source {
    /// What the source has to say next; nothing within `wait` is `None`.
    ///
    /// # Errors
    /// When reading failed for good.
    fn next(&mut self, wait: Duration) -> Result<Option<SourceEvent>, SourceError>;

    /// The core consumed records of a partition: there is room for as many more. A refused record counts by its
    /// [weight](crate::stream::Refused::weight).
    fn consumed(&mut self, partition: Partition, records: usize);

    /// Asks whether the partition still ends before `position`.
    ///
    /// # Errors
    /// When the broker cannot be asked for good.
    fn confirm_end(&mut self, partition: Partition, position: i64) -> Result<bool, SourceError>;
}

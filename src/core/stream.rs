//! Where an event was read, and the one order in which the core sees the log.
//!
//! Records arrive from partitions in whatever interleaving the network gives. The [`Sequencer`] turns that into the
//! *merged order*, which is a function of the partitions' contents alone: it releases the head with the least
//! (event time, kind, partition, offset), and only while no live partition's queue is empty. What the contents do not
//! decide (start positions, a partition going idle, …) arrives as a [`Control`] and is written down in the journal, by
//! its place in the merged order, so that a replay can repeat it.

mod arrival;
mod journal;
mod sequencer;

use std::collections::BTreeMap;
use std::fmt;

use serde::{Deserialize, Serialize};

use crate::event::EventKind;

pub use arrival::{Arrival, Refused, record_hash, record_hash_of};
pub use journal::{Control, JournalEntry, Script};
pub use sequencer::{Released, Sequencer, SequencerProgress, Standing, StreamError};

/// A partition of one of the two event topics. Topic names do not count: a mirror with equal offsets is the same log.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Partition {
    /// Which of the two topics.
    pub kind: EventKind,
    /// The partition's number in its topic.
    pub number: i32,
}

impl fmt::Display for Partition {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.kind, self.number)
    }
}

/// The next offset of each partition: the first record that has not been consumed.
pub type Positions = BTreeMap<Partition, i64>;

//! What the topics do not decide, written down by its place in the merged order.

use std::collections::VecDeque;

use serde::{Deserialize, Serialize};

use super::Partition;
use crate::feature::field::Field;

/// A decision about the log that its records do not contain.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Control {
    /// A partition is read from here on.
    Start {
        /// The partition.
        partition: Partition,
        /// Its first offset to be read.
        next_offset: i64,
    },
    /// A partition was created while the worker ran; it is read from here on.
    Added {
        /// The partition.
        partition: Partition,
        /// Its first offset to be read.
        next_offset: i64,
    },
    /// A partition is at its end and silent; the others do not wait for it.
    Idle(Partition),
    /// A partition reached the end offset captured for it; the others do not wait for it.
    Ended(Partition),
    /// An idle or ended partition has records again.
    Returned(Partition),
    /// Records that the broker no longer has are passed over.
    Gap {
        /// The partition.
        partition: Partition,
        /// The next offset before the gap.
        from: i64,
        /// The next offset after the gap.
        to: i64,
    },
    /// The worker begins, or goes on, with these parameters.
    Configured {
        /// The parameters of the trainer, as JSON: a replay needs no other configuration.
        parameters: String,
        /// The fields that records are decoded with from here on.
        fields: Vec<Field>,
    },
}

/// A decision and its place: after the first `at` records of the merged order.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct JournalEntry {
    /// Number of records released before the decision.
    pub at: u64,
    /// The decision.
    pub control: Control,
}

/// A journal to be repeated: gives each decision back at its place.
#[derive(Clone, Debug, Default)]
pub struct Script {
    entries: VecDeque<JournalEntry>,
}

impl Script {
    /// A script of the entries, in the order of their places.
    pub fn new(entries: impl IntoIterator<Item = JournalEntry>) -> Self {
        Self { entries: entries.into_iter().collect() }
    }

    /// The next decision that is due after `released` records, if any; call until there is none.
    pub fn due(&mut self, released: u64) -> Option<Control> {
        if self.entries.front()?.at > released {
            return None;
        }
        self.entries.pop_front().map(|entry| entry.control)
    }

    /// The place of the next decision.
    pub fn next_at(&self) -> Option<u64> {
        self.entries.front().map(|entry| entry.at)
    }
}

//! What became of every record, partition by partition, in sums that do not depend on their order: held against the
//! topics, they show any loss or repetition. Beside the state, not part of it.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::stream::Partition;

/// What became of a record when it was consumed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Fate {
    /// The join took it: an impression that is held until its label is known, a click that counted, waits, or came to
    /// nothing by the join's rules.
    Joined,
    /// The watermark had passed its window and retention.
    TooLate,
    /// Its event id is remembered.
    Duplicate,
    /// An impression whose id is held already.
    Conflicting,
    /// It could not be read, and went to the dead-letter topic.
    Refused,
}

/// Records, summed up.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Tally {
    /// How many.
    pub count: u64,
    /// Sum of their hashes modulo 2^64.
    pub sum: u64,
    /// Exclusive or of their hashes.
    pub xor: u64,
}

impl Tally {
    /// Adds a record by its [hash](crate::stream::record_hash).
    pub fn add(&mut self, hash: u64) {
        self.count += 1;
        self.sum = self.sum.wrapping_add(hash);
        self.xor ^= hash;
    }
}

/// The tallies of every partition, by fate.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ledger(BTreeMap<Partition, BTreeMap<Fate, Tally>>);

impl Ledger {
    /// Enters a record.
    pub fn enter(&mut self, partition: Partition, fate: Fate, hash: u64) {
        self.0.entry(partition).or_default().entry(fate).or_default().add(hash);
    }

    /// The tallies as a report has them: by partition and fate.
    pub fn by_name(&self) -> BTreeMap<String, BTreeMap<Fate, Tally>> {
        self.0.iter().map(|(partition, fates)| (partition.to_string(), fates.clone())).collect()
    }
}

//! Largest event times per partition become the watermark.
//!
//! The watermark is the least of the live partitions' largest times, less the lateness. It never goes back; a live
//! partition that has sent nothing holds it where it is, and idle partitions are left out until their next record.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use crate::stream::Partition;

/// What the watermark knows of one partition.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PartitionTime {
    /// The partition.
    pub partition: Partition,
    /// The largest event time it has sent, in milliseconds; `None` before its first record.
    pub largest: Option<i64>,
    /// Whether it is left out until its next record.
    pub idle: bool,
}

#[derive(Clone, Debug)]
pub(super) struct Watermark {
    lateness: i64,
    /// `None` is minus infinity.
    value: Option<i64>,
    partitions: BTreeMap<Partition, Progress>,
    /// The partitions that are not idle, the one furthest behind first.
    live: BTreeSet<(Option<i64>, Partition)>,
}

#[derive(Clone, Copy, Debug)]
struct Progress {
    largest: Option<i64>,
    idle: bool,
}

impl Watermark {
    pub(super) fn new(lateness: i64) -> Self {
        Self { lateness, value: None, partitions: BTreeMap::new(), live: BTreeSet::new() }
    }

    pub(super) fn restore(lateness: i64, value: Option<i64>, times: &[PartitionTime]) -> Self {
        let mut watermark = Self { value, ..Self::new(lateness) };
        for &PartitionTime { partition, largest, idle } in times {
            watermark.partitions.insert(partition, Progress { largest, idle });
            if !idle {
                watermark.live.insert((largest, partition));
            }
        }
        watermark
    }

    pub(super) fn value(&self) -> Option<i64> {
        self.value
    }

    pub(super) fn passed(&self, time: i64) -> bool {
        self.value.is_some_and(|value| value > time)
    }

    pub(super) fn times(&self) -> impl Iterator<Item = PartitionTime> {
        self.partitions.iter().map(|(&partition, &Progress { largest, idle })| PartitionTime {
            partition,
            largest,
            idle,
        })
    }

    pub(super) fn add(&mut self, partition: Partition) {
        self.partitions.entry(partition).or_insert_with(|| {
            self.live.insert((None, partition));
            Progress { largest: None, idle: false }
        });
    }

    pub(super) fn observe(&mut self, partition: Partition, time: i64) {
        let progress = self.partitions.get_mut(&partition).expect("records come from partitions that were added");
        let largest = progress.largest.max(Some(time));
        if progress.idle || progress.largest != largest {
            self.live.remove(&(progress.largest, partition));
            self.live.insert((largest, partition));
            *progress = Progress { largest, idle: false };
            self.advance();
        }
    }

    pub(super) fn idle(&mut self, partition: Partition) {
        let progress = self.partitions.get_mut(&partition).expect("only partitions that were added become idle");
        progress.idle = true;
        self.live.remove(&(progress.largest, partition));
        self.advance();
    }

    pub(super) fn flush(&mut self) {
        self.value = Some(i64::MAX);
    }

    fn advance(&mut self) {
        if let Some(&(Some(least), _)) = self.live.first() {
            self.value = self.value.max(Some(least.saturating_sub(self.lateness)));
        }
    }
}

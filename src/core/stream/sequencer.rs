//! The merge of all partitions into one order.
//!
//! Invariants: `heads` holds exactly the live lanes with a queued record; `waiting` counts the live lanes without one;
//! a lane's `next_offset` and `largest_time` speak of consumed records only, so that they can be checkpointed while
//! records are queued.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use serde::{Deserialize, Serialize};

use super::{Control, JournalEntry, Partition, Positions};

/// How the others treat a partition.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Standing {
    /// They wait for it.
    Live,
    /// It is silent, or ended at its captured end offset: nobody waits for it. The two are one state, so that a
    /// bounded run and a live one that read the same records agree; the journal tells them apart.
    Away,
}

/// A breach of the sequencer's rules: a fault of the caller, or of the journal that is replayed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[expect(missing_docs, reason = "fields of errors say it by name and type")]
pub enum StreamError {
    /// The partition has not been started.
    #[error("partition {0} is not part of the log")]
    Unknown(Partition),
    /// The partition has been started before.
    #[error("partition {0} is already part of the log")]
    Known(Partition),
    /// A record came twice or out of order.
    #[error("partition {partition} gave offset {offset}, but {expected} or later was due")]
    OutOfOrder { partition: Partition, offset: i64, expected: i64 },
    /// The state cannot go on with these parameters.
    #[error("the state cannot go on with these parameters: {reason}")]
    Parameters { reason: String },
    /// The decision does not fit how the partition stands.
    #[error("partition {partition} is {standing:?} with {queued} records queued: {control} does not apply")]
    Unfit { partition: Partition, standing: Standing, queued: usize, control: &'static str },
}

/// A record in its place of the merged order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Released<T> {
    /// Where it was read.
    pub partition: Partition,
    /// Its offset there.
    pub offset: i64,
    /// The record.
    pub body: T,
}

/// What a checkpoint keeps of a lane: the state after its last consumed record.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct LaneProgress {
    standing: Standing,
    next_offset: i64,
    largest_time: i64,
}

/// What a checkpoint keeps of the sequencer. Queued records are not part of it: they are read again.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SequencerProgress {
    lanes: BTreeMap<Partition, LaneProgress>,
    released: u64,
    largest_released: Option<i64>,
    gap_records: u64,
}

#[derive(Debug)]
struct Queued<T> {
    offset: i64,
    time: i64,
    usable: bool,
    body: T,
}

#[derive(Debug)]
struct Lane<T> {
    consumed: LaneProgress,
    queue: VecDeque<Queued<T>>,
    /// The largest usable time up to the newest queued record; `i64::MIN` before the first.
    newest_time: i64,
}

impl<T> Lane<T> {
    fn new(consumed: LaneProgress) -> Self {
        Self { newest_time: consumed.largest_time, consumed, queue: VecDeque::new() }
    }

    fn is_live(&self) -> bool {
        self.consumed.standing == Standing::Live
    }

    /// Goes on at `to`. What is queued before it is left out, and refused records behind sort as if it had never come.
    fn skip_to(&mut self, to: i64) {
        self.consumed.next_offset = to;
        self.queue.retain(|queued| queued.offset >= to);
        self.newest_time = self.consumed.largest_time;
        for queued in &mut self.queue {
            if queued.usable {
                self.newest_time = self.newest_time.max(queued.time);
            } else {
                queued.time = self.newest_time;
            }
        }
    }
}

/// Merges partitions into the one order in which the core sees the log.
#[derive(Debug)]
pub struct Sequencer<T> {
    lanes: BTreeMap<Partition, Lane<T>>,
    heads: BTreeSet<(i64, Partition)>,
    waiting: usize,
    released: u64,
    largest_released: Option<i64>,
    gap_records: u64,
    journal: Vec<JournalEntry>,
}

impl<T> Default for Sequencer<T> {
    fn default() -> Self {
        Self::resume(SequencerProgress::default(), Vec::new())
    }
}

impl<T> Sequencer<T> {
    /// Continues after a checkpoint: its progress, and the journal since the last version.
    pub fn resume(progress: SequencerProgress, journal: Vec<JournalEntry>) -> Self {
        let lanes: BTreeMap<_, _> =
            progress.lanes.into_iter().map(|(partition, consumed)| (partition, Lane::new(consumed))).collect();
        let waiting = lanes.values().filter(|lane| lane.is_live()).count();
        Self {
            lanes,
            heads: BTreeSet::new(),
            waiting,
            released: progress.released,
            largest_released: progress.largest_released,
            gap_records: progress.gap_records,
            journal,
        }
    }

    /// What a checkpoint keeps.
    pub fn progress(&self) -> SequencerProgress {
        SequencerProgress {
            lanes: self.lanes.iter().map(|(partition, lane)| (*partition, lane.consumed.clone())).collect(),
            released: self.released,
            largest_released: self.largest_released,
            gap_records: self.gap_records,
        }
    }

    /// Number of records released since the log began.
    pub fn released(&self) -> u64 {
        self.released
    }

    /// Number of offsets passed over in gaps since the log began: as many records, or fewer where the log was compacted.
    pub fn gap_records(&self) -> u64 {
        self.gap_records
    }

    /// The largest usable event time released so far, in milliseconds.
    pub fn largest_released(&self) -> Option<i64> {
        self.largest_released
    }

    /// The next offset of each partition.
    pub fn positions(&self) -> Positions {
        self.lanes.iter().map(|(partition, lane)| (*partition, lane.consumed.next_offset)).collect()
    }

    /// Of each partition the next offset, and the largest usable event time consumed, in milliseconds.
    pub fn consumed(&self) -> impl Iterator<Item = (Partition, i64, Option<i64>)> {
        self.lanes.iter().map(|(partition, lane)| {
            let LaneProgress { next_offset, largest_time, .. } = lane.consumed;
            (*partition, next_offset, (largest_time != i64::MIN).then_some(largest_time))
        })
    }

    /// How a partition stands, if it is part of the log.
    pub fn standing(&self, partition: Partition) -> Option<Standing> {
        self.lanes.get(&partition).map(|lane| lane.consumed.standing)
    }

    /// Whether the others do not wait for the partition.
    pub fn is_away(&self, partition: Partition) -> bool {
        self.standing(partition) == Some(Standing::Away)
    }

    /// Records queued for a partition.
    pub fn queued(&self, partition: Partition) -> usize {
        self.lanes.get(&partition).map_or(0, |lane| lane.queue.len())
    }

    /// Records queued for all partitions.
    pub fn queued_in_all(&self) -> usize {
        self.lanes.values().map(|lane| lane.queue.len()).sum()
    }

    /// What is queued for a partition before an offset.
    pub fn queued_before(&self, partition: Partition, offset: i64) -> impl Iterator<Item = &T> {
        let queue = self.lanes.get(&partition).into_iter().flat_map(|lane| &lane.queue);
        queue.take_while(move |queued| queued.offset < offset).map(|queued| &queued.body)
    }

    /// The live partitions that the release of the next record waits for.
    pub fn awaited(&self) -> impl Iterator<Item = Partition> {
        self.lanes.iter().filter(|(_, lane)| lane.is_live() && lane.queue.is_empty()).map(|(partition, _)| *partition)
    }

    /// The journal since [`Self::cut_journal`] was last called.
    pub fn journal(&self) -> &[JournalEntry] {
        &self.journal
    }

    /// Puts a segment before the journal: that of a version which will not be announced.
    pub fn lengthen_journal(&mut self, segment: Vec<JournalEntry>) {
        let since = std::mem::replace(&mut self.journal, segment);
        self.journal.extend(since);
    }

    /// Takes the first `entries` of the journal, which are a version's segment now.
    pub fn cut_journal(&mut self, entries: usize) -> Vec<JournalEntry> {
        self.journal.drain(..entries.min(self.journal.len())).collect()
    }

    /// Queues a record. `time` is its event time; a refused record has none and sorts with the largest before it.
    ///
    /// # Errors
    /// When the partition is unknown, or the offset was consumed or queued before.
    pub fn push(&mut self, partition: Partition, offset: i64, time: Option<i64>, body: T) -> Result<(), StreamError> {
        let lane = self.lanes.get_mut(&partition).ok_or(StreamError::Unknown(partition))?;
        let expected = lane.queue.back().map_or(lane.consumed.next_offset, |queued| queued.offset + 1);
        if offset < expected {
            return Err(StreamError::OutOfOrder { partition, offset, expected });
        }
        lane.newest_time = lane.newest_time.max(time.unwrap_or(i64::MIN));
        let sort_time = time.unwrap_or(lane.newest_time);
        if lane.is_live() && lane.queue.is_empty() {
            self.waiting -= 1;
            self.heads.insert((sort_time, partition));
        }
        lane.queue.push_back(Queued { offset, time: sort_time, usable: time.is_some(), body });
        Ok(())
    }

    /// Releases the next record of the merged order, or nothing while a live partition's queue is empty.
    pub fn pop(&mut self) -> Option<Released<T>> {
        if self.waiting > 0 {
            return None;
        }
        let (_, partition) = self.heads.pop_first()?;
        let lane = self.lanes.get_mut(&partition).expect("a head belongs to a lane");
        let queued = lane.queue.pop_front().expect("a head has a record");
        lane.consumed.next_offset = queued.offset + 1;
        if queued.usable {
            lane.consumed.largest_time = lane.consumed.largest_time.max(queued.time);
            self.largest_released = self.largest_released.max(Some(queued.time));
        }
        match lane.queue.front() {
            Some(next) => {
                self.heads.insert((next.time, partition));
            }
            None => self.waiting += 1,
        }
        self.released += 1;
        Some(Released { partition, offset: queued.offset, body: queued.body })
    }

    /// Applies a decision here and writes it into the journal.
    ///
    /// # Errors
    /// When it does not fit how the partition stands; nothing is changed or written then.
    pub fn control(&mut self, control: &Control) -> Result<(), StreamError> {
        match control {
            Control::Start { partition, next_offset } | Control::Added { partition, next_offset } => {
                self.add(*partition, *next_offset)?;
            }
            Control::Idle(partition) => self.stand(*partition, Standing::Away, "idle")?,
            Control::Ended(partition) => self.stand(*partition, Standing::Away, "ended")?,
            Control::Returned(partition) => self.stand(*partition, Standing::Live, "returned")?,
            Control::Gap { partition, from, to } => self.skip(*partition, *from, *to)?,
            Control::Configured { .. } => {}
        }
        self.journal.push(JournalEntry { at: self.released, control: control.clone() });
        Ok(())
    }

    fn add(&mut self, partition: Partition, next_offset: i64) -> Result<(), StreamError> {
        if self.lanes.contains_key(&partition) {
            return Err(StreamError::Known(partition));
        }
        let consumed = LaneProgress { standing: Standing::Live, next_offset, largest_time: i64::MIN };
        self.lanes.insert(partition, Lane::new(consumed));
        self.waiting += 1;
        Ok(())
    }

    fn stand(&mut self, partition: Partition, standing: Standing, control: &'static str) -> Result<(), StreamError> {
        let lane = self.lanes.get_mut(&partition).ok_or(StreamError::Unknown(partition))?;
        let fits = lane.is_live() != (standing == Standing::Live);
        if !fits {
            let (standing, queued) = (lane.consumed.standing, lane.queue.len());
            return Err(StreamError::Unfit { partition, standing, queued, control });
        }
        lane.consumed.standing = standing;
        match (lane.queue.front(), standing) {
            (Some(head), Standing::Live) => {
                self.heads.insert((head.time, partition));
            }
            (Some(head), Standing::Away) => {
                self.heads.remove(&(head.time, partition));
            }
            (None, Standing::Live) => self.waiting += 1,
            (None, Standing::Away) => self.waiting -= 1,
        }
        Ok(())
    }

    /// A replay over a mirror that still has the records of the gap has queued them: until here they took part in the
    /// order, as they did in the run that is repeated; from here on they never were.
    fn skip(&mut self, partition: Partition, from: i64, to: i64) -> Result<(), StreamError> {
        let lane = self.lanes.get_mut(&partition).ok_or(StreamError::Unknown(partition))?;
        if lane.consumed.next_offset != from || to <= from {
            let (standing, queued) = (lane.consumed.standing, lane.queue.len());
            return Err(StreamError::Unfit { partition, standing, queued, control: "gap" });
        }
        let before = lane.queue.front().map(|head| head.time);
        lane.skip_to(to);
        self.gap_records += to.abs_diff(from);
        if lane.is_live() {
            if let Some(time) = before {
                self.heads.remove(&(time, partition));
            }
            match lane.queue.front() {
                Some(head) => {
                    self.heads.insert((head.time, partition));
                }
                None if before.is_some() => self.waiting += 1,
                None => {}
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests;

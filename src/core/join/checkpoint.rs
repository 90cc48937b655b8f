//! The join becomes a few scalars and a list of entries, and comes back from them.
//!
//! Entries come in an order that depends on them alone, and each enters `entries_sum` by its own hash.

use serde::{Deserialize, Serialize};
use thiserror::Error;

use crate::event::{EventKind, Id};
use crate::stream::Partition;

use super::Join;
use super::changes::append_entry;
use super::counters::JoinCounters;
use super::held::Inserted;
use super::memory::Remembered;
use super::params::JoinParams;
use super::record::{EventIdHash, Pack, WaitingClick};
use super::state::ImpressionState;
use super::watermark::Watermark;

/// All of the join's state that is not an entry.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct JoinScalars {
    /// The watermark, in milliseconds; `None` is minus infinity.
    pub watermark: Option<i64>,
    /// What became of everything so far.
    pub counters: JoinCounters,
}

/// One thing that the join holds, over an owned payload or a borrowed one. Times are milliseconds.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum JoinEntry<P> {
    /// An impression, open or resolved.
    Impression {
        /// Its id.
        impression_id: Id,
        /// When it was shown.
        time: i64,
        /// What is known of it.
        state: ImpressionState<P>,
    },
    /// A click whose impression has not come.
    Click {
        /// The impression that it waits for.
        impression_id: Id,
        /// The click.
        click: WaitingClick,
    },
    /// An event id that is remembered.
    EventId {
        /// The kind of the event.
        kind: EventKind,
        /// When it happened.
        time: i64,
        /// What is remembered of its id.
        id: EventIdHash,
    },
}

/// Entries that no join can have held.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum JoinRestoreError {
    /// Two entries for one impression.
    #[error("impression {0:?} is listed twice")]
    RepeatedImpression(Id),
    /// Two entries for one waiting click.
    #[error("the click at offset {offset} of {partition} is listed twice")]
    RepeatedClick {
        /// The partition it was read from.
        partition: Partition,
        /// Its offset there.
        offset: i64,
    },
    /// Two entries for one event id.
    #[error("an event id of kind {kind}, of event time {time}, is listed twice")]
    RepeatedEventId {
        /// The kind of the event.
        kind: EventKind,
        /// When it happened, in milliseconds.
        time: i64,
    },
}

impl<P> Join<P> {
    /// The watermark and the counters.
    pub fn scalars(&self) -> JoinScalars {
        JoinScalars { watermark: self.watermark.value(), counters: self.counters }
    }
}

impl<P: Pack> Join<P> {
    /// Everything held, in canonical order: open impressions, resolved ones, waiting clicks, event ids of impressions
    /// and of clicks; each by time, then id.
    pub fn entries(&self) -> impl Iterator<Item = JoinEntry<P>> {
        let impressions =
            self.held.iter().map(|(time, impression_id, state)| JoinEntry::Impression { impression_id, time, state });
        let clicks =
            self.waiting.iter().map(|(click, id)| JoinEntry::Click { impression_id: id.clone(), click: click.clone() });
        let memories = [(EventKind::Impression, &self.impression_events), (EventKind::Click, &self.click_events)];
        let event_ids = memories
            .into_iter()
            .flat_map(|(kind, memory)| memory.iter().map(move |(time, id)| JoinEntry::EventId { kind, time, id }));
        impressions.chain(clicks).chain(event_ids)
    }
}

impl<P> Join<P> {
    /// The sum modulo 2^128 of the XXH3-128 of every entry, whatever their order.
    pub fn entries_sum(&self) -> u128 {
        [self.held.sum(), self.waiting.sum(), self.impression_events.sum(), self.click_events.sum()]
            .into_iter()
            .fold(0, u128::wrapping_add)
    }

    /// Bytes of the log of changes since the last cut.
    pub fn changes_bytes(&self) -> usize {
        let memories = self.impression_events.changes().len() + self.click_events.changes().len();
        self.held.changes().len() + self.waiting.changes().len() + memories
    }

    /// The log of changes since the last call, which begins the next one: see [`first_record`](super::first_record).
    /// `None` at the first call, when nothing was written down yet.
    pub fn cut_changes(&mut self) -> Option<Vec<u8>> {
        let was_on = self.held.changes().is_on();
        let mut log = self.held.changes_mut().restart();
        for part in [&mut self.impression_events, &mut self.click_events].map(|memory| memory.changes_mut().restart()) {
            log.extend(part);
        }
        log.extend(self.waiting.changes_mut().restart());
        was_on.then_some(log)
    }
}

impl<P: Pack> Join<P> {
    /// Everything held, as a log of changes since nothing was held.
    pub fn all_as_changes(&self) -> Vec<u8> {
        let mut log = Vec::new();
        for entry in self.entries() {
            append_entry(&mut log, &entry);
        }
        log
    }

    /// The join that [`scalars`](Self::scalars) and [`entries`](Self::entries) were taken from, whatever the order of
    /// the entries. With the same parameters it goes on exactly as that one; with others, from there.
    ///
    /// # Errors
    /// If an impression, a waiting click or an event id is listed twice.
    ///
    /// # Panics
    /// If the payload has no form in postcard.
    pub fn restore(
        params: JoinParams,
        scalars: &JoinScalars,
        entries: impl IntoIterator<Item = JoinEntry<P>>,
    ) -> Result<Self, JoinRestoreError> {
        let watermark = Watermark::restore(params.lateness_ms, scalars.watermark);
        let mut join = Self { watermark, counters: scalars.counters, ..Self::new(params) };
        for entry in entries {
            join.restore_entry(entry)?;
        }
        Ok(join)
    }

    fn restore_entry(&mut self, entry: JoinEntry<P>) -> Result<(), JoinRestoreError> {
        match entry {
            JoinEntry::Impression { impression_id, time, state } => {
                if self.held.insert(time, &impression_id, state.as_ref()) == Inserted::HeldAlready {
                    return Err(JoinRestoreError::RepeatedImpression(impression_id));
                }
            }
            JoinEntry::Click { impression_id, click } => {
                let WaitingClick { partition, offset, .. } = click;
                if self.waiting.insert(impression_id, click) == Inserted::HeldAlready {
                    return Err(JoinRestoreError::RepeatedClick { partition, offset });
                }
            }
            JoinEntry::EventId { kind, time, id } => {
                let memory = match kind {
                    EventKind::Impression => &mut self.impression_events,
                    EventKind::Click => &mut self.click_events,
                };
                if memory.restore(time, id) == Remembered::Before {
                    return Err(JoinRestoreError::RepeatedEventId { kind, time });
                }
            }
        }
        Ok(())
    }
}

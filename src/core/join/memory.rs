//! Event ids are remembered, so that a second record with the same one is recognised.
//!
//! What is remembered of an id is its XXH3-128: 16 bytes whatever its length. Two different ids would be taken for one
//! if their hashes were equal, which chance does not bring about, and who wants it can repeat an id as well. Ids are
//! remembered by kind of event. Invariant: `ids` and the ids of `order` are the same.

use std::collections::BTreeSet;

use crate::event::EventKind;

use crate::feature::hash::SlotSet;

use super::JoinEntry;
use super::changes::{ChangeLog, Key};
use super::digest::Sum;
use super::record::EventIdHash;

/// The remembered event ids of one kind of event.
#[derive(Clone, Debug)]
pub(super) struct Memory {
    kind: EventKind,
    ids: SlotSet<EventIdHash>,
    /// Event times and ids, the oldest first.
    order: BTreeSet<(i64, EventIdHash)>,
    sum: Sum,
    changes: ChangeLog,
}

/// Whether an event id was remembered already.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Remembered {
    Now,
    Before,
}

impl Memory {
    pub(super) fn new(kind: EventKind) -> Self {
        Self {
            kind,
            ids: SlotSet::default(),
            order: BTreeSet::new(),
            sum: Sum::default(),
            changes: ChangeLog::default(),
        }
    }

    pub(super) fn len(&self) -> usize {
        self.order.len()
    }

    pub(super) fn sum(&self) -> u128 {
        self.sum.total()
    }

    pub(super) fn changes(&self) -> &ChangeLog {
        &self.changes
    }

    pub(super) fn changes_mut(&mut self) -> &mut ChangeLog {
        &mut self.changes
    }

    /// Event times and ids, the oldest first.
    pub(super) fn iter(&self) -> impl Iterator<Item = (i64, EventIdHash)> {
        self.order.iter().copied()
    }

    pub(super) fn oldest(&self) -> Option<i64> {
        self.order.first().map(|&(time, _)| time)
    }

    pub(super) fn remember(&mut self, time: i64, event_id: &str) -> Remembered {
        self.restore(time, EventIdHash::of(event_id))
    }

    pub(super) fn restore(&mut self, time: i64, id: EventIdHash) -> Remembered {
        if !self.ids.insert(id) {
            return Remembered::Before;
        }
        self.sum.add(&bytes_of(self.kind, time, id));
        self.order.insert((time, id));
        let entry: JoinEntry<()> = JoinEntry::EventId { kind: self.kind, time, id };
        self.changes.holds(Key::EventId(self.kind, id), &entry);
        Remembered::Now
    }

    pub(super) fn forget_oldest(&mut self) {
        if let Some((time, id)) = self.order.pop_first() {
            self.sum.remove(&bytes_of(self.kind, time, id));
            self.ids.remove(&id);
            self.changes.forgets(Key::EventId(self.kind, id));
        }
    }
}

/// What is hashed of a remembered id.
pub(super) fn bytes_of(kind: EventKind, time: i64, id: EventIdHash) -> (u8, EventKind, i64, EventIdHash) {
    (2, kind, time, id)
}

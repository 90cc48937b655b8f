//! Event ids are remembered, so that a second record with the same one is recognised.
//!
//! What is remembered of an id is its XXH3-128: 16 bytes whatever its length. Two different ids would be taken for one
//! if their hashes were equal, which chance does not bring about, and who wants it can repeat an id as well. Ids are
//! remembered by kind of event.
//!
//! Their places in the table are by another hash, under a secret of the process: who sends ids whose XXH3 share some bits has
//! them spread like any others. Invariant: every number in use is in the table, under its id, and in the order.

use hashbrown::HashTable;
use hashbrown::hash_table::Entry;

use crate::event::EventKind;
use crate::feature::hash::TextHash;
use crate::order::{Keyed, Number, Order, Slots};

use super::JoinEntry;
use super::changes::{ChangeLog, Key};
use super::digest::Sum;
use super::record::EventIdHash;

/// The remembered event ids of one kind of event.
#[derive(Clone, Debug)]
pub(super) struct Memory {
    kind: EventKind,
    events: Slots<Remembrance>,
    /// Looked up, never iterated.
    table: HashTable<Number>,
    hash: TextHash,
    order: Order,
    sum: Sum,
    changes: ChangeLog,
}

/// What is remembered of an event.
#[derive(Clone, Copy, Debug)]
struct Remembrance {
    time: i64,
    id: EventIdHash,
}

/// Whether an event id was remembered already.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Remembered {
    Now,
    Before,
}

impl Keyed for Slots<Remembrance> {
    type Id<'k> = EventIdHash;

    fn time(&self, number: Number) -> i64 {
        self.get(number).time
    }

    fn id(&self, number: Number) -> EventIdHash {
        self.get(number).id
    }
}

impl Memory {
    pub(super) fn new(kind: EventKind) -> Self {
        Self {
            kind,
            events: Slots::default(),
            table: HashTable::new(),
            hash: TextHash::default(),
            order: Order::default(),
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
        self.order.iter().map(|number| {
            let Remembrance { time, id } = *self.events.get(number);
            (time, id)
        })
    }

    pub(super) fn oldest(&self) -> Option<i64> {
        self.order.first().map(|(time, _)| time)
    }

    pub(super) fn remember(&mut self, time: i64, event_id: &str) -> Remembered {
        self.restore(time, EventIdHash::of(event_id))
    }

    pub(super) fn restore(&mut self, time: i64, id: EventIdHash) -> Remembered {
        let Self { events, table, hash, .. } = self;
        let place = |id: EventIdHash| hash.of(&id.bytes());
        let is_it = |number: &Number| events.get(*number).id == id;
        let Entry::Vacant(vacant) = table.entry(place(id), is_it, |number| place(events.get(*number).id)) else {
            return Remembered::Before;
        };
        let number = self.events.insert(Remembrance { time, id });
        vacant.insert(number);
        self.order.insert(number, &self.events);
        self.sum.add(&bytes_of(self.kind, time, id));
        let entry: JoinEntry<()> = JoinEntry::EventId { kind: self.kind, time, id };
        self.changes.holds(Key::EventId(self.kind, id), &entry);
        Remembered::Now
    }

    pub(super) fn forget_oldest(&mut self) {
        let Some(number) = self.order.pop_first(&self.events) else {
            return;
        };
        let Remembrance { time, id } = *self.events.get(number);
        if let Ok(entry) = self.table.find_entry(self.hash.of(&id.bytes()), |held| *held == number) {
            entry.remove();
        }
        self.events.remove(number);
        self.sum.remove(&bytes_of(self.kind, time, id));
        self.changes.forgets(Key::EventId(self.kind, id));
    }
}

/// What is hashed of a remembered id.
pub(super) fn bytes_of(kind: EventKind, time: i64, id: EventIdHash) -> (u8, EventKind, i64, EventIdHash) {
    (2, kind, time, id)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::collection::vec;
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn ids_are_remembered_once_and_forgotten_by_time_and_hash(
            calls in vec((0_u8..4, 0_i64..60, 0_u16..200), 1..2000),
        ) {
            let (mut memory, mut expected) = (Memory::new(EventKind::Click), BTreeMap::new());
            for (call, time, id) in calls {
                if call == 0 {
                    memory.forget_oldest();
                    expected.pop_first();
                } else {
                    let id = format!("e{id}");
                    let is_new = expected.values().all(|other| *other != id);
                    let remembered = memory.remember(time, &id);
                    prop_assert_eq!(remembered, if is_new { Remembered::Now } else { Remembered::Before });
                    if is_new {
                        expected.insert((time, EventIdHash::of(&id)), id);
                    }
                }
                prop_assert_eq!((memory.len(), memory.table.len()), (expected.len(), expected.len()));
                prop_assert_eq!(memory.oldest(), expected.first_key_value().map(|((time, _), _)| *time));
            }
            prop_assert!(memory.iter().eq(expected.keys().copied()));
            let mut sum = Sum::default();
            for (time, id) in expected.keys() {
                sum.add(&bytes_of(EventKind::Click, *time, *id));
            }
            prop_assert_eq!(memory.sum(), sum.total());
        }
    }

    /// Ids whose hashes are equal but for their upper halves: a table that took its places from the lower ones would try each.
    #[test]
    fn ids_that_share_half_of_their_hash_are_spread_like_others() {
        let mut memory = Memory::new(EventKind::Impression);
        let places: std::collections::BTreeSet<u64> = (0..10_000)
            .map(|high| {
                let id = EventIdHash::from_halves(high, 7);
                assert_eq!(memory.restore(0, id), Remembered::Now);
                memory.hash.of(&id.bytes()) % 16_384
            })
            .collect();
        // 10,000 balls in 16,384 boxes leave 7,485 that are not empty, give or take 40.
        assert!((7_000..8_000).contains(&places.len()), "{} places", places.len());
    }
}

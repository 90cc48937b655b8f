//! The impressions that the join knows of, open and resolved.
//!
//! Each is one [record](super::form) in a store, which knows it by a number. It is found by id through a hash table of
//! numbers that is never iterated and whose keys nobody can aim at one slot (ids come from browsers), and in order of (event
//! time, impression id) through two sets of numbers. Invariants: every number is in the table, under its id, and in exactly
//! one of the sets: in `open` while its state is open, else in `resolved`.

use hashbrown::HashTable;

use crate::event::Id;
use crate::feature::hash::TextHash;
use crate::order::{Keyed as _, Number, Order};

use super::changes::{ChangeLog, Key as ChangeKey};
use super::digest::Sum;
use super::form::{self, Packed};
use super::record::Pack;
use super::records::Records;
use super::state::ImpressionState;

#[derive(Clone, Debug)]
pub(super) struct HeldImpressions<P> {
    records: Records,
    table: HashTable<Number>,
    hash: TextHash,
    open: Order,
    resolved: Order,
    /// Of all payloads.
    bytes: usize,
    /// Of those of open impressions.
    open_bytes: usize,
    sum: Sum,
    changes: ChangeLog,
    /// A payload and a record on their way in.
    payload: Vec<u8>,
    record: Vec<u8>,
    /// A payload for its room.
    room: Option<P>,
}

fn weight(state: &ImpressionState<Packed<'_>>) -> usize {
    state.payload().map_or(0, |payload| payload.weight)
}

impl<P> HeldImpressions<P> {
    pub(super) fn new() -> Self {
        Self {
            records: Records::default(),
            table: HashTable::new(),
            hash: TextHash::default(),
            open: Order::default(),
            resolved: Order::default(),
            bytes: 0,
            open_bytes: 0,
            sum: Sum::default(),
            changes: ChangeLog::default(),
            payload: Vec::new(),
            record: Vec::new(),
            room: None,
        }
    }

    pub(super) fn len(&self) -> usize {
        self.table.len()
    }

    pub(super) fn open_len(&self) -> usize {
        self.open.len()
    }

    pub(super) fn resolved_len(&self) -> usize {
        self.resolved.len()
    }

    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }

    /// Bytes of the payloads of resolved impressions.
    pub(super) fn resolved_bytes(&self) -> usize {
        self.bytes - self.open_bytes
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

    /// The number of an impression, if it is held.
    pub(super) fn find(&self, id: &str) -> Option<Number> {
        let is_it = |number: &Number| form::id(self.records.get(*number)) == id.as_bytes();
        self.table.find(self.hash.of(id.as_bytes()), is_it).copied()
    }

    /// When an impression was shown.
    pub(super) fn time(&self, number: Number) -> i64 {
        self.records.time(number)
    }

    pub(super) fn id(&self, number: Number) -> Id {
        form::read(self.records.get(number)).0.into()
    }

    /// Time and number of the oldest.
    pub(super) fn oldest_open(&self) -> Option<(i64, Number)> {
        self.open.first()
    }

    pub(super) fn oldest_resolved(&self) -> Option<i64> {
        self.resolved.first().map(|(time, _)| time)
    }

    pub(super) fn forget_oldest_resolved(&mut self) {
        let Some(number) = self.resolved.pop_first(&self.records) else {
            return;
        };
        let (id, state) = form::read(self.records.get(number));
        self.bytes -= weight(&state);
        let time = self.records.time(number);
        self.sum.remove_written(|bytes| form::write_hashed(bytes, id, time, &state));
        self.changes.forgets(ChangeKey::Impression(id));
        if let Ok(entry) = self.table.find_entry(self.hash.of(id.as_bytes()), |held| *held == number) {
            entry.remove();
        }
        self.records.remove(number);
    }

    /// Moves one that was open, and is not any more, to the resolved ones.
    fn resolve(&mut self, number: Number) {
        if self.open.first().is_some_and(|(_, first)| first == number) {
            self.open.pop_first(&self.records);
        } else {
            self.open.remove(number, &self.records);
        }
        self.resolved.insert(number, &self.records);
    }
}

impl<P: Pack> HeldImpressions<P> {
    /// The open impressions, then the resolved ones, each the oldest first.
    pub(super) fn iter(&self) -> impl Iterator<Item = (i64, Id, ImpressionState<P>)> {
        self.open.iter().chain(self.resolved.iter()).map(|number| {
            let (id, state) = form::read(self.records.get(number));
            (self.records.time(number), id.into(), state.map(|payload| P::unpack(payload.bytes, None)))
        })
    }

    /// Lets `change` make another state of the one that an impression is in.
    pub(super) fn update<R>(
        &mut self,
        number: Number,
        change: impl for<'a> FnOnce(ImpressionState<Packed<'a>>) -> (ImpressionState<Packed<'a>>, R),
    ) -> R {
        let time = self.records.time(number);
        let record = self.records.get(number);
        let (id, before) = form::read(record);
        let was_open = before.is_open();
        self.bytes -= weight(&before);
        self.open_bytes -= if was_open { weight(&before) } else { 0 };
        self.sum.remove_written(|bytes| form::write_hashed(bytes, id, time, &before));
        let (after, result) = change(before);
        let is_open = after.is_open();
        self.bytes += weight(&after);
        self.open_bytes += if is_open { weight(&after) } else { 0 };
        self.sum.add_written(|bytes| form::write_hashed(bytes, id, time, &after));
        self.changes.holds_written(ChangeKey::Impression(id), |records| {
            form::write_entry(records, (id, time, &after), |payload, records| {
                let payload = P::unpack(payload.bytes, self.room.take());
                payload.write(records);
                self.room = Some(payload);
            });
        });
        if let Some(first) = form::over(record, &after) {
            self.records.get_mut(number)[0] = first;
        } else {
            self.record.clear();
            form::write(&mut self.record, id, &after);
            self.records.replace(number, &self.record);
        }
        if was_open && !is_open {
            self.resolve(number);
        }
        result
    }

    /// Holds one more impression; says whether it was new, and changes nothing if it was not.
    pub(super) fn insert(&mut self, time: i64, id: &str, state: ImpressionState<&P>) -> Inserted {
        if self.find(id).is_some() {
            return Inserted::HeldAlready;
        }
        self.changes.holds_written(ChangeKey::Impression(id), |records| {
            form::write_entry(records, (id, time, &state), |payload, records| payload.write(records));
        });
        self.payload.clear();
        let Self { payload: packed, sum, .. } = self;
        let state = state.map(|payload| {
            payload.pack(packed);
            Packed { hash: sum.hash_written(|bytes| payload.write(bytes)), weight: payload.weight(), bytes: packed }
        });
        self.sum.add_written(|bytes| form::write_hashed(bytes, id, time, &state));
        self.bytes += weight(&state);
        self.open_bytes += if state.is_open() { weight(&state) } else { 0 };
        self.record.clear();
        form::write(&mut self.record, id, &state);
        let order = if state.is_open() { &mut self.open } else { &mut self.resolved };
        let number = self.records.insert(time, &self.record);
        order.insert(number, &self.records);
        let (hash, records) = (self.hash, &self.records);
        let again = |number: &Number| hash.of(form::id(records.get(*number)));
        self.table.insert_unique(hash.of(id.as_bytes()), number, again);
        Inserted::New
    }
}

/// Whether an impression was held already.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Inserted {
    New,
    HeldAlready,
}

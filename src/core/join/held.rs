//! The impressions that the join knows of, open and resolved.
//!
//! Found by id through a hash table that is never iterated and whose keys nobody can aim at one slot (ids come from
//! browsers), and in order of (event time, impression id) through two
//! sets. Invariants: every key of the table is in exactly one of the sets, with its event time; in `open` while its
//! state is open, else in `resolved`. Both share the table's allocation of the id.

use std::collections::BTreeSet;
use std::collections::hash_map::Entry;
use std::sync::Arc;

use serde::Serialize;

use crate::feature::hash::SlotMap;

use super::JoinEntry;
use super::changes::{ChangeLog, Key as ChangeKey};
use super::digest::Sum;
use super::record::Weigh;
use super::state::{ImpressionState, Kept, KeptState};

#[derive(Clone, Debug)]
pub(super) struct HeldImpressions<P> {
    table: SlotMap<Arc<str>, Held<P>>,
    open: BTreeSet<Key>,
    resolved: BTreeSet<Key>,
    /// Of all payloads.
    bytes: usize,
    /// Of those of open impressions.
    open_bytes: usize,
    sum: Sum,
    changes: ChangeLog,
}

#[derive(Clone, Debug)]
struct Held<P> {
    time: i64,
    state: KeptState<P>,
}

/// Event time and impression id: the order in which impressions mature and are forgotten.
pub(super) type Key = (i64, Arc<str>);

impl<P> HeldImpressions<P> {
    pub(super) fn new() -> Self {
        Self {
            table: SlotMap::default(),
            open: BTreeSet::new(),
            resolved: BTreeSet::new(),
            bytes: 0,
            open_bytes: 0,
            sum: Sum::default(),
            changes: ChangeLog::default(),
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

    pub(super) fn contains(&self, id: &str) -> bool {
        self.table.contains_key(id)
    }

    /// When an impression was shown, if it is held.
    pub(super) fn time(&self, id: &str) -> Option<i64> {
        self.table.get(id).map(|held| held.time)
    }

    pub(super) fn oldest_open(&self) -> Option<&Key> {
        self.open.first()
    }

    pub(super) fn oldest_resolved(&self) -> Option<i64> {
        self.resolved.first().map(|&(time, _)| time)
    }

    /// The open impressions, then the resolved ones, each the oldest first.
    pub(super) fn iter(&self) -> impl Iterator<Item = (&Key, ImpressionState<&P>)> {
        self.open.iter().chain(&self.resolved).map(|key| {
            let held = self.table.get(&key.1).expect("the sets name what the table holds");
            (key, held.state.as_ref().map(|kept| &kept.payload))
        })
    }

    fn resolve(&mut self, time: i64, id: &str) {
        let (key, _) = self.table.get_key_value(id).expect("only held impressions are resolved");
        let key = (time, Arc::clone(key));
        self.open.remove(&key);
        self.resolved.insert(key);
    }
}

impl<P: Weigh> HeldImpressions<P> {
    pub(super) fn forget_oldest_resolved(&mut self) {
        let Some((time, id)) = self.resolved.pop_first() else {
            return;
        };
        if let Some(held) = self.table.remove(&id) {
            self.bytes -= weight(&held.state);
            self.sum.remove(&bytes_of(&id, time, &held.state.as_ref().map(|kept| kept.hash)));
            self.changes.forgets(ChangeKey::Impression(&id));
        }
    }
}

/// Bytes of the payload that a state holds.
fn weight<P: Weigh>(state: &KeptState<P>) -> usize {
    state.payload().map_or(0, |kept| kept.payload.weight())
}

impl<P: Serialize + Weigh> HeldImpressions<P> {
    /// Lets `change` make another state of the one that an impression is in; `None` if it is not held.
    pub(super) fn update<R>(&mut self, id: &str, change: impl FnOnce(KeptState<P>) -> (KeptState<P>, R)) -> Option<R> {
        let held = self.table.get_mut(id)?;
        let was_open = held.state.is_open();
        let before = weight(&held.state);
        self.bytes -= before;
        self.open_bytes -= if was_open { before } else { 0 };
        self.sum.remove(&bytes_of(id, held.time, &held.state.as_ref().map(|kept| kept.hash)));
        let (state, result) = change(std::mem::replace(&mut held.state, ImpressionState::Unlabelled));
        held.state = state;
        let after = weight(&held.state);
        self.bytes += after;
        self.open_bytes += if held.state.is_open() { after } else { 0 };
        self.sum.add(&bytes_of(id, held.time, &held.state.as_ref().map(|kept| kept.hash)));
        if was_open && !held.state.is_open() {
            let time = held.time;
            self.resolve(time, id);
        }
        self.log_held(id);
        Some(result)
    }

    /// Holds one more impression; says whether it was new, and changes nothing if it was not.
    pub(super) fn insert(&mut self, time: i64, id: &Arc<str>, state: ImpressionState<P>) -> Inserted {
        let Entry::Vacant(slot) = self.table.entry(Arc::clone(id)) else {
            return Inserted::HeldAlready;
        };
        let sum = &mut self.sum;
        let state = state.map(|payload| {
            let hash = sum.hash(&payload);
            Box::new(Kept { payload, hash })
        });
        sum.add(&bytes_of(id, time, &state.as_ref().map(|kept| kept.hash)));
        let order = if state.is_open() { &mut self.open } else { &mut self.resolved };
        order.insert((time, Arc::clone(id)));
        self.bytes += weight(&state);
        self.open_bytes += if state.is_open() { weight(&state) } else { 0 };
        slot.insert(Held { time, state });
        self.log_held(id);
        Inserted::New
    }

    /// Writes down the state that an impression is in now.
    fn log_held(&mut self, id: &str) {
        if !self.changes.is_on() {
            return;
        }
        if let Some((id, Held { time, state })) = self.table.get_key_value(id) {
            let state = state.as_ref().map(|kept| &kept.payload);
            let entry = JoinEntry::Impression { impression_id: Arc::clone(id), time: *time, state };
            self.changes.holds(ChangeKey::Impression(id), &entry);
        }
    }
}

/// Whether an impression was held already.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Inserted {
    New,
    HeldAlready,
}

/// What is hashed of an impression: its payload enters as the payload's own hash.
pub(super) fn bytes_of<'a>(
    id: &'a str,
    time: i64,
    state: &'a ImpressionState<u128>,
) -> (u8, &'a str, i64, &'a ImpressionState<u128>) {
    (0, id, time, state)
}

//! Clicks wait here for impressions that have not come yet.
//!
//! Invariant: `by_impression` and `order` hold the same clicks, and no set in `by_impression` is empty.

use std::collections::{BTreeMap, BTreeSet};

use hashbrown::HashTable;

use crate::event::Id;
use crate::feature::hash::TextHash;

use super::JoinEntry;
use super::changes::{ChangeLog, Key};
use super::digest::Sum;
use super::held::Inserted;
use super::record::WaitingClick;

#[derive(Clone, Debug, Default)]
pub(super) struct WaitingClicks {
    /// Looked up, never iterated.
    by_impression: HashTable<(Id, BTreeSet<WaitingClick>)>,
    hash: TextHash,
    order: BTreeMap<WaitingClick, Id>,
    sum: Sum,
    changes: ChangeLog,
}

impl WaitingClicks {
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

    /// The clicks and the impressions they wait for, the oldest first.
    pub(super) fn iter(&self) -> impl Iterator<Item = (&WaitingClick, &Id)> {
        self.order.iter()
    }

    pub(super) fn oldest(&self) -> Option<i64> {
        self.order.first_key_value().map(|(click, _)| click.time)
    }

    /// Lets a click wait; says whether it was new, and changes nothing if it was not.
    pub(super) fn insert(&mut self, impression_id: Id, click: WaitingClick) -> Inserted {
        if self.order.contains_key(&click) {
            return Inserted::HeldAlready;
        }
        self.sum.add(&bytes_of(&impression_id, &click));
        if self.changes.is_on() {
            let (impression_id, click) = (impression_id.clone(), click.clone());
            let entry: JoinEntry<()> = JoinEntry::Click { impression_id, click: click.clone() };
            self.changes.holds(Key::Click(&click), &entry);
        }
        let hash = self.hash;
        let hash_of = |(id, _): &(Id, BTreeSet<WaitingClick>)| hash.of(id.as_bytes());
        let place = hash.of(impression_id.as_bytes());
        let entry = self.by_impression.entry(place, |(id, _)| *id == impression_id, hash_of);
        let mut entry = entry.or_insert_with(|| (impression_id.clone(), BTreeSet::new()));
        entry.get_mut().1.insert(click.clone());
        self.order.insert(click, impression_id);
        Inserted::New
    }

    /// Takes out the clicks that wait for an impression, the oldest first.
    pub(super) fn take(&mut self, impression_id: &str) -> BTreeSet<WaitingClick> {
        if self.order.is_empty() {
            return BTreeSet::new();
        }
        let place = self.hash.of(impression_id.as_bytes());
        let Ok(entry) = self.by_impression.find_entry(place, |(id, _)| id.as_bytes() == impression_id.as_bytes())
        else {
            return BTreeSet::new();
        };
        let ((_, clicks), _) = entry.remove();
        for click in &clicks {
            self.sum.remove(&bytes_of(impression_id, click));
            self.order.remove(click);
            self.changes.forgets(Key::Click(click));
        }
        clicks
    }

    pub(super) fn forget_oldest(&mut self) {
        let Some((click, impression_id)) = self.order.pop_first() else {
            return;
        };
        self.sum.remove(&bytes_of(&impression_id, &click));
        self.changes.forgets(Key::Click(&click));
        let place = self.hash.of(impression_id.as_bytes());
        if let Ok(mut entry) = self.by_impression.find_entry(place, |(id, _)| *id == impression_id) {
            entry.get_mut().1.remove(&click);
            if entry.get().1.is_empty() {
                entry.remove();
            }
        }
    }
}

/// What is hashed of a waiting click.
pub(super) fn bytes_of<'a>(impression_id: &'a str, click: &'a WaitingClick) -> (u8, &'a str, &'a WaitingClick) {
    (1, impression_id, click)
}

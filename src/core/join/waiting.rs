//! Clicks wait here for impressions that have not come yet.
//!
//! Invariant: `by_impression` and `order` hold the same clicks, and no set in `by_impression` is empty.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use crate::feature::hash::SlotMap;

use super::JoinEntry;
use super::changes::{ChangeLog, Key};
use super::digest::Sum;
use super::held::Inserted;
use super::record::WaitingClick;

#[derive(Clone, Debug, Default)]
pub(super) struct WaitingClicks {
    by_impression: SlotMap<Arc<str>, BTreeSet<WaitingClick>>,
    order: BTreeMap<WaitingClick, Arc<str>>,
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
    pub(super) fn iter(&self) -> impl Iterator<Item = (&WaitingClick, &Arc<str>)> {
        self.order.iter()
    }

    pub(super) fn oldest(&self) -> Option<i64> {
        self.order.first_key_value().map(|(click, _)| click.time)
    }

    /// Lets a click wait; says whether it was new, and changes nothing if it was not.
    pub(super) fn insert(&mut self, impression_id: Arc<str>, click: WaitingClick) -> Inserted {
        if self.order.contains_key(&click) {
            return Inserted::HeldAlready;
        }
        self.sum.add(&bytes_of(&impression_id, &click));
        self.by_impression.entry(Arc::clone(&impression_id)).or_default().insert(click.clone());
        if self.changes.is_on() {
            let (impression_id, click) = (Arc::clone(&impression_id), click.clone());
            let entry: JoinEntry<()> = JoinEntry::Click { impression_id, click: click.clone() };
            self.changes.holds(Key::Click(&click), &entry);
        }
        self.order.insert(click, impression_id);
        Inserted::New
    }

    /// Takes out the clicks that wait for an impression, the oldest first.
    pub(super) fn take(&mut self, impression_id: &str) -> BTreeSet<WaitingClick> {
        let clicks = self.by_impression.remove(impression_id).unwrap_or_default();
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
        if let Some(clicks) = self.by_impression.get_mut(&impression_id) {
            clicks.remove(&click);
            if clicks.is_empty() {
                self.by_impression.remove(&impression_id);
            }
        }
    }
}

/// What is hashed of a waiting click.
pub(super) fn bytes_of<'a>(impression_id: &'a str, click: &'a WaitingClick) -> (u8, &'a str, &'a WaitingClick) {
    (1, impression_id, click)
}

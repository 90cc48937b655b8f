//! Ids of rows that were met already, while layers are read from the newest to the oldest: millions, each asked for once. A table of
//! bare ids, whose places whoever merges asks for some rows ahead.

use crate::feature::FeatureId;
use crate::kernel;
use crate::model::slot::SlotKey;
use crate::train::Scope;

/// A set of ids. Of three slots at most two are taken: 12 to 24 bytes an id, and 36 for a moment when it grows.
#[derive(Debug, Default)]
pub(super) struct SeenIds {
    /// A power of two of them, or none. An id is in the first slot from its own on that is not taken by another; 0 is a free one.
    slots: Vec<FeatureId>,
    len: usize,
    /// Whether the id 0 is in it.
    has_zero: bool,
    key: SlotKey,
}

impl SeenIds {
    /// Asks for where an id would be.
    #[inline]
    pub(super) fn prefetch(&self, id: FeatureId) {
        if let Some(slot) = self.slots.get(self.own(id)) {
            kernel::prefetch(slot);
        }
    }

    /// Whether a row is the newest of its id. A base holds each once, so that its ids need not be kept.
    #[inline]
    pub(super) fn is_newest(&mut self, scope: Scope, id: FeatureId) -> bool {
        match scope {
            Scope::Everything => !self.contains(id),
            Scope::Changes => self.insert(id),
        }
    }

    fn contains(&self, id: FeatureId) -> bool {
        if id == 0 { self.has_zero } else { !self.slots.is_empty() && self.slots[self.place(id)] == id }
    }

    /// Whether it was not in it before.
    pub(super) fn insert(&mut self, id: FeatureId) -> bool {
        if id == 0 {
            return !std::mem::replace(&mut self.has_zero, true);
        }
        if 3 * (self.len + 1) > 2 * self.slots.len() {
            self.grow();
        }
        let place = self.place(id);
        let is_new = self.slots[place] == 0;
        self.slots[place] = id;
        self.len += usize::from(is_new);
        is_new
    }

    fn grow(&mut self) {
        let slots = vec![0; (2 * self.slots.len()).max(64)];
        for id in std::mem::replace(&mut self.slots, slots).into_iter().filter(|id| *id != 0) {
            let place = self.place(id);
            self.slots[place] = id;
        }
    }

    /// The slot that has an id, or would. There are slots, and a free one among them.
    #[inline]
    fn place(&self, id: FeatureId) -> usize {
        let mut place = self.own(id);
        while self.slots[place] != id && self.slots[place] != 0 {
            place = (place + 1) & (self.slots.len() - 1);
        }
        place
    }

    #[inline]
    fn own(&self, id: FeatureId) -> usize {
        self.key.hash(id) as usize & self.slots.len().wrapping_sub(1)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn it_has_what_was_put_into_it(
            ids in prop::collection::vec(prop_oneof![0..40_u64, any::<u64>(), any::<u64>().prop_map(|id| id << 48)], 0..400),
        ) {
            let (mut seen, mut known) = (SeenIds::default(), BTreeSet::new());
            for (at, id) in ids.into_iter().enumerate() {
                seen.prefetch(id);
                prop_assert_eq!(seen.is_newest(Scope::Everything, id), !known.contains(&id));
                if at % 3 > 0 {
                    prop_assert_eq!(seen.is_newest(Scope::Changes, id), known.insert(id));
                }
            }
        }
    }

    #[test]
    fn an_id_takes_twelve_to_twenty_four_bytes() {
        let mut seen = SeenIds::default();
        for id in 1..=1_000_000 {
            assert!(seen.insert(id));
            let bytes = size_of_val(&*seen.slots) as f64 / id as f64;
            assert!(id < 100 || (12.0..=24.1).contains(&bytes), "{bytes} at {id}");
        }
    }
}

//! Ids of rows that were met already, while layers are read from the newest to the oldest.

use hashbrown::HashTable;
use hashbrown::hash_table::Entry;

use crate::feature::FeatureId;
use crate::model::slot::SlotKey;
use crate::train::Scope;

/// A set of ids: 10 to 21 bytes each, and half as much again for a moment when it grows.
#[derive(Debug, Default)]
pub(super) struct SeenIds {
    ids: HashTable<FeatureId>,
    key: SlotKey,
}

impl SeenIds {
    /// Whether a row is the newest of its id. A base holds each once, so that its ids need not be kept.
    pub(super) fn is_newest(&mut self, scope: Scope, id: FeatureId) -> bool {
        match scope {
            Scope::Everything => self.ids.find(self.key.hash(id), |seen| *seen == id).is_none(),
            Scope::Changes => self.insert(id),
        }
    }

    /// Whether it was not in it before.
    pub(super) fn insert(&mut self, id: FeatureId) -> bool {
        let key = self.key;
        match self.ids.entry(key.hash(id), |seen| *seen == id, |seen| key.hash(*seen)) {
            Entry::Occupied(_) => false,
            Entry::Vacant(place) => {
                place.insert(id);
                true
            }
        }
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
                prop_assert_eq!(seen.is_newest(Scope::Everything, id), !known.contains(&id));
                if at % 3 > 0 {
                    prop_assert_eq!(seen.is_newest(Scope::Changes, id), known.insert(id));
                }
            }
        }
    }

    #[test]
    fn an_id_takes_ten_to_twenty_one_bytes() {
        let mut seen = SeenIds::default();
        for id in 1..=1_000_000 {
            assert!(seen.insert(id));
            let bytes = seen.ids.allocation_size() as f64 / id as f64;
            assert!(id < 1000 || (10.0..=21.0).contains(&bytes), "{bytes} at {id}");
        }
    }
}

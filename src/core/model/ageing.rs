//! Shards of what is kept by id, and which of it makes room: what was unseen the longest, found a shard at a time.
//!
//! A shard is a sample of all, since ids are spread over shards by a hash; so the oldest of a shard are about the oldest of
//! all, and nothing need be kept in order of age. What goes is a function of what there is, not of a cursor, nor of the
//! order within a shard.

use std::cmp::Reverse;

use crate::feature::FeatureId;
use crate::feature::hash::mix64;

/// Shards of the table and of the candidates.
pub(super) const SHARDS: usize = 256;

/// Up to so many are all looked through.
const LOOKED_THROUGH: usize = 10_000;

/// One in so many of a shard goes at once: none is looked at more often than so many times for one that goes.
const SHARE: usize = 8;

/// The shard of an id, without a key: which rows go, and when, depends on it. Ids are hashes themselves when they come from
/// features, but not in tests and foreign tables.
#[inline]
pub(super) fn shard(id: FeatureId) -> usize {
    (mix64(id) >> 48) as usize % SHARDS
}

/// The order in which ids make room: last seen the longest ago first, then by id.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Age {
    pub(super) last_seen: u32,
    pub(super) id: FeatureId,
}

/// What is kept by id in [`SHARDS`] shards.
pub(super) trait Ageing {
    /// How many are in a shard.
    fn size(&self, shard: usize) -> usize;

    /// The ages of all in a shard, in any order.
    fn ages(&self, shard: usize) -> impl Iterator<Item = Age>;

    /// Removes one that is there.
    fn remove_aged(&mut self, id: FeatureId);

    /// Before this time none of a shard was last seen; it need not be the latest such time.
    fn none_before(&mut self, shard: usize) -> &mut u32;

    /// Removes what a shard has that was last seen before a time; says how many.
    fn sweep(&mut self, shard: usize, before_seconds: u32) -> usize {
        if *self.none_before(shard) >= before_seconds {
            return 0;
        }
        let (mut old, mut oldest_kept) = (Vec::new(), u32::MAX);
        for age in self.ages(shard) {
            if age.last_seen < before_seconds {
                old.push(age);
            } else {
                oldest_kept = oldest_kept.min(age.last_seen);
            }
        }
        *self.none_before(shard) = oldest_kept;
        old.sort_unstable();
        self.remove_all(&old)
    }

    /// Removes at least `count`, or all: of a few those unseen the longest, at one time the lowest ids; of many an eighth of the
    /// fullest shard (of equal ones the first) at a time. Says how many.
    fn evict(&mut self, count: usize) -> usize {
        let mut evicted = 0;
        while evicted < count {
            let sizes = || (0..SHARDS).map(|shard| self.size(shard));
            let all: usize = sizes().sum();
            let old = if all <= LOOKED_THROUGH {
                oldest((0..SHARDS).flat_map(|shard| self.ages(shard)).collect(), count - evicted)
            } else {
                let fullest = sizes().enumerate().max_by_key(|(shard, size)| (*size, Reverse(*shard)));
                fullest.map_or_else(Vec::new, |(shard, size)| oldest(self.ages(shard).collect(), size.div_ceil(SHARE)))
            };
            if old.is_empty() {
                break;
            }
            evicted += self.remove_all(&old);
        }
        evicted
    }

    /// Removes in the order of a list that does not show the order of a shard.
    fn remove_all(&mut self, old: &[Age]) -> usize {
        for age in old {
            self.remove_aged(age.id);
        }
        old.len()
    }
}

/// The `count` least, or all, in order.
fn oldest(mut all: Vec<Age>, count: usize) -> Vec<Age> {
    if count < all.len() {
        all.select_nth_unstable(count);
        all.truncate(count);
    }
    all.sort_unstable();
    all
}

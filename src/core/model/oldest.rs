//! Which of many make room: those unseen the longest, found a shard at a time.
//!
//! A shard is a sample of all, since ids are spread over shards by a hash; so the oldest of a shard are about the oldest of
//! all, and nothing need be kept in order of age. What goes is a function of what there is, not of a cursor, nor of the
//! order within a shard.

use std::cmp::Reverse;
use std::ops::Range;

/// Up to so many are all looked through.
const LOOKED_THROUGH: usize = 10_000;

/// One in so many of a shard goes at once: none is looked at more often than so many times for one that goes.
const SHARE: usize = 8;

/// The shards to look through and how many go there, where `count` are to go: of a few that many from all shards, else an
/// eighth of the fullest shard (of equal ones the first), and then it is asked again.
pub(super) fn looked_through(sizes: impl Iterator<Item = usize> + Clone, count: usize) -> (Range<usize>, usize) {
    let (shards, all) = sizes.clone().fold((0, 0), |(shards, all), size| (shards + 1, all + size));
    if all <= LOOKED_THROUGH {
        return (0..shards, count);
    }
    let fullest = sizes.enumerate().max_by_key(|(number, size)| (*size, Reverse(*number)));
    fullest.map_or((0..shards, count), |(number, size)| (number..number + 1, size.div_ceil(SHARE)))
}

/// The `count` least, or all, in order.
pub(super) fn oldest<T: Ord>(mut all: Vec<T>, count: usize) -> Vec<T> {
    if count < all.len() {
        all.select_nth_unstable(count);
        all.truncate(count);
    }
    all.sort_unstable();
    all
}

//! Where an id's entry lies within a hash table: by a hash with a key of the process, so that nobody can choose ids that
//! all want one place. Ids are hashes of what events hold, and events come from browsers.
//!
//! The key shows nowhere: tables are looked into, and where one is walked through, what is found is put in order first.

use std::hash::BuildHasher;
use std::sync::LazyLock;

use crate::feature::FeatureId;
use crate::feature::hash::SlotHash;

/// Drawn once.
static KEY: LazyLock<SlotKey> = LazyLock::new(|| {
    let state = SlotHash::new();
    SlotKey { key: state.hash_one(0), factor: state.hash_one(1) | 1 }
});

/// What places depend on beside the id; the default is the one of this process.
#[derive(Clone, Copy, Debug)]
pub(crate) struct SlotKey {
    pub(super) key: u64,
    /// Odd.
    pub(super) factor: u64,
}

impl Default for SlotKey {
    fn default() -> Self {
        *KEY
    }
}

impl SlotKey {
    /// The hash of an id: both halves of a product with what nobody knows.
    #[inline]
    pub(crate) fn hash(self, id: FeatureId) -> u64 {
        let product = u128::from(id ^ self.key) * u128::from(self.factor);
        (product >> 64) as u64 ^ product as u64
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The most ids that share 16 bits of their hash.
    fn crowded(ids: impl Iterator<Item = u64>, hash: impl Fn(u64) -> u64) -> usize {
        let mut counts = vec![0_usize; 1 << 16];
        ids.for_each(|id| counts[hash(id) as usize & 0xFFFF] += 1);
        counts.into_iter().max().expect("there are some")
    }

    #[test]
    fn ids_that_were_chosen_to_share_a_place_without_the_key_do_not_with_it() {
        // The finalizer that stood here before can be undone, and with it ids for one place be had at will.
        let unxor = |x: u64, by: u32| (0..64_u32.div_ceil(by)).fold(x, |found, _| x ^ (found >> by));
        let inverse = |a: u64| (0..6).fold(a, |found, _| found.wrapping_mul(2_u64.wrapping_sub(a.wrapping_mul(found))));
        let unmix = |x: u64| {
            let x = unxor(x, 31).wrapping_mul(inverse(0x94D0_49BB_1331_11EB));
            unxor(unxor(x, 27).wrapping_mul(inverse(0xBF58_476D_1CE4_E5B9)), 30)
        };
        let chosen = || (0..4096_u64).map(|n| unmix(n << 20));
        assert_eq!(crowded(chosen(), crate::feature::hash::mix64), 4096);
        let key = SlotKey::default();
        assert!(crowded(chosen(), |id| key.hash(id)) < 32);
        assert!(crowded(0..4096, |id| key.hash(id)) < 32);
    }
}

//! Where the row of a feature id is: a directory over the sorted ids of a version, by their leading bits.
//!
//! Ids are hashes, so their leading bits spread them evenly: with as many buckets as there are rows, or up to twice as many, a bucket
//! has one row on average. A look-up touches one place of the directory and one of the ids; a binary search would touch one of
//! the ids for each bit. Whoever makes up ids that share a bucket gets the binary search within it, and nothing worse.

use crate::feature::FeatureId;
use crate::kernel;

/// Rows of a bucket up to which they are looked through in order.
const FEW: usize = 8;

/// A directory over sorted ids. 4 to 8 bytes a row.
#[derive(Clone, Debug)]
pub struct RowIndex {
    /// Where each bucket begins, and at last the number of rows.
    starts: Box<[u32]>,
    /// An id shifted by this is its bucket's number.
    shift: u32,
}

impl RowIndex {
    /// The directory of ids that ascend; `None` when there are more rows than 32 bits can number.
    pub fn new(ids: &[FeatureId]) -> Option<Self> {
        let rows = u32::try_from(ids.len()).ok()?;
        let buckets = ids.len().next_power_of_two().max(2);
        let shift = FeatureId::BITS - buckets.trailing_zeros();
        let mut starts = Vec::with_capacity(buckets + 1);
        for (row, id) in (0..rows).zip(ids) {
            // Every bucket up to the id's own that was not begun yet begins here.
            let begun = (id >> shift) as usize + 1;
            if starts.len() < begun {
                starts.resize(begun, row);
            }
        }
        starts.resize(buckets + 1, rows);
        Some(Self { starts: starts.into(), shift })
    }

    /// The row of an id. `ids` are those that the directory was made of.
    #[inline]
    pub fn find(&self, ids: &[FeatureId], id: FeatureId) -> Option<usize> {
        let bucket = (id >> self.shift) as usize;
        let (start, end) = (self.starts[bucket] as usize, self.starts[bucket + 1] as usize);
        let rows = &ids[start..end];
        let within =
            if rows.len() <= FEW { rows.iter().position(|row| *row == id) } else { rows.binary_search(&id).ok() };
        within.map(|row| start + row)
    }

    /// Asks for what a look-up reads first.
    #[inline]
    pub fn prefetch(&self, id: FeatureId) {
        kernel::prefetch(&self.starts[(id >> self.shift) as usize]);
    }

    /// Asks for what it reads next.
    #[inline]
    pub fn prefetch_ids(&self, ids: &[FeatureId], id: FeatureId) {
        if let Some(first) = ids.get(self.starts[(id >> self.shift) as usize] as usize) {
            kernel::prefetch(first);
        }
    }

    /// Bytes that it takes.
    pub fn weight(&self) -> usize {
        size_of_val(&*self.starts)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn check(mut ids: Vec<u64>, others: &[u64]) {
        ids.sort_unstable();
        ids.dedup();
        let index = RowIndex::new(&ids).expect("there are few");
        for id in ids.iter().chain(others) {
            assert_eq!(index.find(&ids, *id), ids.binary_search(id).ok(), "{id} of {} rows", ids.len());
        }
    }

    #[test]
    fn an_index_finds_what_a_binary_search_finds() {
        let spread: Vec<u64> = (0..10_000_u64).map(crate::feature::hash::mix64).collect();
        let others: Vec<u64> = (10_000..20_000_u64).map(crate::feature::hash::mix64).collect();
        check(spread.clone(), &others);
        let index = RowIndex::new(&spread).expect("there are few");
        assert!((4 * spread.len()..=8 * spread.len() + 4).contains(&index.weight()), "{}", index.weight());
        // All in one bucket.
        check((0..10_000).collect(), &[10_000, u64::MAX]);
        check(Vec::new(), &[0, 1, u64::MAX]);
        check(vec![0], &[0, 1, u64::MAX]);
        check(vec![u64::MAX], &[0, 1, u64::MAX]);
        check(vec![0, u64::MAX], &[0, 1, u64::MAX - 1]);
    }

    proptest! {
        #[test]
        fn an_index_finds_what_a_binary_search_finds_in_any_ids(
            ids in proptest::collection::vec(any::<u64>(), 0..300), others in proptest::collection::vec(any::<u64>(), 0..50)
        ) {
            check(ids, &others);
        }
    }
}

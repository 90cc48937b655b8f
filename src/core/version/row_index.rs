//! Where the row of a feature id is: the ids of a version, spread over a table of places by their leading bits.
//!
//! Ids are hashes, so their leading bits spread them evenly: an id belongs at its share of all places, of which there are half as many
//! again as rows. Whichever finds its place taken has the next one, so that ids ascend from place to place, and a look-up that meets a
//! greater one is over. A place also has the linear weight: with it a look-up touches one line of memory, most often, and
//! the embedding's. Whoever makes up ids that belong at one place gets a search among all of them, and nothing worse.

use crate::feature::FeatureId;
use crate::kernel;

/// Places that are looked through for an id, from its own on.
const FEW: usize = 8;

/// The row of a place that has none.
const NONE: u32 = u32::MAX;

/// How often the place of an id is guessed from the id that was found where it was thought to be. Each guess leaves the root of how
/// far the one before was off: of millions of rows a handful.
const GUESSES: usize = 3;

/// Steps from the last guess on: they double.
const FIRST_STEP: usize = 4;

/// The row of an id among ids that ascend, without an index: for who looks up few of them. Of ids that are hashes it reads some four
/// lines of memory, where a binary search reads as many as rows have bits; of others it is a search in steps that double.
pub(super) fn row_of(ids: &[FeatureId], id: FeatureId) -> Option<usize> {
    let last = ids.len().checked_sub(1)?;
    let far = |distance: u64| share(distance, ids.len());
    let mut at = far(id);
    for _ in 0..GUESSES {
        let found = ids[at];
        at = if found < id { last.min(at + far(id - found)) } else { at.saturating_sub(far(found - id)) };
    }
    let (mut low, mut high, mut step) = (at, at + 1, FIRST_STEP);
    while low > 0 && ids[low] > id {
        (low, step) = (low.saturating_sub(step), 2 * step);
    }
    while high < ids.len() && ids[high - 1] < id {
        (high, step) = (ids.len().min(high + step), 2 * step);
    }
    ids[low..high].binary_search(&id).ok().map(|row| low + row)
}

/// As much of a length as a number is of all.
#[inline]
fn share(number: u64, length: usize) -> usize {
    ((u128::from(number) * length as u128) >> u64::BITS) as usize
}

/// Places of sorted ids. 24 bytes a row.
#[derive(Clone, Debug)]
pub struct RowIndex {
    /// `FEW` more than ids can belong at.
    places: Box<[Place]>,
}

/// An id, where its weights are, and the one of them that is a single number.
#[derive(Clone, Copy, Debug)]
struct Place {
    id: FeatureId,
    row: u32,
    linear: f32,
}

impl RowIndex {
    /// Finds a place for each of the ids, which ascend, and their linear weights; `None` when there are more than 32 bits can number.
    ///
    /// # Panics
    /// When there are not as many weights as ids.
    pub fn new(ids: &[FeatureId], linear: &[f32]) -> Option<Self> {
        assert_eq!(ids.len(), linear.len(), "each id has a weight");
        let rows = u32::try_from(ids.len()).ok().filter(|rows| *rows < NONE)?;
        let none = Place { id: 0, row: NONE, linear: 0.0 };
        let mut index = Self { places: vec![none; ids.len() + ids.len() / 2 + 1 + FEW].into() };
        let mut free = 0;
        for ((row, id), linear) in (0..rows).zip(ids).zip(linear) {
            let own = index.own(*id);
            let at = own.max(free);
            // Beyond, it would not be looked for.
            if at < own + FEW {
                index.places[at] = Place { id: *id, row, linear: *linear };
                free = at + 1;
            }
        }
        Some(index)
    }

    /// The row of an id and its linear weight. `ids` are those that places were found for, with the same weights.
    #[inline]
    pub fn find(&self, ids: &[FeatureId], linear: &[f32], id: FeatureId) -> Option<(u32, f32)> {
        let own = self.own(id);
        for place in &self.places[own..own + FEW] {
            if place.row == NONE || place.id > id {
                return None;
            }
            if place.id == id {
                return Some((place.row, place.linear));
            }
        }
        row_of(ids, id).map(|row| (row as u32, linear[row]))
    }

    /// Asks for what a look-up reads.
    #[inline]
    pub fn prefetch(&self, id: FeatureId) {
        let own = self.own(id);
        kernel::prefetch(&self.places[own]);
        kernel::prefetch(&self.places[own + 2]);
    }

    /// Bytes that it takes.
    pub fn weight(&self) -> usize {
        size_of_val(&*self.places)
    }

    /// The place where an id belongs: as far among those as it is among all numbers.
    #[inline]
    fn own(&self, id: FeatureId) -> usize {
        share(id, self.places.len() - FEW)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn check(mut ids: Vec<u64>, others: &[u64]) {
        ids.sort_unstable();
        ids.dedup();
        let linear: Vec<f32> = (0..ids.len()).map(|row| row as f32 / 2.0).collect();
        let index = RowIndex::new(&ids, &linear).expect("there are few");
        for id in ids.iter().chain(others) {
            let row = ids.binary_search(id).ok();
            let expected = row.map(|row| (row as u32, linear[row]));
            assert_eq!(index.find(&ids, &linear, *id), expected, "{id} of {} rows", ids.len());
            assert_eq!(row_of(&ids, *id), row, "{id} of {} rows", ids.len());
        }
    }

    #[test]
    fn an_index_finds_what_a_binary_search_finds() {
        let spread: Vec<u64> = (0..10_000_u64).map(crate::feature::hash::mix64).collect();
        let others: Vec<u64> = (10_000..20_000_u64).map(crate::feature::hash::mix64).collect();
        check(spread.clone(), &others);
        // All at one place, at the last one, and some among those that are spread.
        check((0..10_000).collect(), &[10_000, u64::MAX]);
        check((0..10_000).map(|n| u64::MAX - n).collect(), &[u64::MAX - 10_000, 0]);
        check(spread.into_iter().chain((1 << 40)..(1 << 40) + 100).collect(), &[(1 << 40) - 1, (1 << 40) + 100]);
        check(Vec::new(), &[0, 1, u64::MAX]);
        check(vec![0], &[0, 1, u64::MAX]);
        check(vec![u64::MAX], &[0, 1, u64::MAX]);
        check(vec![0, u64::MAX], &[0, 1, u64::MAX - 1]);
    }

    #[test]
    fn hardly_an_id_is_without_a_place_and_none_takes_more_than_it_says() {
        let mut ids: Vec<u64> = (0..100_000_u64).map(crate::feature::hash::mix64).collect();
        ids.sort_unstable();
        let index = RowIndex::new(&ids, &vec![0.0; ids.len()]).expect("there are few");
        let placed = index.places.iter().filter(|place| place.row != NONE).count();
        assert!(placed > ids.len() / 100 * 99, "{placed}");
        assert!(index.weight() <= 24 * ids.len() + 16 * (FEW + 1), "{}", index.weight());
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

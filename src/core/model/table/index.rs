//! Where in a shard the row of an id is: open addressing, with linear probes over words of 4 bytes.
//!
//! A word has the row's number and 6 bits of the id's hash, so that a row is read almost only where it is the right one, and
//! sixteen words are a cache line. Both the word's place and the row's can be asked for before they are needed, which is what this
//! is for: the misses of a batch's look-ups overlap. A removal moves back what it was in the way of, and leaves no trace.

use crate::kernel;

/// Bits of a row's number, counted from 1; 0 is an empty place.
const ROW_BITS: u32 = 26;

/// The most rows of a shard.
pub(super) const ROWS_MAX: u32 = (1 << ROW_BITS) - 1;

/// Places at first.
const PLACES_MIN: usize = 64;

/// Of so many places one stays empty at least.
const EMPTY: usize = 5;

/// Grows by its part in so many.
const GROWTH: usize = 4;

/// Rows by the hash of their ids.
#[derive(Debug, Default)]
pub(super) struct Index {
    words: Box<[u32]>,
    len: usize,
}

/// A place whose word fits a hash, and the row that it names.
#[derive(Clone, Copy, Debug)]
pub(super) struct Found {
    place: usize,
    pub(super) row: u32,
}

#[inline]
fn tag(hash: u64) -> u32 {
    (hash as u32) << ROW_BITS
}

impl Index {
    pub(super) fn len(&self) -> usize {
        self.len
    }

    /// Bytes held.
    pub(super) fn bytes(&self) -> usize {
        4 * self.words.len()
    }

    /// Every row, in an order that depends on the hashes.
    pub(super) fn rows(&self) -> impl Iterator<Item = u32> {
        self.words.iter().filter(|word| **word != 0).map(|word| (word & ROWS_MAX) - 1)
    }

    /// Where a look-up begins: the upper half of the hash, as a part of all places.
    #[inline]
    fn home(&self, hash: u64) -> usize {
        (((hash >> 32) * self.words.len() as u64) >> 32) as usize
    }

    #[inline]
    fn next(&self, place: usize) -> usize {
        if place + 1 == self.words.len() { 0 } else { place + 1 }
    }

    /// Asks for the words that a look-up begins with.
    #[inline]
    pub(super) fn prefetch(&self, hash: u64) {
        if let Some(word) = self.words.get(self.home(hash)) {
            kernel::prefetch(word);
        }
    }

    /// The first place that fits; behind another that did, if one is given.
    #[inline]
    pub(super) fn candidate(&self, hash: u64, behind: Option<Found>) -> Option<Found> {
        if self.words.is_empty() {
            return None;
        }
        let mut place = behind.map_or_else(|| self.home(hash), |found| self.next(found.place));
        loop {
            let word = self.words[place];
            if word == 0 {
                return None;
            }
            if word & !ROWS_MAX == tag(hash) {
                return Some(Found { place, row: (word & ROWS_MAX) - 1 });
            }
            place = self.next(place);
        }
    }

    /// Of a place that fits, or those behind it, the one of the row that `is_it`.
    #[inline]
    pub(super) fn settle(&self, hash: u64, mut found: Option<Found>, is_it: impl Fn(u32) -> bool) -> Option<Found> {
        while let Some(candidate) = found.filter(|candidate| !is_it(candidate.row)) {
            found = self.candidate(hash, Some(candidate));
        }
        found
    }

    /// The place of the row that `is_it`.
    #[inline]
    pub(super) fn find(&self, hash: u64, is_it: impl Fn(u32) -> bool) -> Option<Found> {
        self.settle(hash, self.candidate(hash, None), is_it)
    }

    /// Whether one more has its place without growing.
    #[inline]
    pub(super) fn has_room(&self) -> bool {
        (self.len + 1) * EMPTY <= self.words.len() * (EMPTY - 1)
    }

    /// Empties it, with more places than before.
    pub(super) fn grow(&mut self) {
        let places = self.words.len() + (self.words.len() / GROWTH).max(PLACES_MIN);
        *self = Self { words: vec![0; places].into_boxed_slice(), len: 0 };
    }

    /// Adds a row, for which there is room.
    ///
    /// # Panics
    /// When its number is not below [`ROWS_MAX`].
    pub(super) fn insert(&mut self, hash: u64, row: u32) {
        assert!(row < ROWS_MAX, "a shard has at most {ROWS_MAX} rows");
        let mut place = self.home(hash);
        while self.words[place] != 0 {
            place = self.next(place);
        }
        self.words[place] = tag(hash) | (row + 1);
        self.len += 1;
    }

    /// Removes a place that was found. `hash_of` gives the hash of a row's id.
    pub(super) fn remove(&mut self, found: Found, hash_of: impl Fn(u32) -> u64) {
        let places = self.words.len();
        let (mut hole, mut place) = (found.place, self.next(found.place));
        while self.words[place] != 0 {
            let home = self.home(hash_of((self.words[place] & ROWS_MAX) - 1));
            // It moves back unless its look-up begins behind the hole.
            if (place + places - home) % places >= (place + places - hole) % places {
                self.words[hole] = self.words[place];
                hole = place;
            }
            place = self.next(place);
        }
        self.words[hole] = 0;
        self.len -= 1;
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;
    use crate::feature::hash::mix64;

    proptest! {
        #[test]
        fn an_index_has_what_was_put_in_and_not_taken_out(
            steps in proptest::collection::vec((any::<bool>(), 0_u64..300), 0..900), crowded: bool
        ) {
            // Crowded, all begin at a few places and many have one tag.
            let hash = |id: u64| if crowded { ((id % 3) << 62) | (id % 2) } else { mix64(id) };
            let (mut index, mut expected, mut ids) = (Index::default(), BTreeMap::new(), Vec::new());
            for (adds, id) in steps {
                let found = index.find(hash(id), |row| ids[row as usize] == id);
                prop_assert_eq!(found.map(|found| found.row), expected.get(&id).copied());
                match found {
                    None if adds => {
                        if !index.has_room() {
                            index.grow();
                            for (id, row) in &expected {
                                index.insert(hash(*id), *row);
                            }
                        }
                        ids.push(id);
                        index.insert(hash(id), ids.len() as u32 - 1);
                        expected.insert(id, ids.len() as u32 - 1);
                    }
                    Some(found) if !adds => {
                        index.remove(found, |row| hash(ids[row as usize]));
                        expected.remove(&id);
                    }
                    _ => {}
                }
                prop_assert_eq!(index.len(), expected.len());
            }
            let mut rows: Vec<u32> = index.rows().collect();
            rows.sort_unstable();
            let mut wanted: Vec<u32> = expected.values().copied().collect();
            wanted.sort_unstable();
            prop_assert_eq!(rows, wanted);
            for id in 0..300 {
                let found = index.find(hash(id), |row| ids[row as usize] == id);
                prop_assert_eq!(found.map(|found| found.row), expected.get(&id).copied());
            }
        }
    }
}

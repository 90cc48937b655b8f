//! The embedding table: a collision-free map from feature ids to rows of optimizer state.
//!
//! A row is `id, last seen, count, z[1 + dim], n[1 + dim]` in 32-bit words, the linear coordinate first: 104 bytes at
//! dimension 10. Weights are derived, never stored. Rows lie in chunks of an arena, which never move; the index is cut
//! into shards that hold row numbers only and grow one at a time, so that no growth is a pause.
//!
//! The digest is the sum modulo 2^128 of the XXH3-128 of every row's bytes. It is kept from what changed: a row's old
//! hash leaves the sum when the row is first touched after a digest, its new one enters when the next digest is taken.
//! Invariant: `sum` covers exactly the rows that are not in `unhashed`.

mod touched;

use hashbrown::HashTable;
use xxhash_rust::xxh3::xxh3_128;

use super::RepeatedId;
use super::oldest::{looked_through, oldest};
use super::slot::SlotKey;
use crate::feature::FeatureId;
use crate::feature::hash::mix64;
use touched::Touched;

/// Rows in a chunk of the arena.
const CHUNK_ROWS: usize = 4096;

/// Rows that are copied before they are hashed: scattered rows are fetched from memory several at a time.
const COPIED_AT_ONCE: usize = 64;

/// Shards of the index.
pub(super) const SHARDS: usize = 256;

/// Words of a row before its state: id (2), last seen, count.
const HEAD_WORDS: usize = 4;

/// A row's number in the arena.
pub type RowNumber = u32;

/// A row in the order in which rows make room: last seen the longest ago first, then by id.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Age {
    last_seen: u32,
    id: FeatureId,
    row: RowNumber,
}

/// Feature ids and their rows.
#[derive(Debug)]
pub struct Table {
    coordinates: usize,
    chunks: Vec<Box<[u32]>>,
    /// Rows that were ever used: those in use and the free ones.
    used: usize,
    /// Rows that were removed, to be used again. Their words are 0, and with them their counts, as in no row in use.
    free: Vec<RowNumber>,
    /// Ids that were removed since the last copy.
    gone: Vec<FeatureId>,
    shards: Vec<HashTable<RowNumber>>,
    key: SlotKey,
    /// Rows that `sum` does not cover.
    unhashed: Touched,
    /// Rows that no checkpoint has yet in this form; nothing is noted before the first one.
    unsaved: Option<Touched>,
    sum: u128,
}

/// What is known of a row besides its optimizer state.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RowHead {
    /// The feature id.
    pub id: FeatureId,
    /// Event time at which it was last learned, in seconds since 1970.
    pub last_seen: u32,
    /// Batches in which it was learned.
    pub count: u32,
}

impl Table {
    /// An empty table of embeddings of this dimension.
    pub fn new(embedding_dim: usize) -> Self {
        Self {
            coordinates: 1 + embedding_dim,
            chunks: Vec::new(),
            used: 0,
            free: Vec::new(),
            gone: Vec::new(),
            shards: vec![HashTable::new(); SHARDS],
            key: SlotKey::default(),
            unhashed: Touched::default(),
            unsaved: None,
            sum: 0,
        }
    }

    /// Number of rows.
    pub fn len(&self) -> usize {
        self.used - self.free.len()
    }

    /// Whether there are no rows.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Bytes of a row.
    pub fn row_bytes(&self) -> usize {
        4 * self.row_words()
    }

    /// Bytes held, index and unused room included.
    pub fn bytes(&self) -> usize {
        let index: usize = self.shards.iter().map(HashTable::allocation_size).sum();
        self.chunks.len() * CHUNK_ROWS * self.row_bytes()
            + index
            + self.unhashed.bytes()
            + self.unsaved.as_ref().map_or(0, Touched::bytes)
    }

    fn row_words(&self) -> usize {
        HEAD_WORDS + 2 * self.coordinates
    }

    /// The row of an id.
    #[inline]
    pub fn find(&self, id: FeatureId) -> Option<RowNumber> {
        self.shards[shard(id)].find(self.key.hash(id), |&row| self.id(row) == id).copied()
    }

    /// Makes a row of zeros for an id that has none.
    pub fn insert(&mut self, id: FeatureId) -> RowNumber {
        debug_assert!(self.find(id).is_none(), "an id has one row");
        let row = self.free.pop().unwrap_or_else(|| self.use_next());
        let words = self.row_mut(row);
        words[0] = id as u32;
        words[1] = (id >> 32) as u32;
        self.unhashed.mark(row);
        self.mark_unsaved(row);
        let (chunks, row_words, key) = (&self.chunks, self.row_words(), self.key);
        let rehash = |&row: &RowNumber| key.hash(id_of(&chunks[row as usize / CHUNK_ROWS], row, row_words));
        self.shards[shard(id)].insert_unique(key.hash(id), row, rehash);
        row
    }

    fn use_next(&mut self) -> RowNumber {
        if self.used == self.chunks.len() * CHUNK_ROWS {
            self.chunks.push(vec![0; CHUNK_ROWS * self.row_words()].into_boxed_slice());
            self.grow_touched();
        }
        self.used += 1;
        (self.used - 1) as RowNumber
    }

    /// Removes the rows of a shard of the index that were last seen before a time; says how many. Which shard an id is in
    /// depends on the id alone.
    pub fn sweep(&mut self, shard: usize, before_seconds: u32) -> usize {
        let ages = self.shards[shard].iter().map(|row| self.age(*row));
        let mut old: Vec<Age> = ages.filter(|age| age.last_seen < before_seconds).collect();
        old.sort_unstable();
        self.remove_all(&old)
    }

    /// Removes at least `count` rows, or all: those last seen the longest ago, at one time the lowest ids; see
    /// `model::oldest`. Says how many.
    pub fn evict(&mut self, count: usize) -> usize {
        let mut evicted = 0;
        while evicted < count && !self.is_empty() {
            let (shards, due) = looked_through(self.shards.iter().map(HashTable::len), count - evicted);
            let ages = self.shards[shards].iter().flatten().map(|row| self.age(*row)).collect();
            evicted += self.remove_all(&oldest(ages, due));
        }
        evicted
    }

    fn age(&self, row: RowNumber) -> Age {
        Age { last_seen: self.row(row)[2], id: self.id(row), row }
    }

    /// Removes rows, in the order of a list that does not show the order of a shard.
    fn remove_all(&mut self, old: &[Age]) -> usize {
        for age in old {
            self.remove(age.row);
        }
        old.len()
    }

    fn remove(&mut self, row: RowNumber) {
        let id = self.id(row);
        if !self.unhashed.unmark(row) {
            self.sum = self.sum.wrapping_sub(self.row_hash(row));
        }
        if let Ok(entry) = self.shards[shard(id)].find_entry(self.key.hash(id), |&other| other == row) {
            entry.remove();
        }
        if self.unsaved.is_some() {
            self.gone.push(id);
        }
        self.row_mut(row).fill(0);
        self.free.push(row);
    }

    /// The optimizer state of a row: `z[1 + dim]` then `n[1 + dim]`, linear coordinate first.
    #[inline]
    pub fn state(&self, row: RowNumber) -> &[f32] {
        bytemuck::cast_slice(&self.row(row)[HEAD_WORDS..])
    }

    /// Writes a row's state back, each the linear coordinate and the embedding's; counts the batch and notes when it was seen.
    pub fn write(&mut self, row: RowNumber, z: (f32, &[f32]), n: (f32, &[f32]), seconds: u32) {
        self.mark_changed(row);
        let coordinates = self.coordinates;
        let words = self.row_mut(row);
        words[2] = words[2].max(seconds);
        words[3] = words[3].saturating_add(1);
        let state: &mut [f32] = bytemuck::cast_slice_mut(&mut words[HEAD_WORDS..]);
        for (state, (linear, embedding)) in state.chunks_exact_mut(coordinates).zip([z, n]) {
            state[0] = linear;
            state[1..].copy_from_slice(embedding);
        }
    }

    /// Replaces a row's z, and nothing else of it.
    pub fn replace_z(&mut self, row: RowNumber, z: &[f32]) {
        self.mark_changed(row);
        let state: &mut [f32] = bytemuck::cast_slice_mut(&mut self.row_mut(row)[HEAD_WORDS..]);
        state[..z.len()].copy_from_slice(z);
    }

    /// A row's id, last seen and count.
    pub fn head(&self, row: RowNumber) -> RowHead {
        let words = self.row(row);
        RowHead { id: self.id(row), last_seen: words[2], count: words[3] }
    }

    /// Every row as its bytes, in the order of creation. Little-endian machines only, like everything that reads them.
    pub fn rows(&self) -> impl Iterator<Item = &[u8]> {
        self.numbers().map(|row| bytemuck::cast_slice(self.row(row)))
    }

    /// Every row's number.
    pub fn numbers(&self) -> impl Iterator<Item = RowNumber> {
        (0..self.used as RowNumber).filter(|row| !self.is_free(*row))
    }

    /// Whether a row is not in use.
    fn is_free(&self, row: RowNumber) -> bool {
        self.row(row)[3] == 0
    }

    /// Takes a row back in as its bytes.
    ///
    /// # Errors
    /// When its id has a row already.
    ///
    /// # Panics
    /// When the slice has not the length of a row.
    pub fn restore(&mut self, bytes: &[u8]) -> Result<(), RepeatedId> {
        assert_eq!(bytes.len(), self.row_bytes(), "a row has a fixed length");
        let word = |at: usize| u32::from_le_bytes(bytes[4 * at..4 * at + 4].try_into().expect("four bytes"));
        let id = u64::from(word(0)) | u64::from(word(1)) << 32;
        if self.find(id).is_some() {
            return Err(RepeatedId(id));
        }
        let row = self.insert(id);
        let words = self.row_mut(row);
        for (at, value) in words.iter_mut().enumerate() {
            *value = word(at);
        }
        Ok(())
    }

    /// The digest of all rows; afterwards none counts as changed.
    pub fn digest(&mut self) -> u128 {
        for row in self.unhashed.take() {
            // A row that was removed was unmarked.
            self.sum = self.sum.wrapping_add(self.row_hash(row));
        }
        self.sum
    }

    /// Copies the rows that changed since the last call or since [`copy_all`](Self::copy_all), each as its bytes; `None`
    /// when neither was called before. Rows that were removed come last, as their ids and zeros. The digest takes them in on the way: a row is fetched from memory once.
    pub fn copy_unsaved(&mut self) -> Option<Vec<u8>> {
        let mut rows = self.unsaved.as_mut()?.take();
        rows.retain(|row| !self.is_free(*row));
        let row_bytes = self.row_bytes();
        let mut copy = Vec::with_capacity(rows.len() * row_bytes);
        for some in rows.chunks(COPIED_AT_ONCE) {
            let start = copy.len();
            for row in some {
                copy.extend_from_slice(bytemuck::cast_slice(self.row(*row)));
            }
            for (row, bytes) in some.iter().zip(copy[start..].chunks_exact(row_bytes)) {
                if self.unhashed.unmark(*row) {
                    self.sum = self.sum.wrapping_add(xxh3_128(bytes));
                }
            }
        }
        for id in std::mem::take(&mut self.gone) {
            if self.find(id).is_none() {
                copy.extend(id.to_le_bytes());
                copy.resize(copy.len() + row_bytes - 8, 0);
            }
        }
        Some(copy)
    }

    /// Copies every row as its bytes, and begins to note what changes.
    pub fn copy_all(&mut self) -> Vec<u8> {
        self.note_saved();
        let mut bytes = Vec::with_capacity(self.len() * self.row_bytes());
        self.rows().for_each(|row| bytes.extend_from_slice(row));
        bytes
    }

    /// Begins to note what changes: a checkpoint has everything as it is now.
    pub fn note_saved(&mut self) {
        self.unsaved = Some(Touched::default());
        self.gone.clear();
        self.grow_touched();
    }

    /// Number of rows that changed since the last copy.
    pub fn unsaved_len(&self) -> usize {
        self.unsaved.as_ref().map_or(0, Touched::len) + self.gone.len()
    }

    fn grow_touched(&mut self) {
        let rows = self.chunks.len() * CHUNK_ROWS;
        self.unhashed.grow(rows);
        if let Some(unsaved) = &mut self.unsaved {
            unsaved.grow(rows);
        }
    }

    fn row_hash(&self, row: RowNumber) -> u128 {
        xxh3_128(bytemuck::cast_slice(self.row(row)))
    }

    #[inline]
    fn mark_unsaved(&mut self, row: RowNumber) {
        if let Some(unsaved) = &mut self.unsaved {
            unsaved.mark(row);
        }
    }

    #[inline]
    fn mark_changed(&mut self, row: RowNumber) {
        if self.unhashed.mark(row) {
            self.sum = self.sum.wrapping_sub(self.row_hash(row));
        }
        self.mark_unsaved(row);
    }

    #[inline]
    fn id(&self, row: RowNumber) -> FeatureId {
        id_of(&self.chunks[row as usize / CHUNK_ROWS], row, self.row_words())
    }

    #[inline]
    fn row(&self, row: RowNumber) -> &[u32] {
        let at = row as usize % CHUNK_ROWS * self.row_words();
        &self.chunks[row as usize / CHUNK_ROWS][at..at + self.row_words()]
    }

    #[inline]
    fn row_mut(&mut self, row: RowNumber) -> &mut [u32] {
        let words = self.row_words();
        let at = row as usize % CHUNK_ROWS * words;
        &mut self.chunks[row as usize / CHUNK_ROWS][at..at + words]
    }
}

/// The shard of an id, without a key: which rows go, and when, depends on it. Ids are hashes themselves when they come from
/// features, but not in tests and foreign tables.
#[inline]
pub(super) fn shard(id: FeatureId) -> usize {
    (mix64(id) >> 48) as usize % SHARDS
}

#[inline]
fn id_of(chunk: &[u32], row: RowNumber, row_words: usize) -> FeatureId {
    let at = row as usize % CHUNK_ROWS * row_words;
    u64::from(chunk[at]) | u64::from(chunk[at + 1]) << 32
}

#[cfg(test)]
mod tests {
    use super::*;

    fn filled(rows: u64) -> Table {
        let mut table = Table::new(10);
        for id in 0..rows {
            let row = table.insert(mix64(id));
            table.write(row, (id as f32, &[id as f32; 10]), (1.0, &[1.0; 10]), 7);
        }
        table
    }

    #[test]
    fn what_is_copied_out_does_not_show_the_key_of_places() {
        let bytes = |seed| {
            let mut table = Table { key: SlotKey { key: mix64(seed), factor: mix64(!seed) | 1 }, ..Table::new(2) };
            let mut copied = table.copy_all();
            for id in 0..12_000_u64 {
                let row = table.insert(mix64(id));
                table.write(row, (0.5, &[0.25; 2]), (1.0, &[1.0; 2]), (id % 50) as u32);
            }
            copied.extend(table.copy_unsaved().expect("everything was saved before"));
            for shard in 0..SHARDS {
                table.sweep(shard, 3);
            }
            table.evict(1500);
            for id in 20_000..21_000_u64 {
                table.insert(mix64(id));
            }
            copied.extend(table.copy_unsaved().expect("everything was saved before"));
            copied.extend(table.copy_all());
            (table.digest(), copied)
        };
        let (one, other) = (bytes(1), bytes(2));
        assert_eq!(one.0, other.0);
        assert!(one.1 == other.1, "copies differ");
    }

    #[test]
    fn the_rows_seen_the_longest_ago_make_room_at_equal_times_the_lowest_ids() {
        let mut table = Table::new(1);
        for id in 1..=10_u64 {
            let row = table.insert(id);
            table.write(row, (0.0, &[0.0]), (0.0, &[0.0]), if id <= 4 { 20 } else { 10 });
        }
        assert_eq!(table.evict(3), 3);
        let left: Vec<u64> = (1..=10).filter(|id| table.find(*id).is_some()).collect();
        assert_eq!(left, [1, 2, 3, 4, 8, 9, 10]);
        assert_eq!((table.evict(100), table.len()), (7, 0));
    }

    #[test]
    fn a_large_table_makes_room_a_shard_at_a_time_and_keeps_nearly_all_of_the_newest() {
        let mut table = Table::new(1);
        for id in 0..100_000_u64 {
            let row = table.insert(mix64(id));
            table.write(row, (0.0, &[0.0]), (0.0, &[0.0]), id as u32);
        }
        let mut evicted = 0;
        while evicted < 10_000 {
            let now = table.evict(100);
            assert!((100..200).contains(&now), "{now} at once");
            evicted += now;
        }
        assert_eq!(table.len(), 100_000 - evicted);
        let newest_gone = (14_000..100_000_u64).filter(|id| table.find(mix64(*id)).is_none()).count();
        assert!(newest_gone < 1_000, "{newest_gone} went that were younger than 14 in 100");
        assert_eq!(table.digest(), recomputed(&table));
    }

    fn recomputed(table: &Table) -> u128 {
        table.rows().fold(0, |sum, row| sum.wrapping_add(xxh3_128(row)))
    }

    #[test]
    fn a_row_is_104_bytes_at_dimension_10_and_at_most_130_with_its_share_of_the_index() {
        for rows in [300_000, 470_000, 1_000_000] {
            let table = filled(rows);
            assert_eq!(table.row_bytes(), 104);
            let each = table.bytes() as f64 / rows as f64;
            assert!(each <= 130.0, "{each} bytes a row at {rows} rows");
        }
    }

    #[test]
    fn every_id_finds_its_own_row_and_no_other() {
        let table = filled(10_000);
        for id in 0..10_000 {
            let row = table.find(mix64(id)).expect("it was inserted");
            assert_eq!(table.state(row)[0], id as f32);
            assert_eq!(table.head(row), RowHead { id: mix64(id), last_seen: 7, count: 1 });
        }
        assert_eq!(table.find(mix64(10_000)), None);
    }

    #[test]
    fn the_digest_kept_from_changes_is_the_digest_of_all_rows() {
        let mut table = filled(5000);
        assert_eq!(table.digest(), recomputed(&table));
        for id in [3, 4999, 3] {
            let row = table.find(mix64(id)).expect("it was inserted");
            table.write(row, (-1.0, &[-1.0; 10]), (2.0, &[2.0; 10]), 9);
        }
        assert_eq!(table.unhashed.len(), 2, "a digest costs what changed");
        assert_eq!(table.digest(), recomputed(&table));
    }

    #[test]
    fn the_digest_does_not_depend_on_the_order_of_creation_and_rows_survive_as_bytes() {
        let mut table = filled(2000);
        let mut reversed = Table::new(10);
        let rows: Vec<Vec<u8>> = table.rows().map(<[u8]>::to_vec).collect();
        rows.iter().rev().for_each(|row| reversed.restore(row).expect("each id has one row"));
        assert_eq!(reversed.digest(), table.digest());
    }

    #[test]
    fn a_copy_has_what_changed_since_the_last_one_whatever_digests_were_taken_between() {
        let mut table = filled(100);
        assert_eq!(table.copy_unsaved(), None, "nothing was saved before");
        assert_eq!(table.copy_all().len(), 100 * table.row_bytes());
        let row = table.find(mix64(7)).expect("it was inserted");
        table.write(row, (5.0, &[5.0; 10]), (2.0, &[2.0; 10]), 9);
        table.digest();
        let new = table.insert(12_345);
        table.write(new, (1.0, &[1.0; 10]), (1.0, &[1.0; 10]), 9);
        table.digest();
        let copied = table.copy_unsaved().expect("everything was saved before");
        let expected: Vec<u8> =
            [row, new].iter().flat_map(|row| bytemuck::cast_slice(table.row(*row)).to_vec()).collect();
        assert_eq!(copied, expected);
        assert_eq!(table.copy_unsaved(), Some(Vec::new()));
    }

    #[test]
    fn rows_that_were_not_seen_for_long_are_removed_and_their_places_used_again() {
        let mut table = filled(1000);
        table.copy_all();
        let kept = table.find(mix64(3)).expect("it was inserted");
        table.write(kept, (1.0, &[1.0; 10]), (1.0, &[1.0; 10]), 50);
        let removed: usize = (0..SHARDS).map(|shard| table.sweep(shard, 8)).sum();
        assert_eq!((removed, table.len()), (999, 1));
        assert_eq!(table.find(mix64(4)), None);
        assert_eq!(table.digest(), recomputed(&table));
        let back = table.insert(mix64(4));
        table.write(back, (2.0, &[2.0; 10]), (2.0, &[2.0; 10]), 60);
        assert_eq!((table.used, table.len()), (1000, 2), "a place is used again");
        assert_eq!(table.digest(), recomputed(&table));
        let copied = table.copy_unsaved().expect("everything was saved before");
        assert_eq!(copied.len(), 1000 * table.row_bytes(), "two rows and 998 tombstones");
        let tombstones = copied.chunks_exact(table.row_bytes()).filter(|row| row[12..16] == [0; 4]).count();
        assert_eq!(tombstones, 998);
    }

    #[test]
    fn small_consecutive_ids_spread_over_the_shards() {
        let mut table = Table::new(1);
        for id in 0..25_600 {
            table.insert(id);
        }
        let largest = table.shards.iter().map(HashTable::len).max().expect("there are shards");
        assert!(largest < 200, "a shard holds {largest} of 25,600 ids where 100 are due");
    }
}

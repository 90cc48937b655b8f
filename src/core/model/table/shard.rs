//! One shard of the table: everything of the rows whose ids fall to it.

use xxhash_rust::xxh3::xxh3_128;

use super::super::ageing::Age;
use super::super::slot::SlotKey;
use super::index::{Found, Index};
use super::touched::{Subscriber, Touched};
use super::{HEAD_WORDS, RowHead};
use crate::feature::FeatureId;
use crate::kernel;

/// Rows that a shard has room for at first.
const ROWS_MIN: usize = 32;

/// A shard grows by its part in so many: a row costs no more than that beside its own bytes.
const GROWTH: usize = 16;

/// Words of 4 bytes in a cache line.
const WORDS_OF_A_LINE: usize = 16;

/// So many rows ahead is asked for what is read one after the other.
const AHEAD: usize = 16;

/// Rows that are copied before they are hashed: scattered rows are fetched from memory several at a time.
const COPIED_AT_ONCE: usize = 64;

/// Rows, where they are by id, and what changed of them. A row's place is its number within the shard.
///
/// What finding a row needs of it is a cache line.
#[derive(Debug)]
#[repr(align(64))]
pub(super) struct Shard {
    index: Index,
    /// The rows, one after the other: those in use, the free ones and the room for more. The words of a free row are 0, and with
    /// them its count, as in no row in use.
    words: Box<[u32]>,
    row_words: usize,
    notes: Box<Notes>,
}

/// What is noted of the rows: needed when one is made, changed or removed, not when it is found.
#[derive(Debug)]
struct Notes {
    /// Rows that were ever used.
    used: u32,
    free: Vec<u32>,
    /// Ids that were removed since the last copy.
    gone: Vec<FeatureId>,
    /// Whether there was a copy: nothing is noted for a checkpoint before the first.
    is_saved: bool,
    touched: Touched,
    /// Before this time no row was last seen: see [`Ageing::none_before`](super::Ageing::none_before).
    none_before: u32,
    /// The sum of the rows' hashes. Invariant: it covers exactly the rows that the digest has not to take.
    sum: u128,
}

impl Notes {
    #[inline]
    fn mark_unsaved(&mut self, row: u32) {
        if self.is_saved {
            self.touched.mark(Subscriber::Checkpoint, row);
        }
    }
}

impl Shard {
    /// An empty shard of rows of so many words.
    pub(super) fn new(row_words: usize) -> Self {
        let notes = Notes {
            used: 0,
            free: Vec::new(),
            gone: Vec::new(),
            is_saved: false,
            touched: Touched::default(),
            none_before: 0,
            sum: 0,
        };
        Self { index: Index::default(), words: Box::default(), row_words, notes: Box::new(notes) }
    }

    /// Number of rows.
    pub(super) fn len(&self) -> usize {
        self.index.len()
    }

    /// Bytes held, index and unused room included.
    pub(super) fn bytes(&self) -> usize {
        let Notes { free, gone, touched, .. } = &*self.notes;
        4 * (self.words.len() + free.capacity()) + 8 * gone.capacity() + self.index.bytes() + touched.bytes()
    }

    #[inline]
    pub(super) fn find(&self, id: FeatureId, key: SlotKey) -> Option<u32> {
        self.index.find(key.hash(id), |row| self.id(row) == id).map(|found| found.row)
    }

    /// The first step of a look-up: asks for its place in the index.
    #[inline]
    pub(super) fn prefetch(&self, hash: u64) {
        self.index.prefetch(hash);
    }

    /// The second: finds what is most likely the row, and asks for it.
    #[inline]
    pub(super) fn candidate(&self, hash: u64) -> Option<Found> {
        let found = self.index.candidate(hash, None)?;
        self.ask_for(found.row);
        Some(found)
    }

    /// Asks for a row.
    #[inline]
    pub(super) fn ask_for(&self, row: u32) {
        let row = self.row(row);
        for word in row.iter().step_by(WORDS_OF_A_LINE) {
            kernel::prefetch(word);
        }
        kernel::prefetch(&row[row.len() - 1]);
    }

    /// The third: the row, once it is known which it is.
    #[inline]
    pub(super) fn settle(&self, id: FeatureId, hash: u64, candidate: Option<Found>) -> Option<u32> {
        self.index.settle(hash, candidate, |row| self.id(row) == id).map(|found| found.row)
    }

    /// Makes a row of zeros for an id that has none.
    pub(super) fn insert(&mut self, id: FeatureId, key: SlotKey) -> u32 {
        debug_assert!(self.find(id, key).is_none(), "an id has one row");
        let row = self.notes.free.pop().unwrap_or_else(|| self.use_next());
        let words = self.row_mut(row);
        words[0] = id as u32;
        words[1] = (id >> 32) as u32;
        self.notes.touched.mark(Subscriber::Digest, row);
        self.notes.mark_unsaved(row);
        if !self.index.has_room() {
            let rows: Vec<u32> = self.index.rows().collect();
            self.index.grow();
            for (at, row) in rows.iter().enumerate() {
                if let Some(ahead) = rows.get(at + AHEAD) {
                    kernel::prefetch(&self.row(*ahead)[0]);
                }
                self.index.insert(key.hash(self.id(*row)), *row);
            }
        }
        self.index.insert(key.hash(id), row);
        row
    }

    fn use_next(&mut self) -> u32 {
        let row = self.notes.used;
        let room = self.words.len() / self.row_words;
        if row as usize == room {
            let rows = room + (room / GROWTH).max(ROWS_MIN);
            let mut words = Vec::from(std::mem::take(&mut self.words));
            words.reserve_exact(rows * self.row_words - words.len());
            // Touched all at once, the pages of the room lie side by side in memory: the processor finds them faster.
            words.resize(rows * self.row_words, 0);
            self.words = words.into_boxed_slice();
            self.notes.touched.grow(rows);
        }
        self.notes.used = row.checked_add(1).expect("the rows of a shard are bounded by those of the table");
        row
    }

    pub(super) fn remove(&mut self, id: FeatureId, key: SlotKey) {
        let Some(found) = self.index.find(key.hash(id), |row| self.id(row) == id) else { return };
        let row = found.row;
        let Self { index, words, row_words, .. } = self;
        index.remove(found, |row| key.hash(id_of(words, row, *row_words)));
        if !self.notes.touched.unmark(Subscriber::Digest, row) {
            self.notes.sum = self.notes.sum.wrapping_sub(self.row_hash(row));
        }
        self.row_mut(row).fill(0);
        let notes = &mut *self.notes;
        if notes.is_saved {
            notes.gone.push(id);
        }
        notes.free.push(row);
    }

    pub(super) fn ages(&self) -> impl Iterator<Item = Age> {
        self.numbers().map(|row| Age { last_seen: self.row(row)[2], id: self.id(row) })
    }

    pub(super) fn none_before(&mut self) -> &mut u32 {
        &mut self.notes.none_before
    }

    /// The optimizer state of a row.
    #[inline]
    pub(super) fn state(&self, row: u32) -> &[f32] {
        bytemuck::cast_slice(&self.row(row)[HEAD_WORDS..])
    }

    /// The words of a row that is about to be changed.
    #[inline]
    pub(super) fn change(&mut self, row: u32) -> &mut [u32] {
        if self.notes.touched.mark(Subscriber::Digest, row) {
            self.notes.sum = self.notes.sum.wrapping_sub(self.row_hash(row));
        }
        self.notes.mark_unsaved(row);
        self.row_mut(row)
    }

    /// Writes a row's state back: see [`Table::write`](super::Table::write).
    #[inline]
    pub(super) fn write(&mut self, row: u32, z: (f32, &[f32]), n: (f32, &[f32]), seconds: u32) {
        self.notes.none_before = self.notes.none_before.min(seconds);
        let words = self.change(row);
        words[2] = words[2].max(seconds);
        words[3] = words[3].saturating_add(1);
        let state: &mut [f32] = bytemuck::cast_slice_mut(&mut words[HEAD_WORDS..]);
        let coordinates = state.len() / 2;
        for (state, (linear, embedding)) in state.chunks_exact_mut(coordinates).zip([z, n]) {
            state[0] = linear;
            kernel::rows::copy(embedding.len(), embedding, &mut state[1..]);
        }
    }

    pub(super) fn head(&self, row: u32) -> RowHead {
        let words = self.row(row);
        RowHead { id: self.id(row), last_seen: words[2], count: words[3] }
    }

    /// The numbers of the rows in use, in the order of their places.
    pub(super) fn numbers(&self) -> impl Iterator<Item = u32> {
        (0..self.notes.used).filter(|row| !self.is_free(*row))
    }

    /// Whether a row is not in use.
    fn is_free(&self, row: u32) -> bool {
        self.row(row)[3] == 0
    }

    /// The sum of the hashes of all rows; afterwards none counts as changed.
    pub(super) fn digest(&mut self) -> u128 {
        for row in self.notes.touched.take(Subscriber::Digest) {
            // A row that was removed was unmarked.
            self.notes.sum = self.notes.sum.wrapping_add(self.row_hash(row));
        }
        self.notes.sum
    }

    /// Whether there was a copy to note changes since.
    pub(super) fn is_saved(&self) -> bool {
        self.notes.is_saved
    }

    /// Begins to note what changes: a checkpoint has everything as it is now.
    pub(super) fn note_saved(&mut self) {
        self.notes.is_saved = true;
        self.notes.gone.clear();
        self.notes.touched.take(Subscriber::Checkpoint);
    }

    /// Rows that changed since the last copy.
    pub(super) fn unsaved_len(&self) -> usize {
        self.touched_len(Subscriber::Checkpoint) + self.notes.gone.len()
    }

    /// Marks a row for a subscriber; says whether it was not marked.
    #[inline]
    pub(super) fn mark(&mut self, subscriber: Subscriber, row: u32) -> bool {
        self.notes.touched.mark(subscriber, row)
    }

    /// Takes a mark away; says whether there was one.
    pub(super) fn unmark(&mut self, subscriber: Subscriber, row: u32) -> bool {
        self.notes.touched.unmark(subscriber, row)
    }

    /// The rows that are marked for a subscriber; afterwards none is.
    pub(super) fn take_touched(&mut self, subscriber: Subscriber) -> Vec<u32> {
        self.notes.touched.take(subscriber)
    }

    /// How many rows a subscriber has not taken.
    pub(super) fn touched_len(&self, subscriber: Subscriber) -> usize {
        self.notes.touched.len(subscriber)
    }

    /// Rows that there are, the free ones included.
    #[cfg(test)]
    pub(super) fn places(&self) -> u32 {
        self.notes.used
    }

    /// Copies the rows that changed since the last copy, each as its bytes; those that were removed come last, as their ids and
    /// zeros. The digest takes them in on the way: a row is fetched from memory once.
    pub(super) fn copy_unsaved(&mut self, copy: &mut Vec<u8>, key: SlotKey) {
        let mut rows = self.notes.touched.take(Subscriber::Checkpoint);
        rows.retain(|row| !self.is_free(*row));
        let row_bytes = 4 * self.row_words;
        for some in rows.chunks(COPIED_AT_ONCE) {
            let start = copy.len();
            for row in some {
                copy.extend_from_slice(self.row_bytes(*row));
            }
            for (row, bytes) in some.iter().zip(copy[start..].chunks_exact(row_bytes)) {
                if self.notes.touched.unmark(Subscriber::Digest, *row) {
                    self.notes.sum = self.notes.sum.wrapping_add(xxh3_128(bytes));
                }
            }
        }
        for id in std::mem::take(&mut self.notes.gone) {
            if self.find(id, key).is_none() {
                copy.extend(id.to_le_bytes());
                copy.resize(copy.len() + row_bytes - 8, 0);
            }
        }
    }

    #[inline]
    fn id(&self, row: u32) -> FeatureId {
        id_of(&self.words, row, self.row_words)
    }

    fn row_hash(&self, row: u32) -> u128 {
        xxh3_128(self.row_bytes(row))
    }

    /// A row as its bytes. Little-endian machines only, like everything that reads them.
    pub(super) fn row_bytes(&self, row: u32) -> &[u8] {
        bytemuck::cast_slice(self.row(row))
    }

    #[inline]
    fn row(&self, row: u32) -> &[u32] {
        &self.words[row as usize * self.row_words..][..self.row_words]
    }

    #[inline]
    pub(super) fn row_mut(&mut self, row: u32) -> &mut [u32] {
        &mut self.words[row as usize * self.row_words..][..self.row_words]
    }
}

#[inline]
fn id_of(words: &[u32], row: u32, row_words: usize) -> FeatureId {
    let id = &words[row as usize * row_words..][..2];
    u64::from(id[0]) | u64::from(id[1]) << 32
}

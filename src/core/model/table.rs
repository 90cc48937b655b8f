//! The embedding table: a collision-free map from feature ids to rows of optimizer state.
//!
//! A row is `id, last seen, count, z[1 + dim], n[1 + dim]` in 32-bit words, the linear coordinate first: 104 bytes at
//! dimension 10. Weights are derived, never stored. Rows lie in shards, by a hash of their ids; each shard has its own arena,
//! index and lists, and grows alone, so that no growth is a pause.
//!
//! The digest is the sum modulo 2^128 of the XXH3-128 of every row's bytes. It is kept from what changed: a row's old
//! hash leaves the sum when the row is first touched after a digest, its new one enters when the next digest is taken.

mod index;
mod shard;
mod since;
mod touched;

use super::RowError;
use super::ageing::{Age, Ageing, SHARDS, shard};
use super::executor::{Executor, held};
use super::slot::SlotKey;
use crate::feature::FeatureId;
use index::Found;
use shard::Shard;
use since::Since;

pub use since::{Changes, Untaken};

/// Words of a row before its state: id (2), last seen, count.
const HEAD_WORDS: usize = 4;

/// Look-ups of which a step is taken before the next: as many rows as the first cache holds a few times over.
const LOOKED_UP_AT_ONCE: usize = 32;

/// So many rows ahead is asked for what is written one after the other.
const WRITTEN_AHEAD: usize = 4;

/// Where a row is, until it is removed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct RowNumber {
    /// Its shard.
    shard: u32,
    /// Its number there.
    at: u32,
}

/// A row's new state, each the linear coordinate and the embedding's, and the weights of its old one.
#[derive(Clone, Copy, Debug)]
pub(super) struct Written<'w> {
    pub(super) z: (f32, &'w [f32]),
    pub(super) n: (f32, &'w [f32]),
    pub(super) w: (f32, &'w [f32]),
}

/// A look-up between its steps.
#[derive(Clone, Copy, Debug)]
pub struct LookUp {
    shard: u32,
    hash: u64,
    candidate: Option<Found>,
}

/// Feature ids and their rows.
#[derive(Debug)]
pub struct Table {
    coordinates: usize,
    shards: Box<[Shard; SHARDS]>,
    key: SlotKey,
    /// Rows of all shards.
    len: usize,
    /// What changed since a version was cut, if that is noted.
    since: Option<Box<Since>>,
    /// For each part that is written at once its slots and their rows, kept for their room.
    lists: Vec<Vec<(u32, RowNumber)>>,
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

/// Lists the slots below `count` for which a row is given. Which they are is nothing that a processor foresees, so that nothing branches on it.
fn select(
    count: usize,
    list: &mut Vec<(u32, RowNumber)>,
    row_of: impl Fn(usize) -> Option<RowNumber>,
) -> &[(u32, RowNumber)] {
    const NONE: RowNumber = RowNumber { shard: u32::MAX, at: 0 };
    list.resize(count + 1, (0, NONE));
    let mut selected = 0;
    for slot in 0..count {
        let row = row_of(slot);
        list[selected] = (slot as u32, row.unwrap_or(NONE));
        selected += usize::from(row.is_some());
    }
    &list[..selected]
}

impl Ageing for Table {
    fn size(&self, shard: usize) -> usize {
        self.shards[shard].len()
    }

    fn ages(&self, shard: usize) -> impl Iterator<Item = Age> {
        self.shards[shard].ages()
    }

    fn none_before(&mut self, shard: usize) -> &mut u32 {
        self.shards[shard].none_before()
    }

    fn remove_aged(&mut self, id: FeatureId) {
        self.weights_go(id);
        self.shards[shard(id)].remove(id, self.key);
        self.len -= 1;
    }
}

impl Table {
    /// An empty table of embeddings of this dimension.
    pub fn new(embedding_dim: usize) -> Self {
        let coordinates = 1 + embedding_dim;
        let shards = Box::new(std::array::from_fn(|_| Shard::new(HEAD_WORDS + 2 * coordinates)));
        Self { coordinates, shards, key: SlotKey::default(), len: 0, since: None, lists: Vec::new() }
    }

    /// Number of rows.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether there are no rows.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Bytes of a row.
    pub fn row_bytes(&self) -> usize {
        4 * (HEAD_WORDS + 2 * self.coordinates)
    }

    /// Bytes held for the rows, index and unused room included.
    pub fn bytes(&self) -> usize {
        self.shards.iter().map(Shard::bytes).sum::<usize>() + self.since.as_ref().map_or(0, |since| since.bytes())
    }

    /// The row of an id.
    #[inline]
    pub fn find(&self, id: FeatureId) -> Option<RowNumber> {
        let shard = shard(id);
        self.shards[shard].find(id, self.key).map(|at| RowNumber { shard: shard as u32, at })
    }

    /// Tells the rows of many ids, in their order, each with its place among them. Each step of a look-up is taken for some of them
    /// before the next, and for those that follow in between, so that they wait for memory together, and what comes is used
    /// before it is pushed out of the first cache.
    pub fn find_all(
        &self,
        ids: &[FeatureId],
        steps: &mut Vec<LookUp>,
        mut found: impl FnMut(usize, Option<RowNumber>),
    ) {
        let place = |at: usize, behind: usize| at.saturating_sub(behind).min(ids.len());
        let some = |at: usize, behind: usize| place(at, behind)..place(at + LOOKED_UP_AT_ONCE, behind);
        steps.clear();
        for at in (0..ids.len() + 2 * LOOKED_UP_AT_ONCE).step_by(LOOKED_UP_AT_ONCE) {
            steps.extend(ids[some(at, 0)].iter().map(|id| {
                let (shard, hash) = (shard(*id) as u32, self.key.hash(*id));
                self.shards[shard as usize].prefetch(hash);
                LookUp { shard, hash, candidate: None }
            }));
            for step in &mut steps[some(at, LOOKED_UP_AT_ONCE)] {
                step.candidate = self.shards[step.shard as usize].candidate(step.hash);
            }
            let last = some(at, 2 * LOOKED_UP_AT_ONCE);
            for ((at, id), LookUp { shard, hash, candidate }) in last.clone().zip(&ids[last.clone()]).zip(&steps[last])
            {
                let row = self.shards[*shard as usize].settle(*id, *hash, *candidate);
                found(at, row.map(|at| RowNumber { shard: *shard, at }));
            }
        }
    }

    /// Whether the shard of an id can have so many rows more. Nobody meets that bound who does not make up ids for it.
    pub fn has_room(&self, id: FeatureId, more: usize) -> bool {
        self.shards[shard(id)].len() + more < index::ROWS_MAX as usize
    }

    /// Makes a row of zeros for an id that has none.
    pub fn insert(&mut self, id: FeatureId) -> RowNumber {
        let shard = shard(id);
        self.len += 1;
        let row = RowNumber { shard: shard as u32, at: self.shards[shard].insert(id, self.key) };
        self.weights_come(row);
        row
    }

    /// The optimizer state of a row: `z[1 + dim]` then `n[1 + dim]`, linear coordinate first.
    #[inline]
    pub fn state(&self, row: RowNumber) -> &[f32] {
        self.shards[row.shard as usize].state(row.at)
    }

    /// Writes a row's state back, each the linear coordinate and the embedding's; counts the batch and notes when it was seen.
    pub fn write(&mut self, row: RowNumber, z: (f32, &[f32]), n: (f32, &[f32]), seconds: u32) {
        self.shards[row.shard as usize].write(row.at, z, n, seconds);
    }

    /// Writes the states of `count` slots back, of those that have a row, and notes that their weights change. So many parts of the
    /// shards are written at once.
    pub(super) fn write_all<'w, E: Executor>(
        &mut self,
        count: usize,
        row_of: impl Fn(usize) -> Option<RowNumber> + Sync,
        written: impl Fn(usize) -> Written<'w> + Sync,
        seconds: u32,
        (executor, parts): (&E, usize),
    ) {
        let some = SHARDS.div_ceil(parts);
        let mut leaving = self.since.as_mut().map(|since| since.leaving(parts).iter_mut());
        self.lists.resize_with(self.lists.len().max(parts), Vec::new);
        let numbered = self.shards.chunks_mut(some).zip(&mut self.lists).zip((0..).step_by(some));
        let numbered =
            numbered.map(|((shards, list), first)| (shards, list, first, leaving.as_mut().and_then(Iterator::next)));
        let (mut cut, parts) = held(numbered);
        executor.for_each(&mut cut[..parts], |part| {
            let Some((shards, list, first, leaving)) = part else { return };
            let number_of = |row: RowNumber| (row.shard as usize).wrapping_sub(*first);
            let is_ours = |row: &RowNumber| number_of(*row) < shards.len();
            let ours = select(count, list, |slot| row_of(slot).filter(is_ours));
            for (at, (slot, row)) in ours.iter().enumerate() {
                if let Some((_, ahead)) = ours.get(at + WRITTEN_AHEAD) {
                    shards[number_of(*ahead)].ask_for(ahead.at);
                }
                let Written { z, n, w } = written(*slot as usize);
                let shard = &mut shards[number_of(*row)];
                if let Some(leaving) = leaving {
                    leaving.note(shard, row.at, w.0, w.1);
                }
                shard.write(row.at, z, n, seconds);
            }
        });
    }

    /// Replaces a row's z, and nothing else of it.
    pub fn replace_z(&mut self, row: RowNumber, z: &[f32]) {
        let words = self.shards[row.shard as usize].change(row.at);
        let state: &mut [f32] = bytemuck::cast_slice_mut(&mut words[HEAD_WORDS..]);
        state[..z.len()].copy_from_slice(z);
    }

    /// A row's id, last seen and count.
    pub fn head(&self, row: RowNumber) -> RowHead {
        self.shards[row.shard as usize].head(row.at)
    }

    /// Every row as its bytes, shard by shard.
    pub fn rows(&self) -> impl Iterator<Item = &[u8]> {
        self.shards.iter().flat_map(|shard| shard.numbers().map(|at| shard.row_bytes(at)))
    }

    /// Every row's number.
    pub fn numbers(&self) -> impl Iterator<Item = RowNumber> {
        let numbered = self.shards.iter().zip(0..);
        numbered.flat_map(|(shard, number)| shard.numbers().map(move |at| RowNumber { shard: number, at }))
    }

    /// Takes a row back in as its bytes.
    ///
    /// # Errors
    /// When its id has a row already, its shard no room, or a number of it is not finite.
    ///
    /// # Panics
    /// When the slice has not the length of a row.
    pub fn restore(&mut self, bytes: &[u8]) -> Result<(), RowError> {
        assert_eq!(bytes.len(), self.row_bytes(), "a row has a fixed length");
        let (words, _) = bytes.as_chunks::<4>();
        let word = |at: usize| u32::from_le_bytes(words[at]);
        let id = u64::from(word(0)) | u64::from(word(1)) << 32;
        if self.find(id).is_some() {
            return Err(RowError::RepeatedId(id));
        }
        if !self.has_room(id, 1) {
            return Err(RowError::Crowded(id));
        }
        if !words[HEAD_WORDS..].iter().all(|bytes| f32::from_le_bytes(*bytes).is_finite()) {
            return Err(RowError::NotFinite(id));
        }
        let RowNumber { shard, at } = self.insert(id);
        let row = self.shards[shard as usize].row_mut(at);
        row.iter_mut().zip(words).for_each(|(word, bytes)| *word = u32::from_le_bytes(*bytes));
        *self.shards[shard as usize].none_before() = 0;
        Ok(())
    }

    /// The digest of all rows; afterwards none counts as changed.
    pub fn digest(&mut self) -> u128 {
        self.shards.iter_mut().fold(0, |sum, shard| sum.wrapping_add(shard.digest()))
    }

    /// Copies the rows that changed since the last call or since [`copy_all`](Self::copy_all), each as its bytes, those that
    /// were removed as their ids and zeros; `None` when neither was called before.
    pub fn copy_unsaved(&mut self) -> Option<Vec<u8>> {
        let mut copy = Vec::with_capacity(self.unsaved_len() * self.row_bytes());
        for shard in self.shards.iter_mut() {
            if !shard.is_saved() {
                return None;
            }
            shard.copy_unsaved(&mut copy, self.key);
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
        self.shards.iter_mut().for_each(Shard::note_saved);
    }

    /// Number of rows that changed since the last copy.
    pub fn unsaved_len(&self) -> usize {
        self.shards.iter().map(Shard::unsaved_len).sum()
    }
}

#[cfg(test)]
mod tests;

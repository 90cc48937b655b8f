//! Ids that are counted and not admitted yet: they have no row, and weigh nothing.
//!
//! Counted exactly, 16 bytes each: `id, last seen, count`, like the head of a row. The digest is the sum modulo 2^128 of
//! the XXH3-128 of each.

use hashbrown::HashTable;
use xxhash_rust::xxh3::xxh3_128;

use super::RowError;
use super::ageing::{Age, Ageing, SHARDS, shard};
use super::slot::SlotKey;
use crate::feature::FeatureId;

/// Bytes of a candidate.
pub const CANDIDATE_BYTES: usize = 16;

/// An id that may be admitted later.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Candidate {
    /// The feature id.
    pub id: FeatureId,
    /// Event time at which it was last counted, in seconds since 1970.
    pub last_seen: u32,
    /// Batches in which it was counted.
    pub count: u32,
}

/// The candidates.
#[derive(Debug)]
pub struct Candidates {
    shards: Vec<HashTable<Candidate>>,
    /// Of each shard: see [`Ageing::none_before`].
    none_before: [u32; SHARDS],
    key: SlotKey,
    len: usize,
    sum: u128,
    /// What changed since the last copy; nothing is noted before the first one.
    changes: Option<Vec<u8>>,
}

impl Candidate {
    fn bytes(self) -> [u8; CANDIDATE_BYTES] {
        let mut bytes = [0; CANDIDATE_BYTES];
        bytes[..8].copy_from_slice(&self.id.to_le_bytes());
        bytes[8..12].copy_from_slice(&self.last_seen.to_le_bytes());
        bytes[12..].copy_from_slice(&self.count.to_le_bytes());
        bytes
    }

    fn read(bytes: [u8; CANDIDATE_BYTES]) -> Self {
        let word = |at: usize| u32::from_le_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]]);
        Self { id: u64::from(word(0)) | u64::from(word(4)) << 32, last_seen: word(8), count: word(12) }
    }

    fn hash(self) -> u128 {
        xxh3_128(&self.bytes())
    }
}

impl Default for Candidates {
    fn default() -> Self {
        Self {
            shards: vec![HashTable::new(); SHARDS],
            none_before: [0; SHARDS],
            key: SlotKey::default(),
            len: 0,
            sum: 0,
            changes: None,
        }
    }
}

impl Ageing for Candidates {
    fn size(&self, shard: usize) -> usize {
        self.shards[shard].len()
    }

    fn ages(&self, shard: usize) -> impl Iterator<Item = Age> {
        self.shards[shard].iter().map(|found| Age { last_seen: found.last_seen, id: found.id })
    }

    fn none_before(&mut self, shard: usize) -> &mut u32 {
        &mut self.none_before[shard]
    }

    fn remove_aged(&mut self, id: FeatureId) {
        self.remove(id);
    }
}

impl Candidates {
    /// How many there are.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// How often an id was counted.
    pub fn count(&self, id: FeatureId) -> u32 {
        let found = self.shards[shard(id)].find(self.key.hash(id), |candidate| candidate.id == id);
        found.map_or(0, |candidate| candidate.count)
    }

    /// Counts an id once more.
    pub fn count_once(&mut self, id: FeatureId, seconds: u32) {
        let before = self.remove_silently(id);
        let (last_seen, count) =
            before.map_or((seconds, 1), |old| (old.last_seen.max(seconds), old.count.saturating_add(1)));
        let candidate = Candidate { id, last_seen, count };
        self.insert(candidate);
        self.note(candidate);
    }

    /// Forgets an id: it was admitted.
    pub fn remove(&mut self, id: FeatureId) {
        if self.remove_silently(id).is_some() {
            self.note(Candidate { id, last_seen: 0, count: 0 });
        }
    }

    /// The digest of all candidates.
    pub fn digest(&self) -> u128 {
        self.sum
    }

    /// What changed since the last call or since [`copy_all`](Self::copy_all), in the order in which it did; one that was
    /// forgotten has count 0. `None` when neither was called before.
    pub fn copy_unsaved(&mut self) -> Option<Vec<u8>> {
        self.changes.as_mut().map(std::mem::take)
    }

    /// All candidates; begins to note what changes.
    pub fn copy_all(&mut self) -> Vec<u8> {
        self.note_saved();
        let mut bytes = Vec::with_capacity(self.len * CANDIDATE_BYTES);
        for shard in &self.shards {
            let mut sorted: Vec<Candidate> = shard.iter().copied().collect();
            sorted.sort_unstable_by_key(|candidate| candidate.id);
            for candidate in sorted {
                bytes.extend(candidate.bytes());
            }
        }
        bytes
    }

    /// Begins to note what changes: a checkpoint has everything as it is now.
    pub fn note_saved(&mut self) {
        self.changes = Some(Vec::new());
    }

    /// Bytes noted since the last copy.
    pub fn unsaved_bytes(&self) -> usize {
        self.changes.as_ref().map_or(0, Vec::len)
    }

    /// Takes a candidate back in as its bytes.
    ///
    /// # Errors
    /// When its id is there already.
    ///
    /// # Panics
    /// When the slice has not the length of a candidate.
    pub fn restore(&mut self, bytes: &[u8]) -> Result<(), RowError> {
        let candidate = Candidate::read(bytes.try_into().expect("a candidate has a fixed length"));
        if self.count(candidate.id) > 0 {
            return Err(RowError::RepeatedId(candidate.id));
        }
        self.insert(candidate);
        Ok(())
    }

    fn insert(&mut self, candidate: Candidate) {
        self.sum = self.sum.wrapping_add(candidate.hash());
        self.len += 1;
        let (key, shard) = (self.key, shard(candidate.id));
        self.none_before[shard] = self.none_before[shard].min(candidate.last_seen);
        self.shards[shard].insert_unique(key.hash(candidate.id), candidate, |other| key.hash(other.id));
    }

    fn remove_silently(&mut self, id: FeatureId) -> Option<Candidate> {
        let hash = self.key.hash(id);
        let (candidate, _) = self.shards[shard(id)].find_entry(hash, |candidate| candidate.id == id).ok()?.remove();
        self.sum = self.sum.wrapping_sub(candidate.hash());
        self.len -= 1;
        Some(candidate)
    }

    fn note(&mut self, candidate: Candidate) {
        if let Some(changes) = &mut self.changes {
            changes.extend(candidate.bytes());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::feature::hash::mix64;

    #[test]
    fn what_is_copied_out_does_not_show_the_key_of_places() {
        let bytes = |seed| {
            let mut candidates =
                Candidates { key: SlotKey { key: mix64(seed), factor: mix64(!seed) | 1 }, ..Candidates::default() };
            let mut copied = candidates.copy_all();
            for id in 0..12_000 {
                candidates.count_once(mix64(id), (id % 50) as u32);
            }
            (0..SHARDS).for_each(|shard| {
                candidates.sweep(shard, 3);
            });
            candidates.evict(1500);
            copied.extend(candidates.copy_unsaved().expect("everything was saved before"));
            copied.extend(candidates.copy_all());
            (candidates.digest(), copied)
        };
        let (one, other) = (bytes(1), bytes(2));
        assert_eq!(one.0, other.0);
        assert!(one.1 == other.1, "copies differ");
    }

    #[test]
    fn a_count_does_not_begin_again_at_its_end() {
        let mut candidates = Candidates::default();
        let most = Candidate { id: 7, last_seen: 3, count: u32::MAX };
        candidates.restore(&most.bytes()).expect("there is none of its id");
        candidates.count_once(7, 4);
        assert_eq!(candidates.count(7), u32::MAX);
    }
}

//! What has changed of the rows' weights since a version was cut: rows that were touched, ids whose row went, and how the
//! digest of the weights moved. Nothing of it is part of the state: without it the next version is a full one.
//!
//! A row's hash leaves the digest when the row is touched or removed for the first time since; the new one enters when the
//! changes are taken. So the digest after the changes is the one before, less `left`, plus `entered`.

use super::super::weights::{Precision, RowHasher, WeightRule};
use super::shard::Shard;
use super::touched::Subscriber;
use super::{RowNumber, Table, shard};
use crate::feature::FeatureId;

/// The most removals that are noted: beyond them the next version is a full one.
const GONE_MAX: usize = 1 << 20;

/// What is noted since a version was cut.
#[derive(Debug)]
pub(super) struct Since {
    rule: WeightRule,
    gone: Vec<FeatureId>,
    /// What has left: one for each who writes rows at once, and one at least.
    leaving: Vec<Leaving>,
}

/// Takes the hashes of weights that are about to change out of the digest.
#[derive(Clone, Debug)]
pub(super) struct Leaving {
    precision: Precision,
    /// Sum of the hashes that left.
    left: u128,
    hasher: RowHasher,
    /// Room for an embedding.
    embedding: Vec<f32>,
}

/// The weights that changed since a version was cut.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Changes {
    /// Ids of the rows that changed or came, in any order.
    pub ids: Vec<FeatureId>,
    /// Their linear weights, `[rows]`.
    pub linear: Vec<f32>,
    /// Their embeddings, `[rows, dim]`.
    pub embeddings: Vec<f32>,
    /// Ids that lost their row and have none now, ascending. Some may have come since the version too.
    pub gone: Vec<FeatureId>,
    /// Sum of the hashes that left the digest of the weights.
    pub left: u128,
    /// Sum of the hashes that entered it.
    pub entered: u128,
}

/// What must be noted again when changes that were taken could not be published.
#[derive(Clone, Debug, PartialEq)]
pub struct Untaken {
    ids: Vec<FeatureId>,
    gone: Vec<FeatureId>,
    moved: u128,
}

impl Changes {
    /// What [`Table::give_back`] needs, should the changes not be published.
    pub fn untaken(&self) -> Untaken {
        Untaken { ids: self.ids.clone(), gone: self.gone.clone(), moved: self.left.wrapping_sub(self.entered) }
    }
}

impl Leaving {
    /// Derives the served weights of a row from its state: the linear one is returned, the embedding is in `embedding`.
    fn derive(&mut self, rule: &WeightRule, state: &[f32]) -> f32 {
        let linear = rule.weights(state, &mut self.embedding);
        self.embedding.iter_mut().for_each(|weight| *weight = self.precision.round(*weight));
        self.precision.round(linear)
    }

    /// The hash of a row by its state.
    fn hash(&mut self, rule: &WeightRule, id: FeatureId, state: &[f32]) -> u128 {
        let linear = self.derive(rule, state);
        self.hasher.hash(id, linear, &self.embedding)
    }

    /// Notes that the weights of a row are about to change from these.
    #[inline]
    pub(super) fn note(&mut self, shard: &mut Shard, row: u32, linear: f32, embedding: &[f32]) {
        if shard.mark(Subscriber::Version, row) {
            for (rounded, weight) in self.embedding.iter_mut().zip(embedding) {
                *rounded = self.precision.round(*weight);
            }
            let hash = self.hasher.hash(shard.head(row).id, self.precision.round(linear), &self.embedding);
            self.left = self.left.wrapping_add(hash);
        }
    }
}

impl Since {
    fn new(rule: WeightRule, precision: Precision, dim: usize) -> Self {
        let leaving = Leaving { precision, left: 0, hasher: RowHasher::default(), embedding: vec![0.0; dim] };
        Self { rule, gone: Vec::new(), leaving: vec![leaving] }
    }

    pub(super) fn bytes(&self) -> usize {
        8 * self.gone.capacity()
    }

    /// So many who note what leaves.
    pub(super) fn leaving(&mut self, count: usize) -> &mut [Leaving] {
        if self.leaving.len() < count {
            let fresh = Leaving { left: 0, ..self.leaving[0].clone() };
            self.leaving.resize(count, fresh);
        }
        &mut self.leaving[..count]
    }

    /// The sum of the hashes that left since it was last taken.
    fn take_left(&mut self) -> u128 {
        self.leaving.iter_mut().fold(0, |sum: u128, leaving| sum.wrapping_add(std::mem::take(&mut leaving.left)))
    }
}

impl Table {
    /// Begins to note which weights change from here on: a version has them as they are now, in this precision.
    pub fn note_published(&mut self, rule: WeightRule, precision: Precision) {
        for shard in self.shards.iter_mut() {
            shard.take_touched(Subscriber::Version);
        }
        self.since = Some(Box::new(Since::new(rule, precision, self.coordinates - 1)));
    }

    /// Notes no more: weights change without their rows being touched, or no version has been cut.
    pub fn forget_published(&mut self) {
        self.since = None;
    }

    /// How many rows have changed, and about how many have gone, since a version was cut; `None` when that was not noted.
    pub fn changed_len(&self) -> Option<(usize, usize)> {
        let since = self.since.as_ref()?;
        let rows = self.shards.iter().map(|shard| shard.touched_len(Subscriber::Version)).sum();
        Some((rows, since.gone.len()))
    }

    /// Notes that a row came.
    pub(super) fn weights_come(&mut self, row: RowNumber) {
        if self.since.is_some() {
            self.shards[row.shard as usize].mark(Subscriber::Version, row.at);
        }
    }

    /// Notes that the row of an id is about to go.
    pub(super) fn weights_go(&mut self, id: FeatureId) {
        let Some(since) = &mut self.since else { return };
        let shard = &mut self.shards[shard(id)];
        let Some(row) = shard.find(id, self.key) else { return };
        if !shard.unmark(Subscriber::Version, row) {
            let Since { rule, leaving, .. } = &mut **since;
            let hash = leaving[0].hash(rule, id, shard.state(row));
            leaving[0].left = leaving[0].left.wrapping_add(hash);
        }
        since.gone.push(id);
        if since.gone.len() > GONE_MAX {
            self.since = None;
        }
    }

    /// Takes the weights that changed since the last call or since [`note_published`](Self::note_published), and goes on
    /// from here; `None` when that was not noted.
    pub fn take_changes(&mut self) -> Option<Changes> {
        let mut since = self.since.take()?;
        let mut changes = Changes { left: since.take_left(), ..Changes::default() };
        let Since { rule, leaving, .. } = &mut *since;
        let leaving = &mut leaving[0];
        for shard in self.shards.iter_mut() {
            for row in shard.take_touched(Subscriber::Version) {
                let id = shard.head(row).id;
                let linear = leaving.derive(rule, shard.state(row));
                changes.entered = changes.entered.wrapping_add(leaving.hasher.hash(id, linear, &leaving.embedding));
                changes.ids.push(id);
                changes.linear.push(linear);
                changes.embeddings.extend_from_slice(&leaving.embedding);
            }
        }
        changes.gone = std::mem::take(&mut since.gone);
        changes.gone.retain(|id| self.find(*id).is_none());
        changes.gone.sort_unstable();
        changes.gone.dedup();
        self.since = Some(since);
        Some(changes)
    }

    /// Notes changes again that were taken and not published, as if they had not been taken.
    pub fn give_back(&mut self, untaken: Untaken) {
        let Untaken { ids, gone, moved } = untaken;
        for id in ids {
            let (Some(row), Some(since)) = (self.find(id), &mut self.since) else { continue };
            let shard = &mut self.shards[row.shard as usize];
            // What entered is taken back with `moved`; what has not left again since is to enter once more.
            if shard.mark(Subscriber::Version, row.at) {
                let Since { rule, leaving, .. } = &mut **since;
                let hash = leaving[0].hash(rule, id, shard.state(row.at));
                leaving[0].left = leaving[0].left.wrapping_add(hash);
            }
        }
        if let Some(since) = &mut self.since {
            since.leaving[0].left = since.leaving[0].left.wrapping_add(moved);
            since.gone.extend(gone);
        }
    }
}

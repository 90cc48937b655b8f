//! A store in memory, for simulations and for runs that keep nothing.

use super::{OutboxEntry, Saved, Store, StoreError};
use crate::snapshot::checkpoint::Block;

/// Keeps the newest checkpoint.
#[derive(Clone, Debug, Default)]
pub struct MemoryStore {
    saved: Option<Saved>,
}

impl Store for MemoryStore {
    fn load(&mut self) -> Result<Option<Saved>, StoreError> {
        Ok(self.saved.clone())
    }

    fn commit(&mut self, blocks: &[Block], outbox: &[OutboxEntry]) -> Result<u64, StoreError> {
        let commit = self.saved.as_ref().map_or(0, |saved| saved.commit) + 1;
        self.saved = Some(Saved { commit, blocks: blocks.to_vec(), outbox: outbox.to_vec(), fell_back: None });
        Ok(commit)
    }
}

//! A store in memory, for simulations and for runs that keep nothing.

use super::{Saved, Store, StoreError};
use crate::snapshot::checkpoint::Layer;
use crate::train::Scope;

/// Keeps the newest checkpoint, as the layers that it was written in.
#[derive(Clone, Debug, Default)]
pub struct MemoryStore {
    saved: Option<Saved>,
}

impl Store for MemoryStore {
    fn load(&mut self) -> Result<Option<Saved>, StoreError> {
        Ok(self.saved.clone())
    }

    fn reset(&mut self) -> Result<(), StoreError> {
        self.saved = None;
        Ok(())
    }

    fn wants(&self) -> Scope {
        if self.saved.is_some() { Scope::Changes } else { Scope::Everything }
    }

    fn commit(&mut self, layer: &Layer) -> Result<u64, StoreError> {
        let (commit, below) = match self.saved.take() {
            Some(saved) => (saved.commit + 1, saved.layers),
            None => (1, Vec::new()),
        };
        let mut layers = match layer.scope {
            Scope::Everything => Vec::new(),
            Scope::Changes if below.is_empty() => return Err(StoreError::NoBase),
            Scope::Changes => below,
        };
        layers.push(layer.clone());
        self.saved = Some(Saved { commit, layers, fell_back: None });
        Ok(commit)
    }
}

//! A store in memory, for simulations and for runs that keep nothing.

use super::{ReadMerged, Saved, Store, StoreError};
use crate::snapshot::checkpoint::{Layer, Merge, Place};
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

    fn reader(&self) -> Result<ReadMerged, StoreError> {
        let layers = self.saved.as_ref().ok_or(StoreError::NoBase)?.layers.clone();
        Ok(Box::new(move |take| {
            let unreadable = |error| StoreError::Damaged { path: "memory".into(), reason: format!("merging: {error}") };
            let mut merge = Merge::default();
            for (depth, layer) in layers.into_iter().rev().enumerate() {
                let place = Place { depth, scope: layer.scope };
                for block in layer.blocks {
                    merge.take(place, block).map_err(unreadable)?.into_iter().try_for_each(&mut *take)?;
                }
            }
            merge.finish().map_err(unreadable)?.into_iter().try_for_each(take)
        }))
    }
}

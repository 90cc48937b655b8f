//! The one pointer that a reload swaps. Readers keep the version that they last saw and ask one counter whether there is
//! another; only then they take the lock, which is held for as long as a pointer is copied.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, PoisonError, RwLock};

use super::model::ServedModel;

/// The version that new requests are answered with.
#[derive(Debug, Default)]
pub(super) struct Current {
    /// Counts the swaps; changed under the lock.
    generation: AtomicU64,
    model: RwLock<Option<Arc<ServedModel>>>,
}

impl Current {
    /// Puts another version in its place, and gives the one before to who retires it.
    pub(super) fn swap(&self, model: Arc<ServedModel>) -> Option<Arc<ServedModel>> {
        let mut current = self.model.write().unwrap_or_else(PoisonError::into_inner);
        let before = current.replace(model);
        self.generation.fetch_add(1, Ordering::Release);
        before
    }

    /// The version now.
    pub(super) fn model(&self) -> Option<Arc<ServedModel>> {
        self.model.read().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

/// One reader's view of it.
#[derive(Clone, Debug)]
pub(super) struct Reader {
    current: Arc<Current>,
    generation: u64,
    seen: Option<Arc<ServedModel>>,
}

impl Reader {
    pub(super) fn of(current: Arc<Current>) -> Self {
        Self { current, generation: 0, seen: None }
    }

    /// The version now. It is never older than what this reader saw before, unless the target led back.
    pub(super) fn model(&mut self) -> Option<&Arc<ServedModel>> {
        if self.current.generation.load(Ordering::Acquire) != self.generation {
            let model = self.current.model.read().unwrap_or_else(PoisonError::into_inner);
            self.generation = self.current.generation.load(Ordering::Acquire);
            self.seen.clone_from(&model);
        }
        self.seen.as_ref()
    }
}

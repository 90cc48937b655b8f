//! The wish that a run ends: said by a signal, a time limit or a test, heard by the learner between two turns.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// A flag that is set once.
#[derive(Clone, Debug, Default)]
pub struct Stop(Arc<AtomicBool>);

impl Stop {
    /// Asks the run to end; says whether that had been asked before.
    pub fn ask(&self) -> bool {
        self.0.swap(true, Ordering::AcqRel)
    }

    /// Whether the run was asked to end.
    pub fn is_asked(&self) -> bool {
        self.0.load(Ordering::Acquire)
    }
}

//! What of the weights has changed since a version was cut: for the next one, which may hold only that. Not part of the state.

use super::Trainer;
use crate::model::Executor;
use crate::model::table::{Changes, Untaken};
use crate::model::weights::{Precision, WeightRule};

impl<E: Executor> Trainer<E> {
    /// Begins to note which weights change from here on: a version that is cut now has them all, in this precision.
    pub fn note_published(&mut self, precision: Precision) {
        let rule = WeightRule::of(&self.learner.params.model);
        self.learner.model.table_mut().note_published(rule, precision);
    }

    /// Notes no more: the next version must have everything.
    pub fn forget_published(&mut self) {
        self.learner.model.table_mut().forget_published();
    }

    /// About how many rows have changed, and how many have gone, since the newest version was cut; `None` when that is not
    /// known, as after a restart, another configuration, or too many removals.
    pub fn changed_len(&self) -> Option<(usize, usize)> {
        self.learner.model.table().changed_len()
    }

    /// Takes what has changed since the newest version was cut, and goes on from here; `None` when that is not known.
    pub fn take_changes(&mut self) -> Option<Changes> {
        self.learner.model.table_mut().take_changes()
    }

    /// Notes changes again that were taken and not published.
    pub fn give_back(&mut self, untaken: Untaken) {
        self.learner.model.table_mut().give_back(untaken);
    }
}

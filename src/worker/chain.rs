//! Whether the next version is a full one, or a delta on the newest: a full one begins each run, follows whatever changed the
//! weights without touching their rows, and ends a chain that has grown long or a delta that has grown large.
//!
//! What has changed is taken from the trainer when a delta is cut, and noted again if that could not be written: it is then in
//! the next.

use deepfm_core::model::Executor;
use deepfm_core::model::table::Untaken;
use deepfm_core::model::weights::Precision;
use deepfm_core::train::Trainer;
use deepfm_core::version::artefact::{Base, Cut, VersionCut};

use crate::config::operation::Versions;

/// When a full version is written, and how precise versions are.
#[derive(Clone, Copy, Debug)]
pub struct ChainBounds {
    /// One version in so many is full, at least.
    pub full_every: u32,
    /// The largest size of a delta, as a share of the full version's.
    pub delta_ratio_max: f32,
    /// In how many bits the weights of rows are.
    pub precision: Precision,
}

impl From<&Versions> for ChainBounds {
    fn from(settings: &Versions) -> Self {
        Self { full_every: settings.full_every, delta_ratio_max: settings.delta_ratio_max, precision: settings.weights }
    }
}

/// The versions of a run, as far as the next depends on them.
#[derive(Debug)]
pub struct Chain {
    bounds: ChainBounds,
    /// The newest version, once it is durable.
    base: Option<Base>,
    /// What was taken for a delta that is being written.
    taken: Option<Untaken>,
}

impl Chain {
    /// Nothing was published by this run.
    pub fn new(bounds: ChainBounds) -> Self {
        Self { bounds, base: None, taken: None }
    }

    /// Cuts the next version. Until it is [staged](Self::staged) or has [failed](Self::failed) no other is cut.
    pub fn cut<E: Executor>(&mut self, trainer: &mut Trainer<E>, cut: Cut<'_>) -> VersionCut {
        let base = self.base.as_ref().filter(|base| self.is_delta(base, trainer));
        if let Some(base) = base
            && let Some(changes) = trainer.take_changes()
        {
            self.taken = Some(changes.untaken());
            return VersionCut::delta(trainer, cut, base, changes);
        }
        self.base = None;
        let version = VersionCut::of(trainer, cut).in_precision(self.bounds.precision);
        trainer.note_published(self.bounds.precision);
        version
    }

    fn is_delta<E: Executor>(&self, base: &Base, trainer: &Trainer<E>) -> bool {
        let Some((changed, gone)) = trainer.changed_len() else { return false };
        let model = trainer.model();
        let real = match self.bounds.precision {
            Precision::F32 => 4,
            Precision::F16 => 2,
        };
        let row = 8 + real * (1 + model.params().embedding_dim);
        let dense = 4 * (1 + model.architecture().mlp.len);
        let delta = (changed * row + gone * 8 + dense) as f64;
        let full = (model.row_count() * row + dense) as f64;
        base.chain + 1 < self.bounds.full_every && delta <= f64::from(self.bounds.delta_ratio_max) * full
    }

    /// The version that was cut is durable. Nothing stands on weights that servers refuse.
    pub fn staged(&mut self, base: Base) {
        self.base = Some(base).filter(|base| base.is_finite);
        self.taken = None;
    }

    /// The version that was cut could not be written: after a delta everything is as if it had not been cut; a full one is
    /// tried again.
    pub fn failed<E: Executor>(&mut self, trainer: &mut Trainer<E>) {
        match self.taken.take() {
            Some(untaken) => trainer.give_back(untaken),
            None => trainer.forget_published(),
        }
    }
}

//! What the worker takes note of while records are consumed.

use super::gatekeeper::Gatekeeper;
use super::toll::Toll;
use crate::drive::Witness;
use crate::letters::Letters;
use deepfm_core::checkpoint::clicks::ClickTimes;
use deepfm_core::train::{self, Scored, Shown, Step};

/// Looks at what is consumed, for the worker.
pub(super) struct Observer<'o> {
    /// Takes the letters of what could not be read.
    pub(super) letters: &'o mut Letters,
    /// Takes note of clicks.
    pub(super) clicks: &'o mut ClickTimes,
    /// Takes note of losses.
    pub(super) toll: &'o mut Toll,
    /// Takes note of scores.
    pub(super) gatekeeper: &'o mut Gatekeeper,
}

impl Witness for Observer<'_> {
    fn consumed(&mut self, step: Step) {
        if let Some(time) = step.record.time {
            self.clicks.saw(step.record.partition.kind, time);
        }
        self.toll.note(&step);
        self.letters.consumed(step);
    }

    fn is_full(&self) -> bool {
        self.letters.is_full()
    }
}

impl train::Observer for Observer<'_> {
    fn shown(&mut self, shown: &Shown, time: i64, _: f64, learned: u64) {
        self.gatekeeper.shown(shown, time, learned);
    }

    fn scored(&mut self, scored: Scored) {
        self.gatekeeper.scored(&scored);
    }
}

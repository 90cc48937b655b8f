//! What the worker takes note of while records are consumed, and what follows from it for its versions.

use super::toll::Toll;
use crate::config::Config;
use crate::drive::Witness;
use crate::letters::Letters;
use deepfm_core::checkpoint::clicks::ClickTimes;
use deepfm_core::train::{Scored, Step};

/// Looks at what is consumed, for the worker.
pub(super) struct Observer<'o> {
    /// Takes the letters of what could not be read.
    pub(super) letters: &'o mut Letters,
    /// Takes note of clicks.
    pub(super) clicks: &'o mut ClickTimes,
    /// Takes note of losses.
    pub(super) toll: &'o mut Toll,
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

    fn scored(&mut self, scored: Scored) {
        self.letters.scored(scored);
    }
}

/// Why a version does not go live: while impressions come and no click does, everything is learned as a negative.
pub(super) fn held(config: &Config, clicks: &ClickTimes) -> Option<String> {
    let max = config.versions.click_silence_max_seconds;
    let silence = clicks.silence_ms().filter(|silence| max > 0 && *silence > 1000 * max)? / 1000;
    Some(format!("no click was read for {silence} s of the log (versions.click_silence_max_seconds is {max})"))
}

//! The impressions of which an example was refused, for as long as the log may correct them: what was never learned is not
//! corrected. The intake is not told, so that nothing goes back.

use std::collections::BTreeSet;

/// Event times and numbers of impressions of which an example was refused.
#[derive(Clone, Debug, Default)]
pub(super) struct Refusals(BTreeSet<(i64, u64)>);

impl Refusals {
    pub(super) fn restore(saved: Vec<(i64, u64)>) -> Self {
        Self(saved.into_iter().collect())
    }

    pub(super) fn saved(&self) -> Vec<(i64, u64)> {
        self.0.iter().copied().collect()
    }

    pub(super) fn remember(&mut self, time: i64, number: u64) {
        self.0.insert((time, number));
    }

    pub(super) fn contains(&self, time: i64, number: u64) -> bool {
        self.0.contains(&(time, number))
    }

    /// Forgets those whose time has passed.
    pub(super) fn forget(&mut self, has_passed: impl Fn(i64) -> bool) {
        while self.0.first().is_some_and(|(time, _)| has_passed(*time)) {
            self.0.pop_first();
        }
    }

    /// Forgets the oldest of those that are more than `most`; says how many.
    pub(super) fn hold_bound(&mut self, most: usize) -> u64 {
        let over = self.0.len().saturating_sub(most);
        (0..over).for_each(|_| {
            self.0.pop_first();
        });
        over as u64
    }
}

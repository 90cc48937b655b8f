//! Impressions that are scored or learned, and not needed any more. They go back to the intake, where those that come have their
//! room: so nothing is asked of the allocator for them.

use super::Shown;
use crate::feature::Features;

/// The most that wait to be fetched.
const SPENT_MAX: usize = 1024;

/// Impressions for their room.
#[derive(Debug, Default)]
#[expect(clippy::vec_box, reason = "the boxes are what goes round")]
pub struct Spent(Vec<Box<Shown>>);

impl Spent {
    pub(super) fn take(&mut self, mut shown: Box<Shown>) {
        if self.0.len() < SPENT_MAX {
            if !shown.features.is_worth_keeping() {
                shown.features = Features::default();
            }
            self.0.push(shown);
        }
    }

    /// Takes what is in another, which has none then.
    pub fn append(&mut self, other: &mut Self) {
        self.0.append(&mut other.0);
    }

    /// Gives at most `most`, and forgets the others.
    pub(super) fn fetch(&mut self, most: usize) -> impl Iterator<Item = Box<Shown>> {
        self.0.truncate(most);
        self.0.drain(..)
    }
}

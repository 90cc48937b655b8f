//! Impressions that are scored or learned, and not needed any more. They go back to the intake, which lets others have their room:
//! so an impression that comes takes no memory that is asked for.

use super::Shown;

/// The most that wait to be fetched.
const SPENT_MAX: usize = 1024;

/// Impressions for their room.
#[derive(Debug, Default)]
pub(super) struct Spent(pub(super) Vec<Box<Shown>>);

impl Spent {
    pub(super) fn take(&mut self, mut shown: Box<Shown>) {
        if self.0.len() < SPENT_MAX {
            if !shown.features.is_worth_keeping() {
                shown.features = Default::default();
            }
            self.0.push(shown);
        }
    }
}

//! Features whose records are learned go back to where records are decoded: those of others have their room there.

use std::sync::{Arc, Mutex, PoisonError};

use deepfm_core::feature::Features;

/// The most that are kept: as many as wait for the core at most, as a rule.
const ROOMS_MAX: usize = 8192;

/// So many are fetched at a time.
const HANDFUL: usize = 512;

/// Features that nobody needs any more, between the thread that learns and those that read.
#[derive(Clone, Debug, Default)]
pub struct Rooms(Arc<Mutex<Vec<Features>>>);

impl Rooms {
    /// Keeps them, as many as may be; no others are left.
    pub fn take_back(&self, features: &mut Vec<Features>) {
        let mut kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let free = ROOMS_MAX.saturating_sub(kept.len()).min(features.len());
        kept.extend(features.drain(..free));
        drop(kept);
        features.clear();
    }

    /// Fills `rooms` up to a handful, as far as there are any.
    pub fn fetch(&self, rooms: &mut Vec<Features>) {
        let mut kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let left = kept.len() - HANDFUL.saturating_sub(rooms.len()).min(kept.len());
        rooms.extend(kept.drain(left..));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_more_are_kept_than_may_be_and_no_more_fetched_than_a_handful() {
        let rooms = Rooms::default();
        let mut features = vec![Features::default(); ROOMS_MAX + 7];
        rooms.take_back(&mut features);
        assert!(features.is_empty());
        let (mut fetched, mut total) = (Vec::new(), 0);
        loop {
            rooms.fetch(&mut fetched);
            if fetched.is_empty() {
                break;
            }
            assert_eq!(fetched.len(), HANDFUL);
            total += fetched.len();
            fetched.clear();
        }
        assert_eq!(total, ROOMS_MAX);
        rooms.take_back(&mut vec![Features::default(); 3]);
        let mut some = vec![Features::default(); HANDFUL - 1];
        rooms.fetch(&mut some);
        assert_eq!(some.len(), HANDFUL);
    }
}

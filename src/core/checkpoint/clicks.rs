//! How long the log has been without clicks: event time of the last click read, held against the log's own time. A function
//! of the records that were consumed, and no clock; it is in every checkpoint.

use serde::{Deserialize, Serialize};

use crate::event::EventKind;

/// The times of a log's clicks, in milliseconds since 1970.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ClickTimes {
    /// The largest time of a click; before the first one, of the first record.
    last: Option<i64>,
    /// The largest time of any record.
    now: Option<i64>,
}

impl ClickTimes {
    /// A record was consumed.
    pub fn saw(&mut self, kind: EventKind, time: i64) {
        self.now = self.now.max(Some(time));
        match kind {
            EventKind::Click => self.last = self.last.max(Some(time)),
            EventKind::Impression => self.last = self.last.or(Some(time)),
        }
    }

    /// How far the log has gone on since its last click, in milliseconds; nothing before its first record.
    pub fn silence_ms(&self) -> Option<u64> {
        Some(self.now?.saturating_sub(self.last?).unsigned_abs())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn silence_is_the_time_of_the_log_since_its_last_click() {
        let mut times = ClickTimes::default();
        assert_eq!(times.silence_ms(), None);
        times.saw(EventKind::Impression, 1000);
        times.saw(EventKind::Impression, 5000);
        assert_eq!(times.silence_ms(), Some(4000), "a log that never had a click is silent since it began");
        times.saw(EventKind::Click, 4500);
        assert_eq!(times.silence_ms(), Some(500));
        times.saw(EventKind::Click, 100);
        assert_eq!(times.silence_ms(), Some(500), "a late click is no sign that they come");
        times.saw(EventKind::Impression, 64_500);
        assert_eq!(times.silence_ms(), Some(60_000));
        times.saw(EventKind::Click, 65_000);
        assert_eq!(times.silence_ms(), Some(0));
        times.saw(EventKind::Impression, i64::MIN);
        assert_eq!(times.silence_ms(), Some(0));
    }
}

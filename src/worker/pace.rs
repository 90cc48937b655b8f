//! When the next checkpoint and the next version are due, and when one that failed is tried again.
//!
//! One clock of retries serves both: after a failure nothing of the kind is tried before its time, which doubles with each
//! failure, up to a minute. Neither keeps the other from its turn for good: a version that cannot be written costs no
//! checkpoint, and while checkpoints fail no version is cut, which would need one.
//!
//! Clock values come in as arguments.

use std::time::{Duration, Instant};

/// The least time between two checkpoints, and after a first failure.
pub const RETRY_MIN: Duration = Duration::from_secs(1);

/// The longest time after a failure.
pub const RETRY_MAX: Duration = Duration::from_mins(1);

/// What fails, and when it is tried again.
#[derive(Clone, Copy, Debug, Default)]
struct Retries {
    failures: u32,
    not_before: Option<Instant>,
}

impl Retries {
    fn failed(&mut self, now: Instant) {
        let wait = RETRY_MIN.saturating_mul(1 << self.failures.min(16)).min(RETRY_MAX);
        *self = Self { failures: self.failures + 1, not_before: Some(now + wait) };
    }

    fn allows(&self, now: Instant) -> bool {
        self.not_before.is_none_or(|at| now >= at)
    }

    fn has_failed(&self) -> bool {
        self.failures > 0
    }
}

/// The pace of checkpoints and versions.
#[derive(Clone, Copy, Debug)]
pub struct Pace {
    checkpoint_at: Instant,
    version_at: Instant,
    checkpoints: Retries,
    versions: Retries,
}

impl Pace {
    /// Both were taken just now, as it were.
    pub fn new(now: Instant) -> Self {
        Self { checkpoint_at: now, version_at: now, checkpoints: Retries::default(), versions: Retries::default() }
    }

    /// Whether a checkpoint is due: after its interval, when much has changed, or to try again one that failed.
    pub fn is_checkpoint_due(&self, now: Instant, interval: Duration, has_changed_much: bool) -> bool {
        let elapsed = now.saturating_duration_since(self.checkpoint_at);
        let is_wanted =
            elapsed >= interval || has_changed_much && elapsed >= RETRY_MIN || self.checkpoints.has_failed();
        is_wanted && self.checkpoints.allows(now)
    }

    /// Whether a version is due: after its interval (zero is never), or when there are enough examples for one.
    pub fn is_version_due(&self, now: Instant, interval: Duration, has_enough: bool) -> bool {
        let by_time = !interval.is_zero() && now.saturating_duration_since(self.version_at) >= interval;
        (by_time || has_enough) && self.versions.allows(now) && !self.checkpoints.has_failed()
    }

    /// A checkpoint was begun.
    pub fn checkpoint_begun(&mut self, now: Instant) {
        self.checkpoint_at = now;
    }

    /// A checkpoint is durable.
    pub fn checkpoint_done(&mut self) {
        self.checkpoints = Retries::default();
    }

    /// A checkpoint could not be written.
    pub fn checkpoint_failed(&mut self, now: Instant) {
        self.checkpoints.failed(now);
    }

    /// A version was cut and staged.
    pub fn version_cut(&mut self, now: Instant) {
        self.version_at = now;
        self.versions = Retries::default();
    }

    /// A version could not be written.
    pub fn version_failed(&mut self, now: Instant) {
        self.versions.failed(now);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const INTERVAL: Duration = Duration::from_secs(10);

    /// Lets a second pass at a time, and says when what was tried at.
    fn tried(seconds: u64, mut try_at: impl FnMut(Instant) -> bool) -> Vec<u64> {
        let start = Instant::now();
        (0..seconds).filter(|second| try_at(start + Duration::from_secs(*second))).collect()
    }

    #[test]
    fn a_version_that_cannot_be_written_is_tried_again_ever_more_seldom_and_checkpoints_never_starve() {
        let mut pace = Pace::new(Instant::now());
        let (mut checkpoints, mut versions) = (Vec::new(), Vec::new());
        let start = Instant::now();
        for second in 0..200 {
            let now = start + Duration::from_secs(second);
            if pace.is_version_due(now, Duration::ZERO, true) {
                pace.version_failed(now);
                versions.push(second);
            }
            if pace.is_checkpoint_due(now, INTERVAL, false) {
                pace.checkpoint_begun(now);
                pace.checkpoint_done();
                checkpoints.push(second);
            }
        }
        assert_eq!(versions, [0, 1, 3, 7, 15, 31, 63, 123, 183]);
        assert_eq!(checkpoints, (1..20).map(|turn| turn * 10).collect::<Vec<_>>(), "each in its time");
        pace.version_cut(start);
        assert!(pace.is_version_due(start, Duration::ZERO, true), "one that was written ends the waiting");
    }

    #[test]
    fn a_checkpoint_that_fails_is_tried_again_before_its_interval_and_holds_versions_back() {
        let mut pace = Pace::new(Instant::now());
        let long = Duration::from_hours(24);
        assert!(!pace.is_checkpoint_due(Instant::now(), long, false));
        pace.checkpoint_failed(Instant::now());
        let times = tried(70, |now| {
            assert!(!pace.is_version_due(now, RETRY_MIN, true), "it would need a checkpoint");
            let is_due = pace.is_checkpoint_due(now, long, false);
            if is_due {
                pace.checkpoint_failed(now);
            }
            is_due
        });
        assert_eq!(times.len(), 6, "{times:?}");
        pace.checkpoint_done();
        assert!(!pace.is_checkpoint_due(Instant::now(), long, false));
        assert!(pace.is_version_due(Instant::now(), RETRY_MIN, true));
    }

    #[test]
    fn a_version_is_due_by_time_or_by_examples_and_neither_if_both_are_off() {
        let start = Instant::now();
        let pace = Pace::new(start);
        assert!(!pace.is_version_due(start, INTERVAL, false));
        assert!(pace.is_version_due(start + INTERVAL, INTERVAL, false));
        assert!(pace.is_version_due(start, INTERVAL, true));
        assert!(!pace.is_version_due(start + 100 * INTERVAL, Duration::ZERO, false));
    }
}

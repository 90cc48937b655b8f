//! How long clicks came after their impressions, and the attribution window that follows.
//!
//! A window is a trade: a longer one keeps more clicks, but every negative waits for all of it. The one chosen is the
//! first friendly length that keeps 95 % of the clicks seen; later ones are corrected as long as the impression is
//! remembered, so the retention is chosen to reach 99.9 %. Few clicks say little about the tail: all of them are kept.

use std::collections::HashMap;

use indicatif::HumanCount;

use super::number::{duration, percent};

/// An impression of the sample, by the hash of its id.
pub(super) struct Shown {
    /// Its event time.
    pub(super) time: i64,
    /// Whether a click of the sample names it.
    pub(super) clicked: bool,
}

/// The impressions of the sample.
pub(super) type ShownById = HashMap<u64, Shown>;

/// Lengths that people choose, in seconds: 5 s to 7 days.
const FRIENDLY: [u64; 20] = [
    5, 10, 30, 60, 120, 300, 600, 900, 1800, 3600, 7200, 14_400, 21_600, 43_200, 86_400, 129_600, 172_800, 259_200,
    432_000, 604_800,
];

/// A click may be stamped so long before its impression by another clock, in milliseconds. What is further ahead is
/// not a matter of clocks.
pub(super) const AHEAD_MAX_MS: i64 = 60_000;

/// Below this many clicks the tail of their delays is anyone's guess.
const FEW: usize = 100;

/// The delays of the sample's first clicks, in milliseconds.
#[derive(Debug, Default)]
pub(super) struct Delays {
    sorted: Vec<i64>,
    /// Clicks whose impression is not in the sample.
    pub(super) unmatched: u64,
    /// Clicks on an impression that had one.
    pub(super) repeated: u64,
    /// Clicks so long before their impression that no clock explains it.
    pub(super) before: u64,
    /// By how much the others of the clicks before their impression are, in milliseconds. They count as at once.
    ahead: Vec<i64>,
}

impl Delays {
    /// Adds a click so long after its impression. Gives whether it counts as one.
    pub(super) fn add(&mut self, ms: i64) -> bool {
        if ms < -AHEAD_MAX_MS {
            self.before += 1;
            return false;
        }
        if ms < 0 {
            self.ahead.push(-ms);
        }
        self.sorted.push(ms.max(0));
        true
    }

    pub(super) fn sort(&mut self) {
        self.sorted.sort_unstable();
        self.ahead.sort_unstable();
    }

    /// How many clicks come before their impression, by how much 99 % of these do at most, and by how much the furthest,
    /// in milliseconds.
    pub(super) fn ahead(&self) -> Option<(u64, i64, i64)> {
        let furthest = *self.ahead.last()?;
        Some((self.ahead.len() as u64, self.ahead[(self.ahead.len() * 99).div_ceil(100) - 1], furthest))
    }

    /// Number of delays.
    pub(super) fn len(&self) -> usize {
        self.sorted.len()
    }

    /// The least delay that at least `share` of the clicks do not exceed.
    fn quantile(&self, share: f64) -> i64 {
        let rank = (share * self.sorted.len() as f64).ceil() as usize;
        self.sorted[rank.clamp(1, self.sorted.len()) - 1]
    }

    /// The share of clicks within a time.
    fn within(&self, seconds: u64) -> f64 {
        let end = seconds as i64 * 1000;
        self.sorted.partition_point(|&ms| ms <= end) as f64 / self.sorted.len() as f64
    }
}

/// The window that was chosen.
#[derive(Debug)]
pub(super) struct Window {
    /// Its length.
    pub(super) seconds: u64,
    /// The share of the clicks seen that it keeps.
    pub(super) kept: f64,
    /// How long an impression is remembered after it, where that is longer than the window itself.
    pub(super) retention_seconds: Option<u64>,
    /// The share of the clicks seen that come before an impression is forgotten.
    reached: f64,
    seen: String,
}

impl Window {
    /// The window for these delays, if there are any.
    pub(super) fn choose(delays: &Delays) -> Option<Self> {
        if delays.sorted.is_empty() {
            return None;
        }
        let few = delays.len() < FEW;
        let seconds = friendly(delays.quantile(if few { 1.0 } else { 0.95 }));
        let reach = friendly(delays.quantile(if few { 1.0 } else { 0.999 }));
        let retention_seconds = reach.checked_sub(seconds).filter(|rest| *rest > seconds);
        let quantile = |share| duration(delays.quantile(share));
        Some(Self {
            seconds,
            kept: delays.within(seconds),
            retention_seconds,
            reached: delays.within(seconds + retention_seconds.unwrap_or(seconds)),
            seen: format!(
                "{} clicks, half of them within {}, 95 % within {}, 99 % within {}, all within {}",
                HumanCount(delays.len() as u64),
                quantile(0.5),
                quantile(0.95),
                quantile(0.99),
                quantile(1.0),
            ),
        })
    }

    /// Why it has this length, in lines of a comment.
    pub(super) fn comment(&self) -> Vec<String> {
        let length = duration(self.seconds as i64 * 1000);
        vec![
            format!("Seen: {}.", self.seen),
            format!(
                "{length} keeps {} of them; no negative is learned before {length} have passed.",
                percent(self.kept)
            ),
        ]
    }

    /// Why the retention has its length, in lines of a comment.
    pub(super) fn retention_comment(&self) -> Vec<String> {
        vec![format!(
            "{} of the clicks seen come before it ends. Of those after the negative, one whose own time is within the \
             window is learned as a correction; a later one is not learned.",
            percent(self.reached)
        )]
    }
}

/// The first friendly length that is not shorter, or the longest.
pub(super) fn friendly(ms: i64) -> u64 {
    let found = FRIENDLY.iter().find(|&&seconds| seconds as i64 * 1000 >= ms);
    *found.unwrap_or(&FRIENDLY[FRIENDLY.len() - 1])
}

/// The event times of the sample's impressions, ascending.
pub(super) struct Times(Vec<i64>);

impl Times {
    pub(super) fn new(shown: &ShownById) -> Self {
        let mut times: Vec<i64> = shown.values().map(|impression| impression.time).collect();
        times.sort_unstable();
        Self(times)
    }

    /// The first and the last.
    pub(super) fn span(&self) -> Option<(i64, i64)> {
        Some((*self.0.first()?, *self.0.last()?))
    }

    /// The most impressions within one stretch of this length.
    pub(super) fn peak(&self, seconds: u64) -> usize {
        let length = seconds as i64 * 1000;
        let mut first = 0;
        let counts = self.0.iter().enumerate().map(|(last, &time)| {
            while time - self.0[first] > length {
                first += 1;
            }
            last - first + 1
        });
        counts.max().unwrap_or(0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn delays(seconds: impl IntoIterator<Item = i64>) -> Delays {
        let mut delays = Delays::default();
        for seconds in seconds {
            assert!(delays.add(seconds * 1000));
        }
        delays.sort();
        delays
    }

    #[test]
    fn many_clicks_give_the_first_friendly_window_that_keeps_95_percent() {
        let window = Window::choose(&delays((0..1000).map(|i| if i < 960 { 20 } else { 3000 }))).expect("clicks");
        assert_eq!((window.seconds, window.kept), (30, 0.96));
        assert_eq!(window.retention_seconds, Some(3570));
        assert!(window.retention_comment()[0].contains("100 %"));
    }

    #[test]
    fn few_clicks_are_all_kept() {
        let window = Window::choose(&delays([1, 2, 3, 400])).expect("clicks");
        assert_eq!((window.seconds, window.kept, window.retention_seconds), (600, 1.0, None));
    }

    #[test]
    fn no_clicks_give_no_window() {
        assert!(Window::choose(&Delays::default()).is_none());
    }

    #[test]
    fn a_delay_of_months_gives_the_longest_window() {
        assert_eq!(Window::choose(&delays([9_000_000])).expect("a click").seconds, 604_800);
    }

    #[test]
    fn the_peak_counts_both_ends() {
        let times = Times(vec![0, 1000, 2000, 10_000]);
        assert_eq!([times.peak(1), times.peak(2), times.peak(100)], [2, 3, 4]);
    }
}

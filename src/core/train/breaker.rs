//! The circuit breaker: when clicks stall while impressions flow, nothing is learned, and what was learned by then is kept. A
//! stream that loses its clicks would else teach that nobody clicks any more.
//!
//! It is a test on the labels in their order, a function of the log alone: a cumulative sum (Page 1954, "Continuous
//! inspection schemes") of the evidence that labels are positive at [`STALLED`] times their usual rate `r` rather than at
//! that rate. A label 0 adds `ln((1 − STALLED · r) / (1 − r))`, about `r`; a label 1 takes `−ln STALLED` away; the sum never
//! falls below 0. So it grows by about 1 for each click that is missing. Where it is 0 nothing speaks for an outage.
//!
//! While there is more evidence than [`CALM`] times the largest from which clicks came back by themselves, labels wait in a
//! queue, since they may be of an outage. When it has gone, they pass on, in their order. (That labels wait at any evidence
//! was tried: where users come in sessions it made the log loss 0.9 % worse.) When it reaches its bound the breaker *opens*:
//! what waits is skipped, and so is what comes, until the evidence, which now starts at its bound, has gone the other way.
//! Labels since it was last at its bound are then of clicks that came back, and pass on.
//!
//! The bound is the number of missing clicks that is configured, or [`NATURAL`] times that largest evidence: users who click
//! little for long are no outage.
//!
//! It is for labels that come at maturity, clicked and unclicked ones in one order. Where positives come at their click, the
//! rate of clicks among labels says little for a window after every pause.
//!
//! Invariants: the queue is empty where there is no evidence, and has at most [`HELD_MAX`] labels; labels pass on, or are
//! skipped, in their order.

use std::collections::VecDeque;

use serde::{Deserialize, Serialize};

use super::delivery::{Item, Label};
use crate::join::EmissionKind;
use crate::math;

/// The share of the usual rate at which clicks have stalled. With it, rates above a quarter of the usual one never add up.
const STALLED: f64 = 0.02;

/// How many times the largest natural evidence the bound is at least.
const NATURAL: f64 = 5.0;

/// The largest natural evidence that counts, in configured bounds: no outage that a log came back from disarms the breaker.
const NATURAL_MAX: f64 = 4.0;

/// The most outages that are remembered, the newest: clicks on what was skipped in them are not learned either.
const OUTAGES_MAX: usize = 64;

/// The share of the largest natural evidence below which no label waits.
const CALM: f64 = 0.5;

/// Labels 1 after which the usual rate forgets half of what it knew.
const CLICKS_MAX: f64 = 2000.0;

/// The most labels that wait: they are in every checkpoint. At it the oldest passes on, or is skipped while the breaker is open.
pub(super) const HELD_MAX: usize = 1 << 14;

/// What a breaker is told.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct BreakerParams {
    /// How many clicks must be missing before learning pauses.
    pub missing_clicks: f64,
    /// Labels 1 before which nothing is known of the usual rate.
    pub clicks_min: f64,
}

impl BreakerParams {
    /// One that opens when so many clicks are missing.
    pub fn new(missing_clicks: f64) -> Self {
        Self { missing_clicks, clicks_min: 30.0 }
    }
}

/// The breaker, as a checkpoint has it.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Breaker {
    /// Labels that passed on, and those of them that were 1, both halved now and then.
    labels: f64,
    clicks: f64,
    /// Evidence that clicks have stalled.
    evidence: f64,
    /// The largest evidence since it was last 0.
    peak: f64,
    /// The largest peak that went back to 0 by itself.
    natural: f64,
    /// The bound that the evidence had reached, while the breaker is open.
    open_at: Option<f64>,
    held: VecDeque<Label>,
    /// The least event time among those that have waited since the queue was last empty.
    oldest: Option<i64>,
    /// Event times of the first and the last impression that was skipped, of each outage.
    outages: VecDeque<(i64, i64)>,
    /// How often it opened.
    openings: u64,
}

impl Breaker {
    /// Whether nothing is learned.
    pub fn is_open(&self) -> bool {
        self.open_at.is_some()
    }

    /// Labels that wait.
    pub fn held(&self) -> usize {
        self.held.len()
    }

    /// Clicks that seem to be missing, in number.
    pub fn missing_clicks(&self) -> f64 {
        self.evidence
    }

    /// How often it opened since the log began.
    pub fn openings(&self) -> u64 {
        self.openings
    }

    /// An event time, in milliseconds, that no label that waits is from before: the metrics wait for them.
    pub(super) fn oldest_held(&self) -> Option<i64> {
        self.oldest
    }

    /// A label became known: it waits, or comes out as an item with those that waited.
    pub(super) fn take(&mut self, params: Option<&BreakerParams>, label: Label, items: &mut Vec<Item>) {
        let Some(is_click) = clicked(label.kind) else {
            // It comes after those that wait.
            if self.held.is_empty() || self.held.len() >= HELD_MAX {
                items.push(Item::Label(label));
            } else {
                self.held.push_back(label);
            }
            return;
        };
        if label.kind == EmissionKind::Correction && self.is_skipped(label.impression_time) {
            // What was never learned is not corrected. That it was clicked is evidence all the same.
            items.push(Item::Skipped(label));
        } else {
            self.oldest = Some(self.oldest.map_or(label.impression_time, |oldest| oldest.min(label.impression_time)));
            self.held.push_back(label);
        }
        let Some(BreakerParams { missing_clicks, clicks_min }) = params else {
            // Switched on again it begins anew.
            (self.evidence, self.peak, self.natural, self.open_at) = (0.0, 0.0, 0.0, None);
            self.pass_on(items);
            (self.labels, self.clicks) = (0.0, 0.0);
            return;
        };
        let added = if self.clicks < *clicks_min { 0.0 } else { self.weigh(is_click) };
        match self.open_at {
            None => self.take_closed(*missing_clicks, added, items),
            Some(bound) => self.take_open(bound, added, items),
        }
    }

    fn take_closed(&mut self, missing_clicks: f64, added: f64, items: &mut Vec<Item>) {
        self.evidence = (self.evidence + added).max(0.0);
        self.peak = self.peak.max(self.evidence);
        let bound = missing_clicks.max(NATURAL * self.natural);
        if self.evidence == 0.0 {
            self.natural = self.natural.max(self.peak).min(NATURAL_MAX * missing_clicks);
            self.peak = 0.0;
        }
        if self.evidence <= CALM * self.natural {
            self.pass_on(items);
        } else if self.evidence >= bound {
            (self.evidence, self.peak, self.open_at) = (bound, 0.0, Some(bound));
            self.openings += 1;
            self.outages.push_back((i64::MAX, i64::MIN));
            self.outages.drain(..self.outages.len().saturating_sub(OUTAGES_MAX));
            self.skip(self.held.len(), items);
        } else if self.held.len() > HELD_MAX
            && let Some(oldest) = self.held.pop_front()
        {
            self.release(oldest, items);
        }
    }

    fn take_open(&mut self, bound: f64, added: f64, items: &mut Vec<Item>) {
        self.evidence = (self.evidence + added).clamp(0.0, bound);
        if self.evidence == 0.0 {
            self.open_at = None;
            self.pass_on(items);
        } else if self.evidence >= bound {
            self.skip(self.held.len(), items);
        } else if self.held.len() > HELD_MAX {
            self.skip(1, items);
        }
    }

    /// Whether an impression of this time was shown while clicks had stalled.
    fn is_skipped(&self, time: i64) -> bool {
        self.outages.iter().any(|(first, last)| (*first..=*last).contains(&time))
    }

    /// The evidence that a label adds or takes away.
    fn weigh(&self, is_click: bool) -> f64 {
        if is_click {
            return math::ln(STALLED);
        }
        // Of corrections there may be more than one a label: the rate stays below 1 all the same.
        let rate = (self.clicks / self.labels).min(0.99);
        math::ln((1.0 - STALLED * rate) / (1.0 - rate))
    }

    fn pass_on(&mut self, items: &mut Vec<Item>) {
        self.oldest = None;
        while let Some(label) = self.held.pop_front() {
            self.release(label, items);
        }
    }

    fn release(&mut self, label: Label, items: &mut Vec<Item>) {
        if let Some(is_click) = clicked(label.kind) {
            self.labels += 1.0;
            self.clicks += if is_click { 1.0 } else { 0.0 };
        }
        if self.clicks >= CLICKS_MAX {
            (self.labels, self.clicks) = (self.labels / 2.0, self.clicks / 2.0);
        }
        items.push(Item::Label(label));
    }

    /// Skips the oldest that wait, so many.
    fn skip(&mut self, count: usize, items: &mut Vec<Item>) {
        for label in self.held.drain(..count) {
            if clicked(label.kind).is_none() {
                items.push(Item::Label(label));
                continue;
            }
            if let Some((first, last)) = self.outages.back_mut() {
                (*first, *last) = ((*first).min(label.impression_time), (*last).max(label.impression_time));
            }
            items.push(Item::Skipped(label));
        }
        if self.held.is_empty() {
            self.oldest = None;
        }
    }

    /// Whether a checkpoint can have it; if not, why.
    pub(crate) fn check(&self) -> Result<(), &'static str> {
        let sums = [self.labels, self.clicks, self.evidence, self.peak, self.natural, self.open_at.unwrap_or(0.0)];
        if sums.iter().any(|sum| !sum.is_finite() || *sum < 0.0) {
            return Err("a sum of the breaker is not a number");
        }
        if self.outages.len() > OUTAGES_MAX {
            return Err("the breaker remembers more outages than it may");
        }
        if self.held.len() > HELD_MAX + 1 {
            return Err("more labels wait in the breaker than may");
        }
        Ok(())
    }

    /// The labels that wait.
    pub(crate) fn labels(&self) -> impl Iterator<Item = &Label> {
        self.held.iter()
    }
}

/// Whether what became known is a click; nothing where nothing is learned of it, and nothing known by it.
fn clicked(kind: EmissionKind) -> Option<bool> {
    match kind {
        EmissionKind::Positive | EmissionKind::FakePositive | EmissionKind::Correction => Some(true),
        EmissionKind::Negative | EmissionKind::FakeNegative => Some(false),
        EmissionKind::Matured | EmissionKind::Unlabelled => None,
    }
}

#[cfg(test)]
mod tests;

//! The impressions that the gate looks at: a sample of those that were shown, chosen by a hash of their numbers in the log.
//! Each waits until its label has matured, and is then one of the newest until enough newer ones have.
//!
//! Invariants: at most [`WAITING_MAX`] wait, and no more than the cohort's length have matured; an impression that will have
//! no label does not wait longer than the next younger one that has.

use std::collections::{BTreeMap, VecDeque};

use serde::{Deserialize, Serialize};

use crate::feature::{FeatureId, hash};
use crate::math;
use crate::metric::log_loss;
use crate::train::Scored;

/// The most impressions that wait for their label: while there are so many, no further one is taken.
const WAITING_MAX: usize = 1 << 15;

/// Key of the hash that chooses.
const LANE: u64 = 0x4741_5445;

/// Whether the impression of this number belongs to a sample of this rate.
pub fn is_sampled(rate: f64, number: u64) -> bool {
    rate >= 1.0 || hash::unit(LANE, number) < rate
}

/// Recent impressions with what the gate needs of them.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Cohort {
    length: usize,
    /// Those whose label is not known, by event time and number: the order in which labels mature.
    waiting: BTreeMap<(i64, u64), Waiting>,
    /// The newest whose label is, oldest first.
    matured: VecDeque<Matured>,
}

#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
struct Waiting {
    incumbent: Option<f32>,
    slice: Option<FeatureId>,
}

#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
struct Matured {
    logit: f32,
    label: bool,
    weight: f32,
    waited: Waiting,
}

/// What was predicted and what came, as weighted sums.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Calibration {
    /// Impressions.
    pub impressions: u64,
    /// `Σ w p`.
    pub predicted: f64,
    /// `Σ w y`.
    pub clicked: f64,
    /// `Σ w² p (1 − p)`.
    pub variance: f64,
}

/// Log loss of shown scores, and of the versions that were live, over the same impressions.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Paired {
    /// Impressions.
    pub impressions: u64,
    /// Of the shown scores.
    pub loss: f64,
    /// Of the versions that were live.
    pub incumbent: f64,
    /// Of the mean difference between the two.
    pub standard_error: f64,
}

impl Default for Cohort {
    fn default() -> Self {
        Self::new(0)
    }
}

impl Cohort {
    /// An empty cohort of at most so many matured impressions.
    pub fn new(length: usize) -> Self {
        Self { length, waiting: BTreeMap::new(), matured: VecDeque::new() }
    }

    /// The same with another length: the oldest of too many are left out.
    #[must_use]
    pub fn of_length(mut self, length: usize) -> Self {
        self.length = length;
        self.matured.drain(..self.matured.len().saturating_sub(length));
        self
    }

    /// Whether one more may wait for its label.
    pub fn has_room(&self) -> bool {
        self.waiting.len() < WAITING_MAX
    }

    /// An impression was shown: with the logit of the version that was live then, if there was one, and the value of the
    /// field that is looked at. Not taken where there is no [room](Self::has_room).
    pub fn shown(&mut self, (time, number): (i64, u64), incumbent: Option<f64>, slice: Option<FeatureId>) {
        if self.has_room() {
            let incumbent = incumbent.map(|logit| logit as f32).filter(|logit| logit.is_finite());
            self.waiting.insert((time, number), Waiting { incumbent, slice });
        }
    }

    /// A label has matured. Impressions of before that still wait will have none.
    pub fn scored(&mut self, scored: &Scored) {
        let key = (scored.time, scored.number);
        while let Some(oldest) = self.waiting.first_entry().filter(|oldest| *oldest.key() <= key) {
            let is_this = *oldest.key() == key;
            let waited = oldest.remove();
            if is_this {
                let (logit, weight) = (scored.logit as f32, scored.weight as f32);
                self.matured.push_back(Matured { logit, label: scored.label, weight, waited });
            }
        }
        self.matured.drain(..self.matured.len().saturating_sub(self.length));
    }

    /// How many have matured.
    pub fn len(&self) -> usize {
        self.matured.len()
    }

    /// Whether none has.
    pub fn is_empty(&self) -> bool {
        self.matured.is_empty()
    }

    /// The calibration of the shown scores.
    pub fn calibration(&self) -> Calibration {
        sums(self.matured.iter())
    }

    /// The same for the most frequent values of the field that is looked at, the most frequent first.
    pub fn slices(&self, count: usize) -> Vec<(FeatureId, Calibration)> {
        let mut slices: BTreeMap<FeatureId, Vec<&Matured>> = BTreeMap::new();
        for one in &self.matured {
            if let Some(slice) = one.waited.slice {
                slices.entry(slice).or_default().push(one);
            }
        }
        let mut slices: Vec<(FeatureId, Vec<&Matured>)> = slices.into_iter().collect();
        slices.sort_by_key(|(id, ones)| (std::cmp::Reverse(ones.len()), *id));
        slices.into_iter().take(count).map(|(id, ones)| (id, sums(ones.into_iter()))).collect()
    }

    /// The log loss beside that of the versions that were live; nothing where none was.
    pub fn paired(&self) -> Option<Paired> {
        let pairs: Vec<(f64, f64, f64)> = self.matured.iter().filter_map(losses).collect();
        let weight: f64 = pairs.iter().map(|(weight, ..)| weight).sum();
        if pairs.len() < 2 || weight <= 0.0 {
            return None;
        }
        let mean =
            |of: &dyn Fn(&(f64, f64, f64)) -> f64| pairs.iter().map(|pair| pair.0 * of(pair)).sum::<f64>() / weight;
        let (loss, incumbent) = (mean(&|pair| pair.1), mean(&|pair| pair.2));
        // Of a weighted mean: the weights are given, the differences are the sample.
        let squares: f64 = pairs
            .iter()
            .map(|(weight, loss_of, incumbent_of)| {
                let beyond = weight * ((loss_of - incumbent_of) - (loss - incumbent));
                beyond * beyond
            })
            .sum();
        let n = pairs.len() as f64;
        // Few clicks show little of how much the differences vary: as much as labels of the shown probabilities would is
        // the least. Of one label with probability p the difference of the losses has the variance p (1 − p) (Δ logit)².
        let least: f64 = self.matured.iter().filter_map(label_variance).sum();
        let standard_error = (squares * n / (n - 1.0)).max(least).sqrt() / weight;
        Some(Paired { impressions: pairs.len() as u64, loss, incumbent, standard_error })
    }
}

/// Weight, loss of the shown score, loss of the version that was live.
fn losses(one: &Matured) -> Option<(f64, f64, f64)> {
    let loss = |logit: f32| log_loss(f64::from(logit), one.label);
    Some((f64::from(one.weight), loss(one.logit), loss(one.waited.incumbent?)))
}

/// By how much the weighted difference of the losses varies with the label alone, if it is 1 as often as was predicted.
fn label_variance(one: &Matured) -> Option<f64> {
    let [shown, incumbent] = [one.logit, one.waited.incumbent?].map(f64::from);
    let probability = 1.0 / (1.0 + math::exp(-shown));
    let difference = f64::from(one.weight) * (shown - incumbent);
    Some(probability * (1.0 - probability) * difference * difference)
}

fn sums<'m>(ones: impl Iterator<Item = &'m Matured>) -> Calibration {
    let mut sums = Calibration::default();
    for one in ones {
        let probability = 1.0 / (1.0 + math::exp(-f64::from(one.logit)));
        let weight = f64::from(one.weight);
        sums.impressions += 1;
        sums.predicted += weight * probability;
        sums.clicked += if one.label { weight } else { 0.0 };
        sums.variance += weight * weight * probability * (1.0 - probability);
    }
    sums
}

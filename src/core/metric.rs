//! Progressive metrics: every impression's score, taken when it was shown, against its matured label.
//!
//! All sums are f64 over logits, so that saturated predictions keep their loss. The AUC is that of 1024 equal bins of the
//! logit in [-15, 15): at a click rate of 1 % nearly all probabilities would share the first few uniform bins.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::math;

/// Bins of the logit.
const BINS: f64 = 1024.0;
/// The logits that the bins cover.
const LOGITS: std::ops::Range<f64> = -15.0..15.0;
/// Predictions are clamped to this far from 0 and 1 when their loss is taken.
const CLAMP: f64 = 1e-12;
/// Bins of the expected calibration error.
const CALIBRATION_BINS: usize = 10;

/// Sums over scored impressions.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Metrics {
    examples: u64,
    clicks: u64,
    weight: f64,
    clicked: f64,
    loss: f64,
    predicted: f64,
    /// Weight of clicked and of other impressions, by bin of the logit.
    bins: BTreeMap<u16, [f64; 2]>,
    /// Weight, predicted and clicked, by bin of the probability.
    calibration: [[f64; 3]; CALIBRATION_BINS],
}

/// What the sums say. What is undefined (there were no clicks, say) is `None`.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Report {
    /// Scored impressions.
    pub examples: u64,
    /// Clicked ones among them.
    pub clicks: u64,
    /// Mean log loss.
    pub log_loss: Option<f64>,
    /// Log loss of always predicting the click rate: its entropy.
    pub base_log_loss: Option<f64>,
    /// Log loss over base log loss (He et al. 2014): below 1 the features helped.
    pub normalized_entropy: Option<f64>,
    /// Area under the ROC curve, over 1024 bins of the logit.
    pub auc: Option<f64>,
    /// Clicks predicted over clicks observed.
    pub calibration: Option<f64>,
    /// Expected calibration error over 10 bins of the probability.
    pub calibration_error: Option<f64>,
}

impl Metrics {
    /// Adds an impression.
    pub fn add(&mut self, logit: f64, label: bool, weight: f64) {
        let probability = 1.0 / (1.0 + math::exp(-logit));
        let clicked = if label { weight } else { 0.0 };
        self.examples += 1;
        self.clicks += u64::from(label);
        self.weight += weight;
        self.clicked += clicked;
        self.loss += weight * log_loss(logit, label);
        self.predicted += weight * probability;
        let bin = self.bins.entry(logit_bin(logit)).or_default();
        bin[usize::from(!label)] += weight;
        let place = ((probability * CALIBRATION_BINS as f64) as usize).min(CALIBRATION_BINS - 1);
        for (sum, value) in self.calibration[place].iter_mut().zip([weight, weight * probability, clicked]) {
            *sum += value;
        }
    }

    /// Mean predicted probability; `None` before the first impression.
    pub fn mean_prediction(&self) -> Option<f64> {
        (self.weight > 0.0).then(|| self.predicted / self.weight)
    }

    /// Share of clicked impressions; `None` before the first impression.
    pub fn click_rate(&self) -> Option<f64> {
        (self.weight > 0.0).then(|| self.clicked / self.weight)
    }

    /// What the sums say.
    pub fn report(&self) -> Report {
        let mean = |sum: f64| (self.weight > 0.0).then(|| sum / self.weight);
        let log_loss = mean(self.loss);
        let base_log_loss = mean(self.clicked).map(entropy);
        Report {
            examples: self.examples,
            clicks: self.clicks,
            log_loss,
            base_log_loss,
            normalized_entropy: log_loss.zip(base_log_loss.filter(|base| *base > 0.0)).map(|(loss, base)| loss / base),
            auc: binned_auc(self.bins.values().copied()),
            calibration: (self.clicked > 0.0).then(|| self.predicted / self.clicked),
            calibration_error: mean(
                self.calibration.iter().map(|[_, predicted, clicked]| (predicted - clicked).abs()).sum(),
            ),
        }
    }
}

/// Log loss of a logit, as of a probability clamped to [1e-12, 1 - 1e-12].
pub fn log_loss(logit: f64, label: bool) -> f64 {
    // Of an unclicked impression the clamp is on 1 - (1 - 1e-12), which is not 1e-12 in f64.
    let (x, least) = if label { (-logit, CLAMP) } else { (logit, 1.0 - (1.0 - CLAMP)) };
    let loss = x.max(0.0) + math::ln_1p(math::exp(-x.abs()));
    loss.clamp(-math::ln(1.0 - CLAMP), -math::ln(least))
}

/// Entropy of a click rate: 0 at 0 and 1. (The sum of nothing would be −0.)
fn entropy(rate: f64) -> f64 {
    [rate, 1.0 - rate].into_iter().filter(|p| *p > 0.0).map(|p| -p * math::ln(p)).fold(0.0, |sum, term| sum + term)
}

/// The bin of a logit, from 0 to 1023.
pub fn logit_bin(logit: f64) -> u16 {
    let place = (logit - LOGITS.start) / (LOGITS.end - LOGITS.start) * BINS;
    place.floor().clamp(0.0, BINS - 1.0) as u16
}

/// The AUC of binned scores: for each bin in ascending order the weights of positives and negatives; ties within a bin
/// count one half.
pub fn binned_auc(bins: impl IntoIterator<Item = [f64; 2]>) -> Option<f64> {
    let (mut below, mut positives, mut area) = (0.0, 0.0, 0.0);
    for [positive, negative] in bins {
        area += positive * (below + 0.5 * negative);
        below += negative;
        positives += positive;
    }
    (positives > 0.0 && below > 0.0).then(|| area / (positives * below))
}

/// The exact AUC of scores with labels and weights; ties count one half.
///
/// # Panics
/// When the slices differ in length.
pub fn exact_auc(scores: &[f64], labels: &[bool], weights: &[f64]) -> Option<f64> {
    assert!(scores.len() == labels.len() && scores.len() == weights.len(), "one label and weight for each score");
    let mut order: Vec<usize> = (0..scores.len()).collect();
    order.sort_by(|a, b| scores[*a].total_cmp(&scores[*b]));
    let tied = order.chunk_by(|a, b| scores[*a] == scores[*b]);
    binned_auc(tied.map(|group| {
        let mut bin = [0.0; 2];
        for &at in group {
            bin[usize::from(!labels[at])] += weights[at];
        }
        bin
    }))
}

/// Metrics since the log began, of the current window of impressions, and of the last complete one.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Windows {
    length: u64,
    lifetime: Metrics,
    current: Metrics,
    last: Option<Metrics>,
}

impl Windows {
    /// Windows of `length` impressions each.
    pub fn new(length: u64) -> Self {
        Self { length: length.max(1), lifetime: Metrics::default(), current: Metrics::default(), last: None }
    }

    /// Adds an impression.
    pub fn add(&mut self, logit: f64, label: bool, weight: f64) {
        self.lifetime.add(logit, label, weight);
        self.current.add(logit, label, weight);
        if self.current.examples >= self.length {
            self.last = Some(std::mem::take(&mut self.current));
        }
    }

    /// Since the log began.
    pub fn lifetime(&self) -> &Metrics {
        &self.lifetime
    }

    /// The last complete window; the current one before there is a complete one.
    pub fn latest(&self) -> &Metrics {
        self.last.as_ref().unwrap_or(&self.current)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_extreme_logit_has_a_finite_loss_on_either_side() {
        assert!((log_loss(-100.0, true) - 27.631_021_115_928_547).abs() < 1e-9);
        assert!(log_loss(-100.0, false) > 0.0 && log_loss(-100.0, false) < 2e-12);
        assert!((log_loss(f64::INFINITY, true) - log_loss(50.0, true)).abs() < 1e-15);
    }

    #[test]
    fn logits_outside_the_bins_count_in_the_outermost() {
        let bins: Vec<u16> = [f64::NEG_INFINITY, -15.0, -0.001, 0.0, 14.999, 15.0, 99.0].map(logit_bin).to_vec();
        assert_eq!(bins, [0, 0, 511, 512, 1023, 1023, 1023]);
    }

    #[test]
    fn what_is_undefined_is_none() {
        assert_eq!(Metrics::default().report(), Report::default());
        let mut metrics = Metrics::default();
        metrics.add(-2.0, false, 1.0);
        let report = metrics.report();
        assert_eq!((report.auc, report.calibration, report.normalized_entropy), (None, None, None));
        assert!(report.log_loss.is_some());
    }

    #[test]
    fn a_window_is_complete_after_its_number_of_impressions_and_the_lifetime_goes_on() {
        let mut windows = Windows::new(3);
        for n in 0..4 {
            windows.add(f64::from(n), n % 2 == 0, 1.0);
        }
        assert_eq!(windows.latest().report().examples, 3);
        assert_eq!(windows.lifetime().report().examples, 4);
    }
}

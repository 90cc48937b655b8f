//! Golden `metrics`: all in float64.

use deepfm_core::metric::{Metrics, binned_auc, exact_auc};
use serde_json::Value;

use super::{Tolerance, list, reals};

/// The AUC over equal bins of the probability, which only the golden files use.
fn uniform_auc(p: &[f64], labels: &[bool], weights: &[f64], bins: usize) -> Option<f64> {
    let mut sums = vec![[0.0; 2]; bins];
    for ((p, label), weight) in p.iter().zip(labels).zip(weights) {
        let bin = ((p * bins as f64).floor() as usize).min(bins - 1);
        sums[bin][usize::from(!label)] += weight;
    }
    binned_auc(sums)
}

pub(super) fn check(document: &Value) {
    let tolerance = Tolerance::of(&document["tolerance"]["f64"]);
    for case in list(&document["cases"]) {
        let name = &case["name"];
        let p = reals(&case["p"]);
        let labels: Vec<bool> = reals(&case["label"]).iter().map(|label| *label > 0.5).collect();
        let weights = reals(&case["weight"]);
        let mut metrics = Metrics::default();
        for ((p, label), weight) in p.iter().zip(&labels).zip(&weights) {
            metrics.add((p / (1.0 - p)).ln(), *label, *weight);
        }
        let report = metrics.report();
        let got = [
            ("logloss", report.log_loss),
            ("ne", report.normalized_entropy),
            ("rig", report.normalized_entropy.map(|ne| 1.0 - ne)),
            ("calibration", report.calibration),
            ("ece10", report.calibration_error),
            ("auc", exact_auc(&p, &labels, &weights)),
            ("auc_hist16", uniform_auc(&p, &labels, &weights, 16)),
            ("auc_hist1024", uniform_auc(&p, &labels, &weights, 1024)),
            ("auc_logit_hist1024", report.auc),
        ];
        let expected = case["expected"].as_object().expect("an object");
        assert_eq!(expected.len(), got.len(), "{name}: a metric is not checked");
        for (metric, value) in got {
            match (value, expected[metric].as_f64()) {
                (Some(value), Some(expected)) => tolerance.check(&format!("{name} {metric}"), value, expected),
                (value, expected) => assert_eq!(value, expected, "{name} {metric}"),
            }
        }
    }
}

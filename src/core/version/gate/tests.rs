use super::*;
use crate::train::Scored;

const PARAMS: GateParams = GateParams {
    impressions_min: 100,
    clicks_min: 10,
    calibration_min: 0.8,
    calibration_max: 1.25,
    slice_field: Some(0),
    slices: 2,
    loss_margin: 0.0,
    coverage_min: 0.5,
    standard_errors: 3.0,
};

/// A fixed sequence of numbers in (0, 1).
fn dice(n: u64) -> f64 {
    crate::feature::hash::unit(77, n)
}

/// Impressions that are clicked with this probability, scored with these logits.
fn cohort(count: u64, rate: f64, shown: impl Fn(u64) -> f64, incumbent: impl Fn(u64) -> Option<f64>) -> Cohort {
    let mut cohort = Cohort::new(usize::MAX);
    for number in 0..count {
        let time = number.cast_signed();
        cohort.shown((time, number), incumbent(number), Some(number % 3));
        let label = dice(number) < rate;
        cohort.scored(&Scored { number, time, logit: shown(number), label, weight: 1.0 });
    }
    cohort
}

fn logit(p: f64) -> f64 {
    crate::math::ln(p / (1.0 - p))
}

fn facts<'f>(lifetime: &'f Metrics, cohort: &'f Cohort) -> Facts<'f> {
    Facts {
        lifetime,
        cohort,
        coverage: Coverage { attributed: 900, lost: 100 },
        outage: None,
        watermarks: [Some(5), Some(5)],
    }
}

fn lifetime(impressions: u64, clicks: u64) -> Metrics {
    let mut metrics = Metrics::default();
    (0..impressions).for_each(|n| metrics.add(-2.0, n < clicks, 1.0));
    metrics
}

fn failed(judgement: &Judgement) -> Vec<Criterion> {
    judgement.failed().map(|check| check.criterion).collect()
}

#[test]
fn a_good_version_passes_every_check() {
    let (lifetime, cohort) =
        (lifetime(1000, 100), cohort(2000, 0.1, |_| logit(0.1), |n| Some(logit(0.1) + 0.1 * dice(n + 9999))));
    let judgement = judge(&PARAMS, &facts(&lifetime, &cohort)).with_weights(true);
    assert!(judgement.passed, "{judgement:?}");
    assert_eq!((judgement.refusal(), judgement.checks.len()), (None, 9));
}

#[test]
fn a_weight_that_is_no_number_fails_whatever_else_passes() {
    let (lifetime, cohort) = (lifetime(1000, 100), cohort(2000, 0.1, |_| logit(0.1), |_| None));
    let judgement = judge(&PARAMS, &facts(&lifetime, &cohort)).with_weights(false);
    assert_eq!(failed(&judgement), [Criterion::Finite]);
    assert_eq!(judgement.refusal().as_deref(), Some("a weight is not finite"));
}

#[test]
fn a_version_of_too_few_impressions_or_clicks_is_not_judged_good() {
    let cohort = Cohort::new(10);
    let few = judge(&PARAMS, &facts(&lifetime(99, 50), &cohort));
    assert_eq!(failed(&few), [Criterion::Impressions]);
    let few = judge(&PARAMS, &facts(&lifetime(1000, 9), &cohort));
    assert_eq!(failed(&few), [Criterion::Clicks]);
    assert!(judge(&PARAMS, &facts(&lifetime(100, 10), &cohort)).passed);
}

#[test]
fn a_calibration_outside_the_band_fails_only_beyond_its_noise() {
    let lifetime = lifetime(1000, 100);
    let judged =
        |count, p: f64| failed(&judge(&PARAMS, &facts(&lifetime, &cohort(count, 0.1, |_| logit(p), |_| None))));
    let both = vec![Criterion::Calibration, Criterion::SliceCalibration];
    assert_eq!(judged(20_000, 0.2), both, "twice as many clicks were predicted as came");
    assert_eq!(judged(20_000, 0.05), both, "half as many");
    assert_eq!(judged(20_000, 0.11), [], "it is inside the band");
    assert_eq!(judged(30, 0.2), [], "of 30 impressions that may be chance");
    let (no_click, hopeful) = (cohort(3000, 0.0, |_| logit(0.1), |_| None), cohort(30, 0.0, |_| logit(0.1), |_| None));
    assert_eq!(failed(&judge(&PARAMS, &facts(&lifetime, &no_click))), both, "no click came, and 300 were predicted");
    assert_eq!(failed(&judge(&PARAMS, &facts(&lifetime, &hopeful))), [], "3 were predicted");
}

#[test]
fn one_slice_that_is_off_fails_though_the_whole_is_not() {
    let lifetime = lifetime(1000, 100);
    // One value in three is predicted at three times, the others at none to speak of.
    let skewed = |n: u64| if n.is_multiple_of(3) { logit(0.3) } else { logit(0.001) };
    let cohort = cohort(30_000, 0.1, skewed, |_| None);
    let judgement = judge(&PARAMS, &facts(&lifetime, &cohort));
    assert_eq!(failed(&judgement), [Criterion::SliceCalibration]);
    assert!(judgement.refusal().is_some_and(|said| said.contains("feature id 0000000000000000: calibration is ")));
}

#[test]
fn a_log_loss_above_the_incumbents_fails_only_beyond_the_noise_of_the_pairs() {
    let lifetime = lifetime(1000, 100);
    let params = GateParams { calibration_min: 0.0, calibration_max: 1e9, ..PARAMS };
    let worse = |count, bad: f64| {
        let cohort = cohort(count, 0.1, |_| logit(bad), |_| Some(logit(0.1)));
        failed(&judge(&params, &facts(&lifetime, &cohort)))
    };
    assert_eq!(worse(5000, 0.2), [Criterion::LogLoss]);
    assert_eq!(worse(20, 0.2), [], "20 pairs show nothing");
    assert_eq!(worse(5000, 0.1), [], "it is the same");
    let better = cohort(5000, 0.1, |_| logit(0.1), |_| Some(logit(0.2)));
    assert_eq!(failed(&judge(&params, &facts(&lifetime, &better))), []);
    let lenient = GateParams { loss_margin: 0.5, ..params.clone() };
    let cohort = cohort(5000, 0.1, |_| logit(0.2), |_| Some(logit(0.1)));
    assert!(judge(&lenient, &facts(&lifetime, &cohort)).passed, "the margin is half of the incumbent's loss");
}

#[test]
fn pairs_show_a_difference_that_two_averages_would_not() {
    // Both scores vary much between impressions, and little from one another.
    let lifetime = lifetime(1000, 100);
    let params = GateParams { calibration_min: 0.0, calibration_max: 1e9, ..PARAMS };
    let common = |n: u64| 4.0 * (dice(n + 5000) - 0.5) + logit(0.1);
    let cohort = cohort(4000, 0.1, |n| common(n) + 0.3, |n| Some(common(n)));
    let paired = cohort.paired().expect("there are pairs");
    let between = (0..4000).map(|n| crate::metric::log_loss(common(n), dice(n) < 0.1));
    let squares: f64 = between.map(|loss| (loss - paired.incumbent).powi(2)).sum();
    let unpaired = (2.0 * squares).sqrt() / 4000.0;
    let difference = paired.loss - paired.incumbent;
    assert!(difference > 3.0 * paired.standard_error && difference < 3.0 * unpaired, "{paired:?} {unpaired}");
    assert_eq!(failed(&judge(&params, &facts(&lifetime, &cohort))), [Criterion::LogLoss]);
}

#[test]
fn clicks_that_find_no_impression_fail_beyond_the_noise_of_their_number() {
    let (lifetime, cohort) = (lifetime(1000, 100), Cohort::new(10));
    let judged = |attributed, lost| {
        failed(&judge(&PARAMS, &Facts { coverage: Coverage { attributed, lost }, ..facts(&lifetime, &cohort) }))
    };
    assert_eq!(judged(300, 700), [Criterion::ClickCoverage]);
    assert_eq!(judged(600, 400), []);
    assert_eq!(judged(1, 3), [], "of four clicks that may be chance");
    assert_eq!(judged(0, 0), []);
}

#[test]
fn coverage_is_of_the_last_few_thousand_clicks() {
    let mut recent = RecentCoverage::default();
    let counted = |positives, orphan_expired| JoinCounters { orphan_expired, positives, ..JoinCounters::default() };
    assert_eq!(recent.note(&counted(5000, 0)), Coverage { attributed: 5000, lost: 0 });
    assert_eq!(recent.note(&counted(5000, 2000)), Coverage { attributed: 5000, lost: 2000 });
    assert_eq!(recent.note(&counted(5000, 2500)), Coverage { attributed: 0, lost: 2500 }, "the good ones are long ago");
    assert_eq!(recent.note(&counted(5000, 2900)), Coverage { attributed: 0, lost: 2900 });
    recent.note(&counted(5000, 3000));
    assert_eq!(recent.note(&counted(5001, 3000)), Coverage { attributed: 1, lost: 1000 });
}

#[test]
fn pairs_without_a_click_show_little() {
    let lifetime = lifetime(1000, 100);
    // All of them were scored a little higher than the version that was live would have: each loses a little.
    let unclicked = |count| cohort(count, 0.0, |_| logit(0.002) + 0.2, |_| Some(logit(0.002)));
    let cohort = unclicked(500);
    let paired = cohort.paired().expect("there are pairs");
    assert!(paired.loss > paired.incumbent);
    assert_eq!(failed(&judge(&PARAMS, &facts(&lifetime, &cohort))), [], "one click would have turned it: {paired:?}");
}

#[test]
fn a_version_that_has_seen_less_of_the_log_than_the_live_one_is_not_followed() {
    let (lifetime, cohort) = (lifetime(1000, 100), Cohort::new(10));
    let judged = |watermarks| failed(&judge(&PARAMS, &Facts { watermarks, ..facts(&lifetime, &cohort) }));
    assert_eq!(judged([Some(4), Some(5)]), [Criterion::Watermark]);
    assert_eq!(judged([None, Some(5)]), [Criterion::Watermark]);
    for fine in [[Some(5), Some(5)], [Some(6), Some(5)], [None, None], [Some(5), None]] {
        assert_eq!(judged(fine), []);
    }
}

#[test]
fn an_outage_of_clicks_fails_with_its_reason() {
    let (lifetime, cohort) = (lifetime(1000, 100), Cohort::new(10));
    let silent = Facts { outage: Some("no click was read for 99 s".to_owned()), ..facts(&lifetime, &cohort) };
    let judgement = judge(&PARAMS, &silent);
    assert_eq!(failed(&judgement), [Criterion::ClickOutage]);
    assert_eq!(judgement.refusal().as_deref(), Some("no click was read for 99 s"));
}

#[test]
fn the_cohort_has_the_newest_matured_and_none_that_will_have_no_label() {
    let mut cohort = Cohort::new(3);
    for number in 0..10 {
        cohort.shown((100 + number, number.cast_unsigned()), None, None);
    }
    // Every other one is closed without a label.
    for number in [1_i64, 3, 5, 7] {
        let scored =
            Scored { number: number.cast_unsigned(), time: 100 + number, logit: 0.0, label: true, weight: 2.0 };
        cohort.scored(&scored);
    }
    let Calibration { impressions, clicked, .. } = cohort.calibration();
    assert_eq!((impressions, clicked, cohort.len()), (3, 6.0, 3));
    let text = format!("{cohort:?}");
    assert!(!text.contains("(106, 6)") && text.contains("(108, 8)") && text.contains("(109, 9)"), "{text}");
    assert_eq!(cohort.of_length(1).len(), 1);
}

#[test]
fn a_sample_is_of_its_rate_and_the_same_for_every_run() {
    let count = (0..100_000).filter(|number| is_sampled(0.1, *number)).count();
    assert!((9_500..10_500).contains(&count), "{count}");
    assert!((0..100).all(|number| is_sampled(1.0, number)));
    assert_eq!((0..40).filter(|number| is_sampled(0.1, *number)).collect::<Vec<u64>>(), SAMPLED);
}

/// Which of the first impressions are chosen: a replay, or another worker, chooses the same.
const SAMPLED: &[u64] = &[0, 7, 8, 37];

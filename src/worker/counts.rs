//! What is counted since the log began, as the counters of `/metrics` name it.

use std::collections::BTreeMap;

use deepfm_core::event::Reason;
use deepfm_core::join::JoinCounters;
use deepfm_core::train::Counters;

/// A counter with the label that it may have.
pub type Series = (&'static str, Option<(&'static str, String)>);

/// The status's counts since the log began.
pub type Counts = BTreeMap<Series, u64>;

/// All counts.
pub(super) fn counts(records: u64, counters: &Counters, join: &JoinCounters) -> Counts {
    let plain = [
        ("deepfm_records_total", records),
        ("deepfm_impressions_total", counters.intake.impressions),
        ("deepfm_clicks_total", counters.intake.clicks),
        ("deepfm_unknown_keys_total", counters.intake.unknown_keys),
        ("deepfm_unknown_fields_total", counters.intake.unknown_fields),
        ("deepfm_examples_learned_total", counters.learner.learned),
        ("deepfm_labels_skipped_total", counters.learner.skipped),
        ("deepfm_negatives_sampled_out_total", counters.learner.sampled_out),
        ("deepfm_batches_refused_total", counters.learner.batches_refused),
        ("deepfm_examples_refused_total", counters.learner.examples_refused),
        ("deepfm_corrections_ignored_total", counters.learner.corrections_ignored),
        ("deepfm_refusals_forgotten_total", counters.learner.refusals_forgotten),
        ("deepfm_impressions_unscored_total", counters.learner.unscored),
        ("deepfm_scores_refused_total", counters.learner.scores_refused),
        ("deepfm_scores_forgotten_total", counters.learner.scores_forgotten),
        ("deepfm_rows_expired_total", counters.learner.rows_expired),
        ("deepfm_candidates_expired_total", counters.learner.candidates_expired),
        ("deepfm_rows_evicted_total", counters.learner.rows_evicted),
        ("deepfm_candidates_evicted_total", counters.learner.candidates_evicted),
        ("deepfm_ids_refused_total", counters.learner.ids_refused),
    ];
    let refused = |reason: Reason| counters.intake.refused.get(&reason).copied().unwrap_or_default();
    let by_reason = Reason::ALL.map(|reason| {
        (("deepfm_records_refused_total", Some(("reason", reason.as_str().to_owned()))), refused(reason))
    });
    let by_fate = fates(join).into_iter().map(|(fate, n)| (("deepfm_join_total", Some(("fate", fate))), n));
    plain.map(|(name, count)| ((name, None), count)).into_iter().chain(by_reason).chain(by_fate).collect()
}

/// The join's counters by name.
fn fates(counters: &JoinCounters) -> BTreeMap<String, u64> {
    let document = serde_json::to_value(counters).expect("counters are plain numbers");
    serde_json::from_value(document).expect("counters are plain numbers")
}

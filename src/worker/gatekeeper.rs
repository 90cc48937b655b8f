//! The worker's gate: it gathers what a version is judged by while records are consumed, lets the version that is live score
//! beside the learner, and judges when a version is cut. Nothing of it decides what is learned.

use std::iter;

use super::publisher::Live;
use crate::config::Config;
use crate::thread::crew::Crew;
use deepfm_core::checkpoint::clicks::ClickTimes;
use deepfm_core::feature::field::FieldSet;
use deepfm_core::model::Scratch;
use deepfm_core::train::{Scored, Shown, Trainer};
use deepfm_core::version::gate::{self, Evidence, Facts, GateParams, Judgement, is_sampled};

/// Gathers and judges.
#[derive(Debug)]
pub(super) struct Gatekeeper {
    params: GateParams,
    sampling_rate: f64,
    click_silence_max_seconds: u64,
    evidence: Evidence,
    /// The fields of what is learned.
    fields: FieldSet,
    incumbent: Option<Live>,
    scratch: Scratch,
}

impl Gatekeeper {
    /// Goes on with what a checkpoint has.
    pub(super) fn new(config: &Config, fields: &FieldSet, evidence: Evidence) -> Self {
        Self {
            params: config.gate.params(fields),
            sampling_rate: f64::from(config.gate.sampling_rate),
            click_silence_max_seconds: config.versions.click_silence_max_seconds,
            evidence: Evidence { cohort: evidence.cohort.of_length(config.gate.cohort_impressions), ..evidence },
            fields: fields.clone(),
            incumbent: None,
            scratch: Scratch::default(),
        }
    }

    /// Another version is live now. Where it cannot be read, the one before is compared with still.
    pub(super) fn follow(&mut self, incumbent: Live) {
        self.incumbent = Some(incumbent);
    }

    /// An impression was shown. Those of before anything was learned say nothing of a version.
    pub(super) fn shown(&mut self, shown: &Shown, time: i64, learned: u64) {
        let cohort = &mut self.evidence.cohort;
        if learned == 0 || !is_sampled(self.sampling_rate, shown.number) || !cohort.has_room() {
            return;
        }
        let fits = |field: &usize| *field < shown.features.fields();
        let slice = self.params.slice_field.filter(fits).and_then(|field| shown.features.field(field).next());
        // Where the log is read again, after a reset, the version that is live has seen its labels: that is no comparison.
        let incumbent = self.incumbent.as_ref().filter(|incumbent| incumbent.watermark < time);
        let incumbent = incumbent.and_then(|incumbent| score(incumbent, &self.fields, shown, &mut self.scratch));
        cohort.shown((time, shown.number), incumbent, slice.map(|entry| entry.id));
    }

    /// A shown score met its label.
    pub(super) fn scored(&mut self, scored: &Scored) {
        self.evidence.cohort.scored(scored);
    }

    /// Judges a version that is cut now, by all but its weights.
    pub(super) fn judge(&mut self, trainer: &Trainer<Crew>, clicks: &ClickTimes) -> Judgement {
        let facts = Facts {
            lifetime: trainer.windows().lifetime(),
            cohort: &self.evidence.cohort,
            coverage: self.evidence.coverage.note(trainer.join_counters()),
            outage: unmatured(trainer)
                .or_else(|| stalled(trainer))
                .or_else(|| silence(self.click_silence_max_seconds, clicks)),
            watermarks: [trainer.join().watermark(), self.incumbent.as_ref().map(|live| live.watermark)],
        };
        gate::judge(&self.params, &facts)
    }

    /// What a checkpoint keeps.
    pub(super) fn evidence(&self) -> Evidence {
        self.evidence.clone()
    }
}

/// The logit of the version that is live. It may be from before fields were added; of one with other fields there is none.
fn score(incumbent: &Live, fields: &FieldSet, shown: &Shown, scratch: &mut Scratch) -> Option<f64> {
    let theirs = &incumbent.weights.manifest.fields;
    if !fields.as_slice().starts_with(theirs) {
        return None;
    }
    let servable = &incumbent.weights.servable;
    if shown.features.fields() <= theirs.len() {
        return servable.score(iter::once(&shown.features), scratch).next();
    }
    servable.score(iter::once(&shown.features.of_first(theirs.len())), scratch).next()
}

/// Before labels mature only clicked impressions have one.
fn unmatured(trainer: &Trainer<Crew>) -> Option<String> {
    (!trainer.has_matured()).then(|| "the window of the first impression is not over: no label has matured".to_owned())
}

/// While they have stalled, what is learned is from before.
fn stalled(trainer: &Trainer<Crew>) -> Option<String> {
    let breaker = trainer.intake().breaker();
    let missing = breaker.missing_clicks();
    breaker
        .is_open()
        .then(|| format!("clicks have stalled: some {missing:.0} are missing (training.missing_clicks_max)"))
}

/// Why clicks cannot be trusted: while impressions come and no click does, everything is learned as a negative.
fn silence(max: u64, clicks: &ClickTimes) -> Option<String> {
    let silence = clicks.silence_ms().filter(|silence| max > 0 && *silence > 1000 * max)? / 1000;
    Some(format!("no click was read for {silence} s of the log (versions.click_silence_max_seconds is {max})"))
}

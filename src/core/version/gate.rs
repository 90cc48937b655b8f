//! The gate: whether servers may follow to a version. A version that does not pass is kept and announced with what it failed,
//! and `live` stays where it is.
//!
//! Every figure is of shown scores and matured labels: of a [`Cohort`] of recent impressions, chosen by a hash of their
//! numbers, each scored when it was shown by the weights that the log had made, and by the version that was live then (the
//! *incumbent*). A difference counts only when it is beyond the noise of its cohort, so that a small cohort passes what a
//! large one would not: how much is needed to judge at all are the least numbers of impressions and clicks.

mod cohort;

use serde::{Deserialize, Serialize};

use crate::join::JoinCounters;
use crate::metric::Metrics;

pub use cohort::{Calibration, Cohort, Paired, is_sampled};

/// What a version has to pass.
#[derive(Clone, Debug, PartialEq)]
pub struct GateParams {
    /// The least number of impressions that are scored and matured, since the log began.
    pub impressions_min: u64,
    /// The least number of clicks on them.
    pub clicks_min: u64,
    /// The least calibration: predicted over clicked.
    pub calibration_min: f64,
    /// The greatest.
    pub calibration_max: f64,
    /// The field whose most frequent values are held to the band too.
    pub slice_field: Option<usize>,
    /// How many values.
    pub slices: usize,
    /// By how much the log loss may be greater than the incumbent's, as a share of that.
    pub loss_margin: f64,
    /// The least share of clicks that find their impression within its window.
    pub coverage_min: f64,
    /// How many standard errors a difference must have to count.
    pub standard_errors: f64,
}

/// What is known when a version is cut.
#[derive(Debug)]
pub struct Facts<'f> {
    /// Of all impressions since the log began.
    pub lifetime: &'f Metrics,
    /// Of the recent ones.
    pub cohort: &'f Cohort,
    /// Clicks that recently became a label, and that did not.
    pub coverage: Coverage,
    /// Why nothing that clicks say can be trusted now.
    pub outage: Option<String>,
    /// Up to where this version has seen the log, and up to where the one that is live, in milliseconds of event time.
    pub watermarks: [Option<i64>; 2],
}

/// What is gathered between versions. A checkpoint keeps it, and it is no part of the state: what was live when decides it too.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Evidence {
    /// Recent impressions.
    pub cohort: Cohort,
    /// Recent clicks.
    pub coverage: RecentCoverage,
}

/// What became of clicks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Coverage {
    /// They found their impression within its window.
    pub attributed: u64,
    /// They found none, or came after its window.
    pub lost: u64,
}

impl Coverage {
    /// Since the log began.
    fn of(counters: &JoinCounters) -> Self {
        let attributed = counters.attributed_clicks();
        Self { attributed, lost: counters.orphan_expired + counters.click_outside_window }
    }

    fn since(self, before: Self) -> Self {
        Self {
            attributed: self.attributed.saturating_sub(before.attributed),
            lost: self.lost.saturating_sub(before.lost),
        }
    }

    fn clicks(self) -> u64 {
        self.attributed + self.lost
    }
}

/// What became of the last few thousand clicks: as many as there were since one of two points, of which the older is moved up
/// when enough have come since the newer.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct RecentCoverage {
    older: Coverage,
    newer: Coverage,
}

impl RecentCoverage {
    /// Clicks after which a point is moved.
    const CLICKS: u64 = 1000;

    /// What became of the recent ones, given what the join has counted since the log began.
    pub fn note(&mut self, counters: &JoinCounters) -> Coverage {
        let now = Coverage::of(counters);
        let recent = now.since(self.older);
        if now.since(self.newer).clicks() >= Self::CLICKS {
            (self.older, self.newer) = (self.newer, now);
        }
        recent
    }
}

/// Something that is held against a version.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Criterion {
    /// All weights are numbers.
    Finite,
    /// Enough impressions have matured.
    Impressions,
    /// Enough of them were clicked.
    Clicks,
    /// It has seen the log as far as the version that is live.
    Watermark,
    /// Clicks come.
    ClickOutage,
    /// Clicks find their impressions.
    ClickCoverage,
    /// As many clicks are predicted as come.
    Calibration,
    /// The same for the most frequent values of a field.
    SliceCalibration,
    /// The log loss is not above the incumbent's.
    LogLoss,
}

/// How a version stands by one criterion.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Check {
    /// The criterion.
    pub criterion: Criterion,
    /// Whether it is met.
    pub passed: bool,
    /// With which figures.
    pub said: String,
}

/// What the gate says of a version.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Judgement {
    /// Whether every criterion is met.
    pub passed: bool,
    /// All of them.
    pub checks: Vec<Check>,
}

impl Judgement {
    fn of(checks: Vec<Check>) -> Self {
        Self { passed: checks.iter().all(|check| check.passed), checks }
    }

    /// The same with what the weights themselves show.
    #[must_use]
    pub fn with_weights(self, are_finite: bool) -> Self {
        let said = if are_finite { "all weights are finite" } else { "a weight is not finite" };
        let check = Check { criterion: Criterion::Finite, passed: are_finite, said: said.to_owned() };
        Self::of(std::iter::once(check).chain(self.checks).collect())
    }

    /// Why servers do not follow to the version; nothing if they may.
    pub fn refusal(&self) -> Option<String> {
        let failed: Vec<&str> = self.failed().map(|check| check.said.as_str()).collect();
        (!self.passed).then(|| failed.join("; "))
    }

    /// What is not met.
    pub fn failed(&self) -> impl Iterator<Item = &Check> {
        self.checks.iter().filter(|check| !check.passed)
    }
}

/// Judges a version by all but its weights.
pub fn judge(params: &GateParams, facts: &Facts<'_>) -> Judgement {
    let matured = facts.lifetime.report();
    let least = |criterion, what: &str, found: u64, least: u64| Check {
        criterion,
        passed: found >= least,
        said: format!("{found} {what}, at least {least}"),
    };
    let (calibration, slices) = calibrations(params, facts.cohort);
    Judgement::of(vec![
        least(Criterion::Impressions, "matured impressions", matured.examples, params.impressions_min),
        least(Criterion::Clicks, "clicks on them", matured.clicks, params.clicks_min),
        watermark(facts.watermarks),
        outage(facts.outage.as_deref()),
        coverage(params, facts.coverage),
        calibration,
        slices,
        log_loss(params, facts.cohort.paired()),
    ])
}

/// After a reset the log is read again: until it has caught up, the version that is live knows more.
fn watermark([own, live]: [Option<i64>; 2]) -> Check {
    let behind = live.map_or(0, |live| live.saturating_sub(own.unwrap_or(i64::MIN)));
    let said = if behind > 0 {
        format!("the version that is live has seen {behind} ms more of the log")
    } else {
        "it has seen the log as far as the version that is live".to_owned()
    };
    Check { criterion: Criterion::Watermark, passed: behind <= 0, said }
}

fn outage(outage: Option<&str>) -> Check {
    let said = outage.unwrap_or("clicks come").to_owned();
    Check { criterion: Criterion::ClickOutage, passed: outage.is_none(), said }
}

/// The share of clicks that find their impression is below its bound when the bound itself would hardly give so few.
fn coverage(params: &GateParams, Coverage { attributed, lost }: Coverage) -> Check {
    let (clicks, least) = ((attributed + lost) as f64, params.coverage_min);
    let expected = least * clicks;
    let noise = params.standard_errors * (clicks * least * (1.0 - least)).sqrt();
    let said = if clicks > 0.0 {
        let share = attributed as f64 / clicks;
        format!("{share:.3} of {clicks} clicks find their impression, at least {least}")
    } else {
        "no click was decided yet".to_owned()
    };
    Check { criterion: Criterion::ClickCoverage, passed: attributed as f64 + noise >= expected, said }
}

fn calibrations(params: &GateParams, cohort: &Cohort) -> (Check, Check) {
    let overall = cohort.calibration();
    let (passed, said) = is_calibrated(params, &overall);
    let overall = Check { criterion: Criterion::Calibration, passed, said: format!("calibration is {said}") };
    let slices = cohort.slices(params.slices);
    let judged = slices.iter().map(|(id, slice)| (id, is_calibrated(params, slice)));
    let failed: Vec<String> = judged
        .filter(|(_, (passed, _))| !passed)
        .map(|(id, (_, said))| format!("feature id {id:016x}: calibration is {said}"))
        .collect();
    let said = match (params.slice_field, failed.is_empty()) {
        (None, _) => "no field is looked at".to_owned(),
        (Some(_), true) => format!("the {} most frequent values are within the band", slices.len()),
        (Some(_), false) => failed.join(", "),
    };
    (overall, Check { criterion: Criterion::SliceCalibration, passed: failed.is_empty(), said })
}

/// Whether predicted over clicked is inside the band, or so close that a model of exactly these probabilities could have got
/// so many clicks (their variance is `Σ w² p (1 − p)`).
fn is_calibrated(params: &GateParams, found: &Calibration) -> (bool, String) {
    let GateParams { calibration_min: low, calibration_max: high, .. } = *params;
    let noise = params.standard_errors * found.variance.sqrt();
    let is_low = found.predicted < low * (found.clicked - noise);
    let is_high = found.predicted > high * (found.clicked + noise);
    let Calibration { predicted, clicked, impressions, .. } = found;
    let ratio = if *clicked > 0.0 { format!("{:.3}", predicted / clicked) } else { "undefined".to_owned() };
    let said = format!(
        "{ratio} over {impressions} impressions ({predicted:.1} clicks predicted, {clicked:.1} came), the band is {low} to {high}"
    );
    (!is_low && !is_high, said)
}

/// The mean of the paired differences, less what noise makes of it, must not be above the margin.
fn log_loss(params: &GateParams, paired: Option<Paired>) -> Check {
    let criterion = Criterion::LogLoss;
    let Some(Paired { impressions, loss, incumbent, standard_error }) = paired else {
        let said = "no matured impression was scored by an incumbent".to_owned();
        return Check { criterion, passed: true, said };
    };
    let difference = loss - incumbent;
    let noise = params.standard_errors * standard_error;
    let passed = difference - noise <= params.loss_margin * incumbent;
    let said = format!(
        "log loss {loss:.5}, the live versions had {incumbent:.5} on the same {impressions} impressions: \
         {difference:+.5} ± {noise:.5}, the margin is {:.5}",
        params.loss_margin * incumbent
    );
    Check { criterion, passed, said }
}

#[cfg(test)]
mod tests;

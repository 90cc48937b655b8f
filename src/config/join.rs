//! `[join]`: how impressions and clicks become labels.

use serde::Serialize;

use deepfm_core::join::params::{JoinParams, LabelPolicy, LatePolicy};

use super::section::Section;

/// A year: no duration of a join is longer.
const SECONDS_MAX: u64 = 366 * 86_400;

/// Windows, label policy and bounds of the join.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct JoinSection {
    /// A click counts from the impression until this long after it.
    pub attribution_window_seconds: u64,
    /// How long before the impression a click counts, too, in milliseconds.
    pub click_before_ms: u64,
    /// How far the watermark stays behind the largest event time.
    pub lateness_seconds: u64,
    /// How long after its window an impression is remembered.
    pub retention_seconds: u64,
    /// What an impression is learned as, and when.
    pub labels: Labels,
    /// When labels of the window policy are emitted.
    pub emit: Emit,
    /// What a click after a learned negative does.
    pub late_clicks: LatePolicy,
    /// The most open impressions.
    pub open_impressions_max: usize,
    /// The most bytes of the features of impressions that are held.
    pub held_bytes_max: usize,
    /// The most clicks waiting for their impression.
    pub waiting_clicks_max: usize,
    /// The most resolved impressions, and event ids of each kind, that are remembered.
    pub remembered_max: usize,
}

/// The label policy.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Labels {
    /// A negative is one whose attribution window has passed without a click.
    Window,
    /// A negative at once, a positive at its click, importance-weighted.
    FakeNegative,
}

/// When the window policy emits a positive.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Emit {
    /// At its click.
    AtClick,
    /// When its window has passed, like a negative.
    AtMaturity,
}

impl JoinSection {
    pub(super) fn read(section: &Section<'_>, negative_sampling_rate: f32) -> Self {
        let default = Self::default();
        let seconds = |key, default, low, why| section.whole(key, default, low, SECONDS_MAX, why);
        let bound = |key, default, why| section.count(key, default, 1, 1_000_000_000_000, why);
        let window = seconds(
            "attribution_window_seconds",
            default.attribution_window_seconds,
            1,
            "it is how long an impression waits for its click, at most 366 days",
        );
        let labels = [("window", Labels::Window), ("fake_negative", Labels::FakeNegative)];
        let emit = [("at_click", Emit::AtClick), ("at_maturity", Emit::AtMaturity)];
        let late_clicks = [("drop", LatePolicy::Drop), ("correct", LatePolicy::Correct)];
        let memory = "something has to be held to be joined";
        let join = Self {
            attribution_window_seconds: window,
            click_before_ms: section.whole(
                "click_before_ms",
                default.click_before_ms,
                0,
                3_600_000,
                "it bridges the clocks of two servers, at most an hour",
            ),
            lateness_seconds: seconds("lateness_seconds", default.lateness_seconds, 0, "it is at most 366 days"),
            retention_seconds: seconds("retention_seconds", window, 0, "it is at most 366 days"),
            labels: section.choice("labels", default.labels, &labels),
            emit: section.choice("emit", default.emit, &emit),
            late_clicks: section.choice("late_clicks", default.late_clicks, &late_clicks),
            open_impressions_max: bound("open_impressions_max", default.open_impressions_max, memory),
            held_bytes_max: bound("held_bytes_max", default.held_bytes_max, memory),
            waiting_clicks_max: bound("waiting_clicks_max", default.waiting_clicks_max, memory),
            remembered_max: bound("remembered_max", default.remembered_max, memory),
        };
        join.refuse_contradictions(section, negative_sampling_rate);
        join
    }

    fn refuse_contradictions(&self, section: &Section<'_>, negative_sampling_rate: f32) {
        let held_ms = 1000 * (self.attribution_window_seconds + self.retention_seconds);
        if self.click_before_ms > held_ms {
            let problem =
                format!("{} ms is longer than a click waits for its impression, {held_ms} ms", self.click_before_ms);
            section.refuse(
                "click_before_ms",
                problem,
                "raise retention_seconds: a click waits for the window and that",
            );
        }
        if self.labels != Labels::FakeNegative {
            return;
        }
        if negative_sampling_rate < 1.0 {
            let problem = "\"fake_negative\" cannot be combined with training.negative_sampling_rate below 1: \
                           every impression is learned as a negative first";
            section.refuse("labels", problem, "set one of them to its default");
        }
        if self.emit == Emit::AtMaturity && section.text("emit").is_some() {
            let problem = "\"at_maturity\" cannot be combined with labels = \"fake_negative\", which learns at once";
            section.refuse("emit", problem, "leave emit out, or set labels = \"window\"");
        }
    }

    /// What the core is given, in milliseconds.
    pub(super) fn params(&self) -> JoinParams {
        let ms = |seconds: u64| i64::try_from(seconds * 1000).expect("durations are bounded by a year");
        JoinParams {
            click_before_ms: i64::try_from(self.click_before_ms).expect("it is bounded by an hour"),
            window_ms: ms(self.attribution_window_seconds),
            lateness_ms: ms(self.lateness_seconds),
            retention_ms: ms(self.retention_seconds),
            labels: match (self.labels, self.emit) {
                (Labels::FakeNegative, _) => LabelPolicy::FakeNegative,
                (Labels::Window, Emit::AtClick) => LabelPolicy::AtClick,
                (Labels::Window, Emit::AtMaturity) => LabelPolicy::AtMaturity,
            },
            late_clicks: self.late_clicks,
            open_impressions_max: self.open_impressions_max,
            held_bytes_max: self.held_bytes_max,
            waiting_clicks_max: self.waiting_clicks_max,
            remembered_max: self.remembered_max,
        }
    }
}

//! `[join]`: how impressions and clicks become labels.

use serde::Serialize;

use deepfm_core::join::params::{JoinParams, LabelPolicy, LatePolicy};

use super::declare::{Readable, section};
use super::kinds::{Choice, Whole, whole};
use super::section::Section;

/// A year: no duration of a join is longer.
const SECONDS_MAX: u64 = 366 * 86_400;

const DURATION: Whole = whole(0, SECONDS_MAX, "it is at most 366 days");
const HELD: Whole = whole(1, 1_000_000_000_000, "something has to be held to be joined");

const LABELS: Choice<Labels> = Choice(&[("window", Labels::Window), ("fake_negative", Labels::FakeNegative)]);
const EMIT: Choice<Emit> = Choice(&[("at_click", Emit::AtClick), ("at_maturity", Emit::AtMaturity)]);
const LATE: Choice<LatePolicy> = Choice(&[("drop", LatePolicy::Drop), ("correct", LatePolicy::Correct)]);

section! {
    /// Windows, label policy and bounds of the join.
    JoinSection in "join" {
        /// A click counts from its impression until this long after it. Longer keeps more clicks; but every negative waits
        /// this long before it is learned, and every impression is held in memory as long.
        attribution_window_seconds: u64 = 1800,
            whole(1, SECONDS_MAX, "it is how long an impression waits for its click, at most 366 days"),
            ConvertsAs("join.window_ms");
        /// A click counts also when it is stamped this long before its impression: two servers' clocks differ by a little.
        click_before_ms: u64 = 1000,
            whole(0, 3_600_000, "it bridges the clocks of two servers, at most an hour"), Converts;
        /// How far the watermark stays behind the largest event time. Raise it where events of one partition arrive out of
        /// order; every label is delayed by as much.
        lateness_seconds: u64 = 0, DURATION, Refused;
        /// How long after its window an impression is remembered, so that duplicates are noticed and late clicks corrected.
        /// As long as the window unless given.
        retention_seconds: u64 = 1800, DURATION, ConvertsAs("join.retention_ms"), Follows;
        /// "window": an impression without a click in its window is a negative. "fake_negative": every impression is a
        /// negative at once and a positive at its click, importance-weighted: no label delay, noisier. The better choice
        /// where the window is long against how fast taste changes: hours and more.
        labels: Labels = Labels::Window, LABELS, Refused;
        /// When "window" learns positives: "at_maturity", with the negatives, so that both labels have one age, the window;
        /// or "at_click", at once. That is fresher by a window, but the model learns clicks of now with negatives of a window
        /// ago: its scores swing with traffic and with runs of one label. Not with labels = "fake_negative".
        emit: Emit = Emit::AtMaturity, EMIT, Refused;
        /// A click after its impression was learned as a negative: "correct" learns it with a weight that undoes the
        /// negative, "drop" only counts it.
        late_clicks: LatePolicy = LatePolicy::Correct, LATE, Converts;
        /// The most open impressions; at the bound the oldest is closed unlabelled and counted. It should hold one window of
        /// your traffic: impressions a second times the window. An open impression takes about 140 bytes, its
        /// shown score included, and 8 for each feature.
        open_impressions_max: usize = 2_000_000, HELD, Converts;
        /// The most bytes of features of impressions that are held, open or remembered for late clicks: 16 for each entry,
        /// and 100 for the impression. At the bound the oldest remembered one is forgotten; without one, the oldest open one
        /// is closed unlabelled.
        held_bytes_max: usize = 4_000_000_000, HELD, Converts;
        /// The most clicks that wait for their impression; at the bound the oldest is forgotten and counted.
        waiting_clicks_max: usize = 200_000, HELD, Converts;
        /// The most resolved impressions, and event ids of each kind, that are remembered; at the bound the oldest is
        /// forgotten.
        remembered_max: usize = 4_000_000, HELD, Converts;
    }
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
        let mut join = Self::read_keys(section);
        if section.node("retention_seconds").is_none() {
            join.retention_seconds = join.attribution_window_seconds;
        }
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

//! `[gate]`: what a version has to pass before servers follow to it.

use deepfm_core::feature::field::FieldSet;
use deepfm_core::version::gate::GateParams;
use serde_json::json;

use super::declare::section;
use super::keys::Bounds;
use super::kinds::{Special, number, whole};
use super::nearest::nearest;
use super::section::Section;

const SLICE_FIELD: Special<String> = Special {
    read: |section, key| section.text(key),
    words: "the name of a field, or \"\"",
    schema: || json!({"type": "string", "maxLength": 256}),
};

section! {
    /// What a version has to pass before `live` moves to it. One that does not is kept and announced with what it failed. Every
    /// figure is of scores taken when impressions were shown and of labels that have matured; a difference counts only beyond
    /// its noise.
    Gate in "gate" {
        /// The least number of impressions that were scored and have matured, since the log began. 0 asks for none.
        impressions_min: u64 = 1000, whole(0, 1_000_000_000_000, "it is a number of impressions"), Free;
        /// The least number of clicks on them. 0 asks for none.
        clicks_min: u64 = 10, whole(0, 1_000_000_000_000, "it is a number of clicks"), Free;
        /// The least calibration, predicted clicks over clicks that came, of the cohort. 0 is off.
        calibration_min: f32 = 0.67, number(Bounds::NOT_NEGATIVE, "1 is as many clicks predicted as came"), Free;
        /// The greatest calibration.
        calibration_max: f32 = 1.5, number(Bounds::POSITIVE, "1 is as many clicks predicted as came"), Free;
        /// The field whose most frequent values are held to the same band, such as a country or a placement; "" is none.
        slice_field: String = String::new(), SLICE_FIELD, Free;
        /// How many of its values.
        slices: usize = 10, whole(1, 1000, "each is judged at each version"), Free;
        /// By how much the log loss may be above that of the versions that were live, on the same impressions: 0.01 is by a
        /// hundredth. What is within the noise of the pairs passes in any case.
        loss_margin: f32 = 0.0, number(Bounds::NOT_NEGATIVE, "it is a share of the log loss"), Free;
        /// The least share of clicks that find their impression within its window. 0 is off.
        click_coverage_min: f32 = 0.5, number(Bounds::BELOW_ONE, "it is a share of the clicks"), Free;
        /// How many standard errors a difference must have to count. More passes more.
        standard_errors: f32 = 3.0, number(Bounds::POSITIVE, "it is a number of standard errors"), Free;
        /// The share of impressions that the cohort takes, chosen by a hash; the live version scores each of them too.
        sampling_rate: f32 = 0.1, number(Bounds::SHARE, "it is the share of impressions that two models score"), Free;
        /// How many of them, the newest whose labels have matured, are the cohort. More judges finer, and reaches further back.
        cohort_impressions: usize = 2000, whole(100, 1_000_000, "all of them are in every checkpoint"), Free;
    }
}

impl Gate {
    /// The criteria, over these fields.
    pub fn params(&self, fields: &FieldSet) -> GateParams {
        GateParams {
            impressions_min: self.impressions_min,
            clicks_min: self.clicks_min,
            calibration_min: f64::from(self.calibration_min),
            calibration_max: f64::from(self.calibration_max),
            slice_field: fields.as_slice().iter().position(|field| field.name == self.slice_field),
            slices: self.slices,
            loss_margin: f64::from(self.loss_margin),
            coverage_min: f64::from(self.click_coverage_min),
            standard_errors: f64::from(self.standard_errors),
        }
    }

    pub(super) fn check_against(&self, fields: &FieldSet, section: &Section<'_>) {
        if self.calibration_min >= self.calibration_max && section.are_sound(&["calibration_min", "calibration_max"]) {
            let problem = format!("{} is not below calibration_max, {}", self.calibration_min, self.calibration_max);
            section.refuse("calibration_min", problem, "no version can pass a band that is empty");
        }
        let names: Vec<&str> = fields.as_slice().iter().map(|field| field.name.as_str()).collect();
        if self.slice_field.is_empty() || names.contains(&self.slice_field.as_str()) {
            return;
        }
        let fix = nearest(&self.slice_field, &names).map_or_else(
            || "give the name of one of [[fields]]".to_owned(),
            |near| format!("did you mean \"{near}\"?"),
        );
        section.refuse("slice_field", format!("\"{}\" is not one of [[fields]]", self.slice_field), &fix);
    }
}

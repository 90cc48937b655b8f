//! What impressions have at the standard key of an example's weight: one, or something else of that name.

use indicatif::HumanCount;
use serde_json::Value;

use super::decision::Decision;
use deepfm_core::event::options::EventOptions;

const KEY: &str = "events.mapping.impression.weight";

/// A place that is not in any event.
const NOWHERE: &str = "\"/no_weight\"";

/// Values at that key.
#[derive(Clone, Debug, Default)]
pub(super) struct Weights {
    /// Those that can be weights.
    fit: u64,
    /// The smallest and the largest of them.
    range: Option<(f64, f64)>,
    /// All others.
    others: u64,
    /// The first of those.
    example: Option<Value>,
}

impl Weights {
    /// Counts one; null is none.
    pub(super) fn add(&mut self, weight: &Value) {
        let number = weight.as_f64().filter(|number| (0.0..=EventOptions::default().weight_max).contains(number));
        if let Some(number) = number {
            self.fit += 1;
            let (least, most) = self.range.unwrap_or((number, number));
            self.range = Some((least.min(number), most.max(number)));
        } else if !weight.is_null() {
            self.others += 1;
            self.example.get_or_insert_with(|| weight.clone());
        }
    }

    /// Where the weight is, as long as it makes a difference: nowhere, if most of what is there is none.
    pub(super) fn decide(&self) -> Option<Decision> {
        let count = |count| HumanCount(count);
        if let Some(example) = self.example.as_ref().filter(|_| self.others > self.fit) {
            let example: String = example.to_string().chars().take(40).collect();
            let reasons = vec![
                format!(
                    "{} impressions have something at \"weight\" that is no weight of an example, such as",
                    count(self.others)
                ),
                format!(
                    "{example}: they would be refused. So this names a place that no event has, and each example counts once."
                ),
                "If it is a feature, it belongs into the features.".to_owned(),
            ];
            return Some(Decision::set(KEY, &NOWHERE, reasons));
        }
        let (least, most) = self.range.filter(|range| *range != (1.0, 1.0) || self.others > 0)?;
        let mut reasons = vec![
            format!(
                "{} impressions have a number at \"weight\", {least} to {most}: each is learned as so many.",
                count(self.fit)
            ),
            format!("Where it is no weight of the example, name a place that no event has, such as {NOWHERE}."),
        ];
        if self.others > 0 {
            reasons.push(format!("{} have something else there, and are refused.", count(self.others)));
        }
        Some(Decision::shown(KEY, &"\"/weight\"", reasons))
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn decided(weights: &[Value]) -> Option<(bool, String)> {
        let mut all = Weights::default();
        for weight in weights {
            all.add(weight);
        }
        all.decide().map(|decision| (decision.is_set, decision.value + ": " + &decision.reasons.join(" ")))
    }

    #[test]
    fn what_is_no_weight_is_not_read_as_one_and_what_is_one_is_said() {
        assert_eq!(decided(&[]), None);
        assert_eq!(decided(&[json!(1), Value::Null, json!(1.0)]), None, "it makes no difference");
        let (is_set, said) = decided(&[json!("12 kg"), json!(-1), json!(2)]).expect("most are none");
        assert!(
            is_set && said.starts_with("\"/no_weight\": 2 impressions have") && said.contains("\"12 kg\": they"),
            "{said}"
        );
        let (is_set, said) = decided(&[json!(0.5), json!(20), json!(1e30)]).expect("most are weights");
        assert!(
            !is_set && said.starts_with("\"/weight\": 2 impressions have a number at \"weight\", 0.5 to 20"),
            "{said}"
        );
        assert!(said.ends_with("1 have something else there, and are refused."), "{said}");
    }
}

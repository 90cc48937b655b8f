//! What impressions have at the standard key of an example's weight: one, or something else of that name.

use serde_json::Value;

use super::number::escaped;
use deepfm_core::event::options::EventOptions;
use deepfm_core::event::plain::plain;

/// Characters that are shown of a value.
const EXAMPLE_CHARS: usize = 40;

/// Values at that key.
#[derive(Clone, Debug, Default)]
pub(super) struct Weights {
    /// Those that can be weights.
    pub(super) fit: u64,
    /// The smallest and the largest of them.
    pub(super) range: Option<(f64, f64)>,
    /// All others.
    pub(super) others: u64,
    /// The first of those.
    pub(super) example: Option<String>,
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
            self.example.get_or_insert_with(|| plain(&escaped(weight), EXAMPLE_CHARS));
        }
    }
}

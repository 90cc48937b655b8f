//! Impressions and clicks as JSON: first every value of every field once, then values drawn Zipf-like, without end.

use std::fmt::Write as _;

use super::encoded;

/// What is shown.
pub(crate) struct Drawn {
    /// Values of each field.
    pub(crate) values: u64,
    /// Names of the fields.
    pub(crate) fields: Vec<String>,
}

impl Drawn {
    /// Draws values once all are known.
    pub(crate) fn draw(&self) -> impl Fn(u64, f64, u64) -> u64 {
        encoded::zipf(self.values as f64, self.values as f64, self.fields.len())
    }

    /// An impression: of a low number each field's value of that number, later drawn ones.
    pub(crate) fn impression(&self, number: u64, time: i64) -> String {
        let (id, draw) = (id(number), self.draw());
        let mut json = format!("{{\"impression_id\":\"{id}\",\"event_time\":{time},\"features\":{{");
        for (field, name) in (0..).zip(&self.fields) {
            let known = number < self.values;
            let value = if known { number } else { draw(number, encoded::unit(number, field), field) };
            let comma = if field > 0 { "," } else { "" };
            write!(json, "{comma}\"{name}\":\"{value}\"").expect("a text takes it");
        }
        json.push_str("}}");
        json
    }
}

/// The id of an impression.
pub(crate) fn id(number: u64) -> String {
    format!("i{number}")
}

/// The click of an impression.
pub(crate) fn click(number: u64, time: i64) -> String {
    format!("{{\"impression_id\":\"{}\",\"event_time\":{time}}}", id(number))
}

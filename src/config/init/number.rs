//! Numbers as people read them, where indicatif has no form that says as much: its durations have one unit and no fractions.

use serde_json::Value;

/// A share as a percentage with one decimal, `100 %` only where nothing is missing.
pub(super) fn percent(share: f64) -> String {
    let tenths = (share * 1000.0).round() / 10.0;
    if share > 0.0 && tenths < 0.1 {
        return "below 0.1 %".to_owned();
    }
    if share < 1.0 && tenths >= 100.0 {
        return "above 99.9 %".to_owned();
    }
    format!("{tenths} %")
}

/// A duration in its two largest units: `6.4 s`, `2 min 38 s`, `1 h`.
pub(super) fn duration(ms: i64) -> String {
    const UNITS: [(&str, i64); 4] = [("d", 86_400), ("h", 3600), ("min", 60), ("s", 1)];
    if ms < 60_000 {
        return format!("{} s", (ms as f64 / 100.0).round() / 10.0);
    }
    let mut left = ms / 1000;
    let mut parts = Vec::new();
    for (unit, seconds) in UNITS {
        let whole = left / seconds;
        left %= seconds;
        if whole > 0 {
            parts.push(format!("{whole} {unit}"));
        } else if !parts.is_empty() {
            break;
        }
        if parts.len() == 2 {
            break;
        }
    }
    parts.join(" ")
}

/// A string in the quotes of TOML, on one line whatever it has in it: JSON's escapes are all escapes of TOML too.
pub(super) fn quoted(text: &str) -> String {
    escaped(&Value::from(text))
}

/// A value as JSON on one line, which a file of TOML may have in a comment: only DEL must be escaped there and not in JSON.
pub(super) fn escaped(value: &Value) -> String {
    value.to_string().replace('\u{7f}', "\\u007f")
}

/// A number rounded to four significant digits.
pub(super) fn rounded(x: f64) -> f64 {
    if x == 0.0 || !x.is_finite() {
        return 0.0;
    }
    format!("{x:.3e}").parse().unwrap_or(x)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_read_well() {
        assert_eq!([percent(0.0), percent(0.0001), percent(0.123_45)], ["0 %", "below 0.1 %", "12.3 %"]);
        assert_eq!([percent(0.9999), percent(1.0)], ["above 99.9 %", "100 %"]);
        assert_eq!([duration(6387), duration(158_000), duration(3_600_000)], ["6.4 s", "2 min 38 s", "1 h"]);
        assert_eq!(duration(90_061_000), "1 d 1 h");
        assert_eq!([rounded(0.0), rounded(123_456.0), rounded(-0.001_234_56)], [0.0, 123_500.0, -0.001_235]);
    }

    #[test]
    fn every_string_stays_on_its_line_and_comes_back() {
        let odd = "a\"b\\c\nd\u{7f}\u{1}é";
        let text = format!("key = {}", quoted(odd));
        assert_eq!(text.lines().count(), 1);
        let table: toml::Table = text.parse().expect("quoted text is TOML");
        assert_eq!(table["key"].as_str(), Some(odd));
    }
}
